"""A store that holds 90 days of 200 animals: two days as they came, the rest packed.

The first day and the last two go the real way (`append`, housekeeping). The days between repeat the
first one, chunk by chunk with the instants moved: a chunk says its instants in its first column, so
only that is encoded anew. Each day's copy is checked by decoding one of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.store import chunks, columns, journal, slice_key
from gateway.store.database import Connection
from tests.bench.barn_day import HOUR_MS, START_MS, arrivals, commits
from tests.bench.stores import DAY_MS, GatewayStore

ANIMALS = 200
DAYS, HOT_DAYS = 90, 2
DAY_H = 24
END_MS = START_MS + DAYS * DAY_MS
FIRST_HOUR = START_MS // HOUR_MS
Int64 = npt.NDArray[np.int64]

_BATCH_WINDOW_MS = HOUR_MS


def build(directory: Path) -> GatewayStore:
    """Make the store; about 26 million readings."""
    store = GatewayStore(directory)
    _arrive(store, 0, DAY_H)
    packed_ms = START_MS + DAY_MS + 60 * HOUR_MS
    store.hour_passed(packed_ms)
    templates = store.database.read_now(_templates)
    for day in range(1, DAYS - HOT_DAYS):
        store.database.write_now(lambda db, d=day: _repeat_first_day(db, templates, d))  # type: ignore[misc]
    _arrive(store, (DAYS - HOT_DAYS) * DAY_H, HOT_DAYS * DAY_H)
    store.hour_passed(END_MS)
    return store


def _arrive(store: GatewayStore, from_hour: int, hours: int) -> None:
    for hour in range(from_hour, from_hour + hours):
        for batch in commits(arrivals(ANIMALS, hour, 1), _BATCH_WINDOW_MS):
            store.put(batch)


class _Template(NamedTuple):
    """A chunk of the first day: its instants, and everything that stands behind them."""

    hour: int
    animal: int
    rows_n: int
    arrival_hour: int
    instants: Int64
    rest: bytes

    def moved(self, days: int) -> tuple[int, int, int, bytes]:
        """The row of `chunks` with the same readings `days` later."""
        body = columns.encode([self.instants + days * DAY_MS]) + self.rest
        key = slice_key.of(self.hour + days * DAY_H, self.animal)
        return key, self.rows_n, self.arrival_hour + days * DAY_H, columns.seal(chunks.FORM, body)


def _templates(db: Connection) -> list[_Template]:
    span = slice_key.of(FIRST_HOUR, 0), slice_key.of(FIRST_HOUR + DAY_H, 0)
    query = "SELECT slice, rows_n, arrival_hour, data FROM chunks WHERE slice >= ? AND slice < ?"
    found = []
    for slice_, rows_n, arrival_hour, data in db.execute(query, span):
        instants = chunks.decode(data, [chunks.TS_MS]).column[chunks.TS_MS]
        head = columns.encode([instants])
        body = columns.unseal(chunks.FORM, data)
        assert body.startswith(head), "a chunk no longer begins with its instants"
        rest = body[len(head) :]
        found.append(_Template(*slice_key.apart(slice_), rows_n, arrival_hour, instants, rest))
    return found


def _repeat_first_day(db: Connection, templates: list[_Template], day: int) -> None:
    """Chunks, notes of arrival and hourly figures of the first day, `day` days later."""
    one = templates[day % len(templates)]
    _, _, _, data = one.moved(day)
    before = chunks.decode(one.moved(0)[3]).column
    after = chunks.decode(data).column
    assert np.array_equal(before[chunks.TS_MS] + day * DAY_MS, after[chunks.TS_MS])
    assert all(np.array_equal(before[at], after[at]) for at in before if at != chunks.TS_MS)
    db.executemany(
        "INSERT INTO chunks (slice, rows_n, arrival_hour, data) VALUES (?, ?, ?, ?)",
        (template.moved(day) for template in templates),
    )
    db.execute(
        "INSERT INTO arrived SELECT arrival_hour + ?1, hour + ?1, animal FROM arrived"
        " WHERE arrival_hour < ?2",
        (day * DAY_H, FIRST_HOUR + DAY_H),
    )
    db.execute(
        "INSERT INTO rollups SELECT day_animal + ?1, arrival_hour + ?2, data FROM rollups"
        " WHERE day_animal < ?3",
        (day << slice_key.ANIMAL_BITS, day * DAY_H, (FIRST_HOUR // DAY_H + 1) << slice_key.ANIMAL_BITS),
    )
    for cursor in (journal.CLOSED, journal.ROLLED, journal.PACKED):
        journal.advance(db, cursor, FIRST_HOUR + (day + 1) * DAY_H - 1)
