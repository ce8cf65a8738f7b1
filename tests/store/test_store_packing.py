"""Packing, hourly figures, history and retention over one journal: what is asked before is asked after."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.instants import HOUR_MS
from gateway.core.readings import Reading
from gateway.store import chunks, history, journal, newest, packing, readings, retention, rollups, slices
from gateway.store.database import Database
from gateway.store.migrations import migrate, migrations
from gateway.store.opening import open_readonly
from gateway.store.readings import Outcome

HOUR0 = 490_000
T0 = HOUR0 * HOUR_MS


@pytest.fixture
def con() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, migrations())
        yield connection


def reading(cow_id: str, minute: float, *, arrived_min: float | None = None, **more: object) -> Reading:
    ts = T0 + round(minute * 60_000)
    fields: dict[str, object] = {
        "cow_id": cow_id,
        "timestamp_ms": ts,
        "temperature_c": 38.5,
        "fxa_g": -0.04,
        "mya_g": 0.01,
        "rza_g": -0.88,
        "received_ms": ts + 2000 if arrived_min is None else T0 + round(arrived_min * 60_000),
    }
    return msgspec.convert({**fields, **more}, Reading)


def herd(cows: int, minutes: int, seed: int = 1) -> list[Reading]:
    dice = random.Random(seed)
    return [
        reading(
            f"C{cow:02}",
            minute + cow / 60,
            temperature_c=round(38.5 + dice.gauss(0, 0.2), 2),
            fxa_g=round(dice.gauss(0, 0.2), 3),
            mya_g=round(dice.gauss(0, 0.2), 3),
            sxg_dps=round(dice.gauss(0, 5), 2) if cow % 2 else None,
            state=dice.choice(["lying", "standing", "kicking", None]),
            motion_intensity=round(dice.random(), 3) if cow % 3 == 0 else None,
        )
        for minute in range(minutes)
        for cow in range(cows)
    ]


def keep_house(db: sqlite3.Connection, now_hour: int) -> int:
    """What services/housekeep does, in one go; returns the rows packed."""
    journal.advance(db, journal.CLOSED, now_hour - 1)
    while (hour := journal.next_hour(db, journal.cursors(db).rolled_hour, now_hour - 1)) is not None:
        for data_hour, animals in rollups.due(db, hour).items():
            rollups.write(db, rollups.renew(db, data_hour, animals), hour)
        journal.advance(db, journal.ROLLED, hour)
    moved = 0
    while (due := packing.due(db, now_hour)) is not None:
        for data_hour in due.animals:
            for piece in packing.plan(db, due, data_hour):
                moved += packing.apply(db, piece)
        journal.forget(db, due.arrival_hour, packing.superseded(db, due))
        packing.finish(db, due)
    return moved


def let_go(db: sqlite3.Connection, before_hour: int, *, undelivered_too: bool) -> retention.Dropped:
    """What services/housekeep does with old readings, in one go."""
    gone = undelivered = 0
    for hour in retention.arrival_hours(db, before_hour, 100, undelivered_too=undelivered_too):
        going = retention.droppable(db, hour, undelivered_too=undelivered_too)
        done = retention.drop_readings(db, hour, going, HOUR0 + 24 * 3650)
        gone, undelivered = gone + done.readings, undelivered + done.undelivered
    return retention.Dropped(gone, undelivered)


def everything(db: sqlite3.Connection) -> list[Reading]:
    return by_place([bare(r) for part in history.raw(db, 0, 2**50) for r in part])


def by_place(rows: list[Reading]) -> list[Reading]:
    return sorted(map(bare, rows), key=lambda r: (r.timestamp_ms // HOUR_MS, r.cow_id, r.timestamp_ms))


def bare(r: Reading) -> Reading:
    """As it is read back from a packed hour."""
    return msgspec.structs.replace(r, received_s=0.0, received_ms=r.received_ms // 1000 * 1000)


# --- packing --------------------------------------------------------------------------------------


def test_every_reading_is_the_same_before_and_after_packing(con: sqlite3.Connection) -> None:
    sent = herd(6, 180)
    readings.append(con, sent)
    before = everything(con)
    assert before == by_place(sent)
    assert keep_house(con, HOUR0 + 60) == len(sent)
    assert con.execute("SELECT count(*) FROM hot_readings").fetchone() == (0,)
    assert everything(con) == before
    assert con.execute("SELECT sum(rows_n) FROM chunks").fetchone() == (len(sent),)


def test_an_hour_is_packed_48_h_after_its_last_arrival_and_not_before(con: sqlite3.Connection) -> None:
    readings.append(con, herd(2, 60))
    late = reading("C00", 30.5, arrived_min=20 * 60 + 5)  # 20 h later
    readings.append(con, [late])
    assert keep_house(con, HOUR0 + 48) == 0
    assert (
        keep_house(con, HOUR0 + 50) == 60
    )  # C01 alone; its last reading came in the next hour's first second
    assert [r.cow_id for r in newest.recent(con, None, 200)].count("C00") == 61
    assert keep_house(con, HOUR0 + 20 + 48) == 0
    assert keep_house(con, HOUR0 + 20 + 49) == 61
    assert len(everything(con)) == 121


def test_late_readings_of_a_packed_hour_are_compared_with_it_and_merged(con: sqlite3.Connection) -> None:
    sent = herd(2, 60)
    readings.append(con, sent)
    keep_house(con, HOUR0 + 60)
    again = [msgspec.structs.replace(sent[0], received_ms=T0 + 100 * HOUR_MS), sent[1]]
    other = msgspec.structs.replace(sent[4], temperature_c=41.0)
    fresh = reading("C01", 30.25, arrived_min=70 * 60)
    assert readings.append(con, [*again, other, fresh]) == [
        Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.STORED,
    ]  # fmt: skip
    assert con.execute("SELECT count(*) FROM hot_readings").fetchone() == (1,)
    assert everything(con) == by_place([*sent, fresh])
    assert keep_house(con, HOUR0 + 70 + 49) == 1
    assert everything(con) == by_place([*sent, fresh])
    assert readings.append(con, [fresh]) == [Outcome.DUPLICATE]


@pytest.mark.parametrize("ask", [everything, lambda db: by_place(newest.recent(db, None, 1000))])
def test_an_hour_packed_while_a_command_reads_it_is_read_once(
    db: Database, ask: Callable[[sqlite3.Connection], list[Reading]]
) -> None:
    sent = herd(2, 60)
    db.write_now(lambda con: readings.append(con, sent))
    packed = []

    def pack(statement: str) -> None:
        """Between the first look at one home of the readings and the first at the other."""
        looks = () if "min(" in statement else ("FROM chunks", "FROM hot_readings")  # min: which hours
        homes = {home for home in looks if home in statement}
        if homes and not packed:
            packed.extend(homes)
        elif homes and homes != set(packed[:1]) and len(packed) == 1:
            packed.append(db.write_now(lambda con: keep_house(con, HOUR0 + 60)))

    with open_readonly(db.path) as beside:
        beside.set_trace_callback(pack)
        assert ask(beside) == by_place(sent)
    assert packed[1:] == [120]


def test_what_arrives_between_plan_and_apply_is_not_lost(con: sqlite3.Connection) -> None:
    readings.append(con, herd(2, 60))
    journal.advance(con, journal.CLOSED, HOUR0 + 59)
    journal.advance(con, journal.ROLLED, HOUR0 + 59)
    due = packing.due(con, HOUR0 + 60)
    assert due is not None
    (piece,) = packing.plan(con, due, HOUR0)
    late = reading("C00", 12.34, arrived_min=60 * 60)
    readings.append(con, [late])
    assert packing.apply(con, piece) == 60, "C01 only"
    packing.finish(con, due)
    assert bare(late) in everything(con)
    assert len(everything(con)) == 121


def test_a_clock_behind_the_journal_does_not_hide_what_arrives(con: sqlite3.Connection) -> None:
    readings.append(con, herd(1, 60))
    keep_house(con, HOUR0 + 10)
    behind = reading("C00", 61, arrived_min=-600_000)  # arrived "last year"
    readings.append(con, [behind])
    assert keep_house(con, HOUR0 + 70) == 61
    assert history.series(con, None, 0, 2**50, ["temperature_c"], step_ms=HOUR_MS).n.tolist() == [60, 1]


def test_a_journal_from_the_future_is_brought_back(con: sqlite3.Connection) -> None:
    years = 24 * 3650
    readings.append(con, herd(1, 60))
    readings.append(con, [reading("C00", 70, arrived_min=years * 60)])
    keep_house(con, HOUR0 + years + 1)  # walked under the wrong date
    assert not journal.ahead(con, HOUR0 + years + 2)
    assert journal.ahead(con, HOUR0 + 2)
    journal.rebase(con, HOUR0 + 2)
    assert not journal.ahead(con, HOUR0 + 2)
    readings.append(con, [reading("C00", 121)])
    keep_house(con, HOUR0 + 60)
    assert con.execute("SELECT count(*) FROM hot_readings").fetchone() == (0,)
    assert len(everything(con)) == 62


def test_big_herds_take_several_pieces(con: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ROWS_PER_PIECE", 100)
    readings.append(con, herd(5, 60))
    journal.advance(con, journal.CLOSED, HOUR0 + 59)
    journal.advance(con, journal.ROLLED, HOUR0 + 59)
    due = packing.due(con, HOUR0 + 60)
    assert due is not None
    pieces = packing.plan(con, due, HOUR0)
    assert [len(piece.packed) for piece in pieces] == [2, 2, 1]


def test_a_damaged_chunk_never_stops_readings_and_is_set_aside(con: sqlite3.Connection) -> None:
    sent = herd(1, 60)
    readings.append(con, sent)
    keep_house(con, HOUR0 + 60)
    con.execute("UPDATE chunks SET data = zeroblob(40)")
    with pytest.raises(chunks.ChunkError, match=r"2025-11-24T16:00:00Z of animal number 1") as caught:
        everything(con)
    assert readings.append(con, [sent[3]]) == [Outcome.STORED], "nobody can tell that it was there"
    assert caught.value.slice_ == (HOUR0, 1)
    assert chunks.set_aside(con, caught.value.slice_, T0) == 60
    assert everything(con) == [bare(sent[3])]
    assert con.execute("SELECT rows_n, length(data) FROM damaged_chunks").fetchone() == (60, 40)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=30)),
        st.tuples(st.just("house"), st.integers(1, 60)),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_whatever_comes_whenever_is_there_once(steps: list[tuple[str, object]]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as con:
        migrate(con, migrations())
        kept: dict[tuple[str, int], Reading] = {}
        now_hour = HOUR0 + 6
        for what, value in steps:
            if what == "send":
                assert isinstance(value, list)
                batch = [
                    reading(f"C{cow}", minute, arrived_min=(now_hour - HOUR0) * 60.0, fxa_g=minute % 90 / 100)
                    for cow, minute in value
                ]
                for r in batch:
                    kept.setdefault((r.cow_id, r.timestamp_ms), bare(r))
                readings.append(con, batch)
            else:
                assert isinstance(value, int)
                now_hour += value
                keep_house(con, now_hour)
        assert everything(con) == by_place(list(kept.values()))
        table = history.series(con, None, 0, 2**50, ["fxa_g"], step_ms=HOUR_MS)
        assert table.n.sum() == len(kept)
        for cow_id in {cow for cow, _ in kept}:
            mine = [r for r in kept.values() if r.cow_id == cow_id]
            assert [bare(r) for r in newest.recent(con, cow_id, 1)] == [
                max(mine, key=lambda r: r.timestamp_ms)
            ]


# --- figures --------------------------------------------------------------------------------------


def figures_of(rows: list[Reading], pick: str) -> tuple[int, float, float, float, float]:
    values = [
        getattr(r, pick) for r in sorted(rows, key=lambda r: r.timestamp_ms) if getattr(r, pick) is not None
    ]
    return len(rows), float(np.mean(values)), min(values), max(values), values[-1]


@pytest.mark.parametrize("packed", [False, True])
def test_buckets_say_what_the_readings_say(con: sqlite3.Connection, packed: bool) -> None:
    sent = herd(3, 300)
    readings.append(con, sent)
    if packed:
        keep_house(con, HOUR0 + 60)
        readings.append(con, extra := [reading("C01", 150.5, arrived_min=60 * 60, sxg_dps=99.99)])
        sent += extra
    for step_ms in (10 * 60_000, HOUR_MS, 4 * HOUR_MS):
        table = history.series(
            con, ["C01", "NOBODY"], T0, T0 + 5 * HOUR_MS, ["sxg_dps", "fxa_g"], step_ms=step_ms
        )
        assert table.cow_ids == ["C01"]
        for at, start in enumerate(table.timestamp_ms.tolist()):
            inside = [r for r in sent if r.cow_id == "C01" and start <= r.timestamp_ms < start + step_ms]
            for channel in ("sxg_dps", "fxa_g"):
                n, mean, low, high, last = figures_of(inside, channel)
                assert table.n[at] == n
                assert table.values[channel][at] == pytest.approx(mean, abs=6e-4)
                assert table.low[channel][at] == pytest.approx(low, abs=1e-5)
                assert table.high[channel][at] == pytest.approx(high, abs=1e-5)
                assert table.last[channel][at] == pytest.approx(last, abs=1e-5)


def test_hourly_figures_stay_when_the_readings_are_let_go(con: sqlite3.Connection) -> None:
    readings.append(con, herd(3, 120))
    names = ("n", "temperature_mean_c", "motion_n", "motion_mean_g", "lying_min", "other_min", "sxg_n")
    live = rollups.hourly(con, HOUR0, HOUR0 + 3, names)
    keep_house(con, HOUR0 + 60)
    packed = rollups.hourly(con, HOUR0, HOUR0 + 3, names)
    let_go(con, 2**40, undelivered_too=True)
    assert everything(con) == []
    kept = rollups.hourly(con, HOUR0, HOUR0 + 3, names)

    def rows(table: rollups.HourlyTable) -> list[tuple[object, ...]]:
        columns = [table.values[name].round(3).tolist() for name in names]
        return sorted(
            zip([table.cow_ids[c] for c in table.cow], table.hour.tolist(), *columns, strict=True), key=repr
        )

    assert rows(live) == rows(packed) == rows(kept)
    assert len(rows(kept)) == 6
    assert sum(kept.values["n"]) == 360


def test_motion_is_the_step_between_minutes_and_the_collars_own_word_wins(con: sqlite3.Connection) -> None:
    readings.append(
        con,
        [
            reading("A", 0, fxa_g=0.0, mya_g=0.0, rza_g=1.0),
            reading("A", 1, fxa_g=0.3, mya_g=0.4, rza_g=1.0),
            reading("A", 3, fxa_g=0.3, mya_g=0.4, rza_g=1.0),  # a gap in front of it
            reading("A", 4, fxa_g=0.3, mya_g=0.4, rza_g=1.0, motion_intensity=2.0),
        ],
    )
    table = history.series(con, None, T0, T0 + HOUR_MS, ["motion_g"])
    assert table.values["motion_g"].tolist() == pytest.approx([np.nan, 0.5, np.nan, 2.0], nan_ok=True)


def test_points_choose_the_narrowest_width_that_fits(con: sqlite3.Connection) -> None:
    readings.append(con, herd(1, 600))
    table = history.points(con, ["C00"], T0, T0 + 10 * HOUR_MS, ["temperature_c"], points_max=60)
    assert table.step_ms == 10 * 60_000
    assert len(table.timestamp_ms) == 60
    long = history.points(
        con, ["C00"], T0 - 80 * 24 * HOUR_MS, T0 + 10 * 24 * HOUR_MS, ["temperature_c"], points_max=500
    )
    assert long.step_ms == 6 * HOUR_MS


def test_unknown_channels_and_widths_are_named(con: sqlite3.Connection) -> None:
    with pytest.raises(ValueError, match="no channel 'temp'"):
        history.series(con, None, 0, 1, ["temp"])
    with pytest.raises(ValueError, match="none of the widths"):
        history.series(con, None, 0, 1, ["fxa_g"], step_ms=7)
    with pytest.raises(ValueError, match="no hourly figure 'heat'"):
        rollups.hourly(con, 0, 1, ["heat"])


# --- letting go -----------------------------------------------------------------------------------


def test_undelivered_readings_go_last_and_everything_is_counted(con: sqlite3.Connection) -> None:
    readings.append(con, herd(2, 60))
    claimed = slices.claim(con, 10)
    slices.delivered(con, claimed[0])  # C00 has been shipped, C01 has not
    keep_house(con, HOUR0 + 60)
    assert let_go(con, 2**40, undelivered_too=False).readings == 60
    assert {r.cow_id for r in everything(con)} == {"C01"}
    assert retention.arrival_hours(con, 2**40, 10, undelivered_too=False) == []
    assert let_go(con, 2**40, undelivered_too=True).undelivered == 60
    assert everything(con) == []
    assert not slices.waiting(con)
    assert retention.dropped(con) == {"dropped_readings": 120, "dropped_undelivered": 60}


def test_a_late_reading_outlives_its_hour(con: sqlite3.Connection) -> None:
    readings.append(con, herd(1, 60))
    keep_house(con, HOUR0 + 60)
    late = reading("C00", 30.5, arrived_min=60 * 60)
    readings.append(con, [late])
    let_go(con, HOUR0 + 50, undelivered_too=True)
    assert everything(con) == [bare(late)]
    assert slices.waiting(con), "and it is still to be delivered"
    assert keep_house(con, HOUR0 + 60 + 49) == 1
    assert everything(con) == [bare(late)]


def test_rolled_up_days_go_by_age_of_data_and_of_arrival(con: sqlite3.Connection) -> None:
    readings.append(con, herd(1, 60))
    readings.append(con, [reading("OLD", -60 * 24 * 365 * 6, arrived_min=5)])  # an old recording, imported
    keep_house(con, HOUR0 + 60)
    assert retention.drop_rollups(con, HOUR0 - 24 * 365, HOUR0 + 99) == 0
    assert retention.drop_rollups(con, HOUR0 + 48, HOUR0 + 99) == 2


def test_a_damaged_day_of_figures_is_reckoned_anew_while_its_readings_are_there(
    con: sqlite3.Connection,
) -> None:
    readings.append(con, herd(2, 180))
    keep_house(con, HOUR0 + 60)
    names = ("n", "temperature_mean_c", "motion_mean_g")
    before = rollups.hourly(con, HOUR0, HOUR0 + 3, names)
    con.execute("UPDATE rollups SET data = zeroblob(9)")
    after = rollups.hourly(con, HOUR0, HOUR0 + 3, names)
    for name in names:
        assert sorted(after.values[name]) == pytest.approx(sorted(before.values[name]), abs=6e-4)
    readings.append(con, [reading("C00", 30.5, arrived_min=60 * 60)])
    keep_house(con, HOUR0 + 62)
    mended = rollups.hourly(con, HOUR0, HOUR0 + 3, ("n",))
    assert sorted(mended.values["n"].tolist()) == [60.0] * 5 + [61.0]
    data = con.execute("SELECT data FROM rollups").fetchall()
    assert [rollups.decode(one[0]) is None for one in data] == [False, True], "C01 has not been asked to"


def test_figures_of_more_readings_than_are_left_stay(con: sqlite3.Connection) -> None:
    readings.append(con, herd(1, 60))
    keep_house(con, HOUR0 + 60)
    before = rollups.hourly(con, HOUR0, HOUR0 + 1, ("n", "temperature_mean_c"))
    let_go(con, 2**40, undelivered_too=True)
    readings.append(con, [reading("C00", 30.5, arrived_min=60 * 60, temperature_c=41.0)])
    for now_hour in (HOUR0 + 60, HOUR0 + 62, HOUR0 + 120):  # noted, rolled up, packed
        keep_house(con, now_hour)
        after = rollups.hourly(con, HOUR0, HOUR0 + 1, ("n", "temperature_mean_c"))
        assert after.values["n"].tolist() == before.values["n"].tolist() == [60.0]
        assert after.values["temperature_mean_c"].tolist() == before.values["temperature_mean_c"].tolist()


@pytest.mark.parametrize("rolled", [False, True])
def test_a_late_last_minute_gives_the_next_hour_its_first_motion(
    con: sqlite3.Connection, rolled: bool
) -> None:
    sent = [
        msgspec.structs.replace(r, motion_intensity=None)
        for r in herd(1, 120)
        if r.timestamp_ms != T0 + 59 * 60_000
    ]
    readings.append(con, sent)
    keep_house(con, HOUR0 + 4)
    assert rollups.hourly(con, HOUR0 + 1, HOUR0 + 2, ("motion_n",)).values["motion_n"].tolist() == [59.0]
    readings.append(con, [reading("C00", 59, arrived_min=4 * 60 + 1)])
    if rolled:
        keep_house(con, HOUR0 + 6)
    assert rollups.hourly(con, HOUR0 + 1, HOUR0 + 2, ("motion_n",)).values["motion_n"].tolist() == [60.0]


def test_what_came_under_a_clock_that_was_behind_is_kept_from_now_on(con: sqlite3.Connection) -> None:
    readings.append(con, herd(1, 60))
    months = 24 * 120
    moved = journal.bring_forward(con, HOUR0, HOUR0 + months)
    assert moved == 1
    keep_house(con, HOUR0 + months + 60)
    assert let_go(con, HOUR0 + months, undelivered_too=True).readings == 0
    assert let_go(con, HOUR0 + months + 1, undelivered_too=True).readings == 60


def test_what_was_packed_under_a_clock_that_ran_ahead_is_let_go_in_the_end(con: sqlite3.Connection) -> None:
    years = 24 * 365 * 3
    readings.append(con, [reading("C00", m, arrived_min=years * 60 + m) for m in range(60)])
    keep_house(con, HOUR0 + years + 60)
    journal.rebase(con, HOUR0 + 2)
    keep_house(con, HOUR0 + 60)
    hours = retention.arrival_hours(con, HOUR0 + 60, 10, undelivered_too=True)
    done = [
        retention.drop_readings(
            con, hour, retention.droppable(con, hour, undelivered_too=True), HOUR0 + 24 * 100
        ).readings
        for hour in hours
    ]
    assert sum(done) == 60
    assert everything(con) == []
