"""A real broker on an ephemeral port with an in-memory ingest, and a client that speaks raw MQTT."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from msgspec.structs import replace

from gateway.core.routes import default_routes
from gateway.core.topics import Family, RouteTable
from gateway.drivers.broker import DoorLimits, EmbeddedBroker, Listener
from gateway.drivers.broker import packets as p
from gateway.drivers.broker.framing import CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE

SENSOR = "artemis/sensors/COW_001"
PATIENCE_S = 5.0


class WallClock:
    def now_ms(self):
        return time.time_ns() // 1_000_000

    def monotonic_s(self):
        return time.monotonic()

    def trusted(self):
        return True

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


class Barn:
    """The broker and what its ingest has received; `settling` acknowledges at once."""

    def __init__(self, **options):
        self.settling = options.pop("settling", True)
        denied = options.pop("denied", ("test/nosubscribe",))
        open_topics = options.pop("open_topics", ("#",))
        limited = options.pop("limited", False)
        rates = options.pop("rates", {})
        routes = [replace(route, rate=rates.get(route.name, route.rate)) for route in default_routes()]
        self.limits = DoorLimits(**options.pop("limits", {}))
        self.messages = []
        self.receipts = []
        self.refusals = []
        self.hurries = 0
        self.broker = EmbeddedBroker(
            routes=RouteTable(routes, open_topics, denied, limited=limited),
            clock=WallClock(),
            take=dict.fromkeys(Family, self.take),
            refused=self.refused,
            hurry=self.hurry,
            limits=self.limits,
            **options,
        )

    def take(self, message, receipt):
        self.messages.append(message)
        self.receipts.append(receipt)
        if self.settling:
            receipt.settle()

    def refused(self, message, why, receipt):
        self.refusals.append((message, why))
        receipt.settle()

    def hurry(self):
        self.hurries += 1

    @property
    def port(self):
        return self.broker.port

    @property
    def counters(self):
        return self.broker.counters

    async def until(self, condition, what="the expected"):
        """Wait until `condition()` holds, with a deadline."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen: {dict(self.counters)}"
            await asyncio.sleep(0.002)

    async def settle_all(self, count):
        """Acknowledge what comes in, as it comes in, until it was `count` messages."""
        for number in range(count):
            await self.until(lambda wanted=number: len(self.receipts) > wanted, f"message {number + 1}")
            self.receipts[number].settle()

    async def most_in_one_turn(self, count):
        """The most messages that one turn of the loop has taken, of `count` in all."""
        most = seen = 0
        async with asyncio.timeout(PATIENCE_S):
            while seen < count:
                await asyncio.sleep(0)
                most, seen = max(most, len(self.messages) - seen), len(self.messages)
        return most


@contextlib.asynccontextmanager
async def barn(**options) -> AsyncIterator[Barn]:
    """A running broker; afterwards nothing may be left of it."""
    before = asyncio.all_tasks()
    prepare = options.pop("before", None)
    place = Barn(**options)
    if prepare is not None:
        await prepare(place)
    await place.broker.start(Listener("127.0.0.1", 0))
    try:
        async with asyncio.timeout(25):
            yield place
    finally:
        await place.broker.close()
    left = asyncio.all_tasks() - before
    assert not left, left
    assert place.broker.connections == 0
    assert place.counters["session_faults"] == 0


def connect_bytes(client_id="c", *, clean=True, keepalive=60, will=None, username=None, password=None):
    """`will` is (topic, payload, qos, retain)."""
    flags = 0x02 if clean else 0
    tail = p.text(client_id)
    if will is not None:
        topic, payload, qos, retain = will
        flags |= 0x04 | qos << 3 | (0x20 if retain else 0)
        tail += p.text(topic) + len(payload).to_bytes(2, "big") + payload
    if username is not None:
        flags |= 0x80
        tail += p.text(username)
    if password is not None:
        flags |= 0x40
        tail += len(password).to_bytes(2, "big") + password
    return p.frame(CONNECT, p.text("MQTT") + bytes((4, flags)) + keepalive.to_bytes(2, "big") + tail)


def publish_bytes(topic, payload=b"x", *, qos=0, packet_id=1, retain=False, dup=False):
    first = PUBLISH | qos << 1 | retain | (8 if dup else 0)
    return p.frame(first, p.text(topic) + (packet_id.to_bytes(2, "big") if qos else b"") + payload)


def subscribe_bytes(*pairs, packet_id=1):
    return p.frame(
        SUBSCRIBE,
        packet_id.to_bytes(2, "big") + b"".join(p.text(name) + bytes((qos,)) for name, qos in pairs),
    )


def unsubscribe_bytes(*filters, packet_id=1):
    return p.frame(UNSUBSCRIBE, packet_id.to_bytes(2, "big") + b"".join(p.text(name) for name in filters))


def ack(first, packet_id):
    return bytes((first, 2)) + packet_id.to_bytes(2, "big")


class RawClient:
    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        self.writer.write(data)

    async def packet(self):
        """The next packet as (first byte, body)."""
        async with asyncio.timeout(PATIENCE_S):
            first = (await self.reader.readexactly(1))[0]
            length = shift = 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    break
            return first, await self.reader.readexactly(length)

    async def message(self):
        """The next packet, a PUBLISH, as (topic, payload, qos, retain, packet id)."""
        first, body = await self.packet()
        assert first & 0xF0 == PUBLISH, (first, body)
        topic, position = p.read_text(body, 0)
        qos = (first >> 1) & 3
        packet_id = int.from_bytes(body[position : position + 2], "big") if qos else 0
        return topic, body[position + 2 if qos else position :], qos, bool(first & 1), packet_id

    async def ping(self):
        """Everything sent before is answered before the answer to this."""
        self.send(b"\xc0\x00")
        assert await self.packet() == (0xD0, b"")

    async def subscribe(self, *pairs, packet_id=1):
        self.send(subscribe_bytes(*pairs, packet_id=packet_id))
        first, body = await self.packet()
        assert (first, body[:2]) == (0x90, packet_id.to_bytes(2, "big"))
        return list(body[2:])

    async def closed(self):
        """The peer has closed; returns what was still to be read."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self):
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def raw(place):
    """A bare socket."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", place.port))
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def connected(place, client_id="c", **options):
    """A client whose CONNECT was accepted; `client.present` tells about its session."""
    async with raw(place) as client:
        client.send(connect_bytes(client_id, **options))
        first, body = await client.packet()
        assert (first, body[1]) == (0x20, 0), body
        client.present = bool(body[0])
        yield client
