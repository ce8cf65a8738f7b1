"""Read a table past its damage. Functions over one read-only connection; in a worker thread.

A scan ends at the first damaged page. Then the keys behind it are sought: one seek reads the few
pages from the root to one leaf, so a seek that works finds rows on the far side. What lies between
the last row read from above and the first from below is what the damaged page held, row by row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator

import msgspec

from gateway.store.salvage_order import Gap, Key, Order, Row, fits

__all__ = ["Gap", "Key", "Row", "Table", "everything", "rows"]

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


def everything(table: Table) -> Gap:
    """A gap as wide as the table."""
    return Gap(table.keys_from - 1, table.keys_to)


def rows(db: sqlite3.Connection, table: Table, lost: list[Gap], within: Gap | None = None) -> Iterator[Row]:
    """Every row that can be read and believed, the newest first (but for rows beside damage).

    Each comes once, but for pages that stand in the file more than once: theirs may come again.
    What bounds it: each scan meets at most 2 × what it believes + 1,024 rows (`ASTRAY_ROWS`), and
    each island is a row of its own, with at most 450 seeks and two scans.

    Args:
        db: the source.
        table: which one, and how it is ordered.
        lost: gaps that could not be read, or hold a row that is not believed, are added here.
        within: only keys in this gap; by default all.
    """
    span = within or everything(table)
    low, end = _ends(table, span.after, KEY_MAX), _ends(table, span.before, KEY_MIN)
    stuck, through = yield from _scan(db, table, (low, end), lost, _Way("DESC", _Place(end)))
    if through:
        return
    way = _Way("ASC", _Place(low), stop_known=True)
    reached, through = yield from _scan(db, table, (low, stuck), lost, way)
    if through and stuck != end:  # the page beside the damage is of another place: ours go on behind that
        behind, to_the_end = yield from _scan(db, table, (stuck, end), lost, _Way("ASC", _Place(stuck)))
        if not to_the_end:
            lost.append(Gap(behind[0], end[0]))
    todo = [(reached, stuck, through)]
    while todo:
        low, high, through = todo.pop()
        island = _seek(db, table, low, high) if low < high else None
        if island is None:
            if not through:
                lost.append(Gap(low[0], high[0]))
            continue
        place = _Place(island, known=True)
        top, up = yield from _scan(db, table, (low, high), lost, _Way("ASC", place, stop_known=True))
        bottom, down = yield from _scan(db, table, (low, high), lost, _Way("DESC", place, stop_known=True))
        todo += [(low, bottom, down), (top, high, up)]


class _Place(msgspec.Struct, frozen=True):
    """Where a walk begins: behind a key, or at a row that is known to be there."""

    key: Key
    known: bool = False


class _Way(msgspec.Struct, frozen=True):
    """How a walk goes: which way, from where, and whether it ends at a row that is known."""

    order: str
    start: _Place
    stop_known: bool = False


def _ends(table: Table, first: int, rest: int) -> Key:
    """An exclusive end: all rows whose first column is `first` are outside."""
    return (first, *[rest] * (len(table.key) - 1))


def _scan(
    db: sqlite3.Connection, table: Table, ends: tuple[Key, Key], lost: list[Gap], way: _Way
) -> Generator[Row, None, tuple[Key, bool]]:
    """Rows between two keys up to the first damage; a start that is known comes with those below it.

    A walk that is astray ends, too: pages that lead back to pages it has been on have no end.

    Returns:
        (as the generator's value) the last key read, or the start; whether it got through.
    """
    down, start = way.order == "DESC", way.start
    low, high = ends
    order = Order(low, high, start.key, lost, down=down)
    skipped = start.key if start.known and not down else None
    walk = _until(_walk(db, table, way), table, way, low if down else high)
    complete = False
    while not order.astray:
        try:
            settled = order.add(next(walk))
        except StopIteration as end:
            complete = bool(end.value)
            break
        yield from (row for row in settled if row[: len(table.key)] != skipped)
    settled = order.rest(complete=complete)
    yield from (row for row in settled if row[: len(table.key)] != skipped)
    return order.at, complete


def _until(walk: Generator[Row, None, bool], table: Table, way: _Way, end: Key) -> Generator[Row, None, bool]:
    """A walk up to its end: to the row that is known to be there, or to the second in succession beyond.

    One alone may be a key that lies. Before a row that is known, many may: they are a page of another
    place, and what stands behind it is ours again. Rows beyond the ends of a table are passed on, and
    told then.
    """
    down = way.order == "DESC"
    if _is_open(table, end):
        return (yield from walk)
    beyond: Row | None = None
    while True:
        try:
            row = next(walk)
        except StopIteration as stop:
            return bool(stop.value)
        key = row[: len(table.key)]
        if all(type(part) is int for part in key) and (key <= end if down else key >= end):
            if way.stop_known and key == end:
                return True
            if not way.stop_known:
                if beyond is not None:
                    return True
                beyond = row
                continue
        if beyond is not None:
            yield beyond
            beyond = None
        yield row


def _walk(db: sqlite3.Connection, table: Table, way: _Way) -> Generator[Row, None, bool]:
    """Rows as the pages hold them, whatever their keys, up to the first damage.

    The driver looks one row ahead, so the last row before damage is asked for alone, once: a search
    finds a key that stands on two pages on the wrong one, too, and a walk that went on from there
    would come to the damage again, and again.

    Returns:
        (as the generator's value) whether it got through.
    """
    at, known, given, limit = way.start.key, way.start.known, False, -1
    while True:
        met = not known
        try:
            for row in _select(db, table, at, way.order, limit, known=known):
                key = row[: len(table.key)]
                if not met:
                    if key != at:  # a key that lies misleads a search
                        return False
                    met = True
                    if given:
                        continue
                at, known, given = key, True, True
                yield row
        except sqlite3.DatabaseError:
            if limit != -1:
                return False
            limit = 2 if given else 1
        else:
            return met and limit == -1


def _seek(db: sqlite3.Connection, table: Table, low: Key, high: Key) -> Key | None:
    """Some row strictly between two keys, as near to `high` as the seeks find one."""
    for first in _places(table, low[0], high[0]):
        below = min(high, _ends(table, first, KEY_MIN))
        try:
            row = next(_select(db, table, below, "DESC", 1, known=False), None)
            if row is None or not fits(key := row[: len(table.key)], low, high):
                continue
            again = next(_select(db, table, key, "DESC", 1, known=True), None)
        except sqlite3.DatabaseError:
            continue
        if again is not None and again[: len(table.key)] == key:
            return key
    return None


def _places(table: Table, low: int, high: int) -> list[int]:
    """Where to seek between two first key columns, from above."""
    width = high - low
    doubling = [2**n for n in range(width.bit_length())]
    even = [low + width * n // SPREAD for n in range(1, SPREAD)]
    places = {*table.hints, *even, *(high - d for d in doubling), *(low + d for d in doubling)}
    return sorted((place for place in places if low < place <= high), reverse=True)


def _is_open(table: Table, end: Key) -> bool:
    """Whether nothing of ours can lie behind an end: the table's own end is meant, wherever it is."""
    return end[0] < table.keys_from or end[0] >= table.keys_to


def _select(
    db: sqlite3.Connection, table: Table, start: Key, order: str, limit: int, *, known: bool
) -> Iterator[Row]:
    """Rows from a key on; that itself only if it is known. An open end is not sought, but gone to."""
    key = ", ".join(table.key)
    marks = ", ".join("?" * len(table.key))
    by = ", ".join(f"{part} {order}" for part in table.key)
    compared = ("<" if order == "DESC" else ">") + ("=" if known else "")
    open_ = not known and _is_open(table, start)
    where = "" if open_ else f" WHERE ({key}) {compared} ({marks})"
    text = f"SELECT {', '.join(table.columns)} FROM {table.name}{where} ORDER BY {by} LIMIT {limit}"
    return iter(db.execute(text, () if open_ else start))
