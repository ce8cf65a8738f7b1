"""What stock amqtt does wrong, as measured when the broker was designed, and what must not come back.

Each scenario runs against a plain `amqtt.broker.Broker`, which must show the fault (otherwise the test
shows nothing), and against ours, which must not. All of them run at once, each on a broker of its own.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.config import Config
from gateway.core.broker_state import BrokerState
from gateway.core.topics import CLIENT_ROLES
from gateway.drivers.broker import AnonymousAccess, Listener, Principal
from gateway.drivers.broker.packets import frame
from gateway.store import broker_state
from gateway.store.database import Database
from gateway.wiring import state_bounds
from tests.drivers.broker.harness import (
    SENSOR,
    Barn,
    connect_bytes,
    connected,
    publish_bytes,
    raw,
    subscribe_bytes,
)

PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"
# After this a broker that has not acted is taken not to act: twice the longest deadline of ours here.
PATIENCE_S = 3.0
BURSTS, BURST_MESSAGES = 20, 100
ROOT = Path(__file__).resolve().parents[3]


class GoodAccess(AnonymousAccess):
    """The password is `good`, as for the stock broker."""

    def authenticate(self, who):
        return Principal("device", CLIENT_ROLES) if who.password == b"good" else None


class SlowBarn(Barn):
    """its store takes a moment for each reading, as that of the stock broker."""

    def ingest(self, message, receipt):
        asyncio.get_running_loop().call_later(0.001, receipt.settle)


class Door(NamedTuple):
    """Somewhere to connect to; `reopen` ends the broker and starts it anew with what it has kept."""

    port: int
    reopen: Callable[[], Awaitable[int]]


async def _arrives(reader: asyncio.StreamReader, wanted: bytes, patience_s: float = PATIENCE_S) -> bool:
    """Whether these bytes come before the connection ends, or too much time has passed."""
    seen = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(patience_s):
            while chunk := await reader.read(65536):
                seen += chunk
                if wanted in seen:
                    return True
    return False


async def _ends(reader: asyncio.StreamReader) -> bool:
    """Whether the broker closes the connection in time."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while await reader.read(65536):
                pass
            return True
    return reader.exception() is not None


# The scenarios. True = as it should be.


async def what_is_acknowledged_is_delivered(door: Door) -> bool:
    """Bursts of QoS 1 with a DISCONNECT right behind them."""
    acknowledged = 0
    async with connected(door, "reader", keepalive=0) as reader:
        await reader.subscribe(("artemis/sensors/+", 0))
        burst = b"".join(publish_bytes(SENSOR, qos=1, packet_id=n + 1) for n in range(BURST_MESSAGES))
        for number in range(BURSTS):
            async with connected(door, f"collar{number}") as collar:
                collar.send(burst + DISCONNECT)
                acknowledged += (await collar.closed()).count(b"\x40\x02")
        reader.send(PINGREQ)
        delivered = 0
        message, buffer = publish_bytes(SENSOR), b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not buffer.endswith(PINGRESP) or delivered + buffer.count(message) < acknowledged:
                    buffer += await reader.reader.read(65536)
        delivered = buffer.count(message)
    return acknowledged == BURSTS * BURST_MESSAGES == delivered


async def a_publish_to_dollar_is_no_black_hole(door: Door) -> bool:
    async with connected(door, "reader") as reader, connected(door, "c") as client:
        await reader.subscribe(("t", 0))
        client.send(publish_bytes("$nothing/here"))
        await client.ping()
        client.send(publish_bytes("t", b"heard", qos=1))
        return await _arrives(reader.reader, b"heard", PATIENCE_S / 3)


async def an_empty_topic_is_no_black_hole(door: Door) -> bool:
    async with connected(door, "c") as client:
        client.send(publish_bytes("") + PINGREQ)
        return await _ends(client.reader)


async def a_failed_login_disturbs_nobody(door: Door) -> bool:
    async with connected(door, "collar", username="u", password=b"good") as collar:
        await collar.subscribe(("t", 0))
        async with raw(door) as stranger:
            stranger.send(connect_bytes("collar", username="u", password=b"bad"))
            await _ends(stranger.reader)
        collar.send(publish_bytes("t", b"still here") + PINGREQ)
        return await _arrives(collar.reader, b"still here", PATIENCE_S / 3)


async def retained_messages_go_to_those_who_asked(door: Door) -> bool:
    async with connected(door, "reader") as reader, connected(door, "writer") as writer:
        await reader.subscribe(("secret/#", 0))
        writer.send(publish_bytes("secret/plan", b"hush", retain=True))
        await reader.message()
        async with connected(door, "newcomer") as newcomer:
            leaked = _arrives(newcomer.reader, b"hush", PATIENCE_S / 3)
            again = _arrives(reader.reader, b"hush", PATIENCE_S / 3)
            return not any(await asyncio.gather(leaked, again))


async def a_grant_of_plus_is_none_of_hash(door: Door) -> bool:
    async with connected(door, "c", username="u", password=b"good") as client:
        assert await client.subscribe(("artemis/+", 0)) == [0]
        return await client.subscribe(("artemis/#", 0), packet_id=2) == [0x80]


async def a_payload_is_not_parsed_as_packets(door: Door) -> bool:
    async with connected(door, "reader") as reader, connected(door, "smuggler") as smuggler:
        await reader.subscribe(("inside", 0))
        smuggler.send(publish_bytes("a/#", publish_bytes("inside", b"smuggled")))
        return not await _arrives(reader.reader, b"smuggled", PATIENCE_S / 3)


async def a_silent_client_goes_after_its_keepalive(door: Door) -> bool:
    async with connected(door, "c", keepalive=1) as client:
        return await _ends(client.reader)


async def a_second_connection_takes_over(door: Door) -> bool:
    async with connected(door, "c", clean=False) as first:
        await first.subscribe(("t", 1))
        async with connected(door, "c", clean=False) as second:
            ended = await _ends(first.reader)
            second.send(publish_bytes("t", b"mine"))
            return ended and await _arrives(second.reader, b"mine")


async def fifty_megabytes_are_not_taken(door: Door) -> bool:
    size = 50 * 1024 * 1024
    piece = b"x" * (1 << 18)
    async with connected(door, "c") as client:
        with contextlib.suppress(ConnectionError):
            head = frame(0x32, b"\x00\x01t\x00\x01")[2:]
            length = bytes((size >> 7 * n) & 0x7F | (0x80 if n < 3 else 0) for n in range(4))
            client.send(b"\x32" + length + head)
            for _ in range((size - len(head)) // len(piece)):
                client.send(piece)
                await client.writer.drain()
            client.send(b"x" * ((size - len(head)) % len(piece)))
            return not await _arrives(client.reader, b"\x40\x02\x00\x01")
        return True


async def a_silent_socket_is_closed(door: Door) -> bool:
    async with raw(door) as silent, raw(door) as half:
        half.send(connect_bytes("c")[:7])
        return all(await asyncio.gather(_ends(silent.reader), _ends(half.reader)))


async def retained_messages_outlive_a_restart(door: Door) -> bool:
    async with connected(door, "writer") as writer:
        writer.send(publish_bytes("state", b"on", qos=1, retain=True))
        await writer.packet()
    again = Door(await door.reopen(), door.reopen)
    async with connected(again, "reader") as reader:
        reader.send(subscribe_bytes(("state", 0)))
        return await _arrives(reader.reader, publish_bytes("state", b"on", retain=True), PATIENCE_S / 3)


async def sessions_outlive_a_restart(door: Door) -> bool:
    async with connected(door, "reader", clean=False) as reader:
        await reader.subscribe(("t", 1))
    async with connected(door, "writer") as writer:
        writer.send(publish_bytes("t", b"waiting", qos=1))
        await writer.packet()
    again = Door(await door.reopen(), door.reopen)
    async with connected(again, "reader", clean=False) as reader:
        return reader.present and await _arrives(reader.reader, b"waiting", PATIENCE_S / 3)


async def an_unacknowledged_message_comes_again(door: Door) -> bool:
    """However long the client has left it unacknowledged: amqtt gives it up after 5 s."""
    async with connected(door, "reader", clean=False, keepalive=0) as reader:
        await reader.subscribe(("t", 1))
        async with connected(door, "writer") as writer:
            writer.send(publish_bytes("t", b"precious", qos=1))
            await reader.message()
        assert not await _arrives(reader.reader, b"\x00", 6.0)
    async with connected(door, "reader", clean=False) as reader:
        return await _arrives(reader.reader, b"precious", PATIENCE_S / 3)


_ANYONE = "amqtt.plugins.authentication.AnonymousAuthPlugin"


class Fault(NamedTuple):
    """Args: the scenario, options of our barn, plugins of the stock broker."""

    scenario: Callable[[Door], Awaitable[bool]]
    ours: dict[str, Any] = {}  # noqa: RUF012 - never changed
    plugins: dict[str, Any] = {_ANYONE: {}}  # noqa: RUF012


_ONLY_GOOD = {"tests.drivers.broker.stock_amqtt.OnlyGood": {}}
FAULTS = [
    Fault(
        what_is_acknowledged_is_delivered,
        plugins={_ANYONE: {}, "tests.drivers.broker.stock_amqtt.SlowStore": {}},
    ),
    Fault(a_publish_to_dollar_is_no_black_hole),
    Fault(an_empty_topic_is_no_black_hole),
    Fault(a_failed_login_disturbs_nobody, {"access": GoodAccess()}, _ONLY_GOOD),
    Fault(retained_messages_go_to_those_who_asked),
    Fault(
        a_grant_of_plus_is_none_of_hash,
        {"open_topics": ("artemis/+",)},
        _ONLY_GOOD
        | {"amqtt.plugins.topic_checking.TopicAccessControlListPlugin": {"acl": {"u": ["artemis/+"]}}},
    ),
    Fault(a_payload_is_not_parsed_as_packets),
    Fault(a_silent_client_goes_after_its_keepalive),
    Fault(a_second_connection_takes_over),
    Fault(fifty_megabytes_are_not_taken),
    Fault(a_silent_socket_is_closed, {"limits": {"connect_timeout_s": 1.0}}),
    Fault(retained_messages_outlive_a_restart),
    Fault(sessions_outlive_a_restart),
]
SLOW = Fault(an_unacknowledged_message_comes_again)


# The two brokers.


@contextlib.asynccontextmanager
async def _stock(faults: list[Fault]) -> AsyncIterator[list[Door]]:
    """A plain amqtt broker for each, together in one process, which takes with it what they leave open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.drivers.broker.stock_amqtt",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    asking = asyncio.Lock()

    async def ask(question: object) -> Any:
        async with asking:
            stdin.write(json.dumps(question).encode() + b"\n")
            return json.loads(await stdout.readline())

    def door(number: int, port: int) -> Door:
        return Door(port, partial(ask, number))

    try:
        ports = await ask([fault.plugins for fault in faults])
        yield [door(number, port) for number, port in enumerate(ports)]
    finally:
        process.kill()
        await process.communicate()


async def _on_ours(fault: Fault, database: Database) -> bool:
    loop = asyncio.get_running_loop()
    running: list[Barn] = []

    def commit(place: Barn, receipts: list[Any]) -> None:
        changes = place.broker.changes()
        database.write_now(lambda db: broker_state.apply(db, changes))
        for receipt in receipts:
            receipt.settle()

    async def start(state: BrokerState) -> int:
        def keep(receipt: Any) -> None:
            loop.call_soon(commit, place, [receipt] if receipt is not None else [])

        place = SlowBarn(**fault.ours, keep=keep)
        place.broker.restore(state)
        await place.broker.start(Listener("127.0.0.1", 0))
        running.append(place)
        return place.port

    async def stop() -> None:
        place = running.pop()
        await place.broker.stop()
        commit(place, [])
        await place.broker.close()

    async def reopen() -> int:
        await stop()
        return await start(database.read_now(lambda db: broker_state.load(db, state_bounds(Config()))))

    try:
        return await fault.scenario(Door(await start(BrokerState()), reopen))
    finally:
        await stop()


def _verdicts(faults: list[Fault], folder: Path, *, ours: bool) -> dict[str, bool]:
    """Which scenarios went as they should."""

    async def on_stock() -> list[bool]:
        async with _stock(faults) as doors:
            pairs = zip(faults, doors, strict=True)
            return await asyncio.gather(*(fault.scenario(door) for fault, door in pairs))

    async def on_ours() -> list[bool]:
        databases = [Database.open(folder / fault.scenario.__name__ / "store.db") for fault in faults]
        try:
            return await asyncio.gather(*map(_on_ours, faults, databases))
        finally:
            for database in databases:
                database.close_now()

    async def main() -> list[bool]:
        async with asyncio.timeout(60):
            return await (on_ours() if ours else on_stock())

    names = [fault.scenario.__name__ for fault in faults]
    return dict(zip(names, asyncio.run(main()), strict=True))


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Of both brokers, all scenarios at once."""
    folder = tmp_path_factory.mktemp("brokers")
    return {ours: _verdicts(FAULTS, folder, ours=ours) for ours in (False, True)}


@pytest.mark.parametrize("name", [fault.scenario.__name__ for fault in FAULTS])
@pytest.mark.rig
def test_stock_amqtt_shows_the_fault_and_ours_does_not(verdicts, name):
    assert not verdicts[False][name], "stock amqtt does this right: the scenario shows nothing"
    assert verdicts[True][name]


@pytest.mark.rig
def test_stock_amqtt_gives_a_message_up_after_5_s_and_ours_does_not(tmp_path):
    name = SLOW.scenario.__name__
    assert not _verdicts([SLOW], tmp_path, ours=False)[name]
    assert _verdicts([SLOW], tmp_path, ours=True)[name]
