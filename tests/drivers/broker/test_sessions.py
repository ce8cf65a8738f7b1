"""Sessions and retained messages over a restart, with the real store; what waits for the disk."""

import asyncio
import contextlib

from gateway.config import Config
from gateway.core.broker_state import KeptSession, Message, Waiting
from gateway.drivers.broker.framing import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL
from gateway.drivers.broker.session import PACKET_IDS, Session
from gateway.store import broker_state
from gateway.store.database import Database
from gateway.wiring import state_bounds
from tests.drivers.broker.harness import (
    SENSOR,
    ack,
    barn,
    connect_bytes,
    connected,
    publish_bytes,
    raw,
    subscribe_bytes,
    unsubscribe_bytes,
)

EMPTY = 0.15  # seconds in which nothing may come; too short only makes a test miss a fault


class Disk:
    """Commits when it is told to, like ingest does; until then everyone waits."""

    def __init__(self, database):
        self.database = database
        self.waiting = []
        self.asked = 0
        self.held = False
        self.tasks = set()
        self.place = None

    def keep(self, receipt):
        self.asked += 1
        if receipt is not None:
            self.waiting.append(receipt)
        if not self.held:
            task = asyncio.get_running_loop().create_task(self.commit())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def commit(self):
        receipts, self.waiting = self.waiting, []
        changes = self.place.broker.changes()
        await self.database.write(lambda db: broker_state.apply(db, changes))
        for receipt in receipts:
            receipt.settle()

    async def state(self):
        return await self.database.read(lambda db: broker_state.load(db, state_bounds(Config())))


@contextlib.asynccontextmanager
async def power(database, **options):
    """The broker between two power cuts; what was not committed is gone with it."""
    disk = Disk(database)
    async with barn(keep=disk.keep, before=lambda place: _begin(disk, place), **options) as place:
        yield place, disk
        disk.held = True
        await asyncio.gather(*disk.tasks)


async def _begin(disk, place):
    disk.place = place
    place.broker.restore(await disk.state())


def run(scenario, tmp_path):
    async def main():
        database = Database.open(tmp_path / "store.db")
        try:
            async with asyncio.timeout(20):
                await scenario(database)
        finally:
            await database.close()

    asyncio.run(main())


async def quiet(client):
    """Nothing comes."""
    try:
        async with asyncio.timeout(EMPTY):
            raise AssertionError(await client.packet())
    except TimeoutError:
        return


def test_subscriptions_waiting_messages_and_retained_ones_survive_a_restart(tmp_path):
    async def scenario(database):
        async with power(database) as (place, disk):
            async with connected(place, "s", clean=False) as client:
                await client.subscribe(("t/#", 1), ("u", 2))
                client.send(unsubscribe_bytes("u", packet_id=2))
                assert await client.packet() == (0xB0, b"\x00\x02")
                client.send(b"\xe0\x00")
            await place.until(lambda: place.broker.connections == 0)
            async with connected(place, "p") as client:
                for number in range(3):
                    client.send(publish_bytes("t/a", b"%d" % number, qos=1, packet_id=number + 1))
                    assert await client.packet() == (PUBACK, bytes((0, number + 1)))
                client.send(publish_bytes("state", b"on", qos=1, packet_id=9, retain=True))
                assert await client.packet() == (PUBACK, b"\x00\x09")
        async with power(database) as (place, disk):
            async with connected(place, "s", clean=False) as client:
                assert client.present
                got = [await client.message() for _ in range(3)]
                assert [message[:3] for message in got] == [("t/a", b"%d" % number, 1) for number in range(3)]
                client.send(b"".join(ack(PUBACK, message[4]) for message in got))
                await client.subscribe(("state", 1), packet_id=3)
                topic, payload, qos, retain, packet_id = await client.message()
                assert (topic, payload, qos, retain) == ("state", b"on", 1, True)
                client.send(ack(PUBACK, packet_id))
                await client.ping()
            await disk.commit()
            assert (await disk.state()).sessions[0].waiting == ()
        async with power(database) as (place, disk):
            async with connected(place, "p") as client:
                client.send(publish_bytes("state", b"", qos=1, retain=True))
                assert await client.packet() == (PUBACK, b"\x00\x01")
            async with connected(place, "s", clean=True) as client:
                assert not client.present
        async with power(database) as (place, disk):
            assert await disk.state() == broker_state.BrokerState()

    run(scenario, tmp_path)


def test_a_message_in_flight_at_the_power_cut_comes_again_with_its_id_as_a_duplicate(tmp_path):
    async def scenario(database):
        async with power(database) as (place, _), connected(place, "s", clean=False) as client:
            await client.subscribe(("t", 2))
            place.broker.publish("t", b"one", qos=1)
            place.broker.publish("t", b"two", qos=2)
            place.broker.publish("t", b"released", qos=2)
            first = [await client.packet() for _ in range(3)]
            assert [packet[0] for packet in first] == [PUBLISH | 2, PUBLISH | 4, PUBLISH | 4]
            released = int.from_bytes(first[2][1][3:5], "big")
            client.send(ack(PUBREC, released))
            assert await client.packet() == (PUBREL, first[2][1][3:5])
        async with power(database) as (place, _disk), connected(place, "s", clean=False) as client:
            assert await client.packet() == (PUBLISH | 8 | 2, first[0][1])
            assert await client.packet() == (PUBLISH | 8 | 4, first[1][1])
            assert await client.packet() == (PUBREL, first[2][1][3:5])
            place.broker.publish("t", b"new", qos=1)
            fresh = await client.packet()
            assert fresh[0] == PUBLISH | 2
            assert fresh[1][3:5] not in {packet[1][3:5] for packet in first}

    run(scenario, tmp_path)


def test_what_must_outlive_a_restart_is_acknowledged_only_when_it_is_on_disk(tmp_path):
    """SUBACK, UNSUBACK, PUBACK of a retained or waiting message, PUBREC, PUBREL and PUBCOMP."""

    async def scenario(database):
        async with power(database) as (place, disk), connected(place, "s", clean=False) as client:
            for said, packet in (
                (subscribe_bytes(("t", 2), packet_id=1), (0x90, b"\x00\x01\x02")),
                (subscribe_bytes(("u", 0), packet_id=2), (0x90, b"\x00\x02\x00")),
                (unsubscribe_bytes("u", packet_id=3), (0xB0, b"\x00\x03")),
                (publish_bytes("other", b"x", qos=1, packet_id=4, retain=True), (PUBACK, b"\x00\x04")),
                (publish_bytes("nobody", b"x", qos=2, packet_id=5), (PUBREC, b"\x00\x05")),
                (ack(PUBREL, 5), (PUBCOMP, b"\x00\x05")),
            ):
                disk.held = True
                client.send(said)
                await place.until(lambda: disk.waiting, str(packet))
                await quiet(client)
                await disk.commit()
                assert await client.packet() == packet
            place.broker.publish("t", b"x", qos=2)
            message = await client.message()
            client.send(ack(PUBREC, message[4]) * 2)
            await place.until(lambda: disk.waiting)
            await quiet(client)
            await disk.commit()
            assert await client.packet() == (PUBREL, message[4].to_bytes(2, "big"))
            client.send(ack(PUBREC, message[4]))  # it missed the answer
            assert await client.packet() == (PUBREL, message[4].to_bytes(2, "big"))

    run(scenario, tmp_path)


def test_clean_sessions_and_plain_messages_wait_for_no_disk(tmp_path):
    async def scenario(database):
        async with power(database) as (place, disk), connected(place, "c") as client:
            disk.held = True
            await client.subscribe(("t", 2))
            client.send(publish_bytes("t", b"x", qos=2))
            answers = [await client.packet() for _ in range(2)]
            assert {first for first, _ in answers} == {PUBLISH | 4, PUBREC}
            client.send(ack(PUBREL, 1))
            assert await client.packet() == (PUBCOMP, b"\x00\x01")
            assert disk.asked == 0

    run(scenario, tmp_path)


def test_a_qos_2_message_repeated_over_a_restart_is_delivered_once(tmp_path):
    async def scenario(database):
        async with power(database) as (place, _), connected(place, "s", clean=False) as client:
            client.send(publish_bytes("t", b"x", qos=2, packet_id=7))
            assert await client.packet() == (PUBREC, b"\x00\x07")
        async with (
            power(database) as (place, _disk),
            connected(place, "watch") as watch,
            connected(place, "s", clean=False) as client,
        ):
            await watch.subscribe(("t", 0))
            client.send(publish_bytes("t", b"x", qos=2, packet_id=7, dup=True))
            assert await client.packet() == (PUBREC, b"\x00\x07")
            client.send(ack(PUBREL, 7))
            assert await client.packet() == (PUBCOMP, b"\x00\x07")
            client.send(publish_bytes("t", b"new", qos=2, packet_id=7))
            assert await client.packet() == (PUBREC, b"\x00\x07")
            assert (await watch.message())[1] == b"new"

    run(scenario, tmp_path)


def test_what_a_present_subscriber_takes_over_within_a_window_leaves_no_trace(tmp_path):
    async def scenario(database):
        async with power(database) as (place, disk), connected(place, "s", clean=False) as client:
            await client.subscribe(("t", 1))
            disk.held = True
            for number in range(50):
                place.broker.publish("t", b"%d" % number, qos=1)
                client.send(ack(PUBACK, (await client.message())[4]))
            await client.ping()
            changes = [type(change).__name__ for change in place.broker.changes()]
            assert changes == ["SessionSeen"]

    run(scenario, tmp_path)


def test_while_the_store_cannot_write_coming_and_going_makes_nothing_grow(tmp_path):
    async def scenario(database):
        async with power(database) as (place, disk):
            disk.held = True
            for number in range(30):
                async with raw(place) as client:
                    client.send(connect_bytes("s", clean=False) + subscribe_bytes(("t", 1), ("u", 1)))
                    assert await client.packet() == (0x20, bytes((number > 0, 0)))
                    await place.until(lambda count=number: disk.asked > count)
                place.broker.publish("t", b"x", qos=1)
            assert len(place.broker.changes()) == 3 + 30  # the session, two filters, what waits

    run(scenario, tmp_path)


def test_readings_reach_a_persistent_subscriber_that_was_away(tmp_path):
    async def scenario(database):
        async with power(database) as (place, disk):
            async with connected(place, "s", clean=False) as client:
                await client.subscribe(("artemis/sensors/+", 1))
            await place.until(lambda: place.broker.connections == 0)
            async with connected(place, "COW_001") as client:
                client.send(publish_bytes(SENSOR, b"{}", qos=1))
                assert await client.packet() == (PUBACK, b"\x00\x01")
            await disk.commit()
        async with power(database) as (place, _), connected(place, "s", clean=False) as client:
            assert (await client.message())[:2] == (SENSOR, b"{}")

    run(scenario, tmp_path)


def test_what_the_gateway_retains_itself_is_not_kept_for_the_next_run(tmp_path):
    async def scenario(database):
        async with power(database) as (place, disk):
            place.broker.publish("artemis/alerts/COW_001/fever", b"{}", qos=1, retain=True)
            await disk.commit()
            assert (await disk.state()).retained == ()

    run(scenario, tmp_path)


# Bounds of a subscriber that falls behind.


def test_of_a_state_topic_only_the_newest_message_waits_for_one_who_is_behind(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.delivery.CONFLATE_FROM", 5)

    async def scenario():
        async with barn() as place:
            async with connected(place, "s", clean=False) as client:
                await client.subscribe(("#", 1))
            await place.until(lambda: place.broker.connections == 0)
            for number in range(100):
                place.broker.publish("state/door", b"%d" % number, qos=1, retain=True)
                if number % 10 == 0:
                    place.broker.publish("event", b"%d" % number, qos=1)
            assert place.counters["fanout_conflated"] > 80
            async with connected(place, "s", clean=False) as client:
                got = []
                while not got or got[-1][:2] != ("state/door", b"99"):
                    got.append(await client.message())
                    client.send(ack(PUBACK, got[-1][4]))
            assert [message[1] for message in got if message[0] == "event"] == [
                b"%d" % n for n in range(0, 100, 10)
            ]
            assert len(got) < 20

    asyncio.run(scenario())


def test_a_subscriber_for_whom_too_much_waits_is_disconnected_and_others_notice_nothing(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.delivery.BACKLOG_MESSAGES_MAX", 50)

    async def scenario():
        async with barn() as place, connected(place, "slow") as slow, connected(place, "quick") as quick:
            await slow.subscribe(("t", 1))
            await quick.subscribe(("t", 0))
            for number in range(100):  # 20 on their way, 50 waiting
                place.broker.publish("t", b"%d" % number, qos=1)
                assert (await quick.message())[1] == b"%d" % number
            await slow.closed()
            assert place.counters["slow_subscribers"] == 1
            await quick.ping()
            await place.until(lambda: place.broker.gauges["waiting_bytes"] == 0)

    asyncio.run(scenario())


def test_five_thousand_retained_messages_reach_a_subscriber_that_acknowledges_them():
    async def scenario():
        async with barn() as place:
            for number in range(5000):
                place.broker.publish(f"t/{number}", b"x", qos=1, retain=True)
            async with connected(place, "s") as client:
                client.send(subscribe_bytes(("t/#", 1), ("+/+", 1)))
                assert (await client.packet())[0] == 0x90
                topics = set()
                while len(topics) < 5000:
                    topic, _, _, retain, packet_id = await client.message()
                    assert retain
                    topics.add(topic)
                    client.send(ack(PUBACK, packet_id))
                assert place.counters["fanout_dropped"] == place.counters["slow_subscribers"] == 0

    asyncio.run(scenario())


def test_messages_wait_while_an_old_one_holds_their_packet_id(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.session.PACKET_IDS", 50)

    async def scenario():
        async with barn() as place, connected(place, "s") as client:
            await client.subscribe(("t", 1))
            place.broker.publish("t", b"stuck", qos=1)
            stuck = (await client.message())[4]
            for _ in range(49):
                place.broker.publish("t", b"x", qos=1)
                packet_id = (await client.message())[4]
                assert packet_id != stuck
                client.send(ack(PUBACK, packet_id))
            await client.ping()
            place.broker.publish("t", b"next", qos=1)
            await quiet(client)
            client.send(ack(PUBACK, stuck))
            assert (await client.message())[1:5:3] == (b"next", stuck)

    asyncio.run(scenario())


def test_retained_messages_that_are_due_count_among_what_waits(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.delivery.BACKLOG_BYTES_MAX", 50 * 1024)

    async def scenario():
        async with barn() as place:
            for number in range(1000):
                place.broker.publish(f"t/{number}", bytes(500), qos=1, retain=True)
            async with connected(place, "s", clean=False) as client:
                client.send(subscribe_bytes(("t/#", 1)))
                await client.closed()
            assert place.counters["slow_subscribers"] == 1
            async with connected(place, "s") as client:
                await client.ping()
                assert place.broker.gauges["waiting_bytes"] == 0

    asyncio.run(scenario())


def test_a_restored_message_whose_packet_id_is_taken_waits_its_turn():
    def waiting(number):
        return Waiting(number, Message("t", b"%d" % number, 1, retain=False))

    kept = KeptSession(
        "s", {}, (waiting(5), waiting(5 + PACKET_IDS), waiting(6 + PACKET_IDS)), frozenset(), 0
    )
    session = Session.restored(kept, 20)
    assert [one.number for one in session.in_flight.values()] == [5]
    assert [one.number for one in session.backlog] == [5 + PACKET_IDS, 6 + PACKET_IDS]
    assert not session.backlog[0].sent
