from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store import chunks, columns
from gateway.store.columns import MISSING, ColumnsError

VALUES = st.one_of(
    st.integers(-(2**53), 2**53),
    st.integers(-200, 200),
    st.sampled_from([0, 60_000, 10, -10]),
    st.just(MISSING),
)
TABLES = st.integers(1, 90).flatmap(
    lambda n: st.lists(
        st.one_of(
            st.lists(VALUES, min_size=n, max_size=n),
            st.integers(-(2**40), 2**40).map(lambda value: [value] * n),
            st.integers(0, 2**41).map(lambda first: [first + 60_000 * at for at in range(n)]),
        ),
        min_size=1,
        max_size=4,
    )
)


@settings(deadline=None, max_examples=200)
@given(TABLES)
def test_any_columns_come_back_as_they_were(table: list[list[int]]) -> None:
    arrays = [np.array(column, np.int64) for column in table]
    data = columns.encode(arrays)
    found, end = columns.decode(data, range(len(arrays)))
    assert end == len(data)
    for place, array in enumerate(arrays):
        assert found[place].tolist() == array.tolist()
    last = len(arrays) - 1
    only, _ = columns.decode(data, {last})
    assert list(only) == [last]
    assert only[last].tolist() == arrays[last].tolist()


def test_an_hour_with_a_reading_every_millisecond_comes_back() -> None:
    instants = 1_764_000_000_000 + np.arange(3_600_000)
    found, _ = columns.decode(columns.encode([instants]), {0})
    assert np.array_equal(found[0], instants)


@pytest.mark.parametrize(
    ("column", "bytes_max"),
    [
        ([38_50] * 60, 6),  # nothing changes: base, divisor, no bits
        ([1_764_081_000_000 + 60_000 * at for at in range(60)], 20),  # once a minute
        ([10 * (at % 7) for at in range(60)], 30),  # hundredths in a column of thousandths: 3 bits
        ([1] * 30 + [2] * 20 + [1] * 10, 20),  # a state that changes twice
        ([MISSING] * 60, 2),
    ],
)
def test_what_a_collar_sends_is_small(column: list[int], bytes_max: int) -> None:
    assert len(columns.encode([np.array(column, np.int64)])) <= bytes_max


def test_a_range_that_no_sensor_has_is_refused_and_not_wrapped() -> None:
    with pytest.raises(ValueError, match="62 bits"):
        columns.encode([np.array([-(2**62), 2**62], np.int64)])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_bytes_nobody_has_written_are_an_error_and_never_a_crash(data: bytes) -> None:
    try:
        found, end = columns.decode(data, range(12))
    except ColumnsError:
        return
    assert end <= len(data)
    assert len({len(column) for column in found.values()}) == 1


def row(at: int, **more: object) -> tuple[object, ...]:
    fields: dict[str, object] = {
        "ts_ms": 1_764_081_000_000 + at * 60_000,
        "animal": 7,
        "temperature": 3850 + at % 3,
        "fxa": -40,
        "mya": 10,
        "rza": -880,
        "sxg": None,
        "lyg": 14,
        "dzg": None if at % 2 else -3,
        "state": 1,
        "motion": None,
        "received": 1_764_081_000_000 + at * 59_000,
        "flags": 0,
    }
    return tuple((fields | more).values())


def test_a_chunk_gives_back_every_row_and_every_word() -> None:
    rows = [row(0), row(1, state=None), row(2, state="kicking"), row(3, state="1"), row(4, state="kicking")]
    assert chunks.rows_of(chunks.encode(rows), 7) == rows


def test_arrival_is_kept_to_the_second() -> None:
    rows = [row(at, ts_ms=1_764_081_000_250 + at, received=1_764_081_009_999 + at) for at in range(3)]
    back = chunks.rows_of(chunks.encode(rows), 7)
    assert [one[0] for one in back] == [one[0] for one in rows]
    assert [one[11] for one in back] == [1_764_081_009_000, 1_764_081_010_000, 1_764_081_010_000]
    assert chunks.rows_of(chunks.encode(back), 7) == back


def test_a_flipped_bit_anywhere_in_a_chunk_is_found() -> None:
    data = chunks.encode([row(at, state="wandering") for at in range(60)])
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 0x10
        with pytest.raises(chunks.ChunkError):
            chunks.decode(bytes(broken))


def test_a_chunk_cut_off_with_a_good_checksum_is_an_error_too() -> None:
    body = chunks.encode([row(at) for at in range(60)])[4:-20]
    with pytest.raises(chunks.ChunkError, match="is cut off"):
        chunks.decode(zlib.crc32(body).to_bytes(4, "little") + body)


def test_what_is_on_the_cards_already_stays_readable() -> None:
    """Bytes as this form was first written: who changes the layout gives it another number."""
    chunk = bytes.fromhex(
        "154262ce11034080f9deb6d766e0d403c0a90740943c0102004f0100140100df0d01c14000bf0401001c01c1"
        "a0000501c14000f40301010102a0400001010000015b226b69636b696e67225d"
    )
    assert chunks.rows_of(chunk, 7) == [row(0), row(1, state="kicking", sxg=-288, motion=250), row(2)]
    assert chunks.encode(chunks.rows_of(chunk, 7)) == chunk
    other = columns.seal(chunks.FORM + 1, columns.unseal(chunks.FORM, chunk))
    with pytest.raises(chunks.ChunkError, match=r"laid out in a way \(0x12\)"):
        chunks.decode(other)
