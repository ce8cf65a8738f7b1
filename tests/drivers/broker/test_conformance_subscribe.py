"""MQTT 3.1.1, chapters 3.8–3.11, 4.7 and 3.3.1.3: filters, subscriptions, retained messages."""

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
    frame,
    must_close,
    play,
    publish_bytes,
    suback,
    subscribe_bytes,
    text,
    unsuback,
)
from tests.drivers.broker.harness import unsubscribe_bytes

a, b = Speaker("a"), Speaker("b")
DENIED = "test/nosubscribe"


SUBSCRIPTIONS = [
    Case(
        "[MQTT-3.8.4-1] [MQTT-3.8.4-2] SUBSCRIBE is answered with SUBACK and its id",
        (a.connects(), a > subscribe_bytes(("t", 1), packet_id=77), a < suback(1, packet_id=77)),
    ),
    Case(
        "[MQTT-3.9.3-1] [MQTT-3.8.4-4] [MQTT-3.8.4-5] one code for each filter, in their order",
        (
            a.connects(),
            a > subscribe_bytes(("a", 2), (DENIED, 1), ("b", 0), ("bad/#/filter", 0), ("c/#", 1), ("a+", 0)),
            a < suback(2, REFUSED, 0, REFUSED, 1, REFUSED),
            a > publish_bytes("c/d"),
            a < publish_bytes("c/d"),
        ),
    ),
    Case(
        "[MQTT-3.8.4-5] a refused filter is answered with 0x80, and the client stays",
        (a.connects(), a > subscribe_bytes((DENIED, 2)), a < suback(REFUSED)),
    ),
    Case(
        "[MQTT-3.8.4-4] the same filter twice in one packet counts as two packets: the last QoS holds",
        (
            a.connects(),
            a > subscribe_bytes(("t", 2), ("t", 0)),
            a < suback(2, 0),
            b.connects(),
            b > publish_bytes("t", qos=1),
            b < ack(PUBACK, 1),
            a < publish_bytes("t"),
        ),
    ),
    *(
        Case(
            f"[MQTT-3.8.4-3] a filter granted with QoS {old} and again with QoS {new} is one subscription",
            (
                a.connects(),
                a.subscribes(("t/+", old)),
                a.subscribes(("t/+", new)),
                b.connects(),
                b > publish_bytes("t/a", qos=1),
                b < ack(PUBACK, 1),
                a.hears("t/a", qos=new, tag="m"),
            ),
        )
        for old, new in ((0, 1), (1, 0))
    ),
    *(
        Case(
            f"[MQTT-3.3.5-1] filters {', '.join(filters)} overlap: once, with the highest QoS",
            (
                a.connects(),
                a.subscribes(*zip(filters, granted, strict=True)),
                b.connects(),
                b > publish_bytes("t/a", qos=2, packet_id=3),
                b < ack(PUBREC, 3),
                b > ack(PUBREL, 3),
                b < ack(PUBCOMP, 3),
                a.hears("t/a", qos=max(granted), tag="m"),
            ),
        )
        for filters, granted in (
            (("t/#", "t/+"), (2, 1)),
            (("t/#", "t/+"), (0, 1)),
            (("t/a", "t/+", "#"), (1, 2, 0)),
            (("+/a", "t/a"), (0, 0)),
        )
    ),
    Case(
        "[MQTT-3.3.2-3] the topic arrives as it was published, not as the filter",
        (a.connects(), a.subscribes(("+/#", 0)), a > publish_bytes("x/y/z"), a < publish_bytes("x/y/z")),
    ),
    Case(
        "(4.5) each of several subscribers gets the message, the publisher among them",
        (
            a.connects(),
            a.subscribes(("t", 0)),
            b.connects(),
            b.subscribes(("#", 0)),
            a > publish_bytes("t"),
            a < publish_bytes("t"),
            b < publish_bytes("t"),
        ),
    ),
    Case(
        "[MQTT-3.10.4-4] [MQTT-3.10.4-2] UNSUBSCRIBE is answered, and the filter is quiet from then on",
        (
            a.connects(),
            a.subscribes(("t", 1), ("u", 1)),
            a > unsubscribe_bytes("t", packet_id=6),
            a < unsuback(6),
            a > publish_bytes("t") + publish_bytes("u"),
            a < publish_bytes("u"),
        ),
    ),
    Case(
        "[MQTT-3.10.4-5] also when there was no such filter",
        (a.connects(), a > unsubscribe_bytes("nothing", packet_id=8), a < unsuback(8)),
    ),
    Case(
        "[MQTT-3.10.4-6] several filters are given up together",
        (
            a.connects(),
            a.subscribes(("a", 0), ("b", 0), ("c", 0)),
            a > unsubscribe_bytes("a", "nothing", "b"),
            a < unsuback(1),
            a > publish_bytes("a") + publish_bytes("b") + publish_bytes("c"),
            a < publish_bytes("c"),
        ),
    ),
    Case(
        "[MQTT-3.10.4-1] filters are compared character by character, not by what they match",
        (
            a.connects(),
            a.subscribes(("t/+", 0)),
            a > unsubscribe_bytes("t/a", "t/#", "T/+", "t/+/"),
            a < unsuback(1),
            a > publish_bytes("t/a"),
            a < publish_bytes("t/a"),
        ),
    ),
    Case(
        "(3.10) unsubscribed and subscribed anew is subscribed",
        (
            a.connects(),
            a.subscribes(("t", 1)),
            a > unsubscribe_bytes("t"),
            a < unsuback(1),
            a.subscribes(("t", 0)),
            a > publish_bytes("t", qos=0),
            a < publish_bytes("t"),
        ),
    ),
    Case(
        "(4.6) SUBSCRIBE, PUBLISH and UNSUBSCRIBE are done in the order they came",
        (
            a.connects(),
            a
            > publish_bytes("t", b"0")
            + subscribe_bytes(("t", 0))
            + publish_bytes("t", b"1")
            + unsubscribe_bytes("t", packet_id=2)
            + publish_bytes("t", b"2")
            + subscribe_bytes(("t", 0), packet_id=3)
            + publish_bytes("t", b"3"),
            a
            < suback(0)
            + publish_bytes("t", b"1")
            + unsuback(2)
            + suback(0, packet_id=3)
            + publish_bytes("t", b"3"),
        ),
    ),
]


@pytest.mark.parametrize("case", SUBSCRIPTIONS, ids=by_sentence)
def test_subscriptions(case):
    play(case)


MATCHING = [  # filter, topics it matches, topics it does not
    ("#", ["t", "/", "t/", "/t", "a/b/c", " "], ["$x", "$x/y", "$"]),
    ("+", ["t", " "], ["/", "t/", "/t", "a/b", "$x"]),
    ("+/+", ["/", "a/b", "/b", "a/"], ["a", "a/b/c", "$x/y"]),
    ("/+", ["/", "/t"], ["t", "/t/", "//"]),
    ("/#", ["/", "/t", "//", "/a/b"], ["t", "a/b"]),
    ("+/#", ["a", "/", "a/b/c"], ["$x", "$x/y"]),
    ("t/#", ["t", "t/", "t/a", "t/a/b"], ["tt", "T/a", "/t", "u/t"]),
    ("t/+", ["t/a", "t/"], ["t", "t/a/b", "t//"]),
    ("t/+/b", ["t/a/b", "t//b"], ["t/b", "t/a/a/b", "t/a/b/"]),
    ("t/+/#", ["t/a", "t/", "t/a/b"], ["t"]),
    ("a//b", ["a//b"], ["a/b", "a/ /b"]),
    ("a/b/", ["a/b/"], ["a/b", "a/b//"]),
    ("e\u0301", ["e\u0301"], ["\u00e9", "e", "E\u0301"]),
]


def _matches(topic_filter, matched, unmatched):
    # What may not be published, such as `$x`, arrives nowhere either way.
    send = b"".join(publish_bytes(topic, b"no") for topic in unmatched)
    send += b"".join(publish_bytes(topic, b"yes") for topic in matched)
    return Case(
        f"[MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.2-1] [MQTT-4.7.3-4] {topic_filter!r}",
        (
            a.connects(),
            a.subscribes((topic_filter, 0)),
            a > send,
            a < b"".join(publish_bytes(topic, b"yes") for topic in matched),
        ),
    )


@pytest.mark.parametrize("case", [_matches(*row) for row in MATCHING], ids=by_sentence)
def test_filters_match_what_they_must(case):
    play(case)


@pytest.mark.parametrize(
    "topic_filter", ["a/#/b", "a#", "#a", "a/b#", "##", "a+", "+a", "a/+b", "a/b+/c", "++", "#/", "a/#/"]
)
def test_misplaced_wildcards_are_refused(topic_filter):
    """[MQTT-4.7.1-2] [MQTT-4.7.1-3]: 0x80, not the end of the connection."""
    play(
        Case(
            "",
            (
                a.connects(),
                a > subscribe_bytes(("t", 1), (topic_filter, 1)),
                a < suback(1, REFUSED),
                a > publish_bytes("a/b/c"),
            ),
        )
    )


ONE = b"\x00\x01"
BAD_PACKETS = {
    "SUBSCRIBE": {
        "[MQTT-2.3.1-1] an id of 0": frame(0x82, b"\x00\x00" + text("t") + b"\x00"),
        "no body": b"\x82\x00",
        "half an id": b"\x82\x01\x01",
        "[MQTT-3.8.3-3] no filter": frame(0x82, ONE),
        "half a length": frame(0x82, ONE + b"\x00"),
        "a filter that is longer than the packet": frame(0x82, ONE + b"\x00\x05t\x00"),
        "[MQTT-3.8.3-3] no QoS": frame(0x82, ONE + text("t")),
        "bytes left over": frame(0x82, ONE + text("t") + b"\x00\x00"),
        "[MQTT-4.7.3-1] an empty filter": frame(0x82, ONE + text("") + b"\x00"),
        "an empty filter after a good one": frame(0x82, ONE + text("t") + b"\x00" + text("") + b"\x00"),
        **{
            f"[MQTT-3.8.3-4] a QoS byte of {code:#04x}": frame(0x82, ONE + text("t") + bytes((code,)))
            for code in (3, 4, 8, 0x10, 0x20, 0x40, 0x80, 0xFF)
        },
    },
    "UNSUBSCRIBE": {
        "[MQTT-2.3.1-1] an id of 0": frame(0xA2, b"\x00\x00" + text("t")),
        "no body": b"\xa2\x00",
        "half an id": b"\xa2\x01\x01",
        "[MQTT-3.10.3-2] no filter": frame(0xA2, ONE),
        "half a length": frame(0xA2, ONE + b"\x00"),
        "a filter that is longer than the packet": frame(0xA2, ONE + b"\x00\x05t"),
        "[MQTT-4.7.3-1] an empty filter": frame(0xA2, ONE + text("")),
        "an empty filter after a good one": frame(0xA2, ONE + text("t") + text("")),
    },
}


@pytest.mark.parametrize("kind", BAD_PACKETS)
def test_bad_packets_end_the_connection(kind):
    """[MQTT-4.8.0-1]."""
    must_close(BAD_PACKETS[kind].items())
