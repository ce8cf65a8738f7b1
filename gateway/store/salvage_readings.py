"""From a damaged store into a running one: readings, newest first, in pieces the writer hardly feels.

`pieces` reads the source in a worker thread; each piece it gives is work for `Database.write`. A
reading goes the way every reading goes (readings.append), so whatever is there already is found and
wins, and a salvage that was cut off can simply be begun again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from gateway.core import validation
from gateway.core.instants import HOUR_MS
from gateway.core.readings import Reading
from gateway.store import chunks, hot, rollups, rows, slice_key
from gateway.store.damaged_file import damaged_store
from gateway.store.migrations import PACKED_SINCE, version_of
from gateway.store.renewal import newest_backup, reading
from gateway.store.salvage import Tables, Tally, animal_names, readable
from gateway.store.salvage_pieces import (
    PartOfHour,
    Piece,
    WholeChunk,
    append,
    insert_chunks,
    insert_rollups,
)
from gateway.store.salvage_walk import KEY_MAX, KEY_MIN, Gap, Row, Table, everything
from gateway.store.salvage_walk import rows as rows_past_damage

PIECE_ROWS = 250
"""Readings in one piece: about 5 ms of the writer's thread on a laptop, 25 ms on a Pi 4, besides the
commit. A reading that arrives meanwhile waits no longer than that."""
PIECE_CHUNKS = 50
"""Packed hours in one piece: 50 × 60 readings in 30 KB; inserting is cheaper than reading them."""
YEAR_2100_MS = 4_102_444_800_000

_VALUES = tuple(hot.VALUES.split(", "))
HOT = Table(
    "hot_readings",
    ("key",),
    ("key", *_VALUES),
    keys_from=validation.TIMESTAMP_MS_MIN << hot.ANIMAL_BITS,
    keys_to=YEAR_2100_MS << hot.ANIMAL_BITS,
)
HOT_OF_VERSION_1 = Table(
    "hot",
    ("ts_ms", "animal"),
    ("ts_ms", "animal", *_VALUES),
    keys_from=validation.TIMESTAMP_MS_MIN,
    keys_to=YEAR_2100_MS,
)

CHUNKS = Table(
    "chunks",
    ("slice",),
    ("slice", "rows_n", "arrival_hour", "data"),
    keys_to=slice_key.of(YEAR_2100_MS // HOUR_MS, 0),
)
ROLLUPS = Table("rollups", ("day_animal",), ("day_animal", "arrival_hour", "data"))
LIKELY = 256
"""Places in the known span of the readings that are sought: 5 ms for each gap."""
_FIRST_MS = validation.TIMESTAMP_MS_MIN

Walk = Callable[[sqlite3.Connection, dict[int, str], Tally, list[Gap]], Iterator[Piece]]
"""One table of a source as work for the writer."""

_STATES = frozenset(rows.STATE_CODES.values())
_STATE_CHARS_MAX = 256
_FLAGS_MAX = 255
_BOUNDS = (  # of the scaled columns, as validation admits them: lowest, highest, may be missing
    (round(validation.TEMPERATURE_C_MIN * 100), round(validation.TEMPERATURE_C_MAX * 100), False),
    *[(-round(validation.ACCELERATION_G_MAX * 1000), round(validation.ACCELERATION_G_MAX * 1000), False)] * 3,
    *[(-round(validation.GYRO_DPS_MAX * 100), round(validation.GYRO_DPS_MAX * 100), True)] * 3,
)
_MOTION_MAX = round(validation.MOTION_INTENSITY_MAX * 1000)


class Source:
    """One file that readings are taken from; all methods block and run in one worker thread.

    Attributes:
        unreadable: why nothing in it can be read; "" where something can.
    """

    def __init__(self, file: Path | None, tally: Tally, wanted: Tables | None, *, damaged: bool) -> None:
        self._file = file
        self._tally = tally
        self._wanted = wanted
        self._damaged = damaged
        self.unreadable = ""
        self._stack = contextlib.ExitStack()
        self._pieces: Iterator[Piece] = iter(())

    @classmethod
    def damaged(cls, file: Path, tally: Tally) -> Source:
        """A store that was set aside."""
        return cls(file, tally, None, damaged=True)

    @classmethod
    def backup(cls, folder: Path, path: Path, gateway_id: str, wanted: Tables) -> Source:
        """The newest whole backup of the store at `path`, for what was lost; empty without one."""
        return cls(newest_backup(folder, path, gateway_id), Tally(), wanted, damaged=False)

    def open(self) -> None:
        """Make it ready; what cannot be opened at all gives no piece."""
        if self._file is None:
            return
        try:
            how = damaged_store if self._damaged else reading
            db = self._stack.enter_context(how(self._file))
            self._pieces = pieces(db, animal_names(db), self._tally, self._wanted)
        except (sqlite3.Error, OSError) as error:
            self.unreadable = "it is not there any more" if isinstance(error, OSError) else str(error)
            self._tally.lost[HOT.name] = [everything(HOT)]

    def next_piece(self) -> Piece | None:
        """The next work for the writer; None at the end."""
        return next(self._pieces, None)

    def close(self) -> None:
        """Idempotent."""
        self._pieces = iter(())
        self._stack.close()


def spans_ms(tally: Tally) -> list[tuple[int, int]]:
    """When the lost readings were sent, UTC epoch milliseconds, both ends exclusive, oldest first."""
    spans = sorted((gap.after if gap.after >= _FIRST_MS else 0, gap.before) for gap in _gaps_ms(tally.lost))
    joined: list[tuple[int, int]] = []
    for after, before in spans:
        if joined and after <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(before, joined[-1][1]))
        else:
            joined.append((after, before))
    return joined


def _gaps_ms(lost: Tables) -> list[Gap]:
    """Lost keys of all tables that hold readings, as instants."""
    return [
        *lost.get(HOT_OF_VERSION_1.name, []),
        *(
            Gap(gap.after >> hot.ANIMAL_BITS, -(-gap.before >> hot.ANIMAL_BITS))
            for gap in lost.get(HOT.name, [])
        ),
        *(
            Gap(hour_ms(gap.after), min(hour_ms(gap.before) + HOUR_MS, YEAR_2100_MS))
            for gap in lost.get(CHUNKS.name, [])
        ),
    ]


def hour_ms(slice_: int) -> int:
    """When a slice begins, UTC epoch milliseconds."""
    return slice_key.apart(slice_)[0] * HOUR_MS


def readings_in(counts: dict[str, int]) -> int:
    """Of a tally's figures those that count readings."""
    return sum(counts.get(table.name, 0) for table in (HOT, HOT_OF_VERSION_1, CHUNKS))


def pieces(
    source: sqlite3.Connection, names: dict[int, str], tally: Tally, wanted: Tables | None = None
) -> Iterator[Piece]:
    """Everything that can be read of a source, as work for the writer.

    Hourly figures come before packed hours: those that the new store reckons from what has been
    salvaged by then would hide them.

    Args:
        source: the damaged store, or a backup of it.
        names: its animals' numbers → cow ids.
        tally: told of every row as it is read.
        wanted: of these tables only these keys (what another source could not give).
    """
    found = {name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    instants = _likely_ms(source)
    walks: tuple[tuple[Table, Walk], ...] = (
        (HOT, partial(_hot_pieces, hints=[at << hot.ANIMAL_BITS for at in instants])),
        (HOT_OF_VERSION_1, partial(_hot_pieces, table=HOT_OF_VERSION_1, hints=instants)),
        (ROLLUPS, _rollup_pieces),
        (CHUNKS, _chunk_pieces),
    )
    for table, walk in walks:
        if table.name in found:
            yield from walk(source, names, tally, _spans(table, wanted))
        elif wanted is None and (table is HOT_OF_VERSION_1 or version_of(source) >= PACKED_SINCE):
            tally.lost[table.name] = [everything(table)]


def _hot_pieces(
    source: sqlite3.Connection,
    names: dict[int, str],
    tally: Tally,
    spans: list[Gap],
    *,
    hints: list[int],
    table: Table = HOT,
) -> Iterator[Piece]:
    part: list[Reading] = []
    parts: dict[tuple[int, int], PartOfHour] = {}
    for stored in _rows(source, msgspec.structs.replace(table, hints=tuple(hints)), tally, spans):
        row = hot.row_of(stored) if table is HOT else stored
        reading = reading_of(row, names)
        if reading is None:
            tally.count(table.name, refused=1)
            continue
        tally.count(table.name, saved=1)
        part.append(reading)
        key = (reading.timestamp_ms // HOUR_MS, row[1])
        parts.setdefault(key, PartOfHour(*key, reading.cow_id))
        if len(part) == PIECE_ROWS:
            yield append(part, parts, _undelivered(source, parts))
            part, parts = [], {}
    if part:
        yield append(part, parts, _undelivered(source, parts))


def _likely_ms(source: sqlite3.Connection) -> list[int]:
    """Instants between the first and the last hour that any animal is known to have sent in."""
    known = [
        span
        for span in readable(source, "SELECT first_hour, last_hour + 1 FROM animals")
        if all(type(hour) is int for hour in span) and 0 <= span[0] < span[1] <= YEAR_2100_MS // HOUR_MS
    ]
    if not known:
        return []
    first, end = min(hour for hour, _ in known), max(hour for _, hour in known)
    return [(first * LIKELY + (end - first) * n) * HOUR_MS // LIKELY for n in range(LIKELY + 1)]


def _chunk_pieces(
    source: sqlite3.Connection, names: dict[int, str], tally: Tally, spans: list[Gap]
) -> Iterator[Piece]:
    part: list[WholeChunk] = []
    for slice_, _, arrival_hour, data in _rows(source, CHUNKS, tally, spans):
        chunk = _whole_chunk(slice_, arrival_hour, data, names)
        if chunk is None:
            tally.lost[CHUNKS.name].append(Gap(slice_ - 1, slice_ + 1))
            continue
        tally.count(CHUNKS.name, saved=len(chunk.rows))
        part.append(chunk)
        if len(part) == PIECE_CHUNKS:
            yield insert_chunks(part, _undelivered(source, _keys(part)))
            part = []
    if part:
        yield insert_chunks(part, _undelivered(source, _keys(part)))


def _rollup_pieces(
    source: sqlite3.Connection, names: dict[int, str], tally: Tally, spans: list[Gap]
) -> Iterator[Piece]:
    part: list[tuple[int, str, int, bytes]] = []
    for day_animal, arrival_hour, data in _rows(source, ROLLUPS, tally, spans):
        day, animal = slice_key.apart(day_animal)
        whole = type(data) is bytes and type(arrival_hour) is int and rollups.decode(data) is not None
        if not whole or animal not in names:
            tally.count(ROLLUPS.name, refused=1)
            continue
        tally.count(ROLLUPS.name, saved=1)
        part.append((day, names[animal], arrival_hour, data))
        if len(part) == PIECE_ROWS:
            yield partial(insert_rollups, part=part)
            part = []
    if part:
        yield partial(insert_rollups, part=part)


def _rows(source: sqlite3.Connection, table: Table, tally: Tally, spans: list[Gap]) -> Iterator[Row]:
    lost = tally.lost.setdefault(table.name, [])
    for span in spans:
        yield from rows_past_damage(source, table, lost, span)


def _spans(table: Table, wanted: Tables | None) -> list[Gap]:
    if wanted is None:
        return [everything(table)]
    if table not in {HOT, HOT_OF_VERSION_1}:
        return _with_ends(wanted.get(table.name, []))
    # What is packed now, or in the new table, was not yet when the backup was made.
    bits = hot.ANIMAL_BITS if table is HOT else 0
    gaps = [Gap(max(gap.after, _FIRST_MS) - 1, min(gap.before, YEAR_2100_MS) + 1) for gap in _gaps_ms(wanted)]
    return [Gap(gap.after << bits, gap.before << bits) for gap in gaps]


def _with_ends(gaps: list[Gap]) -> list[Gap]:
    """Rows that share their first key column with a gap's end may be lost, too."""
    return [Gap(max(gap.after, KEY_MIN + 1) - 1, min(gap.before, KEY_MAX - 1) + 1) for gap in gaps]


def reading_of(row: Row, names: dict[int, str]) -> Reading | None:
    """A row as a reading; None for one that validation would never have let in."""
    _, animal, *scaled = row[:9]
    state, motion, received_ms, flags = row[9:]
    cow_id = names.get(animal)
    if cow_id is None or not all(_within(*pair) for pair in zip(scaled, _BOUNDS, strict=True)):
        return None
    if not (
        _within(motion, (0, _MOTION_MAX, True))
        and _within(received_ms, (0, YEAR_2100_MS, False))
        and _within(flags, (0, _FLAGS_MAX, False))
    ):
        return None
    if type(state) is int and state not in _STATES:
        return None
    if state is not None and (type(state) not in {int, str} or len(str(state)) > _STATE_CHARS_MAX):
        return None
    return rows.decode(row, cow_id)


def _within(value: object, bounds: tuple[int, int, bool]) -> bool:
    lowest, highest, optional = bounds
    return (optional and value is None) or (type(value) is int and lowest <= value <= highest)


def _undelivered(source: sqlite3.Connection, parts: dict[tuple[int, int], PartOfHour]) -> set[PartOfHour]:
    """Those the cloud has not got; where that cannot be read it is sent again (it is an upsert)."""
    found = set()
    table = "undelivered" if version_of(source) >= PACKED_SINCE else "dirty"
    query = f"SELECT 1 FROM {table} WHERE hour = ? AND animal = ?"
    for key, part in parts.items():
        try:
            row = source.execute(query, key).fetchone()
        except sqlite3.DatabaseError:
            row = (1,)
        if row is not None:
            found.add(part)
    return found


def _keys(part: list[WholeChunk]) -> dict[tuple[int, int], PartOfHour]:
    return {(chunk.part.hour, chunk.part.animal): chunk.part for chunk in part}


def _whole_chunk(slice_: int, arrival_hour: object, data: object, names: dict[int, str]) -> WholeChunk | None:
    """A chunk whose checksum is good, with its rows; None for any other."""
    hour, animal = slice_key.apart(slice_)
    cow_id = names.get(animal)
    if cow_id is None or type(data) is not bytes or type(arrival_hour) is not int:
        return None
    try:
        packed = chunks.rows_of(data, animal)
    except chunks.ChunkError:
        return None
    return WholeChunk(PartOfHour(hour, animal, cow_id), arrival_hour, packed, data)
