"""MQTT 3.1.1, chapter 3.3.1.3: retained messages."""

import pytest

from tests.drivers.broker.conversation import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    REFUSED,
    Case,
    Speaker,
    ack,
    by_sentence,
    play,
    publish_bytes,
    suback,
    subscribe_bytes,
)

a, b, c = Speaker("a"), Speaker("b"), Speaker("c")

DENIED = "test/nosubscribe"


def _keeps(topic="t", payload=b"old", qos=0):
    """`b` leaves a retained message."""
    steps = [b > publish_bytes(topic, payload, qos=qos, packet_id=50, retain=True)]
    if qos == 1:
        steps.append(b < ack(PUBACK, 50))
    elif qos == 2:
        steps += [b < ack(PUBREC, 50), b > ack(PUBREL, 50), b < ack(PUBCOMP, 50)]
    else:
        steps.append(b.says_nothing_more())
    return steps


def _retained(topic="t", payload=b"old"):
    return publish_bytes(topic, payload, retain=True)


RETAINED = [
    Case(
        "[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8] the last one goes to a new subscriber, with RETAIN",
        (
            b.connects(),
            *_keeps(payload=b"first"),
            *_keeps(payload=b"last"),
            b > publish_bytes("t", b"not retained"),
            a.connects(),
            a > subscribe_bytes(("t", 0)),
            a < suback(0) + _retained(payload=b"last"),
        ),
    ),
    Case(
        "[MQTT-3.3.1-9] to a subscriber that is there already it goes without RETAIN",
        (a.connects(), a.subscribes(("t", 0)), b.connects(), *_keeps(), a < publish_bytes("t", b"old")),
    ),
    Case(
        "[MQTT-3.3.1-10] [MQTT-3.3.1-11] an empty one is passed on and clears the topic",
        (
            a.connects(),
            b.connects(),
            *_keeps(),
            a > subscribe_bytes(("t", 0)),
            a < suback(0) + _retained(),
            *_keeps(payload=b""),
            a < publish_bytes("t", b""),
            a > subscribe_bytes(("t", 0)),
            a < suback(0),
        ),
    ),
    Case(
        "[MQTT-3.3.1-12] one without RETAIN neither replaces nor clears it",
        (
            b.connects(),
            *_keeps(),
            b > publish_bytes("t", b"new") + publish_bytes("t", b""),
            b.says_nothing_more(),
            a.connects(),
            a > subscribe_bytes(("t", 0)),
            a < suback(0) + _retained(),
        ),
    ),
    *(
        Case(
            f"[MQTT-3.8.4-6] retained with QoS {published}, granted {granted}: the lower of the two",
            (
                b.connects(),
                *_keeps(qos=published),
                a.connects(),
                a > subscribe_bytes(("t", granted)),
                a < suback(granted),
                a.hears("t", b"old", qos=min(published, granted), tag="m", retain=True),
            ),
        )
        for published in (0, 1, 2)
        for granted in (0, 1, 2)
    ),
    Case(
        "[MQTT-3.3.1-7] one of QoS 0 replaces one of QoS 1",
        (
            b.connects(),
            *_keeps(payload=b"one", qos=1),
            *_keeps(payload=b"zero", qos=0),
            a.connects(),
            a > subscribe_bytes(("t", 1)),
            a < suback(1) + _retained(payload=b"zero"),
        ),
    ),
    Case(
        "[MQTT-3.8.4-3] a renewed subscription gets it again",
        (
            b.connects(),
            *_keeps(qos=1),
            a.connects(),
            a > subscribe_bytes(("t", 0)),
            a < suback(0) + _retained(),
            a > subscribe_bytes(("t", 1)),
            a < suback(1),
            a.hears("t", b"old", qos=1, tag="m", retain=True),
        ),
    ),
    Case(
        "[MQTT-3.3.1-6] a wildcard gets all that match, and nobody else gets anything",
        (
            b.connects(),
            *_keeps("r/1"),
            *_keeps("r/2"),
            *_keeps("s/1"),
            b.subscribes(("q", 0)),
            a.connects(),
            a > subscribe_bytes(("r/+", 0)),
            a < suback(0),
            a.gets(_retained("r/1"), _retained("r/2")),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.1.2-7] retained messages outlive the session of their publisher",
        (
            b.connects(),
            *_keeps(),
            b.leaves(),
            a.connects(),
            a > subscribe_bytes(("t", 0)),
            a < suback(0) + _retained(),
        ),
    ),
    Case(
        "(3.3.1.3) a session that goes on gets no retained message without subscribing",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            b.connects(),
            *_keeps(qos=0),
            a < publish_bytes("t", b"old"),
            a.leaves(),
            a.connects(clean=False, present=True),
        ),
    ),
    Case(
        "[MQTT-3.3.1-9] what waited for an absent client comes without RETAIN",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            a.leaves(),
            b.connects(),
            *_keeps(qos=1),
            a.connects(clean=False, present=True),
            a.hears("t", b"old", qos=1, tag="m"),
        ),
    ),
    Case(
        "(3.3.1.3) a refused filter gets no retained message",
        (
            b.connects(),
            *_keeps("t"),
            a.connects(),
            a > subscribe_bytes(("t/#/x", 0), (DENIED, 0)),
            a < suback(REFUSED, REFUSED),
        ),
    ),
]


@pytest.mark.parametrize("case", RETAINED, ids=by_sentence)
def test_retained_messages(case):
    play(case)
