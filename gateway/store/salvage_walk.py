"""Read a table past its damage. Functions over one read-only connection; in a worker thread.

A scan ends at the first damaged page. Then the keys behind it are sought: one seek reads the few
pages from the root to one leaf, so a seek that works finds rows on the far side. What lies between
the last row read from above and the first from below is what the damaged page held, row by row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from typing import Any

import msgspec

Key = tuple[int, ...]
Row = tuple[Any, ...]

KEY_MIN, KEY_MAX = -(2**63), 2**63 - 1  # of an SQLite integer
SPREAD = 64
"""Evenly spaced seeks into a gap, besides those at doubling distances from both its ends. Rows
between two damaged pages are missed only where they fill less than 1/64 of the gap; a seek costs
about 20 µs, so a gap costs about 3 ms."""


class Table(msgspec.Struct, frozen=True):
    """What is read of a table.

    Args:
        key: the integer columns it is ordered by; they are also the first of `columns`.
        columns: what a row holds.
        keys_from: rows below this (first key column) cannot be ours.
        keys_to: rows from here on neither.
        hints: keys (first column) where rows are likely, to be sought besides the even places.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    keys_from: int = 0
    keys_to: int = KEY_MAX
    hints: tuple[int, ...] = ()


class Gap(msgspec.Struct, frozen=True):
    """Keys (first column) between two rows that were read, both exclusive."""

    after: int
    before: int


def everything(table: Table) -> Gap:
    """A gap as wide as the table."""
    return Gap(table.keys_from - 1, table.keys_to)


def rows(db: sqlite3.Connection, table: Table, lost: list[Gap], within: Gap | None = None) -> Iterator[Row]:
    """Every row that can be read, each once, the newest keys first (but for rows beside damage).

    Args:
        db: the source.
        table: which one, and how it is ordered.
        lost: gaps that could not be read are added here.
        within: only keys in this gap; by default all.
    """
    span = within or everything(table)
    todo = [(_ends(table, span.after, KEY_MAX), _ends(table, span.before, KEY_MIN))]
    while todo:
        low, high = todo.pop()
        stuck = yield from _scan(db, table, low, high, "DESC")
        if stuck is None:
            continue
        island = _seek(db, table, low, stuck)
        if island is not None:
            yield island
            key = island[: len(table.key)]
            todo += [(low, key), (key, stuck)]
            continue
        reached = yield from _scan(db, table, low, stuck, "ASC")
        if reached is not None:
            lost.append(Gap(reached[0], stuck[0]))


def _ends(table: Table, first: int, rest: int) -> Key:
    """An exclusive end: all rows whose first column is `first` are outside."""
    return (first, *[rest] * (len(table.key) - 1))


def _scan(
    db: sqlite3.Connection, table: Table, low: Key, high: Key, order: str
) -> Generator[Row, None, Key | None]:
    """Rows between two keys up to the first damage.

    Returns:
        (as the generator's value) the last key read, or the end it began at; None if it got through.
    """
    down = order == "DESC"
    at, limit = high if down else low, -1
    while True:
        ends = (low, at) if down else (at, high)
        got = False
        try:
            for row in _select(db, table, ends, order, limit):
                key = row[: len(table.key)]
                if not _fits(key, low if down else at, at if down else high):
                    return at
                at, got = key, True
                yield row
        except sqlite3.DatabaseError:
            if limit == 1:
                return at
            limit = 1  # the driver looks one row ahead: the last good row comes alone, or not at all
        else:
            if limit == -1 or not got:
                return None
            limit = -1


def _fits(key: Key, low: Key, high: Key) -> bool:
    """Damage can show as keys that are none, or as rows out of order."""
    return all(type(part) is int for part in key) and low < key < high


def _seek(db: sqlite3.Connection, table: Table, low: Key, high: Key) -> Row | None:
    """Some row strictly between two keys, as near to `high` as the seeks find one."""
    for first in _places(table, low[0], high[0]):
        try:
            row = next(_select(db, table, (low, min(high, _ends(table, first, KEY_MIN))), "DESC", 1), None)
        except sqlite3.DatabaseError:
            continue
        if row is not None and _fits(row[: len(table.key)], low, high):
            return row
    return None


def _places(table: Table, low: int, high: int) -> list[int]:
    """Where to seek between two first key columns, from above."""
    width = high - low
    doubling = [2**n for n in range(width.bit_length())]
    even = [low + width * n // SPREAD for n in range(1, SPREAD)]
    places = {*table.hints, *even, *(high - d for d in doubling), *(low + d for d in doubling)}
    return sorted((place for place in places if low < place <= high), reverse=True)


def _select(
    db: sqlite3.Connection, table: Table, ends: tuple[Key, Key], order: str, limit: int
) -> Iterator[Row]:
    key = ", ".join(table.key)
    marks = ", ".join("?" * len(table.key))
    by = ", ".join(f"{part} {order}" for part in table.key)
    text = (
        f"SELECT {', '.join(table.columns)} FROM {table.name}"
        f" WHERE ({key}) > ({marks}) AND ({key}) < ({marks}) ORDER BY {by} LIMIT {limit}"
    )
    return iter(db.execute(text, (*ends[0], *ends[1])))
