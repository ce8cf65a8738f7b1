"""Columns of whole numbers as bytes, and back. Pure; runs in whatever thread packs or reads.

Each column is stored as the cheapest of three forms, in as few bits a number as its range needs,
after the greatest common divisor of the differences is divided out (a collar that sends hundredths
of g fills a column of thousandths with tens):

* offset: every value minus the smallest,
* delta: every step to the next value minus the smallest step (a clock that ticks costs nothing),
* runs: one bit a row, "another value than before?", and the offsets where it is.

Measured on an hour of one animal (60 rows, 12 columns; bytes a reading): this 10.5, delta + byte
shuffle + zlib 12.7, the same after dividing 11.3 (docs/decisions.md). There is no table of
codes to carry, which is what costs zlib its advantage on 60 rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

MISSING = -(2**63)
"""Stands for "not sent" in a column; no scaled value of a sensor comes near it."""
ROWS_MAX = 3_600_000
"""Rows a decoder believes: an hour has no more instants. A damaged count must not ask for the machine's
memory, and what was packed must come back, however fast a collar sent."""
_CRC_BYTES = 4
_WIDTH_MAX = 62
_OFFSET, _DELTA, _RUNS, _GAPS = range(4)
_WEIGHTS = tuple(1 << np.arange(width - 1, -1, -1, dtype=np.int64) for width in range(_WIDTH_MAX + 1))


class ColumnsError(ValueError):
    """Bytes that no encoder has written."""


def seal(form: int, body: bytes) -> bytes:
    """Bytes behind a CRC-32 (little-endian) and a byte that says how they are laid out."""
    sealed = bytes([form]) + body
    return zlib.crc32(sealed).to_bytes(_CRC_BYTES, "little") + sealed


def unseal(form: int, data: bytes) -> bytes:
    """What `seal` was given.

    Raises:
        ColumnsError: the checksum is wrong, or the layout is not the one asked for.
    """
    sealed = data[_CRC_BYTES:]
    if zlib.crc32(sealed).to_bytes(_CRC_BYTES, "little") != data[:_CRC_BYTES]:
        raise ColumnsError("has a wrong checksum")
    if sealed[:1] != bytes([form]):
        raise ColumnsError(f"is laid out in a way (0x{sealed[:1].hex()}) that this version does not know")
    return sealed[1:]


def encode(columns: Sequence[Int64]) -> bytes:
    """Columns of one length as bytes; `MISSING` where there is no value.

    Raises:
        ValueError: a column's range needs more than 62 bits.
    """
    out = bytearray()
    _put(out, len(columns[0]))
    for column in columns:
        _encode_column(out, column)
    return bytes(out)


def decode(data: bytes, wanted: Collection[int]) -> tuple[dict[int, Int64], int]:
    """The wanted columns by their place, and where the last of them ends; the others are skipped.

    Raises:
        ColumnsError: the bytes are cut off or absurd.
    """
    found: dict[int, Int64] = {}
    try:
        rows_n, at = _get(data, 0)
        if rows_n > ROWS_MAX:
            raise ColumnsError(f"claims {rows_n} rows")
        for place in range(max(wanted, default=-1) + 1):
            column, at = _decode_column(data, at, rows_n, wanted=place in wanted)
            if column is not None:
                found[place] = column
    except IndexError:
        raise ColumnsError("is cut off") from None
    return found, at


def _encode_column(out: bytearray, column: Int64) -> None:
    present = column != MISSING
    if not present.all():
        if not present.any():
            out.append(_GAPS << 6)
            return
        out.append(_GAPS << 6 | 1)
        out += np.packbits(present).tobytes()
        column = column[present]
    low = int(column.min())
    if int(column.max()) == low:  # most columns of most slices
        out.append(_OFFSET << 6)
        _put(out, _zigzag_one(low))
        _put(out, 1)
        return
    if int(column.max()) - low >= 1 << (_WIDTH_MAX - 2):
        raise ValueError(f"a column spans {int(column.max()) - low}, more than {_WIDTH_MAX} bits hold")
    steps = np.diff(column)
    divisor = int(np.gcd.reduce(steps)) if len(steps) else 0
    divisor = divisor or 1
    offsets = (column - low) // divisor
    least = int(steps.min()) if len(steps) else 0
    deltas = (steps - least) // divisor
    changed = steps != 0
    wide, narrow = _width(offsets), _width(deltas)
    n, runs_n = len(column), 1 + int(changed.sum())
    forms = ((n * wide, _OFFSET), ((n - 1) * narrow, _DELTA), (n - 1 + runs_n * wide, _RUNS))
    _, form = min(forms)
    out.append(form << 6 | (narrow if form == _DELTA else wide))
    _put(out, _zigzag_one(int(column[0]) if form == _DELTA else low))
    _put(out, divisor)
    if form == _DELTA:
        _put(out, _zigzag_one(least))
        out += _pack(deltas, narrow)
    elif form == _RUNS:
        out += np.packbits(changed).tobytes()
        out += _pack(offsets[np.concatenate(([True], changed))], wide)
    else:
        out += _pack(offsets, wide)


def _decode_column(data: bytes, at: int, n: int, *, wanted: bool) -> tuple[Int64 | None, int]:
    if n < 1:
        raise ColumnsError("claims a column without a value")
    form, width = data[at] >> 6, data[at] & 0x3F
    at += 1
    present = None
    if form == _GAPS:
        if width == 0:
            return (np.full(n, MISSING) if wanted else None), at
        present, at = _bits(data, at, n)
        inner, at = _decode_column(data, at, int(present.sum()), wanted=wanted)
        if inner is None:
            return None, at
        column = np.full(n, MISSING)
        column[present] = inner
        return column, at
    base, at = _get(data, at)
    divisor, at = _get(data, at)
    numbers_n = n
    least = 0
    if form == _DELTA:
        numbers_n = n - 1
        least, at = _get(data, at)
    elif form == _RUNS:
        present, at = _bits(data, at, n - 1)
        numbers_n = 1 + int(present.sum())
    end = at + (numbers_n * width + 7) // 8
    if end > len(data):
        raise ColumnsError("is cut off")
    if not wanted:
        return None, end
    numbers = _unpack(data, at, numbers_n, width)
    start = _unzigzag_one(base)
    if form == _DELTA:
        column = np.empty(n, np.int64)
        column[0] = start
        (numbers * divisor + _unzigzag_one(least)).cumsum(out=column[1:])
        column[1:] += start
        return column, end
    if form == _RUNS and present is not None:
        numbers = numbers[np.concatenate(([0], np.cumsum(present)))]
    return numbers * divisor + start, end


def _pack(numbers: Int64, width: int) -> bytes:
    """Numbers below 2**width as a stream of bits, highest first, filled up to a byte."""
    if width == 0:
        return b""
    shifts = np.arange(width - 1, -1, -1)
    return np.packbits(((numbers[:, None] >> shifts) & 1).astype(np.uint8)).tobytes()


def _unpack(data: bytes, at: int, n: int, width: int) -> Int64:
    if width == 0:
        return np.zeros(n, np.int64)
    if width > _WIDTH_MAX:
        raise ColumnsError(f"claims {width} bits a number")
    raw = np.frombuffer(data, np.uint8, (n * width + 7) // 8, at)
    bits = np.unpackbits(raw, count=n * width).reshape(n, width)
    return bits @ _WEIGHTS[width]


def _bits(data: bytes, at: int, n: int) -> tuple[npt.NDArray[np.bool_], int]:
    end = at + (n + 7) // 8
    if n < 0 or end > len(data):
        raise ColumnsError("is cut off")
    raw = np.frombuffer(data, np.uint8, end - at, at)
    return np.unpackbits(raw, count=n).astype(np.bool_), end


def _width(numbers: Int64) -> int:
    return int(numbers.max(initial=0)).bit_length()


def _zigzag_one(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag_one(value: int) -> int:
    value = (value >> 1) ^ -(value & 1)
    if not MISSING < value < -MISSING:
        raise ColumnsError(f"starts at {value}")
    return value


def _put(out: bytearray, value: int) -> None:
    """An unsigned number, seven bits a byte, lowest first."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _get(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ColumnsError("has a number without end")
