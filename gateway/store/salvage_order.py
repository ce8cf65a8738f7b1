"""Which rows of a damaged table can be believed: their pages hold them in the order of their keys.

Pure; in whatever thread walks the table. One flipped bit moves a key years away, and the row still
looks like a good one. But its neighbours on the page stand in order without it: such a row is left
out, and the keys between its neighbours are told as lost, for that is where it belongs.
"""

from __future__ import annotations

from array import array
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
ASTRAY_ROWS = 512
"""Rows left out after which a walk ends as at damage: so many in succession (5 pages of readings), or so
many more in all than it believed. A copy of an inner page below itself leads to the same pages again, 20
levels deep (SQLite's limit), two copies 2^20 times. So a walk meets at most 2 × believed + 2 × 512 rows,
whatever the pages lead to, each at most 20 pages below the root; behind its end the table is read from
the other side."""
TURNS_MAX = 16
"""How often a walk may find that what it believed was the lie. Keys go one way between two turns, so
it believes no more than 17 × the rows there are."""


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
        astray: whether the walk meets little that is new, and is to end here.
    """

    def __init__(self, low: Key, high: Key, start: Key, lost: list[Gap], *, down: bool) -> None:
        self.at = start
        self._low, self._high, self._start = low, high, start
        self._lost = lost
        self._sign = -1 if down else 1
        self._begun = False
        self._omitted = False
        self._window: list[Row] = []
        self._twin = False
        self._believed_n = self._left_out_n = self._in_succession_n = 0
        self._furthest: Key | None = None
        """Where the walk was before it turned back, until it is beyond that."""
        self._ground = [array("q")]
        """Of every `STRAYED`th row believed the first key column, ascending; another array for each turn.
        One byte a row: 14 MB for two days of 5,000 animals, 0.6 MB for 200."""

    @property
    def astray(self) -> bool:
        """By the bounds of `ASTRAY_ROWS` and `TURNS_MAX`."""
        return (
            self._in_succession_n > ASTRAY_ROWS
            or self._left_out_n > self._believed_n + ASTRAY_ROWS
            or len(self._ground) > TURNS_MAX + 1
        )

    def add(self, row: Row) -> list[Row]:
        """Take the next row; returns those that are believed by now."""
        self._window.append(row)
        return self._settle(JUDGED_TOGETHER // 2) if len(self._window) == JUDGED_TOGETHER else []

    def rest(self, *, complete: bool) -> list[Row]:
        """The last rows, when the walk is over.

        Args:
            complete: it came to its end, not to damage (what is lost beside that is told by others).
        """
        settled = self._settle(len(self._window), to_damage=not complete)
        if complete:
            end = self._low if self._sign < 0 else self._high
            if self._omitted:
                self._tell(end)
            self._tell_beyond_furthest(end)
        return settled

    def _settle(self, count: int, *, to_damage: bool = False) -> list[Row]:
        keys = [row[: len(self._low)] for row in self._window]
        believed = self._believed(keys)
        if to_damage:
            self._leave_what_the_last_rows_contest(keys, believed)
        settled = []
        for n, row in enumerate(self._window[:count]):
            if n not in believed:
                self._omitted = True
                self._left_out_n += 1
                self._in_succession_n += 1
                continue
            self._tell_beyond_furthest(keys[n])
            if self._omitted or believed[n] > self._twin:
                self._tell(keys[n])
            self.at, self._begun, self._omitted, self._twin = keys[n], True, False, believed[n]
            settled.append(row)
            self._believed_n += 1
            self._in_succession_n = 0
            if self._believed_n % STRAYED == 0:
                self._ground[-1].append(self._sign * self.at[0])
        del self._window[:count]
        return settled

    def _believed(self, keys: list[Key]) -> dict[int, bool]:
        """Places of the rows without which the order would be shorter, and whether they stand twice."""
        fit = [n for n, key in enumerate(keys) if fits(key, self._low, self._high)]
        along = {n: tuple(self._sign * part for part in keys[n]) for n in fit}  # ascending either way
        last = tuple(self._sign * part for part in self.at)
        line = [last, *along.values()] if self._begun else list(along.values())
        if len(fit) == len(keys) and all(one < other for one, other in pairwise(line)):
            return dict.fromkeys(range(len(keys)), False)
        following = [n for n in fit if not self._begun or last < along[n]]
        if _length([along[n] for n in fit]) > _length([along[n] for n in following]) + STRAYED:
            back = [n for n in fit if along[n] <= last]
            if not any(self._been_at(along[n][0]) for n in back):
                following = fit
                self._ground.append(array("q"))
                self._furthest = max(self._furthest or last, last)
                self.at, self._omitted = self._start, True
        found = _in_every_longest([along[n] for n in following], [self._window[n] for n in following])
        return {following[n]: twin for n, twin in found.items()}

    def _been_at(self, part: int) -> bool:
        """Whether a key of this kind was believed: its page comes again, there is nothing to turn to."""
        places = ((keys, bisect_left(keys, part)) for keys in self._ground)
        return any(place < len(keys) and keys[place] == part for keys, place in places)

    def _leave_what_the_last_rows_contest(self, keys: list[Key], believed: dict[int, bool]) -> None:
        """A page of another place before damage may look as good as the page after it: both are left.

        The walk ends before them then, so that both are sought.
        """
        along = [
            tuple(self._sign * part for part in key) if fits(key, self._low, self._high) else None
            for key in keys
        ]
        behind = range(max(believed, default=-1) + 1, len(keys))
        contesting = [key for n in behind if (key := along[n]) is not None]
        if len(contesting) > STRAYED and not any(self._been_at(key[0]) for key in contesting):
            first = min(contesting)
            for n in [n for n in believed if (along[n] or first) >= first]:
                del believed[n]

    def _tell_beyond_furthest(self, key: Key) -> None:
        along = tuple(self._sign * part for part in key)
        if self._furthest is not None and along > self._furthest:
            low, high = sorted((self._sign * self._furthest[0], key[0]))
            self._lost.append(Gap(low, high))
            self._furthest = None

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


def _in_every_longest(keys: list[Key], rows: list[Row]) -> dict[int, bool]:
    """Places of the keys that every longest ascending order has; which of two is the lie is not guessed.

    The same row twice is none: the first is taken.

    Returns:
        Place → whether the row stands twice (which of the places is its own is not guessed, either).
    """
    before = _ranks(keys)
    behind = _ranks([tuple(-part for part in key) for key in reversed(keys)])[::-1]
    longest = max(before, default=-1)
    by_rank: dict[int, list[int]] = {}
    for n in range(len(keys)):
        if before[n] + behind[n] == longest:
            by_rank.setdefault(before[n], []).append(n)
    return {
        places[0]: len(places) > 1
        for places in by_rank.values()
        if all(rows[n] == rows[places[0]] for n in places[1:])
    }
