"""MQTT 3.1.1, chapters 3.1.2.5–3.1.2.7: wills, when they are due and when not."""

import pytest

from tests.drivers.broker.conversation import (
    DISCONNECT,
    Case,
    Speaker,
    by_sentence,
    connack,
    connect_body,
    connect_bytes,
    play,
    publish_bytes,
    suback,
    subscribe_bytes,
    text,
)

a, b, c = Speaker("a"), Speaker("b"), Speaker("c")

HASTY = {"limits": {"keepalive_factor": 0.05}}  # so that nobody waits 1.5 s
ALERT = "artemis/alerts/COW_001/fever"  # clients may subscribe, the gateway alone may publish


def _with_will(*, qos=0, retain=False, topic="w", **options):
    return a.connects(will=(topic, b"gone", qos, retain), **options)


WILLS = [
    *(
        Case(
            f"[MQTT-3.1.2-8] a will of QoS {qos} is published when {why}",
            (
                b.connects(),
                b.subscribes(("w", 2)),
                _with_will(qos=qos),
                *ending,
                b.hears("w", b"gone", qos=qos, tag="will"),
            ),
        )
        for qos in (0, 1, 2)
        for why, ending in (
            ("the connection breaks", (a.drops(),)),
            ("the client breaks the protocol", (a > publish_bytes("#"), a.is_closed())),
            ("another connection takes over", (c.connects(client_id="a"), a.is_closed())),
            ("a DISCONNECT is not well-formed", (a > b"\xe0\x01\x00", a.is_closed())),
        )
    ),
    Case(
        "[MQTT-3.1.2-8] also when a session goes on with the connection that takes over",
        (
            b.connects(),
            b.subscribes(("w", 0)),
            _with_will(clean=False),
            c.connects(client_id="a", clean=False, present=True),
            a.is_closed(),
            b < publish_bytes("w", b"gone"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-24] and when the client is silent for too long",
        (
            b.connects(keepalive=0),
            b.subscribes(("w", 0)),
            _with_will(keepalive=1),
            a.is_closed(),
            b < publish_bytes("w", b"gone"),
        ),
        HASTY,
    ),
    Case(
        "[MQTT-3.14.4-3] [MQTT-3.1.2-10] not after DISCONNECT, whatever follows it",
        (
            b.connects(),
            b.subscribes(("w", 0)),
            _with_will(),
            a > DISCONNECT + publish_bytes("#"),
            a.is_closed(),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.1.2-12] not without one; the one of an earlier connection is forgotten",
        (
            b.connects(),
            b.subscribes(("w", 0)),
            _with_will(clean=False),
            a.leaves(),
            a.connects(clean=False, present=True),
            a.drops(),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.1.2-16] without RETAIN nothing is retained",
        (
            _with_will(),
            a.drops(),
            b.connects(),
            b.subscribes(("w", 0)),
        ),
    ),
    Case(
        "[MQTT-3.1.2-17] with RETAIN it is",
        (
            c.connects(),
            c.subscribes(("w", 0)),
            _with_will(retain=True),
            a.drops(),
            c < publish_bytes("w", b"gone"),
            b.connects(),
            b > subscribe_bytes(("w", 0)),
            b < suback(0) + publish_bytes("w", b"gone", retain=True),
        ),
    ),
    Case(
        "[MQTT-3.1.2-17] an empty one with RETAIN clears the topic",
        (
            b.connects(),
            b > publish_bytes("w", b"here", retain=True),
            b.says_nothing_more(),
            b.subscribes(("x", 0)),
            c.connects(),
            c > subscribe_bytes(("w", 0)),
            c < suback(0) + publish_bytes("w", b"here", retain=True),
            a.connects(will=("w", b"", 0, True)),
            a.drops(),
            c < publish_bytes("w", b""),
            b > subscribe_bytes(("w", 0)),
            b < suback(0),
        ),
    ),
    Case(
        "[MQTT-3.3.5-2] on a topic that the client may not publish on it reaches nobody",
        (
            b.connects(),
            b.subscribes((ALERT, 1)),
            _with_will(topic=ALERT, qos=1, retain=True),
            a.drops(),
            c.connects(),
            c.subscribes((ALERT, 1)),
            c.says_nothing_more(),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.1.4-5] the will of a CONNECT that was refused is none",
        (
            b.connects(),
            b.subscribes(("w", 0)),
            a.opens(),
            a > connect_body(level=3, flags=6, tail=text("w") + text("no")),
            a.is_closed(connack(1)),
            a.opens(),
            a > connect_bytes("", clean=False, will=("w", b"no", 0, False)),
            a.is_closed(connack(2)),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-4.5.0-1] it waits for an absent client like any other message",
        (
            b.connects(clean=False),
            b.subscribes(("w", 1)),
            b.leaves(),
            _with_will(qos=1),
            a.drops(),
            b.connects(clean=False, present=True),
            b.hears("w", b"gone", qos=1, tag="will"),
        ),
    ),
]


@pytest.mark.parametrize("case", WILLS, ids=by_sentence)
def test_wills(case):
    play(case)
