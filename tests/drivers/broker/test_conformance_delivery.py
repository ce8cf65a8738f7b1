"""MQTT 3.1.1, chapters 4.3–4.6: messages to clients, their order, and what comes again after a break."""

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
    play,
    publish_bytes,
    text,
    unsuback,
)

a, b, c = Speaker("a"), Speaker("b"), Speaker("c")


def _kept(qos, *topics):
    """`a` has a persistent session with these filters."""
    return (a.connects(clean=False), a.subscribes(*((topic, qos) for topic in topics)))


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


OUTBOUND = [
    *(
        Case(
            f"[MQTT-3.8.4-6] published with QoS {published}, granted {granted}: the lower of the two",
            (
                a.connects(),
                a.subscribes(("t", granted)),
                b.connects(),
                *_sends(b, "t", b"x", qos=published),
                a.hears("t", qos=min(published, granted), tag="m"),
            ),
        )
        for published in (0, 1, 2)
        for granted in (0, 1, 2)
    ),
    Case(
        "[MQTT-3.3.1-3] [MQTT-3.3.1-2] DUP is not passed on",
        (
            a.connects(),
            a.subscribes(("t", 1), ("u", 0)),
            b.connects(),
            b > publish_bytes("t", qos=1, dup=True) + publish_bytes("u", qos=1, dup=True),
            b < ack(PUBACK, 1) * 2,
            a.hears("t", qos=1, tag="m"),
            a.hears("u"),
        ),
    ),
    Case(
        "[MQTT-2.3.1-4] messages under way have packet ids of their own, and not 0",
        (
            a.connects(),
            a.subscribes(("t", 2)),
            b.connects(),
            *_sends(b, "t", b"1", b"2", b"3", qos=1),
            *_sends(b, "t", b"4", b"5", qos=2),
            *(a.hears("t", b"%d" % number, qos=1, tag=str(number)) for number in (1, 2, 3)),
            *(a.hears("t", b"%d" % number, qos=2, tag=str(number)) for number in (4, 5)),
        ),
    ),
    Case(
        "[MQTT-4.3.3-1] QoS 2 to a client: PUBLISH, PUBREC, PUBREL, PUBCOMP, all with one id",
        (
            a.connects(),
            a.subscribes(("t", 2)),
            b.connects(),
            *_sends(b, "t", b"x", qos=2),
            a.hears("t", qos=2, tag="m"),
            a.answers(PUBREC, "m"),
            a.is_told(PUBREL, "m"),
            a.answers(PUBCOMP, "m"),
        ),
    ),
    Case(
        "[MQTT-4.3.3-1] every PUBREC is answered with PUBREL, also a repeated one",
        (
            a.connects(),
            a.subscribes(("t", 2)),
            b.connects(),
            *_sends(b, "t", b"x", qos=2),
            a.hears("t", qos=2, tag="m"),
            a.answers(PUBREC, "m"),
            a.is_told(PUBREL, "m"),
            a.answers(PUBREC, "m"),
            a.is_told(PUBREL, "m"),
            a.answers(PUBCOMP, "m"),
        ),
    ),
    Case(
        "[MQTT-4.3.3-1] and one for an id that is not under way: its sender waits for the answer",
        (a.connects(), a > ack(PUBREC, 7), a < ack(PUBREL, 7), a > ack(PUBCOMP, 7)),
    ),
    Case(
        "(4.3.2) PUBACK and PUBCOMP for an id that is not under way change nothing",
        (
            a.connects(),
            a > ack(PUBACK, 7) + ack(PUBCOMP, 8),
            a.subscribes(("t", 1)),
            a > publish_bytes("t", qos=1, packet_id=3),
            a.gets(ack(PUBACK, 3), publish_bytes("t", qos=1, packet_id=1)),
            a > ack(PUBACK, 1) * 2,
        ),
    ),
    *(
        Case(
            f"[MQTT-4.8.0-1] {names[wrong]} for {names['asks']} of QoS {qos} under way ends the connection",
            (
                a.connects(),
                a.subscribes(("t", 2)),
                b.connects(),
                *_sends(b, "t", b"x", qos=qos),
                a.hears("t", qos=qos, tag="m"),
                *((a.answers(PUBREC, "m"), a.is_told(PUBREL, "m")) if after_pubrel else ()),
                a.answers(wrong, "m"),
                a.is_closed(),
            ),
        )
        for qos, after_pubrel, wrong in (
            (1, False, PUBREC),
            (1, False, PUBCOMP),
            (2, False, PUBACK),
            (2, False, PUBCOMP),
            (2, True, PUBACK),
        )
        for names in (
            {
                PUBACK: "PUBACK",
                PUBREC: "PUBREC",
                PUBCOMP: "PUBCOMP",
                "asks": "PUBREL" if after_pubrel else "PUBLISH",
            },
        )
    ),
    Case(
        "[MQTT-4.6.0-6] [MQTT-4.6.0-5] messages arrive in the order they were published, for each QoS",
        (
            a.connects(),
            a.subscribes(("zero/#", 0), ("one/#", 1), ("two/#", 2)),
            b.connects(),
            *(
                step
                for topic, qos in (("zero/a", 0), ("one/a", 1), ("two/a", 2))
                for step in (
                    *_sends(b, topic, *(b"%d" % number for number in range(15)), qos=qos),
                    *(
                        a.hears(topic, b"%d" % number, qos=qos, tag=f"{topic}{number}")
                        for number in range(15)
                    ),
                    *(a.answers(PUBACK if qos == 1 else PUBREC, f"{topic}{n}") for n in range(15) if qos),
                    *(a.is_told(PUBREL, f"{topic}{n}") for n in range(15) if qos == 2),
                    *(a.answers(PUBCOMP, f"{topic}{n}") for n in range(15) if qos == 2),
                )
            ),
        ),
    ),
    Case(
        "[MQTT-4.6.0-4] PUBRELs leave in the order of the PUBRECs",
        (
            a.connects(),
            a.subscribes(("t", 2)),
            b.connects(),
            *_sends(b, "t", b"1", b"2", b"3", qos=2),
            *(a.hears("t", b"%d" % number, qos=2, tag=str(number)) for number in (1, 2, 3)),
            *(a.answers(PUBREC, tag) for tag in "312"),
            *(a.is_told(PUBREL, tag) for tag in "312"),
        ),
    ),
]


@pytest.mark.parametrize("case", OUTBOUND, ids=by_sentence)
def test_messages_to_clients(case):
    play(case)


def _again(tag, payload, qos, *, dup):
    return a.hears("t", payload, qos=qos, tag=tag, dup=dup)


REDELIVERY = [
    Case(
        "[MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1] QoS 1: unacknowledged messages come again, "
        "in order, with DUP and their ids",
        (
            *_kept(1, "t"),
            b.connects(),
            *_sends(b, "t", b"1", b"2", b"3", b"4", qos=1),
            *(_again(tag, tag.encode(), 1, dup=False) for tag in "1234"),
            a.answers(PUBACK, "2"),
            a.says_nothing_more(),
            a.drops(),
            a.connects(clean=False, present=True),
            *(_again(tag, tag.encode(), 1, dup=True) for tag in "134"),
            *(a.answers(PUBACK, tag) for tag in "134"),
            a.says_nothing_more(),
            a.drops(),
            a.connects(clean=False, present=True),
        ),
    ),
    Case(
        "[MQTT-4.4.0-1] QoS 2 before PUBREC: the message comes again with DUP and its id",
        (
            *_kept(2, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=2),
            _again("1", b"1", 2, dup=False),
            a.drops(),
            a.connects(clean=False, present=True),
            _again("1", b"1", 2, dup=True),
            a.answers(PUBREC, "1"),
            a.is_told(PUBREL, "1"),
            a.answers(PUBCOMP, "1"),
            a.says_nothing_more(),
            a.drops(),
            a.connects(clean=False, present=True),
        ),
    ),
    Case(
        "[MQTT-4.4.0-1] QoS 2 after PUBREC: PUBREL comes again, and never the message",
        (
            *_kept(2, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=2),
            _again("1", b"1", 2, dup=False),
            a.answers(PUBREC, "1"),
            a.is_told(PUBREL, "1"),
            a.drops(),
            a.connects(clean=False, present=True),
            a.is_told(PUBREL, "1"),
            a.drops(),
            a.connects(clean=False, present=True),
            a.is_told(PUBREL, "1"),
            a.answers(PUBCOMP, "1"),
            a.says_nothing_more(),
            a.drops(),
            a.connects(clean=False, present=True),
        ),
    ),
    Case(
        "[MQTT-4.4.0-1] after DISCONNECT as after a break",
        (
            *_kept(2, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=1),
            _again("1", b"1", 1, dup=False),
            a.leaves(),
            a.connects(clean=False, present=True),
            _again("1", b"1", 1, dup=True),
        ),
    ),
    Case(
        "[MQTT-4.4.0-1] after a takeover as after a break",
        (
            *_kept(1, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=1),
            _again("1", b"1", 1, dup=False),
            c.connects(client_id="a", clean=False, present=True),
            a.is_closed(),
            c.hears("t", b"1", qos=1, tag="1", dup=True),
        ),
    ),
    Case(
        "[MQTT-4.6.0-1] [MQTT-2.3.1-4] what comes again is before what waited, and ids do not collide",
        (
            *_kept(1, "t"),
            b.connects(),
            *_sends(b, "t", b"1", b"2", qos=1),
            *(_again(tag, tag.encode(), 1, dup=False) for tag in "12"),
            a.drops(),
            *_sends(b, "t", b"3", b"4", qos=1),
            a.connects(clean=False, present=True),
            *(_again(tag, tag.encode(), 1, dup=True) for tag in "12"),
            *(_again(tag, tag.encode(), 1, dup=False) for tag in "34"),
        ),
    ),
    Case(
        "[MQTT-3.3.1-1] a message that was never sent comes without DUP",
        (
            *_kept(1, "t"),
            a.leaves(),
            b.connects(),
            *_sends(b, "t", b"1", qos=1),
            a.connects(clean=False, present=True),
            _again("1", b"1", 1, dup=False),
            a.drops(),
            a.connects(clean=False, present=True),
            _again("1", b"1", 1, dup=True),
        ),
    ),
    Case(
        "(4.4) a client that was not asked to acknowledge again can still do it at once",
        (
            *_kept(1, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=1),
            _again("1", b"1", 1, dup=False),
            a.drops(),
            a.connects(clean=False, present=True),
            a.answers(PUBACK, "1"),
            _again("1", b"1", 1, dup=True),
            a.answers(PUBACK, "1"),
            *_sends(b, "t", b"2", qos=1),
            a.hears("t", b"2", qos=1, tag="2"),
        ),
    ),
    Case(
        "[MQTT-3.10.4-3] what is under way is completed after UNSUBSCRIBE, over a lost connection",
        (
            *_kept(2, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=1),
            *_sends(b, "t", b"2", qos=2),
            _again("1", b"1", 1, dup=False),
            _again("2", b"2", 2, dup=False),
            a > frame(0xA2, b"\x00\x05" + text("t")),
            a < unsuback(5),
            a.answers(PUBREC, "2"),
            a.is_told(PUBREL, "2"),
            a.drops(),
            *_sends(b, "t", b"3", qos=1),
            a.connects(clean=False, present=True),
            _again("1", b"1", 1, dup=True),
            a.is_told(PUBREL, "2"),
        ),
    ),
    Case(
        "[MQTT-3.1.2-6] a clean session has nothing to be delivered again",
        (
            *_kept(1, "t"),
            b.connects(),
            *_sends(b, "t", b"1", qos=1),
            _again("1", b"1", 1, dup=False),
            a.drops(),
            a.connects(),
        ),
    ),
]


@pytest.mark.parametrize("case", REDELIVERY, ids=by_sentence)
def test_messages_come_again_to_a_client_that_returns(case):
    play(case)
