"""What a client may and may not do, spoken byte by byte."""

import asyncio
import logging
import os
import random
import socket
import time

import pytest

from gateway.core.rates import Rate
from gateway.drivers.broker import EmbeddedBroker, Listener, Principal
from gateway.drivers.broker import packets as p
from gateway.drivers.broker.limits import PACKETS_PER_TURN
from gateway.errors import NetworkError
from tests.drivers.broker.harness import (
    SENSOR,
    Barn,
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


# Coming in.


@pytest.mark.parametrize(
    ("level", "code"), [(b"\x00\x04MQTT\x05", 1), (b"\x00\x04MQTT\x03", 1), (b"\x00\x06MQIsdp\x03", 1)]
)
def test_other_versions_of_mqtt_are_told_so(level, code):
    async def scenario(place):
        async with raw(place) as client:
            client.send(p.frame(0x10, level + b"\x02\x00\x3c\x00\x00\x01a"))
            assert await client.packet() == (0x20, bytes((0, code)))
            assert await client.closed() == b""

    run(scenario)


def test_an_empty_client_id_needs_a_clean_session():
    async def scenario(place):
        async with raw(place) as client:
            client.send(connect_bytes("", clean=False))
            assert await client.packet() == (0x20, b"\x00\x02")
            assert await client.closed() == b""
        async with connected(place, "") as one, connected(place, "") as other:
            await one.ping()
            await other.ping()
            one.send(publish_bytes(SENSOR))
            await place.until(lambda: place.messages)
            assert place.messages[0].client_id.startswith("auto-")

    run(scenario)


def test_a_client_id_of_unreasonable_length_is_refused():
    async def scenario(place):
        async with raw(place) as client:
            client.send(connect_bytes("x" * 257))
            assert await client.packet() == (0x20, b"\x00\x02")

    run(scenario)


@pytest.mark.parametrize("first", [b"G", b"\x30", b"\xc0", b"\x16\x03\x01"])
def test_the_first_byte_must_be_connect(first):
    async def scenario(place):
        async with raw(place) as client:
            client.send(first)
            assert await client.closed() == b""
        assert place.counters["protocol_errors"] == 1

    run(scenario)


def test_a_silent_socket_is_closed():
    async def scenario(place):
        async with raw(place) as silent, raw(place) as slow:
            slow.send(connect_bytes()[:-1])
            assert await silent.closed() == b""
            assert await slow.closed() == b""
        assert place.counters["connect_timeouts"] == 2

    run(scenario, limits={"connect_timeout_s": 0.1})


def test_a_second_connect_is_a_protocol_error():
    async def scenario(place):
        async with connected(place) as client:
            client.send(connect_bytes())
            assert await client.closed() == b""

    run(scenario)


def test_connections_are_capped():
    async def scenario(place):
        async with connected(place, "a"), connected(place, "b") as second:
            async with raw(place) as third:
                assert await third.packet() == (0x20, b"\x00\x03")
                assert await third.closed() == b""
            assert place.broker.connections == 2
            await second.close()
            await place.until(lambda: place.broker.connections == 1)
            async with connected(place, "c") as fourth:
                await fourth.ping()
        assert place.counters["refused_connections"] == 1

    run(scenario, limits={"connections_max": 2})


def test_connections_are_capped_for_each_address():
    async def scenario(place):
        async with connected(place, "a"), raw(place) as second:
            assert await second.packet() == (0x20, b"\x00\x03")

    run(scenario, limits={"connections_per_address_max": 1, "loopback_exempt": False})


def test_loopback_is_not_counted_per_address():
    async def scenario(place):
        async with connected(place, "a"), connected(place, "b") as second:
            await second.ping()

    run(scenario, limits={"connections_per_address_max": 1})


class Guard:
    """Knows one user, slowly; only `test/mine` is open to it."""

    async def authenticate(self, who):
        await asyncio.sleep(0)
        assert who.address == "127.0.0.1"
        if who.username == "faulty":
            raise RuntimeError("the token store is gone")
        return Principal(who.username, frozenset({"operator"})) if who.password == b"right" else None

    def still_valid(self, principal, client_id):
        return True

    def may_publish(self, principal, topic):
        return topic == "test/mine"

    def may_subscribe(self, principal, topic_filter):
        return topic_filter == "test/mine"


def test_access_decides_who_comes_in_and_about_what():
    async def scenario(place):
        for options, code in (({}, 5), ({"username": "u", "password": b"wrong"}, 4)):
            async with raw(place) as client:
                client.send(connect_bytes("a", **options))
                assert await client.packet() == (0x20, bytes((0, code)))
        async with connected(place, "a", username="u", password=b"right") as client:
            # A failed login does not disturb the client that is in.
            async with raw(place) as stranger:
                stranger.send(connect_bytes("a", username="u", password=b"wrong"))
                assert await stranger.packet() == (0x20, b"\x00\x04")
            assert await client.subscribe(("test/mine", 0), ("#", 0)) == [0, 0x80]
            client.send(publish_bytes("test/mine", b"1"))
            client.send(publish_bytes("test/other"))
            client.send(publish_bytes(SENSOR))
            assert (await client.message())[1] == b"1"
            await client.ping()
        assert [message.topic for message, _ in place.refusals] == ["test/other", SENSOR]
        assert not place.messages

    run(scenario, access=Guard())


def test_a_fault_in_access_closes_that_client_only(caplog):
    async def scenario(place):
        async with raw(place) as client:
            client.send(connect_bytes("a", username="faulty", password=b""))
            assert await client.closed() == b""
        await place.until(lambda: place.counters["session_faults"])
        async with connected(place, "b", username="u", password=b"right") as client:
            await client.ping()
        place.broker._counters["session_faults"] = 0

    run(scenario, access=Guard())
    assert "Asking who mqtt a is failed" in caplog.text


# Malformed packets.

MALFORMED = {
    "QoS 3": b"\x36\x05\x00\x01a\x00\x01",
    "DUP with QoS 0": b"\x38\x03\x00\x01a",
    "five length bytes": b"\x30\xff\xff\xff\xff\x01",
    "too large": b"\x30\x80\x80\x80\x01",
    "publish packet id 0": publish_bytes("a", qos=1, packet_id=0),
    "publish without topic length": b"\x30\x01\x00",
    "publish topic cut": b"\x30\x03\x00\x05a",
    "publish id cut": b"\x32\x04\x00\x01a\x00",
    "topic empty": publish_bytes(""),
    "topic with +": publish_bytes("a/+"),
    "topic with #": publish_bytes("#"),
    "topic with NUL": b"\x30\x03\x00\x01\x00",
    "topic not UTF-8": b"\x30\x04\x00\x02\xc3\x28",
    "topic surrogate": b"\x30\x05\x00\x03\xed\xa0\x80",
    "subscribe flags": b"\x80\x06\x00\x01\x00\x01a\x00",
    "subscribe id 0": b"\x82\x06\x00\x00\x00\x01a\x00",
    "subscribe empty": b"\x82\x02\x00\x01",
    "subscribe QoS 3": b"\x82\x06\x00\x01\x00\x01a\x03",
    "subscribe reserved QoS bits": b"\x82\x06\x00\x01\x00\x01a\x04",
    "subscribe filter cut": b"\x82\x05\x00\x01\x00\x01a",
    "subscribe empty filter": b"\x82\x05\x00\x01\x00\x00\x00",
    "unsubscribe empty": b"\xa2\x02\x00\x01",
    "unsubscribe empty filter": b"\xa2\x04\x00\x01\x00\x00",
    "puback id 0": b"\x40\x02\x00\x00",
    "puback long": b"\x40\x03\x00\x01\x00",
    "puback short": b"\x40\x01\x00",
    "pubrel flags": b"\x60\x02\x00\x01",
    "pubrel id 0": b"\x62\x02\x00\x00",
    "pingreq with body": b"\xc0\x01\x00",
    "disconnect flags": b"\xe1\x00",
    "connack from a client": b"\x20\x02\x00\x00",
    "suback from a client": b"\x90\x03\x00\x01\x00",
    "reserved type 0": b"\x00\x00",
    "reserved type 15": b"\xf0\x00",
}


def test_malformed_packets_close_the_connection_and_nothing_else():
    async def scenario(place):
        async with connected(place, "bystander") as bystander:
            await bystander.subscribe(("#", 0))
            for name, packet in MALFORMED.items():
                async with connected(place, "bad") as client:
                    client.send(packet)
                    assert await client.closed() == b"", name
            await bystander.ping()
        assert place.counters["protocol_errors"] == len(MALFORMED)
        assert not place.messages
        assert not place.refusals

    run(scenario)


def test_a_client_that_errs_in_a_loop_does_not_fill_the_log(caplog):
    async def scenario(place):
        for _ in range(20):
            async with raw(place) as client:
                client.send(b"GET / HTTP/1.0\r\n\r\n")
                await client.closed()

    caplog.set_level(logging.INFO)
    run(scenario)
    assert len(caplog.records) == 1


def test_fifty_megabytes_are_refused_at_their_header():
    async def scenario(place):
        async with connected(place) as client:
            client.send(b"\x30\x80\xe1\xeb\x17\x00\x01a")  # 50,000,000 bytes to come
            assert await client.closed() == b""
        assert place.counters["protocol_errors"] == 1

    run(scenario)


def test_the_largest_packet_passes():
    async def scenario(place):
        async with connected(place) as client:
            payload = bytes(65_536 - 2 - len("big/one"))
            client.send(subscribe_bytes(("big/one", 0)))
            await client.packet()
            client.send(publish_bytes("big/one", payload))
            assert (await client.message())[1] == payload

    run(scenario)


def test_random_bytes_harm_nobody():
    chance = random.Random(7)

    async def scenario(place):
        for _ in range(60):
            async with connected(place, "noise") as client:
                client.send(bytes([chance.choice([0x30, 0x32, 0x34, 0x82, 0xA2, 0x62, 0x50]), 20]))
                client.send(chance.randbytes(chance.randrange(200)))
                client.send(b"\xe0\x00")
                client.writer.write_eof()
                await client.closed()
        async with connected(place, "after") as client:
            await client.ping()

    run(scenario)


# Acknowledgements.


def test_puback_leaves_only_after_settle_and_in_receive_order():
    async def scenario(place):
        async with connected(place) as client:
            for packet_id in (5, 3, 9):
                client.send(publish_bytes(SENSOR, b"%d" % packet_id, qos=1, packet_id=packet_id))
            await place.until(lambda: len(place.receipts) == 3)
            await client.ping()  # nothing came before the answer to this
            place.receipts[2].settle()
            place.receipts[1].settle()
            await client.ping()
            place.receipts[0].settle()
            place.receipts[0].settle()
            assert [await client.packet() for _ in range(3)] == [
                (PUBACK, b"\x00\x05"),
                (PUBACK, b"\x00\x03"),
                (PUBACK, b"\x00\x09"),
            ]
            message = place.messages[0]
            assert (message.topic, message.payload, message.client_id, message.qos) == (SENSOR, b"5", "c", 1)
            assert message.received_ms > 1_700_000_000_000
        assert place.counters["acks_out"] == 3

    run(scenario, settling=False)


def test_other_acknowledgements_wait_for_their_turn_too():
    async def scenario(place):
        async with connected(place) as client:
            client.send(publish_bytes(SENSOR, qos=1, packet_id=1))
            client.send(publish_bytes("test/plain", qos=1, packet_id=2))
            client.send(publish_bytes("test/nosubscribe", qos=2, packet_id=3))
            await client.ping()
            place.receipts[0].settle()
            assert [await client.packet() for _ in range(3)] == [
                (PUBACK, b"\x00\x01"),
                (PUBACK, b"\x00\x02"),
                (PUBREC, b"\x00\x03"),
            ]
        assert [why for _, why in place.refusals] == ["the topic is denied"]

    run(scenario, settling=False)


def test_refused_publishes_are_acknowledged_and_reach_nobody():
    async def scenario(place):
        async with connected(place, "watch") as watch, connected(place) as client:
            await watch.subscribe(("#", 0))
            for number, topic in enumerate(
                ["artemis/alerts/COW_001/fever", "test/nosubscribe", "$SYS/uptime"], 1
            ):
                client.send(publish_bytes(topic, qos=1, packet_id=number, retain=True))
                assert await client.packet() == (PUBACK, number.to_bytes(2, "big"))
            client.send(publish_bytes("test/end"))
            assert (await watch.message())[0] == "test/end"
            async with connected(place, "late") as late:
                await late.subscribe(("#", 0))
                await late.ping()
        assert len(place.refusals) == place.counters["refused_publishes"] == 3
        assert not place.messages

    run(scenario)


def test_the_same_qos1_message_again_is_delivered_again():
    async def scenario(place):
        async with connected(place) as client:
            client.send(publish_bytes(SENSOR, qos=1, packet_id=7))
            client.send(publish_bytes(SENSOR, qos=1, packet_id=7, dup=True))
            assert await client.packet() == await client.packet() == (PUBACK, b"\x00\x07")
        assert len(place.messages) == 2

    run(scenario)


def test_a_qos2_message_is_delivered_once_until_its_release():
    async def scenario(place):
        async with connected(place) as client:
            for _ in range(2):
                client.send(publish_bytes(SENSOR, qos=2, packet_id=7, dup=True))
                assert await client.packet() == (PUBREC, b"\x00\x07")
            assert len(place.messages) == 1
            client.send(ack(PUBREL, 7))
            assert await client.packet() == (PUBCOMP, b"\x00\x07")
            client.send(ack(PUBREL, 7))
            assert await client.packet() == (PUBCOMP, b"\x00\x07")
            client.send(publish_bytes(SENSOR, qos=2, packet_id=7))
            assert await client.packet() == (PUBREC, b"\x00\x07")
        assert len(place.messages) == 2

    run(scenario)


def test_qos2_ids_of_a_persistent_session_survive_a_reconnect():
    async def scenario(place):
        async with connected(place, clean=False) as client:
            client.send(publish_bytes(SENSOR, qos=2, packet_id=7))
            await place.until(lambda: place.receipts)
            client.abort()
        async with connected(place, clean=False) as client:
            assert client.present
            client.send(publish_bytes(SENSOR, qos=2, packet_id=7, dup=True))
            client.send(publish_bytes(SENSOR, qos=2, packet_id=7, dup=True))
            await client.ping()  # its first delivery is not settled yet
            place.receipts[0].settle()
            assert await client.packet() == (PUBREC, b"\x00\x07")
            await client.ping()
        async with connected(place, clean=False) as client:
            client.send(publish_bytes(SENSOR, qos=2, packet_id=7, dup=True))
            assert await client.packet() == (PUBREC, b"\x00\x07")
        assert len(place.messages) == 1
        async with connected(place, clean=True) as client:
            assert not client.present
            client.send(publish_bytes(SENSOR, qos=2, packet_id=7, dup=True))
            await place.until(lambda: len(place.messages) == 2)

    run(scenario, settling=False)


def test_unreleased_qos2_ids_are_bounded(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.inbound.QOS2_IDS_PER_CLIENT_MAX", 10)

    async def scenario(place):
        async with connected(place) as client:
            for packet_id in range(1, 12):
                client.send(publish_bytes(SENSOR, qos=2, packet_id=packet_id))
            await client.closed()
        assert len(place.messages) == 10

    run(scenario)


# Back-pressure.


def test_reading_pauses_at_64_unacknowledged_and_resumes_below_32():
    async def scenario(place):
        async with connected(place) as client, connected(place, "other") as other:
            for packet_id in range(1, 201):
                client.send(publish_bytes(SENSOR, qos=1, packet_id=packet_id))
            await place.until(lambda: len(place.receipts) == 64)
            assert place.hurries == 64 // 16
            for _ in range(5):
                await other.ping()  # the loop turns, and reads nothing more of the first
            assert len(place.receipts) == 64
            for receipt in place.receipts[:32]:
                receipt.settle()
            for _ in range(5):
                await other.ping()
            assert len(place.receipts) == 64
            place.receipts[32].settle()
            await place.until(lambda: len(place.receipts) == 64 + 33)
            place.settling = True
            for receipt in tuple(place.receipts):
                receipt.settle()
            await place.until(lambda: len(place.receipts) == 200)
            ids = [int.from_bytes((await client.packet())[1], "big") for _ in range(200)]
            assert ids == list(range(1, 201))

    run(scenario, settling=False)


def test_a_client_that_we_paused_is_not_evicted():
    async def scenario(place):
        async with connected(place, keepalive=1) as client:
            for packet_id in range(1, 65):
                client.send(publish_bytes(SENSOR, qos=1, packet_id=packet_id))
            await place.until(lambda: len(place.receipts) == 64)
            await asyncio.sleep(0.5)  # two and a half times what it may be silent
            assert place.broker.connections == 1
            resumed = time.monotonic()
            for receipt in tuple(place.receipts):
                receipt.settle()
            for _ in range(64):
                assert (await client.packet())[0] == PUBACK
            assert await client.closed() == b""  # now it is silent of its own accord
            assert time.monotonic() - resumed > 0.15
        assert place.counters["keepalive_evicted"] == 1

    run(scenario, settling=False, limits={"keepalive_factor": 0.2})


def test_a_silent_client_goes_after_one_and_a_half_keepalives():
    async def scenario(place):
        loop = asyncio.get_running_loop()
        async with (
            connected(place, "quiet", keepalive=1) as quiet,
            connected(place, "zero", keepalive=0) as zero,
        ):
            start = loop.time()
            await asyncio.sleep(0.4)  # the ping after it must start the keepalive anew
            await quiet.ping()
            heard = loop.time()
            assert await quiet.closed() == b""
            assert 1.4 < loop.time() - heard < 2.5
            assert loop.time() - start > 1.8
            await zero.ping()
        assert place.counters["keepalive_evicted"] == 1

    run(scenario)


def test_disconnect_is_held_until_nothing_is_in_flight():
    async def scenario(place):
        async with (
            connected(place, will=("test/will", b"gone", 0, False)) as client,
            connected(place, "other") as other,
        ):
            client.send(publish_bytes(SENSOR, qos=1, packet_id=1))
            client.send(publish_bytes(SENSOR, qos=1, packet_id=2) + b"\xe0\x00" + publish_bytes(SENSOR))
            client.writer.write_eof()
            await place.until(lambda: len(place.receipts) == 2)
            for _ in range(5):
                await other.ping()
            assert place.broker.connections == 2
            place.receipts[0].settle()
            place.receipts[1].settle()
            assert await client.closed() == ack(PUBACK, 1) + ack(PUBACK, 2)
        assert len(place.messages) == 2
        assert place.counters["wills_published"] == 0

    run(scenario, settling=False)


def test_settling_after_the_client_has_gone_is_harmless():
    async def scenario(place):
        async with connected(place) as client:
            client.send(publish_bytes(SENSOR, qos=1) + publish_bytes(SENSOR, qos=2, packet_id=2))
            await place.until(lambda: len(place.receipts) == 2)
            client.abort()
        await place.until(lambda: place.broker.connections == 0)
        for receipt in place.receipts:
            receipt.settle()

    run(scenario, settling=False)


def test_a_subscriber_that_does_not_read_is_cut_and_delays_nobody():
    async def scenario(place):
        async with connected(place, "stalled") as stalled, connected(place, "busy") as busy:
            assert await stalled.subscribe(("artemis/sensors/+", 0)) == [0]
            stalled.writer.transport.pause_reading()
            payload = os.urandom(16_000)
            sent = 0
            while place.counters["fanout_dropped"] == 0:
                busy.send(publish_bytes(SENSOR, payload, qos=1))
                assert await busy.packet() == (PUBACK, b"\x00\x01")
                sent += 1
                assert sent < 4000
            assert len(place.messages) == sent
            await place.until(lambda: place.counters["write_deadlines"] == 1)
            await place.until(lambda: place.broker.connections == 1)

    run(scenario, limits={"write_deadline_s": 0.8})


def test_a_client_that_says_goodbye_and_does_not_read_is_cut():
    async def scenario(place):
        async with connected(place) as client:
            await client.subscribe(("t", 0))
            client.writer.transport.pause_reading()
            (door_side,) = place.broker._door._inside
            while not door_side._transport.get_write_buffer_size():
                place.broker.publish("t", bytes(8000))
                await asyncio.sleep(0)
            assert door_side.writable
            client.send(b"\xe0\x00")
            await place.until(lambda: place.broker.connections == 0)
        assert place.counters["write_deadlines"] == 1

    run(scenario, limits={"write_deadline_s": 0.1})


def test_a_publisher_that_does_not_read_its_answers_is_cut():
    async def scenario(place):
        async with connected(place) as client:
            client.writer.transport.pause_reading()
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pings = b"\xc0\x00" * 50_000
            while place.counters["write_deadlines"] == 0 and place.broker.connections:
                client.send(pings)
                await asyncio.sleep(0.01)
            await place.until(lambda: place.broker.connections == 0)

    run(scenario, limits={"write_deadline_s": 0.2})


# Takeover, wills.


def test_takeover_ends_the_old_connection_before_the_new_one_begins():
    async def scenario(place):
        async with connected(place, "watch") as watch:
            await watch.subscribe(("test/will", 0))
            async with connected(place, "one", clean=False, will=("test/will", b"old", 0, False)) as old:
                await old.subscribe(("test/a", 1))
                async with connected(place, "one", clean=False) as new:
                    assert new.present
                    assert await old.closed() == b""
                    assert (await watch.message())[:2] == ("test/will", b"old")
                    watch.send(publish_bytes("test/a", b"hello"))
                    assert (await new.message())[:2] == ("test/a", b"hello")
        assert place.counters["takeovers"] == 1

    run(scenario)


def test_many_takeovers_at_once_leave_one():
    async def scenario(place):
        async def come():
            async with raw(place) as client:
                client.send(connect_bytes("same"))
                return await client.closed()

        tasks = [asyncio.ensure_future(come()) for _ in range(20)]
        await place.until(lambda: sum(task.done() for task in tasks) == 19)
        assert place.broker.connections == 1
        async with connected(place, "same") as client:
            await client.ping()
            await asyncio.gather(*tasks)

    run(scenario)


def test_wills_are_publishes_like_any_other():
    async def scenario(place):
        async with connected(place, "watch") as watch:
            await watch.subscribe(("#", 1))
            for topic in (SENSOR, "test/nosubscribe", "test/will"):
                async with connected(place, "mortal", will=(topic, b"late", 1, True)) as client:
                    client.abort()
                await place.until(lambda: place.broker.connections == 1)
            got = [await watch.message() for _ in range(2)]
            assert [(topic, payload) for topic, payload, *_ in got] == [
                (SENSOR, b"late"),
                ("test/will", b"late"),
            ]
            for *_, packet_id in got:
                watch.send(ack(PUBACK, packet_id))
            async with connected(place, "mortal", will=("test/will", b"never", 0, False)) as client:
                client.send(b"\xe0\x00")
                await client.closed()
            await watch.ping()
            async with connected(place, "late") as late:
                await late.subscribe(("test/will", 0))
                assert await late.message() == ("test/will", b"late", 0, True, 0)
        assert [message.topic for message in place.messages] == [SENSOR]
        assert [message.topic for message, _ in place.refusals] == ["test/nosubscribe"]
        assert place.counters["wills_published"] == 3

    run(scenario)


@pytest.mark.parametrize("ending", ["keepalive", "protocol error", "half close"])
def test_a_will_is_due_however_the_connection_ends(ending):
    async def scenario(place):
        async with connected(place, "watch") as watch:
            await watch.subscribe(("test/will", 0))
            async with connected(place, "m", keepalive=1, will=("test/will", b"x", 0, False)) as client:
                if ending == "protocol error":
                    client.send(b"\xf0\x00")
                elif ending == "half close":
                    client.writer.write_eof()
                assert (await watch.message())[:2] == ("test/will", b"x")

    run(scenario, limits={"keepalive_factor": 0.2 if ending == "keepalive" else 1.5})


# Subscriptions at the door.


def test_refused_filters_keep_their_place_among_the_granted():
    async def scenario(place):
        async with connected(place) as client:
            codes = await client.subscribe(
                ("test/nosubscribe", 0),
                ("a", 1),
                ("b#", 2),
                ("b/#", 2),
                ("$share/g/a", 1),
                ("c", 0),
                packet_id=9,
            )
            assert codes == [0x80, 1, 0x80, 2, 0x80, 0]
            assert await client.subscribe(("test/nosubscribe", 2), packet_id=10) == [0x80]
            assert await client.subscribe(*((f"t/{n}", 1) for n in range(150)), packet_id=11) == [1] * 150
        assert place.counters["refused_subscriptions"] == 4

    run(scenario)


def test_subscribe_unsubscribe_and_publish_keep_their_order():
    async def scenario(place):
        async with connected(place) as client:
            client.send(
                subscribe_bytes(("t", 0), packet_id=1)
                + publish_bytes("t", b"1")
                + unsubscribe_bytes("t", packet_id=2)
                + publish_bytes("t", b"2")
                + subscribe_bytes(("t", 0), packet_id=3)
                + publish_bytes("t", b"3")
                + b"\xc0\x00"
            )
            got = [await client.packet() for _ in range(6)]
            assert got == [
                (0x90, b"\x00\x01\x00"),
                (0x30, b"\x00\x01t1"),
                (0xB0, b"\x00\x02"),
                (0x90, b"\x00\x03\x00"),
                (0x30, b"\x00\x01t3"),
                (0xD0, b""),
            ]

    run(scenario)


def test_a_flood_of_unexpected_acknowledgements_goes_nowhere():
    async def scenario(place):
        async with connected(place) as client:
            client.send(b"".join(ack(kind, 77) for kind in (PUBACK, PUBREC, PUBCOMP) for _ in range(1000)))
            for _ in range(1000):  # a PUBREC is answered: the client may have missed our PUBREL
                assert await client.packet() == (PUBREL, b"\x00\x4d")
            await client.ping()
        assert place.counters["acks_unexpected"] == 3000

    run(scenario)


# Start and stop.


def test_a_port_in_use_is_a_clear_error():
    async def scenario(place):
        other = Barn()
        with pytest.raises(NetworkError, match=f"127.0.0.1:{place.port}.*another broker") as caught:
            await other.broker.start(Listener("127.0.0.1", place.port))
        assert caught.value.exit_code == 3
        await other.broker.close()
        with pytest.raises(NetworkError, match=r"203\.0\.113\.7:1883"):
            await Barn().broker.start(Listener("203.0.113.7", 1883))

    run(scenario)


def test_after_stop_nothing_is_read_but_acknowledgements_still_leave():
    async def scenario(place):
        async with connected(place, will=("test/will", b"x", 0, False)) as client:
            client.send(publish_bytes(SENSOR, qos=1, packet_id=4))
            await place.until(lambda: place.receipts)
            await place.broker.stop()
            client.send(publish_bytes(SENSOR, qos=1, packet_id=5))
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", place.port)
            place.receipts[0].settle()
            assert await client.packet() == (PUBACK, b"\x00\x04")
            await place.broker.close()
            assert await client.closed() == b""
        assert len(place.messages) == 1
        assert place.counters["wills_published"] == 0

    run(scenario, settling=False)


def test_close_does_not_wait_for_a_client_that_does_not_read():
    async def scenario(place):
        async with connected(place) as client:
            await client.subscribe(("t", 0))
            client.writer.transport.pause_reading()
            for _ in range(400):
                place.broker.publish("t", bytes(20_000))
            await place.broker.close()
            assert place.broker.connections == 0

    run(scenario, limits={"close_timeout_s": 0.2})


def test_the_gateway_publishes_before_and_after_start():
    async def main():
        place = Barn()
        place.broker.publish("artemis/alerts/COW_001/fever", b"open", qos=1, retain=True)
        with pytest.raises(ValueError, match="wildcard"):
            place.broker.publish("a/#", b"")
        assert isinstance(place.broker, EmbeddedBroker)
        assert place.broker.connections == 0
        await place.broker.start(Listener("127.0.0.1", 0))
        async with connected(place) as client:
            await client.subscribe(("artemis/alerts/#", 0))
            assert await client.message() == ("artemis/alerts/COW_001/fever", b"open", 0, True, 0)
            place.broker.publish("artemis/alerts/COW_001/fever", b"", qos=1, retain=True)
            assert await client.message() == ("artemis/alerts/COW_001/fever", b"", 0, False, 0)
        await place.broker.close()
        await place.broker.close()

    asyncio.run(main())


def test_what_was_said_before_the_end_counts_though_it_waits_behind_a_commit():
    async def scenario(place):
        async with raw(place) as client:
            client.send(connect_bytes(will=(SENSOR, b"will", 0, False)))
            client.send(b"".join(publish_bytes(SENSOR, b"%d" % n) for n in range(200)) + b"\xe0\x00")
            client.writer.write_eof()
            await place.settle_all(200)
            assert (await client.closed())[4:] == b""
        assert [message.payload for message in place.messages] == [b"%d" % n for n in range(200)]

    run(scenario, settling=False)


def test_a_flood_of_small_packets_leaves_the_others_their_turns():
    async def scenario(place):
        async with connected(place) as client:
            client.send(publish_bytes(SENSOR) * 10_000)
            assert await place.most_in_one_turn(10_000) <= PACKETS_PER_TURN
            await client.ping()

    run(scenario)


# Rates (decision 24); core/rates has the tables.


def test_a_backlog_over_the_rate_is_slowed_and_never_dropped():
    rates = {"sensors": Rate(per_min=6000, burst=20)}  # 100 a second

    async def scenario(place):
        async with connected(place) as client:
            for number in range(40):
                client.send(publish_bytes(SENSOR, b"x", qos=1, packet_id=number + 1))
            for number in range(40):
                assert await client.packet() == (PUBACK, (number + 1).to_bytes(2, "big"))
            await client.ping()
        assert len(place.messages) == 40
        assert place.counters["rate_pause"] >= 15

    run(scenario, limited=True, rates=rates)


def test_a_flood_of_qos_0_is_dropped_then_disconnected(caplog):
    async def scenario(place):
        async with connected(place) as client:
            client.send(publish_bytes(SENSOR, b"x") * 250)
            assert await client.closed() == b""
        assert len(place.messages) == 20
        assert place.counters["rate_drop"] == 180
        assert place.counters["rate_disconnect"] == 1

    run(scenario, limited=True, rates={"sensors": Rate(per_min=1, burst=20)})
    assert "Client 'c' is over the rate of 'sensors': drop" in caplog.text


def test_another_client_id_from_the_same_address_brings_no_other_bucket(monkeypatch):
    monkeypatch.setattr("gateway.core.topics.REFUSED_RATE", Rate(per_min=1, burst=12))

    async def scenario(place):
        for number in range(8):
            async with connected(place, f"c/{number}") as client:
                client.send(publish_bytes("test/nosubscribe", b"x") * 5)
                await client.ping()
        assert len(place.refusals) == 12
        assert place.counters["rate_drop"] == 40 - 12

    run(scenario, limited=True)
