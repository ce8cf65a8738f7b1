"""Which rows of a damaged table can be believed: their pages hold them in the order of their keys.

Pure; in whatever thread walks the table. One flipped bit moves a key years away, and the row still
looks like a good one. But its neighbours on the page stand in order without it: such a row is left
out, and the keys between its neighbours are told as lost, for that is where it belongs.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import Any

import msgspec

Key = tuple[int, ...]
Row = tuple[Any, ...]

JUDGED_TOGETHER = 512
"""Rows that are compared; half of them are settled then. A page holds up to 108 readings (4,096 bytes,
38 each): half as many again stand behind a page of another place before its rows are settled, so the
order without them is the longer one. 512 readings are 0.5 MB, 512 packed hours of 600 bytes too."""
STRAYED = 8
"""By how many rows the order must be longer without the last row that was believed than after it,
until that one was the lie: more than one, for the one false row of a page that is good may be next."""


class Gap(msgspec.Struct, frozen=True):
    """Keys (first column) between two rows that were read, both exclusive."""

    after: int
    before: int


class Order:
    """Believes the rows of one walk, or not.

    Args:
        low: every key is above it.
        high: every key is below it.
        start: where the walk begins: one of the two, or a row between them (it comes first, then).
        down: whether keys get smaller.
        lost: gaps that hold a row that is not believed are added here.

    Attributes:
        at: the key of the last row that was believed; `start` before the first.
    """

    def __init__(self, low: Key, high: Key, start: Key, lost: list[Gap], *, down: bool) -> None:
        self.at = start
        self._low, self._high, self._start = low, high, start
        self._lost = lost
        self._sign = -1 if down else 1
        self._begun = False
        self._omitted = False
        self._window: list[Row] = []

    def add(self, row: Row) -> list[Row]:
        """Take the next row; returns those that are believed by now."""
        self._window.append(row)
        return self._settle(JUDGED_TOGETHER // 2) if len(self._window) == JUDGED_TOGETHER else []

    def rest(self, *, complete: bool) -> list[Row]:
        """The last rows, when the walk is over.

        Args:
            complete: it came to its end, not to damage (what is lost beside that is told by others).
        """
        settled = self._settle(len(self._window))
        if self._omitted and complete:
            self._tell(self._low if self._sign < 0 else self._high)
        return settled

    def _settle(self, count: int) -> list[Row]:
        keys = [row[: len(self._low)] for row in self._window]
        believed = self._believed(keys)
        settled = []
        for n, row in enumerate(self._window[:count]):
            if n not in believed:
                self._omitted = True
                continue
            if self._omitted:
                self._tell(keys[n])
            self.at, self._begun, self._omitted = keys[n], True, False
            settled.append(row)
        del self._window[:count]
        return settled

    def _believed(self, keys: list[Key]) -> set[int] | range:
        """Places of the rows without which the order would be shorter."""
        fit = [n for n, key in enumerate(keys) if fits(key, self._low, self._high)]
        along = {n: tuple(self._sign * part for part in keys[n]) for n in fit}  # ascending either way
        last = tuple(self._sign * part for part in self.at)
        line = [last, *along.values()] if self._begun else list(along.values())
        if len(fit) == len(keys) and all(one < other for one, other in pairwise(line)):
            return range(len(keys))
        following = [n for n in fit if not self._begun or last < along[n]]
        if _length([along[n] for n in fit]) > _length([along[n] for n in following]) + STRAYED:
            following = fit
            self.at, self._omitted = self._start, True
        return {following[n] for n in _in_every_longest([along[n] for n in following])}

    def _tell(self, key: Key) -> None:
        low, high = sorted((self.at[0], key[0]))
        self._lost.append(Gap(low, high))


def fits(key: Key, low: Key, high: Key) -> bool:
    """Damage can show as keys that are none, or as rows of another place."""
    return all(type(part) is int for part in key) and low < key < high


def _ranks(keys: list[Key]) -> list[int]:
    """For each key how many stand before it, at most, in an ascending order that it ends."""
    ends: list[Key] = []
    found = []
    for key in keys:
        rank = bisect_left(ends, key)
        ends[rank : rank + 1] = [key]
        found.append(rank)
    return found


def _length(keys: list[Key]) -> int:
    return max(_ranks(keys), default=-1) + 1


def _in_every_longest(keys: list[Key]) -> list[int]:
    """Places of the keys that every longest ascending order has; which of two is the lie is not guessed."""
    before = _ranks(keys)
    behind = _ranks([tuple(-part for part in key) for key in reversed(keys)])[::-1]
    longest = max(before, default=-1)
    by_rank: dict[int, list[int]] = {}
    for n in range(len(keys)):
        if before[n] + behind[n] == longest:
            by_rank.setdefault(before[n], []).append(n)
    return [places[0] for places in by_rank.values() if len(places) == 1]
