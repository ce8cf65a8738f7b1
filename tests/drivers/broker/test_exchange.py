"""Subscriptions, sessions, retained messages and fan-out."""

import asyncio
import logging

import pytest

from gateway.core.broker_state import Message
from gateway.drivers.broker.retained import RetainedMessages
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

PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70


def run(scenario, **options):
    async def main():
        async with barn(**options) as place:
            await scenario(place)

    asyncio.run(main())


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("subscribed", [0, 1, 2])
def test_a_subscriber_gets_the_lower_of_the_two_qos(published, subscribed):
    async def scenario(place):
        async with connected(place, "s") as subscriber, connected(place, "p") as publisher:
            assert await subscriber.subscribe(("t/+", subscribed)) == [subscribed]
            publisher.send(publish_bytes("t/a", b"hi", qos=published))
            topic, payload, qos, retain, packet_id = await subscriber.message()
            assert (topic, payload, qos, retain) == ("t/a", b"hi", min(published, subscribed), False)
            if qos == 1:
                subscriber.send(ack(PUBACK, packet_id))
            elif qos == 2:
                subscriber.send(ack(PUBREC, packet_id))
                assert await subscriber.packet() == (PUBREL, packet_id.to_bytes(2, "big"))
                subscriber.send(ack(PUBCOMP, packet_id))
            await subscriber.ping()
        assert place.counters["acks_unexpected"] == place.counters["fanout_unacknowledged"] == 0

    run(scenario)


def test_ingest_rows_reach_subscribers_on_arrival_before_they_are_settled():
    async def scenario(place):
        async with connected(place, "s") as subscriber, connected(place, "p") as publisher:
            await subscriber.subscribe(("artemis/sensors/+", 0))
            publisher.send(publish_bytes(SENSOR, b"{}", qos=1))
            assert (await subscriber.message())[:2] == (SENSOR, b"{}")
            assert not place.receipts[0].settled

    run(scenario, settling=False)


def test_overlapping_filters_deliver_once_with_the_highest_qos():
    async def scenario(place):
        async with connected(place) as client:
            await client.subscribe(("a/#", 0), ("a/+", 1), ("a/b", 0))
            client.send(publish_bytes("a/b", b"1", qos=1, packet_id=3))
            got = [await client.packet(), await client.packet()]
            assert (PUBACK, b"\x00\x03") in got
            publish = next(packet for packet in got if packet[0] & 0xF0 == 0x30)
            assert publish[0] == 0x32
            client.send(ack(PUBACK, 1))
            await client.ping()

    run(scenario)


def test_a_renewed_subscription_has_its_new_qos():
    async def scenario(place):
        async with connected(place) as client:
            assert await client.subscribe(("t", 1)) == [1]
            assert await client.subscribe(("t", 0)) == [0]
            client.send(publish_bytes("t", b"1", qos=1, packet_id=3))
            assert {(await client.packet())[0] for _ in range(2)} == {0x30, PUBACK}
            await client.ping()

    run(scenario)


def test_unsubscribed_filters_are_quiet_and_forgotten():
    async def scenario(place):
        async with connected(place) as client:
            for name in ("t", "t/+", "t/#"):
                await client.subscribe((name, 0))
                client.send(unsubscribe_bytes(name, "never", packet_id=2))
                assert await client.packet() == (0xB0, b"\x00\x02")
            client.send(publish_bytes("t"))
            client.send(publish_bytes("t/a"))
            await client.ping()
            assert place.broker.gauges["subscriptions"] == 0

    run(scenario)


def test_dollar_topics_stay_out_of_leading_wildcards():
    async def scenario(place):
        async with connected(place) as client:
            await client.subscribe(("#", 0), ("+/uptime", 0))
            place.broker.publish("$SYS/uptime", b"1")
            await client.ping()

    run(scenario)


# Retained messages.


def test_retained_messages_are_set_replaced_sent_and_cleared():
    async def scenario(place):
        async with connected(place, "p") as publisher, connected(place, "old") as old:
            await old.subscribe(("t/+", 0))
            for payload in (b"1", b"2"):
                publisher.send(publish_bytes("t/a", payload, qos=1, retain=True))
                await publisher.packet()
                assert await old.message() == ("t/a", payload, 0, False, 0)
            for topic_filter in ("t/a", "t/#"):
                async with connected(place, "new") as new:
                    await new.subscribe((topic_filter, 1))
                    topic, payload, qos, retain, packet_id = await new.message()
                    assert (topic, payload, qos, retain) == ("t/a", b"2", 1, True)
                    new.send(ack(PUBACK, packet_id))
                    await new.ping()
            publisher.send(publish_bytes("t/a", b"", retain=True))
            assert await old.message() == ("t/a", b"", 0, False, 0)
            async with connected(place, "new") as new:
                await new.subscribe(("t/#", 1))
                await new.ping()

    run(scenario)


def test_a_retained_reading_is_stored_and_retained():
    async def scenario(place):
        async with connected(place) as client:
            client.send(publish_bytes(SENSOR, b"{}", retain=True))
            await client.subscribe((SENSOR, 0))
            assert await client.message() == (SENSOR, b"{}", 0, True, 0)
        assert place.messages[0].retain

    run(scenario)


def test_retained_messages_do_not_leak_to_clients_that_never_asked():
    async def scenario(place):
        async with connected(place, "p") as publisher:
            publisher.send(publish_bytes("t/secret", b"x", retain=True))
            await publisher.subscribe(("t/#", 0))
            await publisher.message()
            for clean in (True, False, False):
                async with connected(place, "innocent", clean=clean) as client:
                    await client.ping()
                    await asyncio.sleep(0)
                    await client.ping()

    run(scenario)


def test_retained_messages_of_clients_are_bounded(monkeypatch, caplog):
    monkeypatch.setattr("gateway.drivers.broker.retained.RETAINED_MESSAGES_MAX", 5)
    monkeypatch.setattr("gateway.drivers.broker.retained.RETAINED_BYTES_MAX", 100)

    async def scenario(place):
        async with connected(place, "c") as client:
            for number in range(8):
                client.send(publish_bytes(f"t/{number}", b"x", retain=True))
            await client.ping()
            assert place.counters["retained_dropped"] == 3
            for number in range(8):
                client.send(publish_bytes(f"t/{number}", b"", retain=True))
            client.send(publish_bytes("t/a", bytes(90), retain=True))
            client.send(publish_bytes("t/b", bytes(10), retain=True))
            await client.ping()
        assert place.counters["retained_dropped"] == 4
        assert place.broker.gauges["retained"] == 1

    run(scenario)
    (told,) = [record for record in caplog.records if record.name.endswith(".retained")]
    assert "No room to retain the 1 bytes of 't/5' beside 5 messages with 20 bytes" in told.getMessage()


def test_open_alerts_are_retained_however_full_clients_have_made_it(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.retained.RETAINED_MESSAGES_MAX", 5)
    alert = "artemis/alerts/COW_001/fever"

    async def scenario(place):
        async with connected(place, "c") as client:
            for number in range(8):
                client.send(publish_bytes(f"t/{number}", b"x", retain=True))
            await client.ping()
            place.broker.publish(alert, b"hot", retain=True)
            place.broker.retain("artemis/alerts/COW_002/fever", b"hot")
            assert place.counters["retained_dropped"] == 3
            assert place.broker.gauges["retained"] == 5 + 2
            assert await client.subscribe((alert, 0)) == [0]
            assert (await client.message())[:2] == (alert, b"hot")
            # Not even what a client has said before may come in again while there is no room.
            client.send(publish_bytes("t/0", b"y", retain=True))
            await client.ping()
            assert place.broker.gauges["retained"] == 4 + 2

    run(scenario)


def test_what_finds_no_room_to_be_retained_is_told_seldom(monkeypatch, caplog):
    monkeypatch.setattr("gateway.drivers.broker.retained.RETAINED_MESSAGES_MAX", 0)
    times_s = iter((100.0, 101.0, 109.9, 110.0))
    retained = RetainedMessages(lambda: next(times_s))
    for _ in range(4):
        assert not retained.put(Message("t" * 500, b"x", 0, retain=True))
    first, second = (record.getMessage() for record in caplog.records)
    assert len(first) < 350
    assert "more since" not in first
    assert second.endswith("(2 more since the last such line)")


def test_a_thousand_retained_messages_reach_a_new_subscriber():
    async def scenario(place):
        for number in range(1500):
            place.broker.publish(f"t/{number}", bytes(400), qos=number % 2, retain=True)
        async with connected(place) as client:
            await client.subscribe(("t/#", 1))
            seen = set()
            while len(seen) < 1500:
                topic, _, qos, retain, packet_id = await client.message()
                assert retain
                seen.add(topic)
                if qos:
                    client.send(ack(PUBACK, packet_id))
        assert place.counters["fanout_dropped"] == 0

    run(scenario)


# Sessions.


def test_a_persistent_session_keeps_its_subscriptions_and_waiting_messages():
    async def scenario(place):
        async with connected(place, "s", clean=False) as client:
            assert not client.present
            await client.subscribe(("t", 1))
        await place.until(lambda: place.broker.connections == 0)
        for number in range(3):
            place.broker.publish("t", b"%d" % number, qos=1)
        place.broker.publish("t", b"lost", qos=0)
        async with connected(place, "s", clean=False) as client:
            assert client.present
            for number in range(3):
                _, payload, qos, _, packet_id = await client.message()
                assert (payload, qos) == (b"%d" % number, 1)
                client.send(ack(PUBACK, packet_id))
            await client.ping()
        async with connected(place, "s", clean=True) as client:
            assert not client.present
            client.send(publish_bytes("t"))
            await client.ping()

    run(scenario)


def test_qos1_messages_in_flight_when_a_persistent_client_drops_are_sent_again():
    async def scenario(place):
        async with connected(place, "s", clean=False) as client:
            await client.subscribe(("t", 1))
            for number in range(30):  # 20 on their way, 10 waiting
                place.broker.publish("t", b"%d" % number, qos=1)
            await client.message()
            client.abort()
        await place.until(lambda: place.broker.connections == 0)
        async with connected(place, "s", clean=False) as client:
            for number in range(30):
                _, payload, _, _, packet_id = await client.message()
                assert payload == b"%d" % number
                client.send(ack(PUBACK, packet_id))
            await client.ping()

    run(scenario)


def test_a_clean_session_leaves_nothing():
    async def scenario(place):
        for _ in range(3):
            async with connected(place, "s") as client:
                await client.subscribe(("t", 2), ("t/#", 1))
            await place.until(lambda: place.broker.connections == 0)
            async with connected(place, "s", clean=False) as client:
                assert not client.present
                client.send(publish_bytes("t"))
                await client.ping()
            async with connected(place, "s") as client:
                await client.ping()
        async with connected(place, "last") as client:
            await client.ping()
            await place.until(lambda: place.broker.gauges["sessions"] == 1)
            assert place.broker.gauges["subscriptions"] == 0

    run(scenario)


def test_at_the_limit_an_empty_session_is_forgotten_for_a_newcomer(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.limits.SESSIONS_PER_CONNECTION", 0.03)

    async def scenario(place):
        for number in range(10):
            async with connected(place, f"s{number}", clean=False):
                assert place.broker.gauges["sessions"] <= 3
            await place.until(lambda: place.broker.connections == 0)
        assert place.counters["sessions_forgotten"] == 7

    run(scenario, limits={"connections_max": 100})


def test_at_the_limit_sessions_that_hold_something_stay_and_a_newcomer_is_refused(monkeypatch, caplog):
    monkeypatch.setattr("gateway.drivers.broker.limits.SESSIONS_PER_CONNECTION", 0.03)

    async def scenario(place):
        for number in range(3):
            async with connected(place, f"s{number}", clean=False) as client:
                await client.subscribe(("t", 1))
        await place.until(lambda: place.broker.connections == 0)
        async with raw(place) as client:
            client.send(connect_bytes("newcomer"))
            assert await client.packet() == (0x20, b"\x00\x03")
        async with connected(place, "s0", clean=False) as client:
            assert client.present
        monkeypatch.setattr("gateway.drivers.broker.exchange.SESSION_IDLE_MS", -1)
        async with connected(place, "newcomer") as client:
            await client.ping()
        async with connected(place, "s0", clean=False) as client:
            assert client.present
        assert place.counters["sessions_forgotten"] == 1  # s1, away for longest

    run(scenario, limits={"connections_max": 100})
    assert "Refused MQTT client 'newcomer' at 127.0.0.1: 3 sessions are held" in caplog.text


# Bounds.


def test_what_waits_for_an_absent_client_is_bounded(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.delivery.BACKLOG_MESSAGES_MAX", 5)

    async def scenario(place):
        async with connected(place, "s", clean=False) as client:
            await client.subscribe(("t", 1))
        await place.until(lambda: place.broker.connections == 0)
        for _ in range(8):
            place.broker.publish("t", b"x", qos=1)
        assert place.counters["fanout_dropped"] == 3
        assert 0 < place.broker.gauges["waiting_bytes"] < 5 * 1024
        async with connected(place, "s"):
            assert place.broker.gauges["waiting_bytes"] == 0

    run(scenario)


def test_bytes_that_wait_for_all_are_bounded(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.delivery.BACKLOG_OFFLINE_BYTES_MAX", 4 * 450)

    async def scenario(place):
        for name in ("a", "b"):
            async with connected(place, name, clean=False) as client:
                await client.subscribe(("t", 1))
        await place.until(lambda: place.broker.connections == 0)
        for _ in range(3):
            place.broker.publish("t", bytes(30), qos=1)
        assert place.counters["fanout_dropped"] == 2

    run(scenario)


def test_few_messages_are_on_their_way_to_one_subscriber_at_once():
    async def scenario(place):
        async with connected(place, "s") as client:
            await client.subscribe(("t", 1))
            for number in range(50):
                place.broker.publish("t", b"%d" % number, qos=1)
            first = [await client.message() for _ in range(20)]
            await client.ping()
            for *_, packet_id in first:
                client.send(ack(PUBACK, packet_id))
            rest = [await client.message() for _ in range(20)]
            payloads = [int(payload) for _, payload, *_ in first + rest]
            assert payloads == list(range(40))

    run(scenario)


def test_filters_of_one_client_are_bounded():
    async def scenario(place):
        async with connected(place) as client:
            codes = await client.subscribe(*((f"t/{n}", 0) for n in range(202)))
            assert codes == [0] * 200 + [0x80] * 2
            assert await client.subscribe(("t/7", 1)) == [1]

    run(scenario)


def test_the_plans_are_bounded(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.subscriptions.PLANS_MAX", 4)
    monkeypatch.setattr("gateway.drivers.broker.desk.RULINGS_MAX", 4)

    async def scenario(place):
        async with connected(place) as client:
            await client.subscribe(("t/#", 0))
            for number in range(20):
                client.send(publish_bytes(f"t/{number}"))
                await client.message()
                assert place.broker.gauges["plans"] <= 4

    run(scenario)


def test_a_hundred_clients_come_and_go_without_noise(caplog):
    async def scenario(place):
        async def visit(number):
            async with connected(place, f"c{number}", clean=bool(number % 2)) as client:
                await client.subscribe((f"t/{number}", 1), ("t/#", 0))
                client.send(publish_bytes(f"t/{number}", qos=1))
                client.abort() if number % 3 else client.send(b"\xe0\x00")

        await asyncio.gather(*(visit(number) for number in range(100)))
        await place.until(lambda: place.broker.connections == 0)

    caplog.set_level(logging.INFO)
    run(scenario)
    assert [record.getMessage() for record in caplog.records] == []


def test_connect_then_vanish_at_every_step_leaves_nothing():
    async def scenario(place):
        stream = connect_bytes("v", clean=False) + subscribe_bytes(("t", 1)) + publish_bytes("t", qos=1)
        for length in range(1, len(stream)):
            async with raw(place) as client:
                client.send(stream[:length])
                await client.writer.drain()
                client.abort()
        await place.until(lambda: place.broker.connections == 0)
        async with connected(place, "v", clean=True) as client:
            await client.ping()

    run(scenario)
