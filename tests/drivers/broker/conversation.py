"""Conversations with the broker, written as tables: who says what, and what must come back.

A case is a sentence and steps: `a > data` sends, `a < data` means that exactly these packets are the
next to arrive. At the end of every case each connection that is still open must have nothing left to
read, and a bystander must be as well off as before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from gateway.drivers.broker.packets import frame, text
from tests.drivers.broker.harness import (
    Barn,
    RawClient,
    ack,
    barn,
    connect_bytes,
    connected,
    publish_bytes,
    raw,
    subscribe_bytes,
)

PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"
REFUSED = 0x80
# How long a connection may still be open that should have been closed at once.
END_PATIENCE_S = 2.0


def connack(code=0, *, present=False):
    return bytes((0x20, 2, present, code))


def suback(*codes, packet_id=1):
    return frame(0x90, packet_id.to_bytes(2, "big") + bytes(codes))


def unsuback(packet_id=1):
    return ack(0xB0, packet_id)


def packets_in(data):
    """The packets of `data` as (first byte, body)."""
    found = []
    while data:
        length = shift = 0
        position = 1
        while True:
            byte = data[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            position += 1
            if not byte & 0x80:
                break
        found.append((data[0], data[position : position + length]))
        data = data[position + length :]
    return found


class Stage:
    """What a case has while it runs: the broker, its clients, the packet ids it has learnt."""

    def __init__(self, place: Barn) -> None:
        self.place = place
        self.clients: dict[str, RawClient] = {}
        self.ids: dict[str, int] = {}
        self.done: set[str] = set()  # names whose packet id may be used again

    async def open(self, name: str) -> RawClient:
        if name in self.clients:
            await self.clients[name].close()
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.place.port))
        self.clients[name] = client
        return client

    async def gone(self, before: int) -> None:
        """The broker has noticed that one client less is there."""
        await self.place.until(lambda: self.place.broker.connections < before, "the end of a connection")

    def learn(self, tag: str, packet_id: int) -> None:
        """Bind a packet id to a name, or compare it with what the name was bound to."""
        assert packet_id, f"{tag}: a packet id of 0"
        if tag not in self.ids:
            used = {number for name, number in self.ids.items() if name not in self.done}
            assert packet_id not in used, f"{tag}: packet id {packet_id} is in use"
            self.ids[tag] = packet_id
        assert self.ids[tag] == packet_id, f"{tag} had packet id {self.ids[tag]}, now {packet_id}"


Step = Callable[[Stage], Awaitable[None]]


class Speaker:
    """One client of a case."""

    __hash__ = object.__hash__

    def __init__(self, name: str) -> None:
        self.name = name

    def opens(self) -> Step:
        """A bare socket."""

        async def step(stage: Stage) -> None:
            await stage.open(self.name)

        return step

    def connects(self, *, present: bool = False, client_id: str | None = None, **options) -> Step:
        """CONNECT, and it is accepted. `present` is what the broker must say about the session."""

        async def step(stage: Stage) -> None:
            client = await stage.open(self.name)
            client.send(connect_bytes(self.name if client_id is None else client_id, **options))
            first, body = await client.packet()
            assert (first, body) == (0x20, bytes((present, 0))), f"CONNACK {body.hex()}"

        return step

    def subscribes(self, *pairs, packet_id=1) -> Step:
        """SUBSCRIBE, and every filter is granted as asked."""

        async def step(stage: Stage) -> None:
            codes = await stage.clients[self.name].subscribe(*pairs, packet_id=packet_id)
            assert codes == [qos for _, qos in pairs]

        return step

    def __gt__(self, data: bytes) -> Step:  # type: ignore[override]
        async def step(stage: Stage) -> None:
            stage.clients[self.name].send(data)

        return step

    def __lt__(self, data: bytes) -> Step:  # type: ignore[override]
        async def step(stage: Stage) -> None:
            for wanted in packets_in(data):
                got = await stage.clients[self.name].packet()
                assert got == wanted, f"{self.name} got {frame(*got)!r} instead of {frame(*wanted)!r}"

        return step

    def gets(self, *packets: bytes) -> Step:
        """These packets, in any order."""

        async def step(stage: Stage) -> None:
            got = sorted([await stage.clients[self.name].packet() for _ in packets])
            assert got == sorted(packets_in(b"".join(packets))), got

        return step

    def hears(
        self,
        topic: str,
        payload: bytes = b"x",
        *,
        qos: int = 0,
        tag: str = "",
        dup: bool = False,
        retain: bool = False,
    ) -> Step:
        """A PUBLISH whose packet id is the one that `tag` stands for."""

        async def step(stage: Stage) -> None:
            first, body = await stage.clients[self.name].packet()
            at = 2 + len(topic.encode())
            packet_id = int.from_bytes(body[at : at + 2], "big") if qos else 1
            wanted = publish_bytes(topic, payload, qos=qos, packet_id=packet_id, dup=dup, retain=retain)
            assert frame(first, body) == wanted, f"{self.name} got {frame(first, body)!r}, not {wanted!r}"
            if qos:
                stage.learn(tag, packet_id)

        return step

    def answers(self, kind: int, tag: str) -> Step:
        """An acknowledgement for the packet id that `tag` stands for."""

        async def step(stage: Stage) -> None:
            stage.clients[self.name].send(ack(kind, stage.ids[tag]))
            if kind in (PUBACK, PUBCOMP):
                stage.done.add(tag)

        return step

    def is_told(self, kind: int, tag: str) -> Step:
        """An acknowledgement arrives for the packet id that `tag` stands for."""

        async def step(stage: Stage) -> None:
            got = await stage.clients[self.name].packet()
            assert got == (kind, stage.ids[tag].to_bytes(2, "big")), got

        return step

    def says_nothing_more(self) -> Step:
        """Everything that was sent is handled, and nothing but that was answered."""

        async def step(stage: Stage) -> None:
            await stage.clients[self.name].ping()

        return step

    def is_closed(self, rest: bytes = b"") -> Step:
        """The broker ends the connection, after `rest`."""

        async def step(stage: Stage) -> None:
            left = await _the_end_of(stage.clients.pop(self.name))
            assert left == rest, f"{left!r} instead of {rest!r} before the end"

        return step

    def drops(self) -> Step:
        """The connection breaks without a word."""

        async def step(stage: Stage) -> None:
            before = stage.place.broker.connections
            stage.clients.pop(self.name).abort()
            await stage.gone(before)

        return step

    def leaves(self) -> Step:
        """DISCONNECT."""

        async def step(stage: Stage) -> None:
            before = stage.place.broker.connections
            stage.clients[self.name].send(DISCONNECT)
            assert await _the_end_of(stage.clients.pop(self.name)) == b""
            await stage.gone(before)

        return step


class Case(NamedTuple):
    """Args: a sentence with its statement, steps in order, and options of the barn."""

    says: str
    steps: tuple[Step, ...]
    options: dict = {}  # noqa: RUF012 - never changed


def by_sentence(case: Case) -> str:
    return case.says


def play(case: Case) -> None:
    """Run one case on a broker of its own, with a bystander."""

    async def main() -> None:
        async with barn(**case.options) as place, connected(place, "bystander", keepalive=0) as bystander:
            await bystander.subscribe(("bystander", 1))
            stage = Stage(place)
            try:
                for number, step in enumerate(case.steps, start=1):
                    try:
                        await step(stage)
                    except (AssertionError, TimeoutError, asyncio.IncompleteReadError) as fault:
                        raise AssertionError(f"step {number}: {fault or type(fault).__name__}") from fault
                for client in stage.clients.values():
                    await client.ping()
                await _is_unharmed(bystander)
            finally:
                for client in stage.clients.values():
                    await client.close()

    asyncio.run(main())


async def _the_end_of(client: RawClient) -> bytes:
    """What was still to be read before the broker closed."""
    try:
        async with asyncio.timeout(END_PATIENCE_S):
            return await client.reader.read()
    except TimeoutError:
        return b"(still open)"
    except ConnectionError:
        return b""
    finally:
        await client.close()


async def _is_unharmed(bystander: RawClient) -> None:
    bystander.send(publish_bytes("bystander", b"still here", qos=1, packet_id=9))
    packets = sorted([await bystander.packet(), await bystander.packet()])
    assert packets[0][0] == 0x32
    assert packets[1] == (PUBACK, b"\x00\x09")


def must_close(inputs: Iterable[tuple[str, bytes]], *, first: bool = False, rest: bytes = b"") -> None:
    """Each input, on a connection of its own, makes the broker close it, after `rest`, at once.

    `first` sends it as the first bytes of the connection, otherwise after an accepted CONNECT.
    """

    async def survives(place: Barn, number: int, name: str, data: bytes) -> str | None:
        async with raw(place) as client:
            if not first:
                client.send(connect_bytes(f"c{number}"))
                assert await client.packet() == (0x20, b"\x00\x00")
            client.send(data if rest else data + PINGREQ)  # only a broker that goes on will answer it
            left = await _the_end_of(client)
        return None if left == rest else f"{name}: {left!r}"

    async def main() -> None:
        async with barn() as place, connected(place, "bystander", keepalive=0) as bystander:
            await bystander.subscribe(("bystander", 1))
            attempts = [survives(place, number, name, data) for number, (name, data) in enumerate(inputs)]
            if first:  # one after the other: what is their own CONNECT may take each other over
                answers = [await attempt for attempt in attempts]
            else:
                answers = await asyncio.gather(*attempts)
            await _is_unharmed(bystander)
        survivors = [answer for answer in answers if answer is not None]
        assert not survivors, survivors

    asyncio.run(main())


def connect_body(
    client_id: bytes = b"\x00\x01c",
    tail: bytes = b"",
    *,
    name: bytes = text("MQTT"),
    level: int = 4,
    flags: int = 2,
    keepalive: bytes = b"\x00\x3c",
) -> bytes:
    """A CONNECT made of parts that need not fit together."""
    return frame(0x10, name + bytes((level, flags)) + keepalive + client_id + tail)


__all__ = [
    "DISCONNECT",
    "PINGREQ",
    "PINGRESP",
    "PUBACK",
    "PUBCOMP",
    "PUBREC",
    "PUBREL",
    "REFUSED",
    "Case",
    "Speaker",
    "ack",
    "by_sentence",
    "connack",
    "connect_body",
    "connect_bytes",
    "frame",
    "must_close",
    "play",
    "publish_bytes",
    "suback",
    "subscribe_bytes",
    "text",
    "unsuback",
]
