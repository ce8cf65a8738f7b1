"""A collar on a bare socket: its packets as bytes, and a client that sends them with QoS 1."""

from __future__ import annotations

import asyncio
import struct
import time
from datetime import UTC, datetime

FIRST_S = 1_767_225_600


def _length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def _field(value: str) -> bytes:
    return struct.pack("!H", len(value)) + value.encode()


def connect_packet(
    client_id: str, login: tuple[str, str] | None = None, *, clean: bool = True, keepalive_s: int = 0
) -> bytes:
    """A CONNECT; `login` is (user name, password)."""
    flags = (0x02 if clean else 0) | (0xC0 if login else 0)
    body = b"\x00\x04MQTT\x04" + bytes((flags,)) + struct.pack("!H", keepalive_s)
    body += b"".join(map(_field, (client_id, *(login or ()))))
    return b"\x10" + _length(len(body)) + body


def subscribe_packet(topic_filter: str, qos: int) -> bytes:
    body = b"\x00\x01" + _field(topic_filter) + bytes((qos,))
    return b"\x82" + _length(len(body)) + body


def publish_bytes(topic: str, payload: bytes, packet_id: int) -> bytes:
    """A QoS 1 PUBLISH."""
    name = topic.encode()
    body = struct.pack("!H", len(name)) + name + struct.pack("!H", packet_id) + payload
    return b"\x32" + _length(len(body)) + body


def publish_packet(cow_id: str, number: int, packet_id: int) -> bytes:
    iso = datetime.fromtimestamp(FIRST_S + 60 * number, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    payload = (
        f'{{"cow_id":"{cow_id}","timestamp":"{iso}","temperature":{38 + number % 90 / 100:.2f},'
        f'"fxa":{number % 7 / 10 - 0.3:.2f},"mya":0.01,"rza":-0.88,"sxg":-2.88,"lyg":0.14,"dzg":1.87}}'
    ).encode()
    return publish_bytes(f"artemis/sensors/{cow_id}", payload, packet_id)


def packets_of(cow_id: str, count: int) -> list[bytes]:
    """A collar's first `count` publishes."""
    return [publish_packet(cow_id, number, number % 65535 + 1) for number in range(count)]


class Publisher(asyncio.Protocol):
    """Sends its packets with at most `in_flight` unacknowledged; times each publish → PUBACK.

    `allowed` holds it back to a pace: how many of its packets may have gone out so far.
    """

    def __init__(
        self,
        client_id: str,
        packets: list[bytes],
        in_flight: int,
        waits_ms: list[float],
        connect: bytes | None = None,
    ) -> None:
        self.connected = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self._connect = connect or connect_packet(client_id)
        self._packets = packets
        self.allowed = len(packets)
        self._in_flight = in_flight
        self.sent = self._acked = 0
        self._sent_at: list[float] = []
        self._waits_ms = waits_ms
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._connect)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:  # CONNACK and PUBACK are four bytes each
            answer = bytes(self._buffer[:4])
            kind = answer[0]
            del self._buffer[:4]
            if kind == 0x20:
                if answer[3]:
                    self._fail(ConnectionRefusedError(f"CONNACK {answer[3]}"))
                    return
                self.connected.set_result(None)
            elif kind == 0x40:
                self._waits_ms.append((time.perf_counter() - self._sent_at[self._acked]) * 1000)
                self._acked += 1
        if self.sent:
            self.pump()
        if self._acked == len(self._packets) and not self.done.done():
            self.done.set_result(None)

    def pump(self) -> None:
        room = min(self._in_flight - (self.sent - self._acked), self.allowed - self.sent)
        if room > 0:
            now = time.perf_counter()
            self._transport.write(b"".join(self._packets[self.sent : self.sent + room]))
            self._sent_at += [now] * room
            self.sent += room

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("closed by the broker"))

    def _fail(self, fault: Exception) -> None:
        for waiter in (self.connected, self.done):
            if not waiter.done():
                waiter.set_exception(fault)
                waiter.exception()  # looked at: of thousands that fail together, one report is enough

    def close(self) -> None:
        self._transport.close()
