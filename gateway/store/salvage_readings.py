"""From a damaged store into a running one: readings, newest first, in pieces the writer hardly feels.

`pieces` reads the source in a worker thread; each piece it gives is work for `Database.write`. A
reading goes the way every reading goes (readings.append), so whatever is there already is found and
wins, and a salvage that was cut off can simply be begun again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from gateway.core import validation
from gateway.core.readings import Reading
from gateway.store import readings
from gateway.store.damaged_file import damaged_store
from gateway.store.readings import HOUR_MS
from gateway.store.renewal import newest_backup, reading
from gateway.store.salvage import Tables, Tally, animal_names
from gateway.store.salvage_walk import Gap, Row, Table, everything, rows

PIECE_ROWS = 250
"""Readings in one piece: about 5 ms of the writer's thread on a laptop, 25 ms on a Pi 4, besides the
commit. A reading that arrives meanwhile waits no longer than that."""
YEAR_2100_MS = 4_102_444_800_000

HOT = Table(
    "hot",
    ("ts_ms", "animal"),
    (
        *("ts_ms", "animal", "temperature_centi", "fxa_milli", "mya_milli", "rza_milli", "sxg_centi"),
        *("lyg_centi", "dzg_centi", "state", "motion_milli", "received_ms", "flags"),
    ),
    keys_from=validation.TIMESTAMP_MS_MIN,
    keys_to=YEAR_2100_MS,
)

Piece = Callable[[sqlite3.Connection], int]
"""Work for the writer; returns how many readings it stored that were not there."""

_STATES = {code: word for word, code in readings.STATE_CODES.items()}
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
    def backup(cls, path: Path, gateway_id: str, wanted: Tables) -> Source:
        """The newest whole backup of the store at `path`, for what was lost; empty without one."""
        return cls(newest_backup(path, gateway_id), Tally(), wanted, damaged=False)

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
    gaps = tally.lost.get(HOT.name, [])
    return sorted((gap.after if gap.after >= HOT.keys_from else 0, gap.before) for gap in gaps)


class _Slice(msgspec.Struct, frozen=True):
    hour: int
    animal: int
    cow_id: str


def pieces(
    source: sqlite3.Connection, names: dict[int, str], tally: Tally, wanted: Tables | None = None
) -> Iterator[Piece]:
    """Everything that can be read of a source, as work for the writer.

    Args:
        source: the damaged store, or a backup of it.
        names: its animals' numbers → cow ids.
        tally: told of every row as it is read.
        wanted: of these tables only these keys (what another source could not give).
    """
    spans = [everything(HOT)] if wanted is None else _with_ends(wanted.get(HOT.name, []))
    for span in spans:
        part: list[Reading] = []
        slices: dict[tuple[int, int], _Slice] = {}
        for row in rows(source, HOT, tally.lost.setdefault(HOT.name, []), span):
            reading = reading_of(row, names)
            if reading is None:
                tally.count(HOT.name, refused=1)
                continue
            tally.count(HOT.name, saved=1)
            part.append(reading)
            key = (reading.timestamp_ms // HOUR_MS, row[1])
            slices.setdefault(key, _Slice(*key, reading.cow_id))
            if len(part) == PIECE_ROWS:
                yield _append(part, slices, _undelivered(source, slices))
                part, slices = [], {}
        if part:
            yield _append(part, slices, _undelivered(source, slices))


def _with_ends(gaps: list[Gap]) -> list[Gap]:
    """Rows that share their first key column with a gap's end may be lost, too."""
    return [Gap(gap.after - 1, gap.before + 1) for gap in gaps]


def reading_of(row: Row, names: dict[int, str]) -> Reading | None:
    """A row of `hot` as a reading; None for one that validation would never have let in."""
    ts_ms, animal, *scaled = row[:9]
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
    if type(state) is int:
        state = _STATES.get(state, b"")
    if state is not None and (type(state) is not str or len(state) > _STATE_CHARS_MAX):
        return None
    return Reading(
        cow_id=cow_id,
        timestamp_ms=ts_ms,
        temperature_c=scaled[0] / 100,
        fxa_g=scaled[1] / 1000,
        mya_g=scaled[2] / 1000,
        rza_g=scaled[3] / 1000,
        sxg_dps=None if scaled[4] is None else scaled[4] / 100,
        lyg_dps=None if scaled[5] is None else scaled[5] / 100,
        dzg_dps=None if scaled[6] is None else scaled[6] / 100,
        state=state,
        motion_intensity=None if motion is None else motion / 1000,
        received_ms=received_ms,
        flags=flags,
    )


def _within(value: object, bounds: tuple[int, int, bool]) -> bool:
    lowest, highest, optional = bounds
    return (optional and value is None) or (type(value) is int and lowest <= value <= highest)


def _undelivered(source: sqlite3.Connection, slices: dict[tuple[int, int], _Slice]) -> set[_Slice]:
    """Those the cloud has not got; where that cannot be read it is sent again (it is an upsert)."""
    found = set()
    for key, part in slices.items():
        try:
            row = source.execute("SELECT 1 FROM dirty WHERE hour = ? AND animal = ?", key).fetchone()
        except sqlite3.DatabaseError:
            row = (1,)
        if row is not None:
            found.add(part)
    return found


def _append(part: list[Reading], slices: dict[tuple[int, int], _Slice], undelivered: set[_Slice]) -> Piece:
    """Store readings as if they came from their collars, but make no slice dirty that was delivered."""

    def work(db: sqlite3.Connection) -> int:
        delivered = [one for one in slices.values() if one not in undelivered and not _is_dirty(db, one)]
        outcomes = readings.append(db, part)
        db.executemany(
            "DELETE FROM dirty WHERE hour = ? AND animal = (SELECT id FROM animals WHERE cow_id = ?)",
            ((one.hour, one.cow_id) for one in delivered),
        )
        return outcomes.count(readings.Outcome.STORED)

    return work


def _is_dirty(db: sqlite3.Connection, part: _Slice) -> bool:
    query = "SELECT 1 FROM dirty WHERE hour = ? AND animal = (SELECT id FROM animals WHERE cow_id = ?)"
    return db.execute(query, (part.hour, part.cow_id)).fetchone() is not None
