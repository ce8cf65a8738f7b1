"""TLS between a socket and a client. Runs on the event loop; `server_context` at the start.

Not asyncio's own TLS: that keeps a buffer of 256 KiB a connection, loses the rest of a long answer
when the connection is closed, and cannot keep our half open for a client that has said goodbye
and is still owed acknowledgements. This layer keeps OpenSSL's two memory buffers, which are
empty between packets, and behaves the same under any event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gateway.drivers.broker.gate import Gate
from gateway.drivers.broker.layer import Layer
from gateway.drivers.broker.limits import READ_CHUNK_BYTES
from gateway.errors import ConfigError

ClientCertificates = Literal["none", "optional", "required"]

_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_REMEDY = "`barn-gateway certificates` makes a new pair"


class Tls(Layer):
    """The server's side of one TLS connection.

    Args:
        above: makes the protocol inside.
        gate: counts the socket before the handshake.
        context: of `server_context`.
    """

    def __init__(self, above: Callable[[], asyncio.Protocol], gate: Gate, context: ssl.SSLContext) -> None:
        super().__init__(above, gate)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._context = context
        self._tls: ssl.SSLObject | None = None

    def begin(self) -> None:
        """Wait for the client's hello."""
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def receive(self, data: bytes) -> None:
        """Take records: of the handshake, then of the client."""
        if self._tls is None:
            return
        self._incoming.write(data)
        try:
            if not self._opened:
                self._tls.do_handshake()
                self.put(self._outgoing.read())
                self.open()
            self._read(self._tls)
        except ssl.SSLWantReadError:
            self.put(self._outgoing.read())
        except ssl.SSLError as fault:
            self.put(self._outgoing.read())  # the alert that tells the client what is wrong
            self.fail("tls_failures", _in_words(fault))

    def _read(self, tls: ssl.SSLObject) -> None:
        """Everything that is whole by now, at once: at most what one read of the socket has brought."""
        records: list[bytes] = []
        ended = False
        try:
            while not ended:
                record = tls.read(READ_CHUNK_BYTES)
                records.append(record)
                ended = not record
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        self.put(self._outgoing.read())  # an answer to a new key, if one was asked for
        if data := b"".join(records):  # a goodbye alone reads as no bytes
            self.deliver(data)
        if ended and not self._closing:
            self.end_of_input()

    def wrap(self, data: bytes | bytearray | memoryview) -> bytes:
        """Encrypt; OpenSSL takes one record of 16 KiB at a time."""
        if self._tls is None:
            return b""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError as fault:
            self.fail("tls_failures", _in_words(fault))
            return b""
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """Our close_notify; the client's is not waited for."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):  # it wants the client's own, which may never come
                self._tls.unwrap()
        return self._outgoing.read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give OpenSSL's memory back now."""
        super().connection_lost(exc)
        self._tls = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`certificate_name`: common name of the verified client certificate, None without one."""
        if name == "certificate_name":
            return _common_name(self._tls.getpeercert()) if self._tls is not None else None
        if name == "ssl_object":
            return self._tls
        return super().get_extra_info(name, default)


def _common_name(certificate: dict[str, Any] | None) -> str | None:
    """The subject's one common name; with several nobody could say which is meant."""
    names = [
        value for part in (certificate or {}).get("subject", ()) for key, value in part if key == "commonName"
    ]
    return str(names[0]) if len(names) == 1 else None


def _in_words(fault: ssl.SSLError) -> str:
    """What an operator can use of OpenSSL's reason."""
    reason = (fault.reason or "broken TLS").replace("_", " ").lower()
    if fault.reason in {"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL"}:
        return f"it does not speak TLS 1.2 or newer ({reason})"
    if "ALERT" in (fault.reason or ""):
        doubts = "CERTIFICATE" in fault.reason or "UNKNOWN_CA" in fault.reason
        return f"it does not accept the server's certificate ({reason})" if doubts else f"TLS: {reason}"
    if fault.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it has no client certificate"
    if fault.reason == "CERTIFICATE_VERIFY_FAILED":
        why = getattr(fault, "verify_message", "") or reason
        return f"its client certificate is not good ({why})"
    return f"TLS: {reason}"


def server_context(
    certificate: Path,
    key: Path,
    *,
    client_ca: Path | None = None,
    client_certificates: ClientCertificates = "none",
) -> ssl.SSLContext:
    """What a TLS listener needs, from its files.

    Args:
        certificate: PEM; the server's own first, then those between it and the CA.
        key: PEM, without a password.
        client_ca: PEM; who may sign client certificates. Needed unless they are not asked for.
        client_certificates: whether clients are asked for one, and whether they need one.

    Raises:
        ConfigError: a file is missing, unreadable or not what it should be; says which.
    """
    for path, what in ((certificate, "certificate"), (key, "key"), (client_ca, "client_ca")):
        if path is not None:
            _look_at(path, what)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without renegotiation a write never has to wait for a read.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as fault:
        if fault.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"broker.tls.key: {key} is not the key of {certificate}", hint=_REMEDY
            ) from fault
        raise ConfigError(
            f"broker.tls.certificate: {certificate} and {key} are no certificate and key in PEM form "
            f"({fault.reason or fault})",
            hint=_REMEDY,
        ) from fault
    if client_certificates != "none":
        if client_ca is None:
            raise ConfigError(
                f"broker.tls.client_ca: is missing, and client certificates are {client_certificates}",
                hint="name the CA that signs them; the gateway's own is ca.crt",
            )
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as fault:
            raise ConfigError(
                f"broker.tls.client_ca: {client_ca} holds no certificate in PEM form", hint=_REMEDY
            ) from fault
        context.verify_mode = _VERIFY[client_certificates]
    return context


def _no_password() -> str:
    raise ConfigError(
        "broker.tls.key: the key is encrypted, and nobody is there to type its password at a start",
        hint="store it without one, readable by the gateway's account only",
    )


def _look_at(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError as fault:
        raise ConfigError(f"broker.tls.{what}: {path} does not exist", hint=_REMEDY) from fault
    except OSError as fault:
        raise ConfigError(
            f"broker.tls.{what}: {path} cannot be read: {fault.strerror}",
            hint="the gateway's account must be able to read it: owner root, group barn-gateway, mode 0640",
        ) from fault


def valid_until(certificate: Path) -> datetime:
    """When the first certificate of a PEM file expires, UTC.

    Raises:
        ConfigError: there is none.
    """
    try:
        text = certificate.read_text(encoding="ascii", errors="replace")
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return _not_after(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except (OSError, ValueError, IndexError) as fault:
        raise ConfigError(
            f"broker.tls.certificate: {certificate} holds no certificate in PEM form", hint=_REMEDY
        ) from fault


def _not_after(der: bytes) -> datetime:
    """The second time of `validity` (RFC 5280, 4.1): version?, serial, algorithm, issuer, validity."""
    _, inside, _ = _element(der, 0)
    _, inside, _ = _element(der, inside)
    tag, _, after = _element(der, inside)
    fields_before = 3 if tag == 0xA0 else 2  # version 1 has no version field
    for _ in range(fields_before):
        _, inside, after = _element(der, after)
    _, inside, _ = _element(der, after)
    _, _, second = _element(der, inside)
    tag, inside, after = _element(der, second)
    text = der[inside:after].decode("ascii")
    if tag == 0x17:  # UTCTime: two digits, 50 and above mean the last century
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, and where the contents begin and end."""
    length, inside = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, inside = int.from_bytes(der[inside : inside + size], "big"), inside + size
    if inside + length > len(der):
        raise ValueError("cut short")
    return der[at], inside, inside + length
