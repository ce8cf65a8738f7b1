"""The gateway's own certificate authority: its certificate, the server's, those of devices.

Runs in a command, in the main thread; the service itself only reads what lies there.

Files of a folder: `ca.crt` and `ca.key` sign, `server.crt` and `server.key` are the listeners'.
All keys are ECDSA on P-256: a handshake costs a Pi a tenth of what RSA costs, and every
collar's TLS library has it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import ConfigError

NOT_BEFORE: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Before this version was made, not the clock's now: a Pi without a network may live in any year
after it, and a certificate from the future would lock every collar out (decision 34)."""
CA_YEARS: Final = 30  # a barn's collars are not taught a new authority in their lives
SERVER_DAYS: Final = 825  # phones refuse a server's certificate with more
RENEW_DAYS: Final = 90  # renewed by the first `certificates` within this time of its end
DEVICE_YEARS: Final = 10  # who loses one is removed from the register; longer than a collar lives
NAMES_MAX: Final = 50  # names and addresses in the server's certificate; 2 KB

_DEVICE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_-]{1,63})*")


class Made(msgspec.Struct, frozen=True):
    """What a folder holds now.

    Args:
        ca: path of the authority's certificate, for every client.
        fingerprint: SHA-256 of it, to compare by eye.
        certificate: path of the server's.
        key: path of its key.
        names: that the server's certificate is good for.
        until: when that expires, UTC.
        written: paths of the files that are new.
    """

    ca: Path
    fingerprint: str
    certificate: Path
    key: Path
    names: tuple[str, ...]
    until: datetime
    written: tuple[Path, ...]


class Issued(msgspec.Struct, frozen=True):
    """A device's certificate and key."""

    certificate: Path
    key: Path
    until: datetime


class Authority:
    """A folder of certificates.

    Args:
        folder: where they lie; made when it is not there.
        now: UTC; before `NOT_BEFORE` it is taken for that.

    Raises:
        ConfigError: from every method, when a file is not what it should be; says which, and what to do.
    """

    def __init__(self, folder: Path, now: datetime) -> None:
        self._folder = folder
        self._now = max(now, NOT_BEFORE)
        self._written: list[Path] = []

    def ensure(self, names: Iterable[str], *, renew: bool = False) -> Made:
        """Make what is missing, and renew the server's certificate where it is due.

        Args:
            names: the server is reached by; those of the present certificate stay good.
            renew: a new server certificate in any case, for `names` alone. Its key stays.
        """
        wanted = tuple(dict.fromkeys(_checked(name) for name in names))
        self._make_folder()
        ca, ca_key = self._authority()
        path, key_path = self._folder / "server.crt", self._folder / "server.key"
        key = self._key(key_path)
        present = self._certificate(path)
        if present is not None and not _signed_by(present, ca):
            raise ConfigError(
                f"{path} was not made by the authority in {self._folder}",
                hint="it is left alone; move it away, or name another folder",
            )
        old = _names(present) if present is not None and not renew else ()
        all_names = tuple(dict.fromkeys((*wanted, *old)))
        if len(all_names) > NAMES_MAX:
            raise ConfigError(
                f"{path} would have {len(all_names)} names; {NAMES_MAX} are allowed",
                hint="--renew forgets the old ones",
            )
        due = (
            present is None
            or renew
            or set(wanted) - set(old)
            or present.public_key() != key.public_key()
            or present.not_valid_after_utc - self._now < timedelta(days=RENEW_DAYS)
        )
        if due:
            present = _server_certificate(all_names, key, ca, ca_key, self._now)
            self._write(path, _pem(present), 0o644)
        assert present is not None  # noqa: S101 - narrows the type; made above when it was not there
        return Made(
            ca=self._folder / "ca.crt",
            fingerprint=ca.fingerprint(hashes.SHA256()).hex(":").upper(),
            certificate=path,
            key=key_path,
            names=_names(present),
            until=present.not_valid_after_utc,
            written=tuple(self._written),
        )

    def issue(self, device: str, folder: Path) -> Issued:
        """Make a client certificate whose common name is the device's id.

        Args:
            device: as in the register of devices.
            folder: gets `<device>.crt` and `<device>.key`, which must not be there yet.
        """
        if not _DEVICE.fullmatch(device):
            raise ConfigError(f"{device!r} is no device id", hint="letters, digits and _ . : -, at most 64")
        certificate, key_path = folder / f"{device}.crt", folder / f"{device}.key"
        for path in (certificate, key_path):
            if path.exists():
                raise ConfigError(f"{path} is there already", hint="it is left alone; move it away")
        if not (self._folder / "ca.crt").exists():
            raise ConfigError(
                f"{self._folder} holds no authority to sign with", hint="`barn-gateway certificates` makes it"
            )
        ca, ca_key = self._authority()
        key = self._key(key_path)
        until = NOT_BEFORE.replace(year=self._now.year + DEVICE_YEARS)
        builder = _builder(device, key, ca.subject, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        signed = _signed(builder, ca, ca_key)
        self._write(certificate, _pem(signed), 0o644)
        return Issued(certificate, key_path, signed.not_valid_after_utc)

    # Parts.

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as fault:
            raise ConfigError(f"{self._folder} cannot be made: {fault.strerror}", hint="use sudo?") from fault

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        path, key_path = self._folder / "ca.crt", self._folder / "ca.key"
        present = self._certificate(path)
        if (present is None) == key_path.exists():
            there, missing = (key_path, path) if present is None else (path, key_path)
            raise ConfigError(
                f"{there} is there and {missing} is not",
                hint="put it back from a backup; or move both away, and teach every client a new authority",
            )
        if present is None and (self._folder / "server.crt").exists():
            raise ConfigError(
                f"{self._folder}/server.crt is there and no authority that made it",
                hint="it is left alone; move it away, or name another folder",
            )
        key = self._key(key_path)
        if present is None:
            present = _authority_certificate(key)
            self._write(path, _pem(present), 0o644)
        elif present.public_key() != key.public_key():
            raise ConfigError(f"{key_path} is not the key of {path}", hint="put the right one back")
        return present, key

    def _certificate(self, path: Path) -> x509.Certificate | None:
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise ConfigError(f"{path} cannot be read: {fault.strerror}", hint="use sudo?") from fault
        except ValueError as fault:
            raise ConfigError(f"{path} holds no certificate in PEM form", hint="move it away") from fault

    def _key(self, path: Path) -> ec.EllipticCurvePrivateKey:
        """The key that lies there, or a new one."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            made = ec.generate_private_key(ec.SECP256R1())
            form = serialization.PrivateFormat.PKCS8
            none = serialization.NoEncryption()
            self._write(path, made.private_bytes(serialization.Encoding.PEM, form, none), 0o600)
            return made
        except OSError as fault:
            raise ConfigError(f"{path} cannot be read: {fault.strerror}", hint="use sudo?") from fault
        except (TypeError, ValueError) as fault:
            raise ConfigError(f"{path} holds no unencrypted key in PEM form", hint="move it away") from fault
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{path} is not a key that this command has made", hint="move it away")
        return key

    def _write(self, path: Path, text: bytes, mode: int) -> None:
        """In one step; a file that was there keeps its owner and its mode."""
        fresh = path.with_name(path.name + ".new")
        try:
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(text)
                if path.exists():
                    before = path.stat()
                    os.fchmod(file.fileno(), before.st_mode & 0o777)
                    with suppress(PermissionError):
                        os.fchown(file.fileno(), before.st_uid, before.st_gid)
                else:
                    os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as fault:
            raise ConfigError(f"{path} cannot be written: {fault.strerror}", hint="use sudo?") from fault
        self._written.append(path)


def machine_names() -> tuple[str, ...]:
    """Names and addresses this machine is reached by: its own, mDNS, loopback, the network's."""
    host = socket.gethostname().partition(".")[0]
    found = ["localhost", "127.0.0.1", "::1"]
    if _DNS_NAME.fullmatch(host):
        found = [host, f"{host}.local", *found]
    # Asks the routing table which address would be used; nothing is sent.
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((target, 9))
            found.append(str(probe.getsockname()[0]))
    with suppress(OSError):
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    return tuple(dict.fromkeys(name for name in found if "%" not in name))


def _checked(name: str) -> str:
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is neither a name nor an address", hint="like barn.local or 192.168.1.5")
    return name.lower()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value) for one in names)


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    mark = os.urandom(3).hex()  # two barns' authorities can be told apart in a list
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Barn gateway authority {mark}")])
    until = NOT_BEFORE.replace(year=NOT_BEFORE.year + CA_YEARS)
    builder = _builder(None, key, name, until).subject_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _server_certificate(
    names: tuple[str, ...],
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    builder = _builder(names[0][:64], key, ca.subject, now + timedelta(days=SERVER_DAYS))
    builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return _signed(builder, ca, ca_key)


def _builder(
    subject: str | None, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, until: datetime
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(until.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if subject is None:
        return builder
    return builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return builder.add_extension(by, critical=False).sign(ca_key, hashes.SHA256())


def _signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
