from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.instants import HOUR_MS
from gateway.core.outbox import Slice
from gateway.core.readings import FLAG_CLOCK_AHEAD, Reading
from gateway.store import herd, history, newest, slices
from gateway.store import readings as store
from gateway.store.database import Database
from gateway.store.migrations import migrate, migrations
from gateway.store.readings import Outcome
from gateway.store.rows import STATE_CODES
from tests.conftest import need

T0 = 1_764_081_000_000  # 2025-11-25T14:30:00Z
HOUR = T0 // HOUR_MS


def reading(cow_id: str = "COW_001", ts: int = T0, temperature: float = 38.5, **more: object) -> Reading:
    fields: dict[str, object] = {"fxa_g": -0.04, "mya_g": 0.01, "rza_g": -0.88, "received_ms": ts + 900}
    return msgspec.convert(
        {"cow_id": cow_id, "timestamp_ms": ts, "temperature_c": temperature, **fields, **more}, Reading
    )


@contextmanager
def memory() -> Iterator[sqlite3.Connection]:
    """The schema alone; the writer thread has its own tests."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as con:
        migrate(con, migrations())
        yield con


@pytest.fixture
def con() -> Iterator[sqlite3.Connection]:
    with memory() as connection:
        yield connection


# --- first wins -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "outcome"),
    [
        (reading(), Outcome.DUPLICATE),
        (reading(received_ms=T0 + 86_400_000), Outcome.DUPLICATE),  # arrival does not count
        (reading(flags=FLAG_CLOCK_AHEAD), Outcome.DUPLICATE),
        (reading(temperature=38.5000001), Outcome.DUPLICATE),  # below the resolution
        (reading(temperature=38.51), Outcome.CONFLICT),
        (reading(fxa_g=-0.041), Outcome.CONFLICT),
        (reading(sxg_dps=0.0), Outcome.CONFLICT),  # sent is not the same as not sent
        (reading(state="lying"), Outcome.CONFLICT),
        (reading(motion_intensity=0.02), Outcome.CONFLICT),
        (reading(ts=T0 + 1), Outcome.STORED),
        (reading(cow_id="COW_002"), Outcome.STORED),
        (reading(cow_id="cow_001"), Outcome.STORED),
    ],
)
@pytest.mark.parametrize("same_batch", [True, False])
def test_second_reading(con: sqlite3.Connection, second: Reading, outcome: Outcome, same_batch: bool) -> None:
    if same_batch:
        assert store.append(con, [reading(), second]) == [Outcome.STORED, outcome]
    else:
        assert store.append(con, [reading()]) == [Outcome.STORED]
        assert store.append(con, [second]) == [outcome]
    assert reading() in [plain(r) for r in newest.recent(con, None, 10)]


def plain(r: Reading) -> Reading:
    return msgspec.structs.replace(r, received_s=0.0)


def hundredths(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda k: k / 100)


def thousandths(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda k: k / 1000)


READINGS = st.builds(
    Reading,
    cow_id=st.sampled_from(["A", "B", "a.b:c-d_1", "X" * 64]),
    # few instants, so that they collide; from the first that is accepted to far ahead
    timestamp_ms=st.sampled_from([946_684_800_000, T0, T0 + 1, T0 + 3_600_000, 4_102_444_800_000]),
    temperature_c=hundredths(3500, 4200),
    fxa_g=thousandths(-2000, 2000),
    mya_g=thousandths(-2000, 2000),
    rza_g=thousandths(-2000, 2000),
    sxg_dps=st.none() | hundredths(-200_000, 200_000),
    lyg_dps=st.none() | hundredths(-200_000, 200_000),
    dzg_dps=st.none() | hundredths(-200_000, 200_000),
    state=st.sampled_from([None, "lying", "drinking", "grasend", "1", "", "à\0"]),
    motion_intensity=st.none() | thousandths(0, 5_000_000),
    received_ms=st.integers(0, 2**45),
    flags=st.integers(0, 3),
)


@settings(deadline=None, max_examples=150)
@given(batches=st.lists(st.lists(READINGS, max_size=12), max_size=6))
def test_each_instant_once_first_wins_exactly(batches: list[list[Reading]]) -> None:
    with memory() as con:
        first: dict[tuple[str, int], Reading] = {}
        for batch in batches:
            expected = []
            for r in batch:
                kept = first.setdefault((r.cow_id, r.timestamp_ms), r)
                same = msgspec.structs.replace(kept, received_ms=r.received_ms, flags=r.flags) == r
                expected.append(
                    Outcome.STORED if kept is r else Outcome.DUPLICATE if same else Outcome.CONFLICT
                )
            assert store.append(con, batch) == expected
        stored = newest.recent(con, None, 1000)
        assert {(r.cow_id, r.timestamp_ms): r for r in stored} == first
        assert len(stored) == len(first)
        assert store.animal_count(con) == len({cow for cow, _ in first})
        last = {}
        for (cow, ts), r in sorted(first.items(), key=lambda item: item[0][1]):
            last[cow] = r
            assert r in newest.recent(con, cow, 1000)
            part = Slice(hour=ts // HOUR_MS, cow_id=cow, rev=0)
            assert r in history.slice_readings(con, part)
        assert {r.cow_id: r for r in newest.latest(con, 100)} == last
        # the view says the same as the functions
        rows = con.execute("SELECT cow_id, timestamp_ms, temperature, state FROM sensor_data").fetchall()
        assert sorted(rows, key=repr) == sorted(
            ((r.cow_id, r.timestamp_ms, r.temperature_c, r.state) for r in first.values()), key=repr
        )


def test_absurd_optional_value_is_dropped_and_never_fails_the_batch(con: sqlite3.Connection) -> None:
    bad = [1e300, float("nan"), float("inf"), -1e18]
    batch = [reading(ts=T0 + i) for i in range(4)]
    batch = [msgspec.structs.replace(r, motion_intensity=v) for r, v in zip(batch, bad, strict=True)]
    assert store.append(con, batch) == [Outcome.STORED] * 4
    assert {r.motion_intensity for r in newest.recent(con, None, 9)} == {None}


def test_empty_batch(con: sqlite3.Connection) -> None:
    assert store.append(con, []) == []
    assert newest.latest(con, 5) == newest.recent(con, None, 5) == newest.recent(con, "X", 5) == []
    assert herd.herd_table(con, 0, 2**50).cow_ids == []
    assert herd.last_hours(con, 5) == {}
    assert history.series(con, ["X"], 0, 2**50, ["temperature_c"]).timestamp_ms.tolist() == []


def test_state_words_match_the_schema(con: sqlite3.Connection) -> None:
    assert dict(con.execute("SELECT word, id FROM states")) == STATE_CODES


# --- reading back ---------------------------------------------------------------------------------


def test_latest_and_recent_are_newest_first_and_bounded(con: sqlite3.Connection) -> None:
    store.append(con, [reading(f"C{i}", T0 + i * 3_600_000 * (i % 3)) for i in range(9)])
    store.append(con, [reading("C4", T0 - 50_000_000)])  # late: does not become the latest
    instants = [r.timestamp_ms for r in newest.latest(con, 100)]
    assert instants == sorted(instants, reverse=True)
    assert len(instants) == 9
    assert [r.cow_id for r in newest.latest(con, 2)] == ["C8", "C5"]
    assert [r.timestamp_ms for r in newest.recent(con, "C4", 1)] == [T0 + 4 * 3_600_000]
    assert len(newest.recent(con, "C4", 10)) == 2
    assert len(newest.recent(con, None, 4)) == 4


def test_series_are_half_open_ordered_and_mark_what_is_missing(con: sqlite3.Connection) -> None:
    sent = [reading(ts=T0 + m * 60_000, motion_intensity=None if m % 2 else 0.125) for m in range(4)]
    store.append(con, [sent[3], sent[0], sent[2], sent[1], reading("OTHER")])
    wanted = ("temperature_c", "fxa_g", "rza_g", "motion_intensity")
    series = history.series(con, ["COW_001"], T0, T0 + 180_000, wanted)
    assert series.cow_ids == ["COW_001"]
    assert series.timestamp_ms.tolist() == [T0, T0 + 60_000, T0 + 120_000]
    assert series.values["temperature_c"].tolist() == [38.5] * 3
    assert series.values["fxa_g"].tolist() == [np.float32(-0.04)] * 3
    assert series.values["motion_intensity"][0] == series.values["motion_intensity"][2] == 0.125
    assert np.isnan(series.values["motion_intensity"][1])


def test_the_herds_table_equals_each_animals_series(con: sqlite3.Connection) -> None:
    store.append(con, [reading(f"C{i % 5}", T0 + i * 1000, 38 + i / 100) for i in range(40)])
    for asked in (None, ["C1", "C3", "nobody"]):
        table = herd.herd_table(con, T0 + 3000, T0 + 30_000, asked)
        assert table.cow_ids == ([f"C{i}" for i in range(5)] if asked is None else ["C1", "C3"])
        for at, cow in enumerate(table.cow_ids):
            alone = history.series(con, [cow], T0 + 3000, T0 + 30_000, ["temperature_c"])
            assert table.timestamp_ms[table.cow == at].tolist() == alone.timestamp_ms.tolist() != []
            mine = table.values[table.cow == at]
            assert mine[:, 0].astype(np.float32).tolist() == alone.values["temperature_c"].tolist()
            assert set(mine[:, 1]) == {-0.04}
            assert np.isnan(mine[:, 4]).all()  # its own motion was not sent


def test_last_hours_are_newest_first_and_bounded(con: sqlite3.Connection) -> None:
    store.append(con, [reading("OLD", T0 - 7_200_000), reading("NEW"), reading("NEW", T0 - 7_200_000)])
    assert list(herd.last_hours(con, 5).items()) == [("NEW", HOUR), ("OLD", HOUR - 2)]
    assert herd.last_hours(con, 1) == {"NEW": HOUR}


# --- slices ---------------------------------------------------------------------------------------


def test_slice_is_cleared_only_if_nothing_newer_came(con: sqlite3.Connection) -> None:
    store.append(con, [reading()])
    (first,) = slices.claim(con, 10)
    assert (first.hour, first.cow_id) == (HOUR, "COW_001")
    store.append(con, [reading(ts=T0 + 60_000)])
    slices.delivered(con, first)
    (second,) = slices.claim(con, 10)
    assert second.rev > first.rev
    assert len(history.slice_readings(con, second)) == 2
    slices.delivered(con, second)
    assert slices.claim(con, 10) == []
    # a late reading makes it dirty again, under a rev no old answer can clear
    store.append(con, [reading(ts=T0 + 120_000)])
    slices.delivered(con, first)
    slices.delivered(con, second)
    (third,) = slices.claim(con, 10)
    assert third.rev > second.rev


def test_duplicates_and_conflicts_make_nothing_dirty(con: sqlite3.Connection) -> None:
    store.append(con, [reading()])
    slices.delivered(con, slices.claim(con, 1)[0])
    store.append(con, [reading(), reading(temperature=40.0)])
    assert slices.claim(con, 1) == []


def test_slices_come_oldest_hour_first_and_one_per_animal_and_hour(con: sqlite3.Connection) -> None:
    store.append(con, [reading(c, T0 + h * 3_600_000 + m) for h in (2, 0, 1) for c in "AB" for m in (0, 5)])
    found = slices.claim(con, 100)
    assert [(s.hour - HOUR, s.cow_id) for s in found] == [(h, c) for h in range(3) for c in "AB"]
    again = slices.claim(con, 2)
    assert [(s.hour, s.cow_id) for s in again] == [(s.hour, s.cow_id) for s in found[:2]]
    slices.delivered(con, found[0])  # an old claim clears nothing
    assert len(slices.claim(con, 100)) == 6


# --- document 0's queries on the live file (S0-092) -----------------------------------------------


def test_document_0_query_on_the_live_file(db: Database, path: Path) -> None:
    sent = [
        reading("TEST_COW_001", T0 + i * 60_000, 38.5 + i / 10, sxg_dps=-2.88, state="lying")
        for i in range(7)
    ]
    sent.append(reading("TEST_COW_001", T0 - 250, 41.99))
    db.write_now(lambda con: store.append(con, [*sent, reading("OTHER", T0 + 900_000)]))
    query = "SELECT * FROM sensor_data WHERE cow_id='{}' ORDER BY timestamp DESC LIMIT 5;"
    done = subprocess.run(
        [need("sqlite3"), path, query.format("TEST_COW_001")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == (
        "TEST_COW_001|2025-11-25T14:36:00Z|39.1|-0.04|0.01|-0.88|-2.88|||lying||2025-11-25T14:36:00.900Z"
        f"|{T0 + 360_000}"
    )
    assert [line.split("|")[1] for line in done.stdout.splitlines()] == [
        f"2025-11-25T14:{36 - i}:00Z" for i in range(5)
    ]
    odd = subprocess.run(
        ["sqlite3", path, "SELECT timestamp, temperature FROM sensor_data WHERE temperature > 41"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert odd.stdout == "2025-11-25T14:29:59.750Z|41.99\n"


def test_a_batch_is_stored_up_to_a_repeat_and_behind_it(con: sqlite3.Connection) -> None:
    minutes = [reading(ts=T0 + 60_000 * minute, temperature=38 + minute / 10) for minute in range(6)]
    assert store.append(con, [minutes[2]]) == [Outcome.STORED]
    other = reading(ts=T0 + 60_000 * 4, temperature=41.0)
    outcomes = store.append(con, [*minutes, minutes[0], other, reading("COW_002")])
    stored, repeat, conflict = Outcome.STORED, Outcome.DUPLICATE, Outcome.CONFLICT
    assert outcomes == [stored, stored, repeat, *[stored] * 3, repeat, conflict, stored]
    rows = con.execute("SELECT ts_ms, temperature_centi FROM hot_readings WHERE animal = 1 ORDER BY key")
    assert rows.fetchall() == [(r.timestamp_ms, round(r.temperature_c * 100)) for r in minutes]


def test_a_repeat_does_not_end_the_transaction(con: sqlite3.Connection) -> None:
    con.execute("BEGIN")
    store.append(con, [reading(), reading(), reading("COW_002")])
    assert con.in_transaction
    con.execute("ROLLBACK")
    assert con.execute("SELECT count(*) FROM hot_readings").fetchone() == (0,)
