"""One upstream MQTT broker (MQTT 3.1.1, QoS 1), over aiomqtt.

Runs in the task of whoever calls `deliver`, plus one task that notices when an idle
connection breaks. Decides nothing: when to try again is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import aiomqtt
import msgspec

from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.errors import ConfigError

PAYLOAD_BYTES_MAX = 256 * 1024
"""AWS IoT takes 128 KiB, mosquitto 256 MiB unless told otherwise; ours are at most 116 KB."""

ANSWER_S_MAX = 10.0
"""Wait for CONNACK or PUBACK. A round trip over a poor mobile link is 2 s; together with the 5 s
of a TCP connect and of a goodbye it leaves 10 of shutdown's 30 s to the others."""

GOODBYE_S_MAX = 5.0
"""Wait for an orderly DISCONNECT, so that shutdown stays within its 30 s (decision 32)."""

TLS_S_MAX = 5.0
"""For the TLS handshake; as long as paho gives the TCP connect before it."""

_CALM = aiomqtt.MqttError


class UplinkTarget(msgspec.Struct, frozen=True):
    """Where and as whom to connect.

    Args:
        host: name or address.
        port: TCP port; 8883 is usual with TLS.
        client_id: the gateway id: a second connection under it replaces the first.
        username: None for anonymous.
        password: of that user.
        tls: encrypt and verify the broker's certificate and host name.
        ca_certs: PEM file of the authority; None = the system's authorities.
        keepalive_s: a silent line is noticed after 1.5 times this.
        in_flight_max: publishes that may wait for their PUBACK together; paho's own default.
    """

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_certs: Path | None = None
    keepalive_s: int = 60
    in_flight_max: int = 20


class MqttUplink:
    """A `Transport` that keeps one connection open and reopens it when a message needs it.

    Args:
        target: the broker.
        answer_s_max: how long to wait for CONNACK and for each PUBACK.

    Raises:
        ConfigError: the authority file cannot be read.
    """

    def __init__(self, target: UplinkTarget, *, answer_s_max: float = ANSWER_S_MAX) -> None:
        self._target = target
        self._answer_s_max = answer_s_max
        self._tls = _tls_context(target) if target.tls else None
        self._client: aiomqtt.Client | None = None
        self._opening: asyncio.Task[aiomqtt.Client] | None = None
        self._watch: asyncio.Task[None] | None = None  # ends with the connection
        self.connects = 0
        """Connections opened since the start."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as TCP and keepalive know."""
        return self._client is not None

    async def deliver(self, topic: str, payload: bytes) -> Delivered | RetryLater | Rejected:
        """Publish with QoS 1; `Delivered` once the broker's PUBACK is here.

        A connection that broke while idle is reopened once within the call, so that the first
        message after a quiet hour does not wait for a back-off. The message may then arrive
        twice, under the same message id.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            return Rejected(f"payload of {len(payload)} bytes is over {PAYLOAD_BYTES_MAX}")
        was_open = self.connected
        answer = await self._try(topic, payload)
        if was_open and not self.connected and isinstance(answer, RetryLater):
            answer = await self._try(topic, payload)
        return answer

    async def close(self) -> None:
        """Say goodbye and release the socket; at most about 15 s on a dead line."""
        opening = self._opening
        if opening is not None:
            # paho connects in a thread that cannot be interrupted; it gives up after 5 s.
            await asyncio.wait([opening], timeout=self._answer_s_max)
            self._adopt(opening)
        await self._drop()

    async def _try(self, topic: str, payload: bytes) -> Delivered | RetryLater | Rejected:
        try:
            client = self._client or await self._connect()
        except _CALM as error:
            return RetryLater(f"Failed to connect to MQTT broker: {error}")
        try:
            await self._publish(client, topic, payload)
        except ValueError as error:  # paho: topic with wildcard or too long, payload beyond the protocol
            return Rejected(str(error))
        except _CALM as error:
            # A timeout leaves the message in the client's own queue: a fresh client forgets it.
            await self._drop()
            return RetryLater(f"Lost connection to MQTT broker: {error}")
        return Delivered()

    async def _publish(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        """Return with the PUBACK; aiomqtt alone would wait out its timeout on a broken connection."""
        publishing = asyncio.create_task(client.publish(topic, payload, qos=1, timeout=self._answer_s_max))
        waited_for = {publishing} if self._watch is None else {publishing, self._watch}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if not publishing.done():
                raise _CALM("the broker closed the connection")
            publishing.result()
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])

    async def _connect(self) -> aiomqtt.Client:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="uplink connect")
        opening = self._opening
        try:
            # Shielded: the thread inside goes on after a cancellation, and its socket needs an owner.
            await asyncio.shield(opening)
        finally:
            self._adopt(opening)
        if self._client is None:  # closed meanwhile
            raise _CALM("closed")
        return self._client

    def _adopt(self, opening: asyncio.Task[aiomqtt.Client]) -> None:
        """Make a connection that has opened ours, once."""
        if self._opening is not opening or not opening.done():
            return
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._client = opening.result()
            self._watch = asyncio.create_task(self._notice_break(self._client), name="uplink watch")
            self.connects += 1

    async def _open(self) -> aiomqtt.Client:
        target = self._target
        client = aiomqtt.Client(
            target.host,
            target.port,
            identifier=target.client_id,
            username=target.username,
            password=target.password,
            tls_context=self._tls,
            keepalive=target.keepalive_s,
            max_inflight_messages=target.in_flight_max,
            timeout=self._answer_s_max,
            clean_session=True,  # the outbox is the queue; a session upstream would hold a second one
        )
        client.pending_calls_threshold = max(client.pending_calls_threshold, target.in_flight_max)
        try:
            await client.__aenter__()
        except ValueError as error:  # a host name that no DNS label can hold
            raise _CALM(str(error)) from error
        except _CALM:
            # A peer that accepts and then says nothing leaves aiomqtt's socket and task open, and
            # its __aexit__ would wait for them another time; paho's own disconnect closes both.
            client._client.disconnect()  # noqa: SLF001
            raise
        return client

    async def _notice_break(self, client: aiomqtt.Client) -> None:
        """Read (nothing is subscribed) until the connection ends."""
        with contextlib.suppress(_CALM):
            async for _ in client.messages:
                pass
        if self._client is client:
            self._client = None

    async def _drop(self) -> None:
        client, self._client = self._client, None
        watch, self._watch = self._watch, None
        if client is not None:
            with contextlib.suppress(_CALM, TimeoutError):
                async with asyncio.timeout(GOODBYE_S_MAX):
                    await client.__aexit__(None, None, None)
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])


class _HandshakeBound(ssl.SSLSocket):
    """Bounds paho's handshake.

    By itself it lasts up to `keepalive` seconds in a thread nobody can stop, and a socket whose
    handshake failed is not closed.
    """

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002
        self.settimeout(TLS_S_MAX)
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls_context(target: UplinkTarget) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.ca_certs)
    except OSError as error:
        raise ConfigError(
            f"cannot read the uplink's certificate authority {target.ca_certs}: {error}",
            hint="give the PEM file of the authority that signed the upstream broker's certificate",
        ) from error
    context.sslsocket_class = _HandshakeBound
    return context
