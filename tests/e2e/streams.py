"""Byte streams for the fuzz rig: MQTT 3.1.1 that is right, nearly right, and not right at all.

Two makers. `sessions()` is a hypothesis strategy that puts packets together from fields, any of which may
be wrong (lengths, flags, ids, order, a cut at any byte). `mutant()` damages valid sessions blindly: flips,
insertions, deletions, repeats, splices; the same seed gives the same bytes.
"""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import strategies as st

from tests.bench.load import publish_packet

TOPICS = (b"artemis/sensors/FUZZ", b"test/fuzz", b"test/nosubscribe", b"artemis/alerts/FUZZ", b"a/b/c")
FILTERS = (*TOPICS, b"artemis/sensors/FUZZ/#", b"test/+", b"a/+/c", b"a/#")
"""None matches the topic of the client whose messages are counted."""
ODD_BYTES = (0x00, 0x01, 0x10, 0x30, 0x7F, 0x80, 0x82, 0xC0, 0xE0, 0xFF)
MUTATIONS_MAX = 8
SPLICED_MAX = 3
TEXT_BYTES_MAX = 300


def remaining_length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes((first,)) + remaining_length(len(body)) + body


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def connect(client_id: bytes = b"fuzz", flags: int = 0x02, tail: bytes = b"", keepalive: int = 60) -> bytes:
    body = text(b"MQTT") + bytes((4, flags)) + keepalive.to_bytes(2, "big") + text(client_id) + tail
    return packet(0x10, body)


def publish(topic: bytes, payload: bytes, first: int = 0x32, packet_id: int = 1) -> bytes:
    return packet(first, text(topic) + (packet_id.to_bytes(2, "big") if first & 0x06 else b"") + payload)


def subscribe(packet_id: int, *wanted: tuple[bytes, int]) -> bytes:
    fields = b"".join(text(name) + bytes((qos,)) for name, qos in wanted)
    return packet(0x82, packet_id.to_bytes(2, "big") + fields)


def corpus() -> list[bytes]:
    """Sessions without a fault, touching every packet a client may send."""
    goodbye = packet(0xE0)
    will = connect(b"fuzz-will", 0x2E, text(b"test/will") + text(b"gone"))
    login = connect(b"fuzz-login", 0xC2, text(b"user") + text(b"password"))
    readings = b"".join(publish_packet("FUZZ", number, number + 1) for number in range(80))
    qos_2 = publish(b"test/fuzz", b"twice", 0x34, 7) + packet(0x62, b"\x00\x07")
    return [
        connect() + goodbye,
        connect() + readings + goodbye,
        connect() + publish(b"artemis/sensors/FUZZ", b'{"cow_id": "FUZZ"}', packet_id=9) + packet(0xC0),
        connect() + publish(b"test/fuzz", b"kept", 0x33) + publish(b"test/fuzz", b"", 0x31) + goodbye,
        connect() + qos_2 + qos_2 + goodbye,
        connect(b"fuzz-kept", 0x00) + subscribe(3, (b"test/+", 2), (b"a/#", 1)) + qos_2 + packet(0xC0),
        connect(b"fuzz-kept", 0x00) + packet(0x40, b"\x00\x01") + packet(0x50, b"\x00\x02"),
        connect() + subscribe(1, (b"test/fuzz", 1)) + publish(b"test/fuzz", b"echo") + goodbye,
        connect() + subscribe(2, (b"a/+/c", 0)) + packet(0xA2, b"\x00\x04" + text(b"a/+/c")) + goodbye,
        connect() + publish(b"a/b/c", bytes(20_000)) + goodbye,
        will + publish(b"a/b/c", b"x", 0x30),
        login + packet(0xC0) + goodbye,
        packet(0x10, text(b"MQIsdp") + b"\x03\x02\x00\x3c" + text(b"old")),
        packet(0x10, text(b"MQTT") + b"\x05\x02\x00\x3c\x00" + text(b"new")),
    ]


_CORPUS = corpus()


def mutant(seed: str) -> list[bytes]:
    """A damaged session in the pieces in which it is sent."""
    dice = random.Random(seed)
    stream = bytearray(dice.choice(_CORPUS))
    for _ in range(dice.randrange(SPLICED_MAX)):
        other = dice.choice(_CORPUS)
        stream[dice.randrange(len(stream) + 1) :] = other[dice.randrange(len(other)) :]
    for _ in range(dice.randint(1, MUTATIONS_MAX)):
        _damage(stream, dice)
    cuts = sorted(dice.randrange(len(stream) + 1) for _ in range(dice.randrange(4)))
    return _cut(bytes(stream), cuts)


def _damage(stream: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(stream)) if stream else 0
    until = min(len(stream), at + dice.choice((1, 2, 4, 16, 200)))
    kind = dice.randrange(5)
    if kind == 0 and stream:
        stream[at] ^= 1 << dice.randrange(8)
    elif kind == 1 and stream:
        stream[at] = dice.choice(ODD_BYTES)
    elif kind == 2:
        stream[at:at] = dice.randbytes(dice.choice((1, 2, 16, 300)))
    elif kind == 3:
        del stream[at:until]
    else:
        stream[at:at] = stream[at:until]


def _cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *cuts, len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges) if start < stop]


# The strategy. A field is right most of the time, so that what follows it is reached.

_odd_text = st.one_of(
    st.binary(max_size=TEXT_BYTES_MAX).map(text),
    st.text(max_size=20).map(lambda value: text(value.encode("utf-8", "surrogatepass"))),
    st.sampled_from((b"", b"\x00", b"\x00\x00", b"\xff\xff", b"\x00\x05abc", text(b"\x00"), text(b"a/#/b"))),
    st.sampled_from((text(b"+"), text(b"#"), text(b"$SYS/x"), text(b"\xed\xa0\x80"), text(b"/" * 200))),
)


def _mostly(right: st.SearchStrategy[bytes], wrong: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.integers(0, 7).flatmap(lambda dice: wrong if dice == 0 else right)


_topic = _mostly(st.sampled_from(TOPICS).map(text), _odd_text)
_filter = _mostly(st.sampled_from(FILTERS).map(text), _odd_text)
_packet_id = _mostly(
    st.integers(1, 65535).map(lambda number: number.to_bytes(2, "big")),
    st.sampled_from((b"", b"\x00", b"\x00\x00", b"\x00\x01\x02")),
)
_reading = st.integers(0, 500).map(lambda number: publish_packet("FUZZ", number, 1).partition(b"{")[2])
_payload = st.one_of(
    st.binary(max_size=TEXT_BYTES_MAX),
    _reading.map(lambda rest: b"{" + rest),
    st.sampled_from((b"", b"{}", b"[" * 500, b'{"cow_id":"FUZZ","temperature":1e999}', bytes(70_000))),
)
_client_id = _mostly(st.sampled_from((b"fuzz", b"fuzz-2", b"")).map(text), _odd_text)
_connect = st.builds(
    lambda name, level, flags, keepalive, client_id, tail: packet(
        0x10, name + bytes((level, flags)) + keepalive.to_bytes(2, "big") + client_id + b"".join(tail)
    ),
    _mostly(st.just(text(b"MQTT")), _odd_text),
    st.sampled_from((4, 4, 4, 4, 4, 3, 5, 0x84)),
    st.one_of(st.sampled_from((0x02, 0x00)), st.integers(0, 255)),
    st.sampled_from((0, 1, 60, 65535)),
    _client_id,
    st.lists(_topic, max_size=4),
)
_publish = st.builds(
    lambda flags, topic, packet_id, payload: packet(
        0x30 | flags, topic + (packet_id if flags & 0x06 else b"") + payload
    ),
    st.sampled_from((0, 1, 2, 3, 4, 5, 10, 12, 6, 8)),
    _topic,
    _packet_id,
    _payload,
)
_subscribe = st.builds(
    lambda first, packet_id, wanted: packet(first, packet_id + b"".join(wanted)),
    st.sampled_from((0x82, 0x82, 0x82, 0x80)),
    _packet_id,
    st.lists(st.builds(lambda name, qos: name + bytes((qos,)), _filter, st.integers(0, 3)), max_size=5),
)
_unsubscribe = st.builds(
    lambda first, packet_id, names: packet(first, packet_id + b"".join(names)),
    st.sampled_from((0xA2, 0xA2, 0xA2, 0xA0)),
    _packet_id,
    st.lists(_filter, max_size=5),
)
_answer = st.builds(packet, st.sampled_from((0x40, 0x50, 0x62, 0x60, 0x70)), _packet_id)
_short = st.sampled_from((packet(0xC0), packet(0xE0), packet(0xC0, b"\x00"), packet(0xD0)))
_foreign = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from(
        (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x30\xff\xff\xff\xff", b"\x30\xff\xff\xff\x7f")
    ),
)
_any = st.one_of(_publish, _publish, _subscribe, _unsubscribe, _answer, _short, _connect, _foreign)


@st.composite
def sessions(draw: st.DrawFn) -> list[bytes]:
    """A session in the pieces in which it is sent."""
    opening = draw(_mostly(st.just(connect()), _mostly(_connect, st.just(b""))))
    stream = opening + b"".join(draw(st.lists(_any, max_size=8)))
    if draw(st.booleans()):
        stream = stream[: draw(st.integers(0, len(stream)))]
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=3))
    return _cut(stream, sorted(cuts))
