"""When messages arrive, per animal: what silence and rejected messages are judged on.

Arrays over the herd, O(animals). Fed on the event loop, read by the detectors' worker thread under
the lock of services/detect. Arrival time is the gateway's monotonic clock: it never steps
(decision 6), so neither a set clock nor a collar's wrong date can feign a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.rows import AnimalRows

ARRIVALS_MIN = 10
"""Arrivals before an animal's silence is judged (decision 6)."""
BURST_S = 1.0
"""Messages closer than this are one burst (a collar emptying its memory), no reporting interval."""
LEARN_GAIN = 0.2
"""Weight of a new interval, once five are known; before that a plain mean."""
LEARN_STEP_MAX = 1.0
"""A single interval moves the logarithm by at most gain × this, so one long gap teaches little."""
GAP_KEPT_S = 300.0
"""Shorter waits are never kept as a gap: half of the shortest silence anyone judges (10 min), so
that an animal's last real gap stays known until its next one."""
VERDICTS = 10
"""Messages remembered per animal for the share of rejected ones."""
_VERDICT_MASK = (1 << VERDICTS) - 1

Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Arrivals(msgspec.Struct, frozen=True):
    """Arrival bookkeeping of the animals of a window, one entry each; seconds are monotonic.

    Args:
        now_s: the moment of the look.
        last_s: last arrival, NaN if none since boot.
        last_ms: data time of the newest reading when it arrived (UTC epoch ms).
        n: arrivals since boot.
        interval_s: learned reporting interval, NaN if unknown.
        gap_from_s, gap_to_s: the longest closed gap since the last look that had one, NaN if there
            never was one; a gap that opened and closed between two looks is in here whatever the
            phase of the looks.
        gap_from_ms, gap_to_ms: data time of the readings on either side of it.
        gap_new: whether that gap closed since the last look (else it is an older one).
        heard: whether anything arrived since the last look.
    """

    now_s: float
    last_s: Float64
    last_ms: Int64
    n: Int64
    interval_s: Float64
    gap_from_s: Float64
    gap_to_s: Float64
    gap_from_ms: Int64
    gap_to_ms: Int64
    gap_new: Bools
    heard: Bools


class Rejects(msgspec.Struct, frozen=True):
    """What was refused of each animal's last ten messages (decision 10).

    Args:
        temperature_n: refused for their temperature, the ones in `hot_n` left out.
        other_n: refused for acceleration or for missing or mistyped fields.
        hot_n: refused for a temperature of 42.0–44.0 °C: fever or fault, the detectors decide.
        minute: data minute of the last refused one, -1 if none.
        hot_minute: data minute of the last hot one, -1 if none.
        hot_c: its temperature, °C.
    """

    temperature_n: Int32
    other_n: Int32
    hot_n: Int32
    minute: Int32
    hot_minute: Int32
    hot_c: Float64


def _learned(log_s: float, known_n: int, interval_s: float) -> float:
    """Robust mean of the logarithm: near the median, and one outlier moves it by ≤ 20 %."""
    if known_n == 0:
        return math.log(interval_s)
    step = max(-LEARN_STEP_MAX, min(LEARN_STEP_MAX, math.log(interval_s) - log_s))
    return log_s + step * max(LEARN_GAIN, 1.0 / (known_n + 1))


class ArrivalBook(AnimalRows):
    """Arrival times of every animal, by row."""

    def __init__(self, capacity: int) -> None:
        self._last_s = np.full(capacity, np.nan)
        self._last_ms = np.zeros(capacity, np.int64)
        self._n = np.zeros(capacity, np.int64)
        self._log_interval = np.full(capacity, np.nan)
        self._intervals_n = np.zeros(capacity, np.int64)
        self._gap_s = np.full((capacity, 2), np.nan)
        self._gap_ms = np.zeros((capacity, 2), np.int64)
        self._gap_new = np.zeros(capacity, np.bool_)
        self._heard = np.zeros(capacity, np.bool_)

    def arrived(self, row: int, at_s: float, data_ms: int | None) -> None:
        """One message of an animal came in, accepted (with its data time) or refused (None)."""
        self.arrived_all(np.array([row]), [at_s], [data_ms])

    def arrived_all(self, rows: Int64, at_s: Sequence[float], data_ms: Sequence[int | None]) -> None:
        """Messages came in, in this order; one entry each, as for `arrived`.

        The animals' figures are taken out as Python numbers and put back: an element of an array costs
        ten times as much to reach, and an animal may be among them several times.
        """
        touched, places = np.unique(rows, return_inverse=True)
        columns = (self._last_s, self._last_ms, self._n, self._log_interval, self._intervals_n)
        last_s, last_ms, arrivals_n, log_s, known_n = (column[touched].tolist() for column in columns)
        for place, now_s, new_ms in zip(places.tolist(), at_s, data_ms, strict=True):
            n = arrivals_n[place]
            before_ms = last_ms[place]
            if new_ms is not None:
                last_ms[place] = new_ms
            arrivals_n[place] = n + 1
            if n == 0:
                last_s[place] = now_s
                continue
            interval_s = now_s - last_s[place]
            if interval_s <= 0:
                continue
            if interval_s >= BURST_S:
                log_s[place] = _learned(log_s[place], known_n[place], interval_s)
                known_n[place] += 1
            if n >= ARRIVALS_MIN and interval_s > GAP_KEPT_S:
                self._keep_gap(int(touched[place]), (last_s[place], now_s), (before_ms, last_ms[place]))
            last_s[place] = now_s
        for column, values in zip(columns, (last_s, last_ms, arrivals_n, log_s, known_n), strict=True):
            column[touched] = values
        self._heard[touched] = True

    def _keep_gap(self, row: int, gap_s: tuple[float, float], gap_ms: tuple[int, int]) -> None:
        """The longest since the last look is the one that stays."""
        if self._gap_new[row] and gap_s[1] - gap_s[0] <= self._gap_s[row, 1] - self._gap_s[row, 0]:
            return
        self._gap_s[row] = gap_s
        self._gap_ms[row] = gap_ms
        self._gap_new[row] = True

    def view(self, rows: Int64, now_s: float, *, look: bool) -> Arrivals:
        """Copy the rows out; `look=True` closes the look, so that later gaps count as new."""
        arrivals = Arrivals(
            now_s=now_s,
            last_s=self._last_s[rows],
            last_ms=self._last_ms[rows],
            n=self._n[rows],
            interval_s=np.exp(self._log_interval[rows]),
            gap_from_s=self._gap_s[rows, 0],
            gap_to_s=self._gap_s[rows, 1],
            gap_from_ms=self._gap_ms[rows, 0],
            gap_to_ms=self._gap_ms[rows, 1],
            gap_new=self._gap_new[rows],
            heard=self._heard[rows],
        )
        if look:
            self._gap_new[rows] = False
            self._heard[rows] = False
        return arrivals


class RejectBook(AnimalRows):
    """The verdicts on every animal's last ten messages, by row, as bits (newest lowest)."""

    def __init__(self, capacity: int) -> None:
        self._bits = np.zeros((capacity, 3), np.uint16)  # temperature, other, hot
        self._minute = np.full(capacity, -1, np.int32)
        self._hot_minute = np.full(capacity, -1, np.int32)
        self._hot_c = np.full(capacity, np.nan)

    def accepted(self, rows: Int64) -> None:
        """Messages of these animals passed, one entry each."""
        spoken_against = rows[self._bits[rows].any(axis=1)]
        if len(spoken_against):
            touched, n = np.unique(spoken_against, return_counts=True)
            passed = np.minimum(n, VERDICTS).astype(np.uint16)[:, None]
            self._bits[touched] = (self._bits[touched] << passed) & _VERDICT_MASK

    def refused(self, row: int, minute: int, temperature_c: float | None, *, hot: bool) -> None:
        """A message of this animal did not pass, for its temperature or (None) for something else."""
        column = 2 if hot else 0 if temperature_c is not None else 1
        bits = (self._bits[row] << 1) & _VERDICT_MASK
        bits[column] |= 1
        self._bits[row] = bits
        self._minute[row] = max(int(self._minute[row]), minute)
        if hot and temperature_c is not None and minute >= self._hot_minute[row]:
            self._hot_minute[row] = minute
            self._hot_c[row] = temperature_c

    def view(self, rows: Int64, until_minute: int) -> Rejects:
        """Copy the rows out; what was refused for a minute after `until_minute` is not seen yet."""
        minute = self._minute[rows]
        hot_minute = self._hot_minute[rows]
        seen = (minute >= 0) & (minute <= until_minute)
        counts = np.bitwise_count(self._bits[rows]).astype(np.int32) * seen[:, None]
        hot_seen = (hot_minute >= 0) & (hot_minute <= until_minute)
        return Rejects(
            temperature_n=counts[:, 0],
            other_n=counts[:, 1],
            hot_n=counts[:, 2],
            minute=np.where(seen, minute, np.int32(-1)),
            hot_minute=np.where(hot_seen, hot_minute, np.int32(-1)),
            hot_c=np.where(hot_seen, self._hot_c[rows], np.nan),
        )

    def minutes(self, rows: Int64) -> Int32:
        """Data minute of the last refused message of each row, -1 if none."""
        return self._minute[rows]
