import asyncio
import logging
import threading

import numpy as np
import pytest

from gateway.core.alerts import AlertPolicy
from gateway.core.detection import Policies
from gateway.core.ring import RING_MINUTES
from gateway.core.windows import Span, Windows
from gateway.errors import StoreError
from gateway.services import rebuild as module
from gateway.services.alarm import Alarm
from gateway.services.detect import Detect
from gateway.services.signalling import Signalling
from gateway.store import readings as stored
from gateway.store.database import Database
from tests.herd_maker import START, living, reading, told

JOB = "immediate_detection"
DAY = 1440


class Clock:
    def __init__(self) -> None:
        self.minute = 0

    def now_ms(self) -> int:
        return (START + self.minute) * 60_000

    def monotonic_s(self) -> float:
        return self.minute * 60.0

    def trusted(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        self.minute += int(seconds // 60)


class Barn:
    """Store, windows, detectors and alarms over a file; a second one on the same file is a restart."""

    def __init__(self, path, *, windows=None) -> None:
        self.clock = Clock()
        self.windows = Windows() if windows is None else windows
        self.database = Database.open(path / "state.db")
        self.alarm = Alarm(
            clock=self.clock,
            database=self.database,
            policy=AlertPolicy(),
            signalling=Signalling(lambda _: None, self.clock),
            published=lambda _: None,
        )
        self.detect = Detect(
            clock=self.clock,
            windows=self.windows,
            database=self.database,
            policies=Policies(),
            report=self.alarm.report,
        )

    def store(self, made) -> None:
        self.database.write_now(lambda db: stored.append(db, made))

    def commit(self, made) -> None:
        self.store(made)
        self.detect.committed(made)
        self.detect.feed()  # the tests look into the windows without a run

    def close(self) -> None:
        self.detect.close()
        self.database.close_now()


@pytest.fixture
def start(tmp_path):
    """Starts a barn on the test's store; the one before has to be closed."""
    barns = []

    def make(**kw):
        barns.append(Barn(tmp_path, **kw))
        return barns[-1]

    yield make
    for barn in barns:
        barn.close()


def timed(work):
    async def main():
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(main())


def bins_of(windows):
    """(animal, hour) → n, mean temperature, motion n, mean motion, tainted."""
    bins = windows._bins
    found = {}
    for row, cow_id in enumerate(windows.animals):
        for slot in np.flatnonzero(bins._n[row]):
            n, motion_n = int(bins._n[row, slot]), int(bins._motion_n[row, slot])
            found[cow_id, int(bins._hour[row, slot])] = (
                n,
                float(bins._temperature_sum[row, slot]) / 100 / n,
                motion_n,
                float(bins._motion_sum[row, slot]) / max(1, motion_n),
                bool(bins._tainted[row, slot]),
            )
    return found


def assert_same_bins(one, other):
    a, b = bins_of(one), bins_of(other)
    assert a.keys() == b.keys()
    for key, (n, mean_c, motion_n, motion_g, tainted) in a.items():
        assert b[key][0] == n, key
        assert abs(b[key][1] - mean_c) < 0.001, key
        assert b[key][2] == motion_n, key
        assert abs(b[key][3] - motion_g) < 0.0001, key
        assert b[key][4] == tainted, key


def assert_same_rings(one, other):
    assert set(one.animals) == set(other.animals)
    for cow_id in one.animals:
        rows = one._row_of[cow_id], other._row_of[cow_id]
        for name in vars(one._ring):
            a, b = (getattr(w._ring, name)[row] for w, row in zip((one, other), rows, strict=True))
            assert np.array_equal(a, b, equal_nan=name == "_reported_g"), (cow_id, name)


def minutes_in_pairs(days, step=20):
    """Two successive minutes (so that there is motion), again and again."""
    return [m + k for m in range(0, days * DAY, step) for k in range(2)]


def feverish(made, from_minute, to_minute, rise_c):
    first_ms, end_ms = ((START + minute) * 60_000 for minute in (from_minute, to_minute))
    return [
        reading(
            r.cow_id,
            r.timestamp_ms // 60_000 - START,
            round(r.temperature_c + rise_c, 2) if first_ms <= r.timestamp_ms < end_ms else r.temperature_c,
            (r.fxa_g, r.mya_g, r.rza_g),
        )
        for r in made
    ]


def test_baselines_after_a_restart_equal_those_before_it_alarm_hours_included(start):
    fever = 12 * DAY + 5 * 60, 12 * DAY + 16 * 60 + 2
    herd = {f"C{i}": living(f"C{i}", minutes_in_pairs(15)) for i in range(20)}
    herd["C7"] = feverish(herd["C7"], *fever, 2.3)
    before = start()

    async def live():
        await before.alarm.restore()
        per_hour = 6
        for hour in range(0, 15 * 24, 6):  # a detector run every six hours of barn time
            part = slice(hour * per_hour, (hour + 6) * per_hour)
            for cow in herd.values():
                before.commit(cow[part])
            before.clock.minute = (hour + 6) * 60
            await before.detect.run(JOB)

    timed(live())
    before.close()
    was = bins_of(before.windows)
    tainted = {key for key, entry in was.items() if entry[4]}
    assert {cow_id for cow_id, _ in tainted} == {"C7"}
    assert 12 <= len(tainted) <= 15
    assert min(entry[2] for entry in was.values()) >= 3  # there is motion everywhere

    after = start()
    timed(after.detect.rebuild())
    # The store knows an alarm until it was found normal again, an hour longer than the findings.
    longer = {key for key, entry in bins_of(after.windows).items() if entry[4]} - tainted
    assert longer == {("C7", START // 60 + 12 * 24 + 17)}
    before.windows.taint("C7", START + 12 * DAY + 17 * 60, START + 12 * DAY + 17 * 60)
    assert_same_bins(after.windows, before.windows)
    assert_same_rings(after.windows, before.windows)
    looks = [barn.windows.look(0.0) for barn in (before, after)]
    usual = [barn.windows.baselines(look) for barn, look in zip((before, after), looks, strict=True)]
    order = [[look.animals.index(cow_id) for cow_id in sorted(herd)] for look in looks]
    for name in ("temperature_c", "sigma_c", "motion_g", "n", "days_n", "varied"):
        a, b = (getattr(one, name)[rows] for one, rows in zip(usual, order, strict=True))
        assert np.allclose(a, b, rtol=0, atol=0.001), name
        assert not np.isnan(a).any()


def test_what_is_fed_while_the_windows_are_rebuilt_counts_once(start, monkeypatch):
    cows = [f"C{i}" for i in range(12)]
    all_of = {cow: living(cow, range(-30 * 60, 61)) for cow in cows}
    barn = start()
    for made in all_of.values():
        barn.store(made[: 30 * 60])
    monkeypatch.setattr(module, "ROWS_PER_HOLD", 97)  # pieces end anywhere, in minutes too
    barn_windows, fed = barn.windows, iter(range(30 * 60, 30 * 60 + 61))

    def one_more():
        minute = next(fed, None)
        if minute is not None:
            # Every animal's next minute; of one of them every third comes after the one that follows.
            made = [all_of[cow][minute] for cow in cows if not (cow == "C3" and minute % 3 == 1)]
            if minute % 3 == 0:
                made += [all_of["C3"][minute - 2]] if minute > 30 * 60 else []
            barn.commit(made)

    async def main():
        await barn.detect.begin()
        for _ in range(3):  # before anything is loaded
            one_more()
        rebuilding = asyncio.create_task(barn.detect.rebuild())
        while not rebuilding.done():
            one_more()
            await asyncio.sleep(0)
        await rebuilding
        while next_left():
            one_more()

    def next_left():
        return fed.__length_hint__() > 0

    timed(main())
    barn.close()
    again = start()
    timed(again.detect.rebuild())
    assert len(bins_of(barn_windows)) == 12 * 32
    assert_same_bins(barn_windows, again.windows)
    assert_same_rings(barn_windows, again.windows)


def test_late_readings_of_loaded_hours_are_added_to_their_bins(start):
    barn = start()
    barn.store(living("A", range(0, 6 * DAY, 10)))
    timed(barn.detect.rebuild())
    barn.commit(living("A", range(3, 3 * DAY, 10)))  # what a collar kept back for days
    barn.close()
    again = start()
    timed(again.detect.rebuild())
    # (The motion between a late reading and one of older hours is known to the store alone.)
    one, other = bins_of(again.windows), bins_of(barn.windows)
    assert {key: entry[0] for key, entry in one.items()} == {key: entry[0] for key, entry in other.items()}
    assert {entry[0] for entry in one.values()} == {6, 12}
    assert all(abs(one[key][1] - other[key][1]) < 0.001 for key in one)


def test_a_collar_ahead_of_time_takes_nobodys_last_hours_away(start):
    barn = start()
    for cow in ("A", "B", "C"):
        barn.store(living(cow, range(-60, 600)))
    barn.store(living("AHEAD", range(600 + 20 * 60, 600 + 20 * 60 + 5)))
    timed(barn.detect.rebuild())
    held = {cow: (barn.windows._ring._stamp[barn.windows._row_of[cow]] >= 0).sum() for cow in "ABC"}
    assert held == dict.fromkeys("ABC", RING_MINUTES)
    assert "AHEAD" in barn.windows


def test_the_last_hour_of_each_animal_waits_to_be_judged_again(start):
    barn = start()
    barn.store(living("A", range(-300, 100)))
    barn.store(living("B", range(-300, 40)))
    barn.store(living("OLD", range(-50_000, -49_970)))
    timed(barn.detect.rebuild())
    assert set(barn.windows.take_spans().live) == {
        Span("A", START + 99 - 60, START + 99),
        Span("B", START + 39 - 60, START + 39),
        Span("OLD", START - 49_971 - 60, START - 49_971),
    }


def test_what_was_stored_before_a_long_stop_is_judged_after_it(start):
    before = start()
    before.store([*living("A", range(59)), reading("A", 59, 41.2), reading("A", 60, 41.3)])
    before.close()
    barn = start()

    async def main():
        await barn.detect.begin()
        barn.commit(living("A", range(20 * 60, 20 * 60 + 5)))  # the barn's power is back
        await barn.detect.rebuild()
        return await barn.detect.run(JOB)

    found = told(timed(main()), "fever")
    assert found
    assert found[-1].at_ms == (START + 60) * 60_000


class Watched(Windows):
    """Notes how much is loaded at once, and whether the lock is held."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = []
        self.detect = None

    def load_herd(self, cow_ids, cow, *rest):
        assert self.detect._feeding.locked()
        self.loaded.append(len(cow))
        super().load_herd(cow_ids, cow, *rest)

    def load_bins(self, cow_ids, cow, hours):
        assert self.detect._feeding.locked()
        self.loaded.append(len(cow))
        super().load_bins(cow_ids, cow, hours)


def test_the_lock_is_held_for_a_bounded_number_of_rows(start, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_HOLD", 50)
    windows = Watched()
    barn = start(windows=windows)
    windows.detect = barn.detect
    for i in range(10):
        barn.store(living(f"C{i}", range(0, 3 * DAY, 7)))
    timed(barn.detect.rebuild())
    assert max(windows.loaded) == 50
    assert sum(windows.loaded) > 1000


def test_a_piece_that_cannot_be_read_is_told_and_the_rest_is_loaded(start, monkeypatch, caplog):
    barn = start()
    barn.store(living("A", range(0, 6 * DAY, 10)))
    real, broken = module.hourly, START // 60 + 2 * 24

    def torn(db, from_hour, to_hour, columns):
        if from_hour <= broken < to_hour:
            raise StoreError("bad checksum", "restore a backup")
        return real(db, from_hour, to_hour, columns)

    monkeypatch.setattr(module, "hourly", torn)
    caplog.set_level(logging.INFO, "gateway")
    timed(barn.detect.rebuild())
    assert "Detectors start without 2025-02-21T00:00:00Z to 2025-02-22T00:00:00Z: bad checksum" in caplog.text
    assert "Windows rebuilt from the store: 1 animals" in caplog.text
    assert barn.detect.counters["unread"] == 1
    missing = set(range(START // 60, START // 60 + 6 * 24)) - {h for _, h in bins_of(barn.windows)}
    assert broken in missing
    assert len(missing) == 24


def test_a_gateway_that_stops_does_not_wait_for_the_rebuild(start, monkeypatch):
    barn = start()
    barn.store(living("A", range(0, 6 * DAY, 10)))
    reading_bins, closing = threading.Event(), threading.Event()
    real = module.hourly

    def slow(*asked):
        reading_bins.set()
        assert closing.wait(30)
        return real(*asked)

    monkeypatch.setattr(module, "hourly", slow)

    async def main():
        rebuilding = asyncio.create_task(barn.detect.rebuild())
        await asyncio.to_thread(reading_bins.wait, 30)
        stopping = asyncio.create_task(asyncio.to_thread(barn.detect.close))
        await asyncio.sleep(0)
        closing.set()
        await stopping
        with pytest.raises(StoreError, match="snapshot is closed"):
            await rebuilding

    timed(main())
    assert barn.detect.counters["unread"] == 0
    barn.close()  # the store's reader has been given back


def test_a_store_that_was_only_held_is_let_go_at_the_end(start):
    barn = start()
    timed(barn.detect.begin())
    barn.close()
    assert len(start().windows) == 0
