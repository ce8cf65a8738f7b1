"""MQTT 3.1.1, chapters 3.1.2–3.1.4, 3.2.2 and 4.1: sessions, takeover, wills, keepalive."""

import pytest

from gateway.drivers.broker import DoorLimits
from tests.drivers.broker.conversation import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Case,
    Speaker,
    ack,
    by_sentence,
    connack,
    connect_body,
    frame,
    play,
    publish_bytes,
    text,
    unsuback,
)

a, b, c = Speaker("a"), Speaker("b"), Speaker("c")
HASTY = {"limits": {"keepalive_factor": 0.05}}  # so that nobody waits 1.5 s
ALERT = "artemis/alerts/COW_001/fever"  # clients may subscribe, the gateway alone may publish


def _sends(topic, *payloads, qos=1):
    """`b` publishes with QoS 1 or 2."""
    for payload in payloads:
        yield b > publish_bytes(topic, payload, qos=qos, packet_id=60)
        if qos == 1:
            yield b < ack(PUBACK, 60)
        else:
            yield b < ack(PUBREC, 60)
            yield b > ack(PUBREL, 60)
            yield b < ack(PUBCOMP, 60)


SESSIONS = [
    Case(
        "[MQTT-3.2.2-1] a clean session is never told of an earlier one",
        (a.connects(), a.leaves(), a.connects(), a.leaves(), a.connects()),
    ),
    Case(
        "[MQTT-3.2.2-2] [MQTT-3.2.2-3] a persistent session is new the first time, and there the next",
        (
            a.connects(clean=False),
            a.leaves(),
            a.connects(clean=False, present=True),
            a.drops(),
            a.connects(clean=False, present=True),
        ),
    ),
    Case(
        "[MQTT-3.1.2-4] it keeps its filters and their QoS",
        (
            a.connects(clean=False),
            a.subscribes(("one", 1), ("zero", 0), ("given up", 1)),
            a > frame(0xA2, b"\x00\x02" + text("given up")),
            a < unsuback(2),
            a.leaves(),
            a.connects(clean=False, present=True),
            b.connects(),
            *_sends("given up", b"no"),
            *_sends("zero", b"0"),
            *_sends("one", b"1"),
            a < publish_bytes("zero", b"0"),
            a.hears("one", b"1", qos=1, tag="m"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-5] [MQTT-4.1.0-1] messages wait for it, in order, each with its QoS",
        (
            a.connects(clean=False),
            a.subscribes(("one/#", 1), ("two/#", 2)),
            a.leaves(),
            b.connects(),
            *_sends("one/a", b"1", b"2", qos=2),
            *_sends("two/a", b"3", qos=2),
            *_sends("two/a", b"4", qos=1),
            b.leaves(),
            a.connects(clean=False, present=True),
            *(
                a.hears(topic, b"%d" % number, qos=qos, tag=str(number))
                for number, topic, qos in (
                    (1, "one/a", 1),
                    (2, "one/a", 1),
                    (3, "two/a", 2),
                    (4, "two/a", 1),
                )
            ),
        ),
    ),
    Case(
        "[MQTT-3.1.2-5] also when its connection has only broken",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            a.drops(),
            b.connects(),
            *_sends("t", b"1"),
            a.connects(clean=False, present=True),
            a.hears("t", b"1", qos=1, tag="m"),
        ),
    ),
    Case(
        "[MQTT-4.5.0-1] overlapping filters let a message wait once",
        (
            a.connects(clean=False),
            a.subscribes(("t/#", 1), ("t/+", 2), ("t/a", 0)),
            a.leaves(),
            b.connects(),
            *_sends("t/a", b"1", qos=2),
            a.connects(clean=False, present=True),
            a.hears("t/a", b"1", qos=2, tag="m"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-6] a clean session ends an earlier one: filters, messages and all",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            a.leaves(),
            b.connects(),
            *_sends("t", b"1"),
            a.connects(),
            *_sends("t", b"2"),
            a.leaves(),
            a.connects(clean=False, present=False),
            *_sends("t", b"3"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-6] and leaves nothing itself",
        (
            a.connects(),
            a.subscribes(("t", 1)),
            a.leaves(),
            b.connects(),
            *_sends("t", b"1"),
            a.connects(clean=False, present=False),
            *_sends("t", b"2"),
        ),
    ),
    Case(
        "[MQTT-3.1.3-2] sessions of other clients are not touched",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            a.leaves(),
            c.connects(),
            c.leaves(),
            b.connects(),
            *_sends("t", b"1"),
            a.connects(clean=False, present=True),
            a.hears("t", b"1", qos=1, tag="m"),
        ),
    ),
    Case(
        "[MQTT-3.1.4-2] a second connection with the id ends the first",
        (a.connects(), b.connects(client_id="a"), a.is_closed()),
    ),
    Case(
        "[MQTT-3.1.4-2] [MQTT-3.2.2-2] and goes on with its session",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            c.connects(client_id="a", clean=False, present=True),
            a.is_closed(),
            b.connects(),
            *_sends("t", b"1"),
            c.hears("t", b"1", qos=1, tag="m"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-6] or ends it, when it is clean",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            c.connects(client_id="a"),
            a.is_closed(),
            b.connects(),
            *_sends("t", b"1"),
            c.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.1.4-2] an id is taken as it is written",
        (a.connects(client_id="Cow"), b.connects(client_id="cow"), c.connects(client_id="cow ")),
    ),
    Case(
        "[MQTT-3.1.4-1] a CONNECT that is not well-formed takes nobody over",
        (
            a.connects(),
            b.opens(),
            b > connect_body(text("a"), flags=3),
            b.is_closed(),
            c.opens(),
            c > connect_body(text("a"), level=5),
            c.is_closed(connack(1)),
            a.says_nothing_more(),
        ),
    ),
]


@pytest.mark.parametrize("case", SESSIONS, ids=by_sentence)
def test_sessions(case):
    play(case)


KEEPALIVE = [
    Case(
        "[MQTT-3.1.2-24] a client that is silent for 1.5 times its keepalive is disconnected",
        (a.connects(keepalive=1), a.is_closed()),
        HASTY,
    ),
    Case(
        "(3.1.2.10) a keepalive of 0 asks for none; a long one is waited for",
        (
            b.connects(keepalive=0),
            c.connects(keepalive=0xFFFF),
            a.connects(keepalive=1),
            a.is_closed(),
            b.says_nothing_more(),
            c.says_nothing_more(),
        ),
        HASTY,
    ),
    Case(
        "(3.1.2.10) what the server sends does not count",
        (
            b.connects(keepalive=0),
            a.connects(keepalive=2),
            a.subscribes(("t", 0)),
            *(b > publish_bytes("t") for _ in range(3)),
            a < publish_bytes("t") * 3,
            a.is_closed(),
        ),
        HASTY,
    ),
]


@pytest.mark.parametrize("case", KEEPALIVE, ids=by_sentence)
def test_keepalive(case):
    play(case)


def test_keepalive_is_one_and_a_half_times_what_the_client_says():
    """[MQTT-3.1.2-24]."""
    assert DoorLimits().keepalive_factor == 1.5
