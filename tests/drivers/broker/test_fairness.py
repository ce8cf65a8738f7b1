"""What one client does, or leaves undone, costs the others nothing: room, rights, time."""

import asyncio

from gateway.drivers.broker import Principal
from gateway.drivers.broker.framing import PUBACK
from tests.drivers.broker.harness import (
    ack,
    barn,
    connect_bytes,
    connected,
    raw,
    subscribe_bytes,
    unsubscribe_bytes,
)


def run(scenario, **options):
    async def main():
        async with barn(**options) as place:
            await scenario(place)

    asyncio.run(main())


def test_one_who_never_acknowledges_takes_no_room_from_those_who_do():
    async def scenario(place):
        async with connected(place, "bad", clean=False) as bad, connected(place, "good") as good:
            await bad.subscribe(("big", 1))
            await good.subscribe(("small", 1))
            for _ in range(600):  # 36 MB, more than may wait in all
                place.broker.publish("big", bytes(60_000), qos=1)
            assert place.broker.gauges["waiting_bytes"] <= 2 * 1024 * 1024
            for number in range(50):
                place.broker.publish("small", b"%d" % number, qos=1)
                topic, payload, _, _, packet_id = await good.message()
                assert (topic, payload) == ("small", b"%d" % number)
                good.send(ack(PUBACK, packet_id))
            await bad.closed()

    run(scenario)


def test_when_everybodys_room_is_used_up_the_one_who_holds_most_makes_some(monkeypatch, caplog):
    monkeypatch.setattr("gateway.drivers.broker.delivery.BACKLOG_OFFLINE_BYTES_MAX", 100_000)

    async def scenario(place):
        for name in ("hoarder", "modest"):
            async with connected(place, name, clean=False) as client:
                await client.subscribe((name, 1))
        await place.until(lambda: place.broker.connections == 0)
        for _ in range(90):
            place.broker.publish("hoarder", bytes(600), qos=1)
        for number in range(30):
            place.broker.publish("modest", b"%d" % number + bytes(600), qos=1)
        async with connected(place, "modest", clean=False) as client:
            for number in range(30):
                message = await client.message()
                assert message[1].rstrip(b"\0") == b"%d" % number
                client.send(ack(PUBACK, message[4]))

    run(scenario)
    assert "messages for 'hoarder' are dropped" in caplog.text


def test_one_message_always_fits(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.delivery.BACKLOG_SESSION_BYTES_MAX", 100)

    async def scenario(place):
        async with connected(place) as client:
            await client.subscribe(("t", 1))
            place.broker.publish("t", bytes(50_000), qos=1)
            assert len((await client.message())[1]) == 50_000

    run(scenario)


def test_a_device_that_keeps_too_many_sessions_gives_room_to_others(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.limits.SESSIONS_PER_CONNECTION", 0.2)  # 20 in all

    async def scenario(place):
        for number in range(18):
            async with connected(place, f"COW_1/{number}", clean=False) as client:
                await client.subscribe(("t", 1))
        for number in range(2):
            async with connected(place, f"other{number}", clean=False) as client:
                await client.subscribe(("t", 1))
        await place.until(lambda: place.broker.connections == 0)
        for number in range(5):
            async with connected(place, f"newcomer{number}") as client:
                await client.ping()
        for name, there in (("other0", True), ("other1", True), ("COW_1/17", True), ("COW_1/0", False)):
            async with raw(place) as client:
                client.send(connect_bytes(name, clean=False))
                assert await client.packet() == (0x20, bytes((there, 0))), name

    run(scenario, limits={"connections_max": 100})


class Narrowing:
    """Everyone is an operator until `narrow` is set; then only `mine/#` is open."""

    narrow = False

    def authenticate(self, who):
        return Principal(who.client_id, frozenset({"operator"}))

    def still_valid(self, *_):
        return True

    def may_publish(self, principal, topic):
        return True

    def may_subscribe(self, principal, topic_filter):
        return not self.narrow or topic_filter.startswith("mine/")


def test_who_may_hear_less_when_it_comes_back_hears_less():
    access = Narrowing()

    async def scenario(place):
        async with connected(place, "s", clean=False) as client:
            await client.subscribe(("mine/#", 1), ("#", 1))
        await place.until(lambda: place.broker.connections == 0)
        for topic in ("mine/a", "yours/a", "mine/b", "yours/b"):
            place.broker.publish(topic, b"x", qos=1)
        access.narrow = True
        async with connected(place, "s", clean=False) as client:
            assert client.present
            place.broker.publish("yours/c", b"x", qos=1)
            place.broker.publish("mine/c", b"x", qos=1)
            assert [(await client.message())[0] for _ in range(3)] == ["mine/a", "mine/b", "mine/c"]
            await client.ping()
        assert place.counters["subscriptions_revoked"] == 1
        assert place.broker.gauges["subscriptions"] == 1

    run(scenario, access=access)


def test_retained_messages_are_looked_up_for_one_filter_of_each_client_in_turn():
    """A hundred filters of one client do not hold up the single one of another."""

    async def scenario(place):
        for number in range(2000):
            place.broker.publish(f"t/{number}", b"x", qos=0, retain=True)
        async with connected(place, "many") as many, connected(place, "one") as one:
            wild = [(f"nothing/+/{number}", 0) for number in range(199)]
            many.send(subscribe_bytes(*wild, ("t/7/#", 0)))  # the last of its filters finds one
            one.send(subscribe_bytes(("t/+", 0)))
            order = []

            async def until_retained(client, name):
                while (await client.packet())[0] & 0xF0 != 0x30:
                    pass
                order.append(name)

            await asyncio.gather(until_retained(many, "many"), until_retained(one, "one"))
            assert order == ["one", "many"]

    run(scenario)


def test_a_packet_full_of_filters_is_refused_without_being_judged():
    async def scenario(place):
        async with connected(place) as client:
            codes = await client.subscribe(*((f"f/{number}", 0) for number in range(5000)))
            assert codes == [0] * 200 + [0x80] * 4800

    run(scenario)


def test_filters_of_all_clients_together_are_bounded(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.exchange.FILTERS_MAX", 5)

    async def scenario(place):
        async with connected(place, "a") as one, connected(place, "b") as other:
            assert await one.subscribe(*((f"f/{number}", 0) for number in range(4))) == [0] * 4
            assert await other.subscribe(("g", 1), ("h", 1)) == [1, 0x80]
            other.send(unsubscribe_bytes("g", packet_id=2))
            assert (await other.packet())[0] == 0xB0
            assert await other.subscribe(("h", 1), packet_id=3) == [1]

    run(scenario)


def test_after_unsuback_no_retained_message_comes_any_more():
    async def scenario(place):
        for number in range(500):
            place.broker.publish(f"t/{number}", b"x", qos=1, retain=True)
        async with connected(place) as client:
            client.send(subscribe_bytes(("t/#", 1)) + unsubscribe_bytes("t/#", packet_id=2))
            came = 0
            while (await client.packet())[0] != 0xB0:
                came += 1
            client.send(b"\xc0\x00")
            while (await client.packet())[0] != 0xD0:  # those on their way have been sent before
                came += 1
            assert came <= 21
            assert place.broker.gauges["waiting_bytes"] < 20 * 1024

    run(scenario)
