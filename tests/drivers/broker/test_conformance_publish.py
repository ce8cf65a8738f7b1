"""MQTT 3.1.1, chapters 3.3–3.7 and 4.1–4.6: messages, their acknowledgements, their delivery and order."""

import pytest

from tests.drivers.broker.conversation import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Case,
    Speaker,
    ack,
    by_sentence,
    frame,
    must_close,
    play,
    publish_bytes,
    text,
)

a, b, c = Speaker("a"), Speaker("b"), Speaker("c")
SENSOR = "artemis/sensors/COW_001"
OTHERS_ONLY = "artemis/alerts/COW_001/fever"  # clients may subscribe, the gateway alone may publish


def _sends(speaker, topic, *payloads, qos):
    """A whole exchange for each message, as the sender sees it."""
    steps = []
    for number, payload in enumerate(payloads, start=100):
        steps.append(speaker > publish_bytes(topic, payload, qos=qos, packet_id=number))
        if qos == 1:
            steps.append(speaker < ack(PUBACK, number))
        if qos == 2:
            steps += [
                speaker < ack(PUBREC, number),
                speaker > ack(PUBREL, number),
                speaker < ack(PUBCOMP, number),
            ]
    return steps


INBOUND = [
    *(
        Case(
            f"[MQTT-4.3.1-1] [MQTT-3.3.4-1] QoS 0 on {where} is delivered once and not acknowledged",
            (
                b.connects(),
                b.subscribes((topic, 2)),
                a.connects(),
                a > publish_bytes(topic),
                a.says_nothing_more(),
                b < publish_bytes(topic),
            ),
        )
        for where, topic in (("a plain topic", "t"), ("an ingest row", SENSOR))
    ),
    *(
        Case(
            f"[MQTT-4.3.2-2] [MQTT-2.3.1-6] QoS 1 on {where} is acknowledged with its id",
            (
                a.connects(),
                a > publish_bytes(topic, qos=1, packet_id=1),
                a < ack(PUBACK, 1),
                a > publish_bytes(topic, qos=1, packet_id=0xFFFF, dup=True),
                a < ack(PUBACK, 0xFFFF),
            ),
        )
        for where, topic in (("a plain topic", "t"), ("an ingest row", SENSOR))
    ),
    Case(
        "[MQTT-4.3.2-2] after PUBACK the same id is a new message, with DUP or without",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.connects(),
            a > publish_bytes("t", b"1", qos=1, packet_id=5),
            a < ack(PUBACK, 5),
            a > publish_bytes("t", b"2", qos=1, packet_id=5, dup=True),
            a < ack(PUBACK, 5),
            b < publish_bytes("t", b"1") + publish_bytes("t", b"2"),
        ),
    ),
    *(
        Case(
            f"[MQTT-4.3.3-2] QoS 2 on {where} is delivered once, however often it comes before its PUBREL",
            (
                b.connects(),
                b.subscribes((topic, 0)),
                a.connects(),
                a > publish_bytes(topic, b"1", qos=2, packet_id=5),
                a < ack(PUBREC, 5),
                a > publish_bytes(topic, b"1", qos=2, packet_id=5, dup=True),
                a < ack(PUBREC, 5),
                a > publish_bytes(topic, b"1", qos=2, packet_id=5),
                a < ack(PUBREC, 5),
                a > ack(PUBREL, 5),
                a < ack(PUBCOMP, 5),
                a > publish_bytes(topic, b"2", qos=2, packet_id=5),
                a < ack(PUBREC, 5),
                b < publish_bytes(topic, b"1") + publish_bytes(topic, b"2"),
            ),
        )
        for where, topic in (("a plain topic", "t"), ("an ingest row", SENSOR))
    ),
    Case(
        "[MQTT-4.3.3-2] PUBREL is answered with PUBCOMP, also when its id is not known (any more)",
        (
            a.connects(),
            a > ack(PUBREL, 7),
            a < ack(PUBCOMP, 7),
            *_sends(a, "t", b"x", qos=2),
            a > ack(PUBREL, 100),
            a < ack(PUBCOMP, 100),
        ),
    ),
    Case(
        "(4.3.3) ids of QoS 1 and QoS 2 messages under way do not disturb each other",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.connects(),
            a > publish_bytes("t", b"two", qos=2, packet_id=5),
            a < ack(PUBREC, 5),
            a > publish_bytes("t", b"one", qos=1, packet_id=6),
            a < ack(PUBACK, 6),
            a > ack(PUBREL, 5),
            a < ack(PUBCOMP, 5),
            b < publish_bytes("t", b"two") + publish_bytes("t", b"one"),
        ),
    ),
    Case(
        "[MQTT-4.6.0-2] [MQTT-4.6.0-3] acknowledgements leave in the order of their messages",
        (
            a.connects(),
            a
            > b"".join(
                publish_bytes(SENSOR if number % 2 else "t", qos=1 + number % 2, packet_id=number)
                for number in (9, 8, 3, 4, 7)
            ),
            a < ack(PUBREC, 9) + ack(PUBACK, 8) + ack(PUBREC, 3) + ack(PUBACK, 4) + ack(PUBREC, 7),
            a > ack(PUBREL, 7) + ack(PUBREL, 9) + ack(PUBREL, 3),
            a < ack(PUBCOMP, 7) + ack(PUBCOMP, 9) + ack(PUBCOMP, 3),
        ),
    ),
    Case(
        "[MQTT-4.3.3-2] a persistent session remembers the ids it has received, over a lost connection",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.connects(clean=False),
            a > publish_bytes("t", b"1", qos=2, packet_id=5),
            a < ack(PUBREC, 5),
            a.drops(),
            a.connects(clean=False, present=True),
            a > publish_bytes("t", b"1", qos=2, packet_id=5, dup=True),
            a < ack(PUBREC, 5),
            a > ack(PUBREL, 5),
            a < ack(PUBCOMP, 5),
            a > publish_bytes("t", b"2", qos=2, packet_id=5),
            a < ack(PUBREC, 5),
            b < publish_bytes("t", b"1") + publish_bytes("t", b"2"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-6] a clean session does not",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.connects(),
            a > publish_bytes("t", b"1", qos=2, packet_id=5),
            a < ack(PUBREC, 5),
            a.drops(),
            a.connects(),
            a > publish_bytes("t", b"2", qos=2, packet_id=5, dup=True),
            a < ack(PUBREC, 5),
            b < publish_bytes("t", b"1") + publish_bytes("t", b"2"),
        ),
    ),
    *(
        Case(
            f"[MQTT-3.3.5-2] QoS {qos} that is not allowed is acknowledged and reaches nobody",
            (
                b.connects(),
                b.subscribes((OTHERS_ONLY, 2)),
                a.connects(),
                *_sends(a, OTHERS_ONLY, b"no", qos=qos),
                *_sends(a, "$SYS/broker/uptime", b"no", qos=qos),
                a.says_nothing_more(),
                b.says_nothing_more(),
            ),
        )
        for qos in (0, 1, 2)
    ),
    Case(
        "(3.3.3) a message may be empty",
        (
            a.connects(),
            a.subscribes(("t", 2)),
            a > publish_bytes("t", b""),
            a < publish_bytes("t", b""),
            a > publish_bytes("t", b"", qos=1, packet_id=3),
            a.gets(ack(PUBACK, 3), publish_bytes("t", b"", qos=1, packet_id=1)),
        ),
    ),
]


@pytest.mark.parametrize("case", INBOUND, ids=by_sentence)
def test_messages_from_clients(case):
    play(case)


BAD_PACKETS = {
    "[MQTT-2.3.1-1] QoS 1 with an id of 0": publish_bytes("t", qos=1, packet_id=0),
    "[MQTT-2.3.1-1] QoS 2 with an id of 0": publish_bytes("t", qos=2, packet_id=0),
    "[MQTT-3.3.1-4] QoS 3": frame(0x36, text("t") + b"\x00\x01x"),
    "[MQTT-3.3.1-4] QoS 3 with DUP and RETAIN": frame(0x3F, text("t") + b"\x00\x01x"),
    "[MQTT-3.3.1-2] DUP with QoS 0": publish_bytes("t", dup=True),
    "[MQTT-3.3.2-1] no topic": b"\x30\x00",
    "[MQTT-3.3.2-1] half a topic length": b"\x30\x01\x00",
    "[MQTT-3.3.2-1] a topic that is longer than the packet": frame(0x30, b"\x00\x09topic"),
    "[MQTT-3.3.2-1] QoS 1 without an id": frame(0x32, text("t")),
    "[MQTT-3.3.2-1] QoS 1 with half an id": frame(0x32, text("t") + b"\x01"),
    "[MQTT-3.3.2-2] a wildcard, +": publish_bytes("a/+"),
    "[MQTT-3.3.2-2] a wildcard, #": publish_bytes("a/#"),
    "[MQTT-4.7.1-1] a wildcard in the middle": publish_bytes("a+b#c", qos=1),
    "[MQTT-4.7.3-1] an empty topic": publish_bytes(""),
    "(2.2.3) a length of five digits": b"\x30\x80\x80\x80\x80\x01",
    "(2.2.3) 256 MB": b"\x30\xff\xff\xff\x7f",
    **{
        f"{name} {what}": data
        for name, first in (("PUBACK", 0x40), ("PUBREC", 0x50), ("PUBREL", 0x62), ("PUBCOMP", 0x70))
        for what, data in (
            ("[MQTT-2.3.1-1] with an id of 0", ack(first, 0)),
            ("without an id", bytes((first, 0))),
            ("with half an id", bytes((first, 1, 1))),
            ("with a byte too many", bytes((first, 3, 0, 1, 0))),
        )
    },
    "PINGREQ with a body": b"\xc0\x01\x00",
    "DISCONNECT with a body": b"\xe0\x01\x00",
    "a good packet and then a bad one": publish_bytes("t") + publish_bytes("#"),
}


@pytest.mark.parametrize("chapter", ["PUBLISH and the like", "acknowledgements"])
def test_bad_packets_end_the_connection(chapter):
    """[MQTT-4.8.0-1]."""
    of_acknowledgements = chapter == "acknowledgements"
    must_close(
        (name, data)
        for name, data in BAD_PACKETS.items()
        if name.startswith(("PUBACK", "PUBREC", "PUBREL", "PUBCOMP")) == of_acknowledgements
    )


def test_a_topic_of_65535_bytes_is_more_than_a_packet_may_hold():
    """[MQTT-4.7.3-3]."""
    must_close([("long", publish_bytes("t" * 65_535))])
