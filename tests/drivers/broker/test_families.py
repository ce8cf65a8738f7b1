"""Rows that the gateway itself acts on: who takes what, what is retained, when it is acknowledged."""

import asyncio

import pytest

from gateway.core.alerts import CALLS
from gateway.core.broker_state import BrokerState, IdTaken, KeptSession
from gateway.core.emergency import STOP_RESET, STOP_TOPICS
from gateway.core.routes import COMMANDS_TOPIC, default_routes
from gateway.core.topics import Family, RouteTable
from gateway.drivers.broker import EmbeddedBroker, Listener
from tests.drivers.broker.harness import SENSOR, WallClock, ack, barn, connected, publish_bytes

PANIC = "alert/panic/guard-789"
OWN_COMMIT = [*(f"alert/{kind}/guard-789" for kind in sorted(CALLS)), *STOP_TOPICS, COMMANDS_TOPIC]
PUBREC, PUBREL, PUBCOMP = 0x50, 0x62, 0x70


def run(story, **options):
    async def tell():
        async with barn(**options) as place:
            await story(place)

    asyncio.run(tell())


def test_each_row_goes_to_whoever_takes_its_family():
    async def tell():
        taken = []

        def taker(family):
            def take(message, receipt):
                taken.append((family, message.topic))
                receipt.settle()

            return take

        broker = EmbeddedBroker(
            routes=RouteTable(default_routes()),
            clock=WallClock(),
            take={family: taker(family) for family in Family},
            refused=lambda _message, _why, receipt: receipt.settle(),
            hurry=lambda: None,
        )
        await broker.start(Listener("127.0.0.1", 0))
        try:
            async with connected(broker) as client:
                for topic in (SENSOR, PANIC, STOP_TOPICS[1], COMMANDS_TOPIC, "test/topic"):
                    client.send(publish_bytes(topic))
                await client.ping()
        finally:
            await broker.close()
        assert taken == [
            (Family.READINGS, SENSOR),
            (Family.CALLS, PANIC),
            (Family.EMERGENCY_STOP, STOP_TOPICS[1]),
            (Family.COMMANDS, COMMANDS_TOPIC),
        ]

    asyncio.run(tell())


def test_a_row_that_nobody_takes_is_no_broker():
    async def tell():
        broker = EmbeddedBroker(
            routes=RouteTable(default_routes()),
            clock=WallClock(),
            take={Family.READINGS: lambda _message, receipt: receipt.settle()},
            refused=lambda _message, _why, receipt: receipt.settle(),
            hurry=lambda: None,
        )
        with pytest.raises(ValueError, match=r"nobody takes what is published on alert/fire/\+ \(calls\)"):
            await broker.start(Listener("127.0.0.1", 0))

    asyncio.run(tell())


@pytest.mark.parametrize("topic", OWN_COMMIT)
def test_a_call_is_acknowledged_when_it_is_settled_and_not_before(topic):
    async def story(place):
        async with connected(place) as client:
            client.send(publish_bytes(topic, qos=2, packet_id=7))
            await client.ping()  # the answer to which would come after a PUBREC
            assert len(place.receipts) == 1
            place.receipts[0].settle()
            assert await client.packet() == (PUBREC, b"\x00\x07")
            client.send(ack(PUBREL, 7))
            assert await client.packet() == (PUBCOMP, b"\x00\x07")

    run(story, settling=False)


@pytest.mark.parametrize("topic", OWN_COMMIT)
def test_a_clients_retain_flag_is_not_honoured(topic):
    async def story(place):
        async with connected(place, "listener") as listener, connected(place, "guard") as guard:
            await listener.subscribe((topic, 0))
            guard.send(publish_bytes(topic, b"{}", retain=True))
            assert await listener.message() == (topic, b"{}", 0, False, 0)  # on arrival, to whoever is there
            assert place.broker.gauges["retained"] == 0
            place.broker.publish(topic, b"own", qos=2, retain=True)
            assert (await listener.message())[1] == b"own"
            guard.send(publish_bytes(topic, b"again", retain=True))
            assert (await listener.message())[1] == b"again"
        async with connected(place, "late") as late:
            await late.subscribe((topic, 0))
            assert await late.message() == (topic, b"own", 0, True, 0)

    run(story)


@pytest.mark.parametrize("topic", STOP_TOPICS)
def test_an_empty_message_lifts_no_stop_and_reaches_nobody(topic):
    async def story(place):
        place.broker.publish(topic, b"stopped", qos=2, retain=True)
        async with connected(place, "relay") as relay, connected(place, "mower") as mower:
            await relay.subscribe((topic, 0))
            assert (await relay.message())[1] == b"stopped"
            mower.send(publish_bytes(topic, b"", qos=1, retain=True))
            assert await mower.packet() == (0x40, b"\x00\x01")
            await relay.ping()  # nothing came before its answer
            assert place.broker.gauges["retained"] == 1
        ((message, why),) = place.refusals
        assert (message.topic, message.payload, why) == (topic, b"", STOP_RESET)
        assert place.messages == []

    run(story)


def test_an_empty_call_for_help_is_a_call():
    async def story(place):
        async with connected(place) as client:
            client.send(publish_bytes(PANIC, b"", retain=True))
            await client.ping()
        assert [message.topic for message in place.messages] == [PANIC]

    run(story)


class Disk:
    """Commits of the broker's own state, when told to."""

    def __init__(self):
        self.receipts = []

    def keep(self, receipt):
        if receipt is not None:
            self.receipts.append(receipt)

    def commit(self):
        for receipt in self.receipts:
            receipt.settle()
        self.receipts.clear()


@pytest.mark.parametrize("broker_first", [True, False])
def test_a_call_of_a_persistent_session_waits_for_both_commits(broker_first):
    disk = Disk()

    async def story(place):
        async with connected(place, clean=False) as client:
            client.send(publish_bytes(PANIC, qos=2, packet_id=7))
            await place.until(lambda: place.receipts and disk.receipts)
            if broker_first:
                disk.commit()
            else:
                place.receipts[0].settle()
            await client.ping()
            place.receipts[0].settle() if broker_first else disk.commit()
            assert await client.packet() == (PUBREC, b"\x00\x07")

    run(story, settling=False, keep=disk.keep)


@pytest.mark.parametrize(
    ("topic", "times"), [(PANIC, 2), (STOP_TOPICS[0], 2), (COMMANDS_TOPIC, 2), (SENSOR, 1)]
)
def test_a_call_that_a_power_cut_may_have_taken_is_taken_again_when_it_comes_again(topic, times):
    """The id may have reached the disk with another commit than the alert; a reading's is its own."""

    async def tell():
        disk, changes = Disk(), []
        async with barn(settling=False, keep=disk.keep) as place:
            async with connected(place, clean=False) as client:
                client.send(publish_bytes(topic, qos=2, packet_id=7))
                await place.until(lambda: place.receipts)
            changes += place.broker.changes()
            taken = len(place.messages)
        state = state_of(changes)

        async def before(place):
            place.broker.restore(state)

        async with barn(settling=True, before=before) as place, connected(place, clean=False) as client:
            client.send(publish_bytes(topic, qos=2, packet_id=7, dup=True))
            assert await client.packet() == (PUBREC, b"\x00\x07")
            client.send(publish_bytes(topic, qos=2, packet_id=7, dup=True))
            assert await client.packet() == (PUBREC, b"\x00\x07")
            assert taken + len(place.messages) == times

    asyncio.run(tell())


def state_of(changes):
    """What the store gives back of a session whose id was taken."""
    (taken,) = [change for change in changes if isinstance(change, IdTaken)]
    return BrokerState((KeptSession(taken.client_id, {}, (), frozenset({taken.packet_id}), 1),))
