"""Cuts a byte stream into MQTT 3.1.1 packets, one at a time. Pure state, no task.

The fixed header is judged as soon as it is there: a packet that is too large or that a
client may not send is refused before one byte of its body is kept.
"""

from __future__ import annotations

CONNECT = 0x10
CONNACK = 0x20
PUBLISH = 0x30
PUBACK = 0x40
PUBREC = 0x50
PUBREL = 0x62
PUBCOMP = 0x70
SUBSCRIBE = 0x82
SUBACK = 0x90
UNSUBSCRIBE = 0xA2
UNSUBACK = 0xB0
PINGREQ = 0xC0
DISCONNECT = 0xE0

_FORBIDDEN = -1
_ANY_LENGTH = 1 << 28  # one more than the largest length the header can say


class MalformedError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


def _lengths() -> tuple[int, ...]:
    """Largest remaining length for each first byte from a client; -1 if it may not be sent.

    The reserved flags are part of the first byte (2.2.2); QoS 3 and a duplicate of QoS 0
    are malformed (3.3.1).
    """
    table = [_FORBIDDEN] * 256
    for first in (CONNECT, SUBSCRIBE, UNSUBSCRIBE):
        table[first] = _ANY_LENGTH
    for flags in range(16):
        qos, duplicate = (flags >> 1) & 3, flags & 8
        if qos < 3 and not (duplicate and qos == 0):
            table[PUBLISH | flags] = _ANY_LENGTH
    for first in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        table[first] = 2
    for first in (PINGREQ, DISCONNECT):
        table[first] = 0
    return tuple(table)


_LENGTH_MAX = _lengths()


class Framer:
    """Holds the bytes of one connection that are not yet a whole packet.

    Any way of cutting the same stream into pieces gives the same packets, and the same
    fault at the same place. Not usable after a fault.

    Args:
        size_max: largest remaining length accepted.
    """

    __slots__ = ("_buffer", "_position", "_size_max", "_wanted")

    def __init__(self, size_max: int) -> None:
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._wanted = 2  # bytes from _position without which there is nothing to do
        self._size_max = size_max

    def __len__(self) -> int:
        return len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Add what has arrived."""
        if self._position == len(self._buffer):
            self._buffer = data
        elif isinstance(self._buffer, bytearray) and self._position == 0:
            self._buffer += data
        else:
            rest = bytearray(memoryview(self._buffer)[self._position :])
            rest += data
            self._buffer = rest
        self._position = 0

    def take(self) -> tuple[int, bytes] | None:
        """Return the next packet as (first byte, body), or None until more has arrived.

        Raises:
            MalformedError: a header that no client may send, or too long a packet.
        """
        buffer, start = self._buffer, self._position
        have = len(buffer) - start
        if have < self._wanted:
            if have and _LENGTH_MAX[buffer[start]] < 0:
                raise MalformedError(f"first byte 0x{buffer[start]:02x}")
            return None
        first = buffer[start]
        length = buffer[start + 1]
        body = start + 2
        if _LENGTH_MAX[first] < 0:
            raise MalformedError(f"first byte 0x{first:02x}")
        if length & 0x80:
            decoded = self._long_length(start, have)
            if decoded is None:
                return None
            length, body = decoded
        if length > self._size_max:
            raise MalformedError(f"a packet of {length} bytes; {self._size_max} are allowed")
        if length > _LENGTH_MAX[first]:
            raise MalformedError(f"a packet 0x{first:02x} of {length} bytes")
        stop = body + length
        if stop > len(buffer):
            self._wanted = stop - start
            return None
        self._position = stop
        self._wanted = 2
        return first, bytes(buffer[body:stop])

    def _long_length(self, start: int, have: int) -> tuple[int, int] | None:
        """Remaining length of two to four bytes (2.2.3), and where the body begins."""
        length = 0
        for index in range(4):
            if have < index + 2:
                return None
            byte = self._buffer[start + 1 + index]
            length |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                return length, start + 2 + index
        raise MalformedError("a remaining length of more than four bytes")
