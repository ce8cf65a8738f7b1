from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.buckets import Buckets, bucketed, joined, last_in_minute, motion_of, widened

MINUTE = 60_000
HOUR = 3_600_000


def table(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = sorted(rows)
    cow = np.array([row[0] for row in rows], np.int32)
    instant = np.array([row[1] for row in rows], np.int64)
    return cow, instant, np.array([row[2] for row in rows], np.float64)


def listed(found: Buckets, channel: str = "x") -> list[tuple[object, ...]]:
    one = found.channels[channel]
    columns = (found.cow, found.start_ms, found.n, one.n, one.low, one.mean, one.high, one.last)
    return [tuple(row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def test_a_bucket_has_number_lowest_mean_highest_and_last() -> None:
    cow, instant, x = table([(1, 0, 3.0), (1, 500, 1.0), (1, 999, np.nan), (1, 1000, 8.0), (2, 0, 5.0)])
    found = bucketed(cow, instant, {"x": x}, 1000)
    assert listed(found) == [
        (1, 0, 3, 2, 1.0, 2.0, 3.0, 1.0),
        (1, 1000, 1, 1, 8.0, 8.0, 8.0, 8.0),
        (2, 0, 1, 1, 5.0, 5.0, 5.0, 5.0),
    ]


def test_a_channel_nobody_sent_is_no_number_and_nothing_is_nothing() -> None:
    cow, instant, x = table([(1, 0, np.nan)])
    (row,) = listed(bucketed(cow, instant, {"x": x}, 1000))
    assert row[:4] == (1, 0, 1, 0)
    assert all(np.isnan(value) for value in row[4:])
    assert listed(bucketed(*(column[:0] for column in (cow, instant)), {"x": x[:0]}, 1000)) == []
    assert listed(joined([], ["x"])) == []
    assert listed(widened(joined([], ["x"]), HOUR)) == []


ROWS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 5 * HOUR),
        st.one_of(st.integers(-50, 50).map(float), st.just(np.nan)),
    ),
    max_size=60,
    unique_by=lambda row: row[:2],
)


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_hours_out_of_minutes_are_hours_out_of_readings(rows: list[tuple[int, int, float]]) -> None:
    cow, instant, x = table(rows)
    narrow = bucketed(cow, instant, {"x": x}, MINUTE)
    halves = [narrow.take(narrow.start_ms % 2 * MINUTE == at) for at in (0, MINUTE)]
    direct, found = bucketed(cow, instant, {"x": x}, HOUR), widened(joined(halves, ["x"]), HOUR)
    for one, other in zip(listed(direct), listed(found), strict=True):
        assert other == pytest.approx(one, nan_ok=True)


def test_motion_is_measured_from_the_last_reading_of_the_minute_before() -> None:
    instants = [0, 30_000, MINUTE, 3 * MINUTE, 4 * MINUTE]
    cow = np.array([1] * 5 + [2], np.int32)
    instant = np.array([*instants, 5 * MINUTE], np.int64)
    x = np.array([9.0, 0.0, 3.0, 3.0, 3.0, 3.0])
    y = np.array([9.0, 0.0, 4.0, 4.0, 4.0, 4.0])
    told = np.array([np.nan] * 4 + [0.7, np.nan])
    found = motion_of(cow, instant, [x, y, np.zeros(6)], told)
    assert found.tolist() == pytest.approx([np.nan, np.nan, 5.0, np.nan, 0.7, np.nan], nan_ok=True)
    assert last_in_minute(cow, instant).tolist() == [False, True, True, True, True, True]
    assert motion_of(cow[:0], instant[:0], [x[:0]] * 3, told[:0]).tolist() == []
