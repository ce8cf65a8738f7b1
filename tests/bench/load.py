"""A bounded MQTT load on loopback, from a process of its own: raw sockets, QoS 1, one loop.

Run as `python -m tests.bench.load PORT CONNECTIONS PER_CONNECTION IN_FLIGHT`; prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
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


def connect_packet(client_id: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack("!H", len(client_id)) + client_id.encode()
    return b"\x10" + _length(len(body)) + body


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

    def __init__(self, client_id: str, packets: list[bytes], in_flight: int, waits_ms: list[float]) -> None:
        self.connected = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self._client_id = client_id
        self._packets = packets
        self.allowed = len(packets)
        self._in_flight = in_flight
        self._sent = self._acked = 0
        self._sent_at: list[float] = []
        self._waits_ms = waits_ms
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(connect_packet(self._client_id))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:  # CONNACK and PUBACK are four bytes each
            kind = self._buffer[0]
            del self._buffer[:4]
            if kind == 0x20:
                self.connected.set_result(None)
            elif kind == 0x40:
                self._waits_ms.append((time.perf_counter() - self._sent_at[self._acked]) * 1000)
                self._acked += 1
        if self._sent:
            self.pump()
        if self._acked == len(self._packets) and not self.done.done():
            self.done.set_result(None)

    def pump(self) -> None:
        room = min(self._in_flight - (self._sent - self._acked), self.allowed - self._sent)
        if room > 0:
            now = time.perf_counter()
            self._transport.write(b"".join(self._packets[self._sent : self._sent + room]))
            self._sent_at += [now] * room
            self._sent += room

    def connection_lost(self, exc: Exception | None) -> None:
        for waiter in (self.connected, self.done):
            if not waiter.done():
                waiter.set_exception(exc or ConnectionError("closed by the broker"))

    def close(self) -> None:
        self._transport.close()


async def load(port: int, connections: int, count: int, in_flight: int) -> dict[str, float]:
    waits_ms: list[float] = []
    loop = asyncio.get_running_loop()
    publishers: list[Publisher] = []
    for number in range(connections):
        _, publisher = await loop.create_connection(
            lambda cow_id=f"COW_{number:04d}": Publisher(
                cow_id, packets_of(cow_id, count), in_flight, waits_ms
            ),
            "127.0.0.1",
            port,
        )
        await publisher.connected
        publishers.append(publisher)
    began = time.perf_counter()
    for publisher in publishers:
        publisher.pump()
    await asyncio.gather(*(publisher.done for publisher in publishers))
    took_s = time.perf_counter() - began
    for publisher in publishers:
        publisher.close()
    waits_ms.sort()
    total = len(waits_ms)
    return {
        "acknowledged": total,
        "seconds": took_s,
        "p50_ms": waits_ms[total // 2],
        "p99_ms": waits_ms[int(total * 0.99)],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(*(int(argument) for argument in sys.argv[1:5])))))
