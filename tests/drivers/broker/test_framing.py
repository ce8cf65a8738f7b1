import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drivers.broker import packets as p
from gateway.drivers.broker.framing import CONNECT, PUBLISH, Framer, MalformedError
from tests.drivers.broker.harness import subscribe_bytes

SIZE_MAX = 300


def packets_of(pieces):
    """All packets, and the fault that ended them."""
    framer = Framer(SIZE_MAX)
    found = []
    try:
        for piece in pieces:
            framer.feed(piece)
            while (packet := framer.take()) is not None:
                found.append(packet)
    except MalformedError as fault:
        return found, str(fault)
    return found, len(framer)


def cut(data, places):
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(marks) if a < b]


GOOD = st.builds(
    p.frame,
    st.sampled_from([CONNECT, PUBLISH, PUBLISH | 2, PUBLISH | 0xD, 0x82, 0xA2]),
    st.binary(max_size=SIZE_MAX),
)
SHORT = st.sampled_from([b"\xc0\x00", b"\xe0\x00", b"\x40\x02\x00\x01", b"\x62\x02\x00\x07"])
STREAM = st.lists(st.one_of(GOOD, SHORT, st.binary(max_size=6)), max_size=8).map(b"".join)


@given(STREAM, st.lists(st.integers(0, 4000), max_size=12))
def test_any_cut_of_a_stream_gives_the_same_packets_and_the_same_end(data, places):
    whole = packets_of([data])
    assert packets_of(cut(data, places)) == whole
    assert packets_of([data[i : i + 1] for i in range(len(data))]) == whole


@given(st.lists(st.one_of(GOOD, SHORT), max_size=8))
def test_good_packets_come_out_as_they_went_in(stream):
    found, left = packets_of([b"".join(stream)])
    assert left == 0
    assert [p.frame(first, body) for first, body in found] == stream


@pytest.mark.parametrize(
    "first",
    [
        0x00,
        0x11,
        0x20,
        0x36,
        0x37,
        0x38,
        0x39,
        0x3E,
        0x41,
        0x52,
        0x60,
        0x72,
        0x80,
        0x90,
        0xA0,
        0xC1,
        0xD0,
        0xE1,
        0xF0,
    ],
)
def test_first_bytes_that_no_client_may_send(first):
    _, fault = packets_of([bytes((first,))])
    assert f"0x{first:02x}" in fault


def test_the_size_limit_comes_from_the_header_alone():
    assert packets_of([b"\x30\xad\x02"]) == ([], "a packet of 301 bytes; 300 are allowed")
    assert packets_of([b"\x30\xac\x02"]) == ([], 3)


def test_a_length_of_five_bytes_is_malformed():
    assert packets_of([b"\x30\xff\xff\xff\xff\x01"])[1] == "a remaining length of more than four bytes"
    assert packets_of([b"\x30\x80\x80\x80\x00"]) == ([(0x30, b"")], 0)


@pytest.mark.parametrize("packet", [b"\x40\x03\x00\x01\x00", b"\xc0\x01\x00", b"\xe0\x02\x00\x00"])
def test_packets_of_fixed_length_are_no_longer(packet):
    assert "bytes" in packets_of([packet])[1]


def test_one_byte_at_a_time_stays_cheap():
    framer = Framer(65_536)
    data = p.frame(PUBLISH, bytes(60_000))
    for index in range(len(data)):
        framer.feed(data[index : index + 1])
        packet = framer.take()
    assert packet == (PUBLISH, bytes(60_000))


@given(st.binary(max_size=60))
def test_random_bodies_are_read_or_malformed(body):
    for read in (p.read_connect, p.read_subscribe, p.read_unsubscribe, p.read_packet_id):
        try:
            read(body)
        except (MalformedError, p.WrongProtocolError):
            continue


@pytest.mark.parametrize(
    "filters",
    [[("a", 0)], [("a/+", 1), ("b/#", 2)], [("ä/" + "x" * 200, 2)]],
)
def test_subscribe_packets_survive_the_round_trip(filters):
    framer = Framer(65_536)
    framer.feed(subscribe_bytes(*filters, packet_id=7))
    _, body = framer.take()
    assert p.read_subscribe(body) == (7, filters)


BAD_CONNECTS = {
    "reserved flag": (b"\x00\x04MQTT\x04\x03\x00\x00\x00\x01a", MalformedError),
    "will QoS without will": (b"\x00\x04MQTT\x04\x0a\x00\x00\x00\x01a", MalformedError),
    "will retain without will": (b"\x00\x04MQTT\x04\x22\x00\x00\x00\x01a", MalformedError),
    "will QoS 3": (b"\x00\x04MQTT\x04\x1e\x00\x00\x00\x01a\x00\x01t\x00\x00", MalformedError),
    "will to a wildcard": (b"\x00\x04MQTT\x04\x06\x00\x00\x00\x01a\x00\x01#\x00\x00", MalformedError),
    "password alone": (b"\x00\x04MQTT\x04\x42\x00\x00\x00\x01a\x00\x01p", MalformedError),
    "bytes after": (b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01ab", MalformedError),
    "cut short": (b"\x00\x04MQTT\x04\x02\x00", MalformedError),
    "id not UTF-8": (b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff", MalformedError),
    "id with NUL": (b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01\x00", MalformedError),
    "other protocol": (b"\x00\x04HTTP\x04\x02\x00\x00\x00\x01a", MalformedError),
    "level 5": (b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a", p.WrongProtocolError),
    "level 3": (b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01a", p.WrongProtocolError),
}


@pytest.mark.parametrize("name", BAD_CONNECTS)
def test_bad_connects(name):
    body, fault = BAD_CONNECTS[name]
    with pytest.raises(fault):
        p.read_connect(body)


def test_a_full_connect_is_read():
    body = b"\x00\x04MQTT\x04\xee\x00\x3c\x00\x01a\x00\x01t\x00\x02\x00w\x00\x01u\x00\x03p\xff\x00"
    assert p.read_connect(body) == p.Connect(
        "a",
        clean=True,
        keepalive_s=60,
        will=p.Will("t", b"\x00w", 1, True),
        username="u",
        password=b"p\xff\x00",
    )
