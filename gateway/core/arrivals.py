"""When messages arrive, per animal: what silence and rejected messages are judged on.

Arrays over the herd, O(animals). Fed on the event loop, read by the detectors' worker thread under
the lock of services/detect. Arrival time is the gateway's monotonic clock: it never steps
(decision 6), so neither a set clock nor a collar's wrong date can feign a gap.
"""

from __future__ import annotations

import math

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
        last_s = float(self._last_s[row])
        last_ms = int(self._last_ms[row])
        newest_ms = last_ms if data_ms is None else data_ms
        n = int(self._n[row])
        if n and at_s > last_s:
            interval_s = at_s - last_s
            if interval_s >= BURST_S:
                self._learn(row, interval_s)
            longest = float(self._gap_s[row, 1] - self._gap_s[row, 0]) if self._gap_new[row] else 0.0
            if n >= ARRIVALS_MIN and interval_s > max(longest, GAP_KEPT_S):
                self._gap_s[row] = last_s, at_s
                self._gap_ms[row] = last_ms, newest_ms
                self._gap_new[row] = True
        self._n[row] = n + 1
        self._last_s[row] = at_s if n == 0 else max(at_s, last_s)
        self._last_ms[row] = newest_ms
        self._heard[row] = True

    def _learn(self, row: int, interval_s: float) -> None:
        """Robust mean of the logarithm: near the median, and one outlier moves it by ≤ 20 %."""
        known_n = int(self._intervals_n[row])
        log_s = math.log(interval_s)
        if known_n == 0:
            self._log_interval[row] = log_s
        else:
            step = log_s - float(self._log_interval[row])
            clipped = max(-LEARN_STEP_MAX, min(LEARN_STEP_MAX, step))
            self._log_interval[row] += clipped * max(LEARN_GAIN, 1.0 / (known_n + 1))
        self._intervals_n[row] = known_n + 1

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

    def accepted(self, row: int) -> None:
        """A message of this animal passed."""
        bits = self._bits[row]
        if bits.any():
            self._bits[row] = (bits << 1) & _VERDICT_MASK

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
