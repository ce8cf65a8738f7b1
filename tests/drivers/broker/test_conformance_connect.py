"""MQTT 3.1.1, chapters 1, 2 and 3.1–3.2: strings, headers, CONNECT and CONNACK."""

import pytest

from gateway.drivers.broker import DoorLimits
from tests.drivers.broker.conversation import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    Case,
    Speaker,
    ack,
    by_sentence,
    connack,
    connect_body,
    connect_bytes,
    frame,
    must_close,
    play,
    publish_bytes,
    suback,
    subscribe_bytes,
    text,
)

a, b, c = Speaker("a"), Speaker("b"), Speaker("c")
LIMIT_BYTES = DoorLimits().packet_size_max


def _long(first: int, length: int, digits: int) -> bytes:
    """A fixed header whose length is written with more digits than it needs."""
    out = bytearray((first,))
    for index in range(digits):
        out.append((length >> 7 * index) & 0x7F | (0x80 if index < digits - 1 else 0))
    return bytes(out)


BOM, ALEPH = "\ufeff", "A\U0002a6d4"

CASES = [
    # Strings.
    Case(
        "[MQTT-1.5.3-3] a byte order mark is a character like any other",
        (
            a.connects(),
            a.subscribes((f"{BOM}t", 0), ("t", 0)),
            a > publish_bytes(f"{BOM}t", b"marked"),
            a < publish_bytes(f"{BOM}t", b"marked"),
            a > publish_bytes("t", b"plain"),
            a < publish_bytes("t", b"plain"),
        ),
    ),
    Case(
        "[MQTT-1.5.3-1] characters of four bytes pass in ids, filters and topics",
        (
            a.connects(client_id=ALEPH),
            a.subscribes((f"{ALEPH}/+", 0)),
            a > publish_bytes(f"{ALEPH}/é"),
            a < publish_bytes(f"{ALEPH}/é"),
        ),
    ),
    # Fixed header.
    Case(
        "(2.2.3) lengths of one to three digits are read",
        (
            a.connects(),
            a.subscribes(("t", 0)),
            *(
                step
                for size in (0, 124, 125, 16380, 16381, LIMIT_BYTES - 3)
                for step in (a > publish_bytes("t", b"x" * size), a < publish_bytes("t", b"x" * size))
            ),
        ),
    ),
    Case(
        "(2.2.3) a packet one byte above the limit ends the connection",
        (a.connects(), a > publish_bytes("t", b"x" * (LIMIT_BYTES - 2)), a.is_closed()),
    ),
    Case(
        "(2.2.3) a length with needless digits is still that length",
        (
            a.connects(),
            a > _long(0xC0, 0, 2),
            a < PINGRESP,
            a > _long(0xC0, 0, 4),
            a < PINGRESP,
            a > _long(0x30, 4, 3) + text("t") + b"x",
        ),
    ),
    Case(
        "[MQTT-4.2.0-1] packets may come in any pieces",
        (
            a.opens(),
            *(a > bytes((byte,)) for byte in connect_bytes("a")),
            a < connack(),
            *(a > bytes((byte,)) for byte in subscribe_bytes(("t", 0)) + publish_bytes("t") + PINGREQ),
            a < suback(0) + publish_bytes("t") + PINGRESP,
        ),
    ),
    Case(
        "[MQTT-2.3.1-5] a QoS 0 message has no packet id",
        (
            a.connects(),
            a.subscribes(("t", 2)),
            a > publish_bytes("t", b"\x00\x01"),
            a < publish_bytes("t", b"\x00\x01"),
        ),
    ),
    Case(
        "[MQTT-2.3.1-7] SUBACK and UNSUBACK carry the id they answer, also the largest",
        (
            a.connects(),
            a > subscribe_bytes(("t", 0), packet_id=0xFFFF),
            a < suback(0, packet_id=0xFFFF),
            a > frame(0xA2, b"\xff\xff" + text("t")),
            a < ack(0xB0, 0xFFFF),
        ),
    ),
    # CONNECT.
    Case(
        "[MQTT-3.1.0-2] a second CONNECT ends the connection",
        (a.connects(), a > connect_bytes("a"), a.is_closed()),
    ),
    Case(
        "[MQTT-3.1.0-2] even one that would not be accepted",
        (a.connects(), a > connect_bytes("other", clean=False), a.is_closed()),
    ),
    Case(
        "(3.1.4) a client need not wait for CONNACK",
        (
            a.opens(),
            a
            > connect_bytes("a")
            + subscribe_bytes(("t", 1), packet_id=3)
            + publish_bytes("t", b"soon", packet_id=4)
            + PINGREQ,
            a < connack() + suback(1, packet_id=3) + publish_bytes("t", b"soon") + PINGRESP,
        ),
    ),
    Case(
        "[MQTT-3.2.0-1] CONNACK is the first packet of the server",
        (
            a.connects(clean=False),
            a.subscribes(("t", 1)),
            a.leaves(),
            b.connects(),
            b > publish_bytes("t", qos=1),
            b < ack(PUBACK, 1),
            a.connects(clean=False, present=True),
            a.hears("t", qos=1, tag="kept"),
        ),
    ),
    *(
        Case(
            f"[MQTT-3.1.2-2] {name} level {level} is told so, and the connection ends",
            (
                a.opens(),
                a > connect_body(name=text(name), level=level),
                a.is_closed(connack(1)),
            ),
        )
        for name, level in (("MQTT", 0), ("MQTT", 3), ("MQTT", 5), ("MQTT", 6), ("MQTT", 0xFF))
    ),
    Case(
        "[MQTT-3.1.2-2] an MQTT 5 CONNECT with properties and a will likewise",
        (
            a.opens(),
            a
            > connect_body(
                level=5, keepalive=b"\x00\x3c\x05\x11\x00\x00\x00\x0a", flags=6, tail=b"\x00" + text("w") * 2
            ),
            a.is_closed(connack(1)),
        ),
    ),
    Case(
        "[MQTT-3.1.4-5] nothing is done that follows a refused CONNECT",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.opens(),
            a > connect_body(level=5) + publish_bytes("t"),
            a.is_closed(connack(1)),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.2.2-4] a refusal never tells of a session",
        (
            a.connects(clean=False),
            a.leaves(),
            a.opens(),
            a > connect_body(client_id=text("a"), level=5, flags=0),
            a.is_closed(connack(1, present=False)),
            a.connects(clean=False, present=True),
        ),
    ),
    Case(
        "[MQTT-3.1.3-5] ids of 1 to 23 letters and digits are accepted",
        (a.connects(client_id="x"), b.connects(client_id="0123456789abcdefghijABC")),
    ),
    Case("(3.1.3.1) so are longer ones and other characters", (a.connects(client_id="collar 7/é" * 10),)),
    Case(
        "[MQTT-3.1.3-6] [MQTT-3.1.3-7] an empty id with clean session is given a name of its own",
        (
            a.connects(client_id=""),
            b.connects(client_id=""),
            a.says_nothing_more(),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "[MQTT-3.1.3-8] [MQTT-3.2.2-5] an empty id without clean session is refused",
        (a.opens(), a > connect_bytes("", clean=False), a.is_closed(connack(2))),
    ),
    Case(
        "(3.1.2.8) a user name may be empty, and a password may be any bytes",
        (
            a.connects(username=""),
            b.connects(username="u", password=b"\x00\xff\x00"),
            c.connects(username="u", password=b""),
        ),
    ),
    Case(
        "(3.1.2.8) a user name may come without a password",
        (a.connects(username="u"),),
    ),
    Case("(3.1.3.3) a will may be empty", (a.connects(will=("w", b"", 0, False)),)),
    # PINGREQ and DISCONNECT.
    Case("[MQTT-3.12.4-1] PINGREQ is answered", (a.connects(), a > PINGREQ * 3, a < PINGRESP * 3)),
    Case(
        "(3.14.4) the server closes after DISCONNECT and looks at nothing that follows",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.connects(),
            a > DISCONNECT + publish_bytes("t") + PINGREQ,
            a.is_closed(),
            b.says_nothing_more(),
        ),
    ),
    Case(
        "(3.14.4) what was sent before DISCONNECT is still done and answered",
        (
            b.connects(),
            b.subscribes(("t", 0)),
            a.connects(),
            a > publish_bytes("t", qos=1, packet_id=5) + DISCONNECT,
            a.is_closed(ack(PUBACK, 5)),
            b < publish_bytes("t"),
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=by_sentence)
def test_strings_headers_and_connect(case):
    play(case)


# What must end the connection. `_CLIENT_SENDS`: the first bytes that a client may send (2.2).
_CLIENT_SENDS = {0x10, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xE0} | {
    0x30 | flags for flags in range(16) if flags >> 1 & 3 < 3 and not (flags & 8 and not flags & 6)
}
_KINDS = {
    0x0: "reserved type 0",
    0x1: "CONNECT",
    0x2: "CONNACK",
    0x3: "PUBLISH",
    0x4: "PUBACK",
    0x5: "PUBREC",
    0x6: "PUBREL",
    0x7: "PUBCOMP",
    0x8: "SUBSCRIBE",
    0x9: "SUBACK",
    0xA: "UNSUBSCRIBE",
    0xB: "UNSUBACK",
    0xC: "PINGREQ",
    0xD: "PINGRESP",
    0xE: "DISCONNECT",
    0xF: "reserved type 15",
}
_BODIES = {
    0x1: connect_body()[2:],
    0x2: b"\x00\x00",
    0x3: text("t") + b"\x00\x01x",
    0x8: b"\x00\x01" + text("t") + b"\x00",
    0x9: b"\x00\x01\x00",
    0xA: b"\x00\x01" + text("t"),
} | dict.fromkeys((0x4, 0x5, 0x6, 0x7, 0xB), b"\x00\x01")


@pytest.mark.parametrize("kind", _KINDS, ids=_KINDS.get)
def test_reserved_flags_and_packets_of_the_server_end_the_connection(kind):
    """[MQTT-2.2.2-1] [MQTT-2.2.2-2] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1], 3.3.1."""
    must_close(
        (f"{first:#04x}", frame(first, _BODIES.get(kind, b"")))
        for first in range(kind << 4, (kind << 4) + 16)
        if first not in _CLIENT_SENDS
    )


def test_the_first_packet_must_be_connect():
    """[MQTT-3.1.0-1]."""
    others = [frame(first, _BODIES.get(first >> 4, b"")) for first in sorted(_CLIENT_SENDS - {0x10})]
    others += [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x00" * 8]
    must_close(((packet.hex(), packet) for packet in others), first=True)


ILL_FORMED = {
    "a surrogate, U+D800": b"\xed\xa0\x80",
    "a surrogate, U+DFFF": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "three bytes for two": b"\xe0\x82\xa9",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a lone continuation": b"\x80",
    "a character cut short": b"\xe2\x82",
    "Latin-1": b"K\xe4se",
    "NUL": b"\x00",
}
# The standard lets the server choose about these (1.5.3); topics of a barn have no use for them.
CONTROLS = {
    f"U+{code:04X}": chr(code).encode()
    for code in (0x01, 0x09, 0x1F, 0x7F, 0x80, 0x9F, 0xFDD0, 0xFFFF, 0x1FFFE)
}


def _field(value: bytes) -> bytes:
    value = b"t" + value
    return len(value).to_bytes(2, "big") + value


PLACES = {
    "[MQTT-3.1.3-4] client id": lambda value: connect_body(_field(value)),
    "[MQTT-3.1.3-10] will topic": lambda value: connect_body(flags=6, tail=_field(value) + text("m")),
    "[MQTT-3.1.3-11] user name": lambda value: connect_body(flags=0x82, tail=_field(value)),
    "[MQTT-3.3.2-1] topic": lambda value: frame(0x30, _field(value) + b"x"),
    "[MQTT-3.8.3-1] filter": lambda value: frame(0x82, b"\x00\x01" + _field(value) + b"\x00"),
    "[MQTT-3.10.3-1] filter to unsubscribe": lambda value: frame(0xA2, b"\x00\x01" + _field(value)),
}


@pytest.mark.parametrize("where", PLACES)
def test_ill_formed_strings_end_the_connection(where):
    """[MQTT-1.5.3-1] [MQTT-1.5.3-2] [MQTT-4.7.3-2]."""
    build = PLACES[where]
    first = build(b"")[0] == 0x10
    must_close(((name, build(value)) for name, value in ILL_FORMED.items()), first=first)


@pytest.mark.parametrize("where", PLACES)
def test_control_characters_and_noncharacters_end_the_connection(where):
    """(1.5.3) the server may choose; ours does."""
    build = PLACES[where]
    first = build(b"")[0] == 0x10
    must_close(((name, build(value)) for name, value in CONTROLS.items()), first=first)


BAD_CONNECTS = {
    "[MQTT-3.1.2-1] another protocol name": connect_body(name=text("MQTU")),
    "[MQTT-3.1.2-1] a shorter one": connect_body(name=text("MQT")),
    "[MQTT-3.1.2-1] a longer one": connect_body(name=text("MQTTT")),
    "[MQTT-3.1.2-1] lower case": connect_body(name=text("mqtt")),
    "[MQTT-3.1.2-1] none": connect_body(name=text("")),
    "[MQTT-3.1.2-3] the reserved flag": connect_body(flags=3),
    "[MQTT-3.1.2-9] a will flag and nothing else": connect_body(flags=6),
    "[MQTT-3.1.2-9] a will topic without a message": connect_body(flags=6, tail=text("w")),
    "[MQTT-3.1.2-11] a will without its flag": connect_body(flags=2, tail=text("w") * 2),
    "[MQTT-3.1.2-13] will QoS without a will": connect_body(flags=0x0A),
    "[MQTT-3.1.2-14] will QoS 3": connect_body(flags=0x1E, tail=text("w") * 2),
    "[MQTT-3.1.2-15] will retain without a will": connect_body(flags=0x22),
    "[MQTT-3.1.2-18] a user name without its flag": connect_body(tail=text("u")),
    "[MQTT-3.1.2-19] a flag without its user name": connect_body(flags=0x82),
    "[MQTT-3.1.2-20] a password without its flag": connect_body(flags=0x82, tail=text("u") * 2),
    "[MQTT-3.1.2-21] a flag without its password": connect_body(flags=0xC2, tail=text("u")),
    "[MQTT-3.1.2-22] a password without a user name": connect_body(flags=0x42, tail=text("p")),
    "[MQTT-3.1.3-3] no client id": connect_body(b""),
    "[MQTT-3.1.3-3] half a client id": connect_body(b"\x00\x05abc"),
    "[MQTT-3.3.2-2] a wildcard in the will topic": connect_body(flags=6, tail=text("w/#") + text("m")),
    "[MQTT-3.3.2-2] the other wildcard": connect_body(flags=6, tail=text("w/+") + text("m")),
    "[MQTT-4.7.3-1] an empty will topic": connect_body(flags=6, tail=text("") + text("m")),
    "a body of nothing": b"\x10\x00",
    "a length that cuts the fields off": b"\x10\x07" + connect_body(flags=0xC2, tail=text("u") * 2)[2:],
    "(2.2.3) a length of five digits": b"\x10\xff\xff\xff\xff\x01" + connect_body()[2:],
    "(2.2.3) five digits that say little": b"\x10\x8d\x80\x80\x80\x00" + connect_body()[2:],
}


def test_bad_connects_end_the_connection_without_connack():
    """[MQTT-3.1.4-1] [MQTT-3.2.2-6]."""
    must_close(BAD_CONNECTS.items(), first=True)


def test_a_bad_client_id_is_told_so():
    """[MQTT-3.1.3-9]."""
    must_close([("too long", connect_bytes("x" * 257))], first=True, rest=connack(2))
