"""Reads and writes the bodies of MQTT 3.1.1 packets. Pure functions, no task."""

from __future__ import annotations

import msgspec

from gateway.core.topic_names import character_fault
from gateway.drivers.broker.framing import CONNACK, PUBLISH, SUBACK, UNSUBACK, MalformedError

PROTOCOL_LEVEL = 4  # MQTT 3.1.1

ACCEPTED = 0
BAD_PROTOCOL = 1
BAD_CLIENT_ID = 2
UNAVAILABLE = 3
BAD_CREDENTIALS = 4
NOT_AUTHORIZED = 5

SUBSCRIPTION_REFUSED = 0x80
PINGRESP_PACKET = b"\xd0\x00"


class Will(msgspec.Struct, frozen=True):
    """What is published when a connection ends without DISCONNECT."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Connect(msgspec.Struct, frozen=True):
    """A well-formed CONNECT."""

    client_id: str
    clean: bool
    keepalive_s: int
    will: Will | None
    username: str | None
    password: bytes | None


class WrongProtocolError(Exception):
    """MQTT, but not 3.1.1: it is told so (CONNACK 1)."""


def read_binary(body: bytes, position: int) -> tuple[bytes, int]:
    """Bytes with a two-byte length, and the position after them."""
    start = position + 2
    if start > len(body):
        raise MalformedError("a field is cut short")
    stop = start + ((body[position] << 8) | body[position + 1])
    if stop > len(body):
        raise MalformedError("a field is cut short")
    return body[start:stop], stop


def read_text(body: bytes, position: int) -> tuple[str, int]:
    """A string with a two-byte length (1.5.3), and the position after it."""
    raw, stop = read_binary(body, position)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise MalformedError("a string is not UTF-8") from fault
    why = character_fault(text)
    if why is not None:
        raise MalformedError(f"a string: {why}")
    return text, stop


def read_packet_id(body: bytes, position: int = 0) -> int:
    """The packet id at `position`; zero is malformed (2.3.1)."""
    if len(body) < position + 2:
        raise MalformedError("no packet id")
    packet_id = (body[position] << 8) | body[position + 1]
    if packet_id == 0:
        raise MalformedError("packet id 0")
    return packet_id


def read_connect(body: bytes) -> Connect:
    """Read a CONNECT (3.1).

    Raises:
        MalformedError: it breaks the standard; no answer is due.
        WrongProtocolError: MQTT 3.1 or 5; answer CONNACK 1.
    """
    name, position = read_text(body, 0)
    if name not in ("MQTT", "MQIsdp"):
        raise MalformedError(f"protocol name {name[:20]!r}")
    if position + 4 > len(body):
        raise MalformedError("CONNECT is cut short")
    if name != "MQTT" or body[position] != PROTOCOL_LEVEL:
        raise WrongProtocolError(f"{name} level {body[position]}")
    flags = body[position + 1]
    keepalive_s = (body[position + 2] << 8) | body[position + 3]
    if flags & 0x01:
        raise MalformedError("reserved CONNECT flag")
    client_id, position = read_text(body, position + 4)
    will = None
    if flags & 0x04:
        will, position = _read_will(body, position, flags)
    elif flags & 0x38:
        raise MalformedError("will flags without a will")
    username = password = None
    if flags & 0x80:
        username, position = read_text(body, position)
    if flags & 0x40:
        if username is None:
            raise MalformedError("a password without a user name")
        password, position = read_binary(body, position)
    if position != len(body):
        raise MalformedError("bytes after CONNECT")
    return Connect(client_id, bool(flags & 0x02), keepalive_s, will, username, password)


def _read_will(body: bytes, position: int, flags: int) -> tuple[Will, int]:
    qos = (flags >> 3) & 3
    if qos == 3:
        raise MalformedError("a will with QoS 3")
    topic, position = read_text(body, position)
    if not topic or "+" in topic or "#" in topic:
        raise MalformedError("a will with a bad topic")
    payload, position = read_binary(body, position)
    return Will(topic, payload, qos, bool(flags & 0x20)), position


def read_subscribe(body: bytes) -> tuple[int, list[tuple[str, int]]]:
    """Packet id and (filter, QoS) pairs of a SUBSCRIBE (3.8)."""
    packet_id, position = read_packet_id(body), 2
    wanted: list[tuple[str, int]] = []
    while position < len(body):
        topic_filter, position = read_text(body, position)
        if not topic_filter or position >= len(body):
            raise MalformedError("a subscription is cut short")
        qos = body[position]
        if qos > 2:
            raise MalformedError("a subscription with QoS 3")
        wanted.append((topic_filter, qos))
        position += 1
    if not wanted:
        raise MalformedError("SUBSCRIBE without a filter")
    return packet_id, wanted


def read_unsubscribe(body: bytes) -> tuple[int, list[str]]:
    """Packet id and filters of an UNSUBSCRIBE (3.10)."""
    packet_id, position = read_packet_id(body), 2
    filters: list[str] = []
    while position < len(body):
        topic_filter, position = read_text(body, position)
        if not topic_filter:
            raise MalformedError("an empty filter")
        filters.append(topic_filter)
    if not filters:
        raise MalformedError("UNSUBSCRIBE without a filter")
    return packet_id, filters


def frame(first: int, body: bytes) -> bytes:
    """A whole packet: fixed header and body."""
    length = len(body)
    if length < 0x80:
        return bytes((first, length)) + body
    header = bytearray((first,))
    while True:
        length, byte = length >> 7, length & 0x7F
        header.append(byte | 0x80 if length else byte)
        if not length:
            return bytes(header) + body


def text(value: str) -> bytes:
    """A string with its two-byte length."""
    raw = value.encode("utf-8")
    return len(raw).to_bytes(2, "big") + raw


def connack_packet(code: int, *, session_present: bool = False) -> bytes:
    """CONNACK (3.2)."""
    return bytes((CONNACK, 2, session_present, code))


def publish_packet(
    topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, retain: bool = False, dup: bool = False
) -> bytes:
    """PUBLISH (3.3); the packet id is left out with QoS 0."""
    first = PUBLISH | dup << 3 | qos << 1 | retain
    if qos == 0:
        return frame(first, text(topic) + payload)
    return frame(first, text(topic) + packet_id.to_bytes(2, "big") + payload)


def unsuback_packet(packet_id: int) -> bytes:
    """UNSUBACK (3.11)."""
    return bytes((UNSUBACK, 2)) + packet_id.to_bytes(2, "big")


def suback_packet(packet_id: int, codes: list[int]) -> bytes:
    """SUBACK (3.9)."""
    return frame(SUBACK, packet_id.to_bytes(2, "big") + bytes(codes))
