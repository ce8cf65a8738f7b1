import asyncio
import logging
from contextlib import contextmanager

import pytest

from gateway.core.detection import DETECTORS, Detector, Policies, detectors_of
from gateway.core.messages import Reason, Rejection
from gateway.core.severity import Severity
from gateway.core.windows import Windows
from gateway.errors import StoreError
from gateway.services import detect as module
from gateway.services.detect import Detect
from gateway.store import herd
from gateway.store import readings as stored_readings
from gateway.store.database import Database
from tests.herd_maker import START, living, normal, reading, told

JOB = "immediate_detection"


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def now_ms(self) -> int:
        return START * 60_000 + int(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s

    def trusted(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        self.s += seconds


class Barn:
    """Store, windows and detector service; `store` commits and hands over, as ingest does."""

    def __init__(self, path, detectors=detectors_of) -> None:
        self.clock = Clock()
        self.windows = Windows()
        self.database = Database.open(path / "state.db")
        self.reported = []
        self._detectors = detectors
        self.make()

    def make(self) -> None:
        self.detect = Detect(
            clock=self.clock,
            windows=self.windows,
            database=self.database,
            policies=Policies(),
            report=self._report,
            detectors=self._detectors,
        )

    async def _report(self, findings) -> None:
        self.reported += findings

    def store(self, made) -> None:
        self.database.write_now(lambda db: stored_readings.append(db, made))

    def commit(self, made) -> None:
        self.store(made)
        self.detect.committed(made)

    def run(self, job=JOB):
        async def main():
            async with asyncio.timeout(60):
                return await self.detect.run(job)

        return asyncio.run(main())


@contextmanager
def barn_at(path, **kw):
    barn = Barn(path, **kw)
    try:
        yield barn
    finally:
        barn.database.close_now()


@pytest.fixture
def barn(tmp_path):
    with barn_at(tmp_path) as made:
        yield made


def test_one_message_is_reported_by_the_next_run_and_only_once(barn):  # S0-089
    barn.commit([reading("FEVER_TEST", 0, 40.5, (0.01, 0.01, 0.01))])
    found = barn.run()
    assert barn.reported == found
    assert [f.subject for f in told(found, "fever")] == ["FEVER_TEST"]
    assert not told(barn.run(), "fever")


def test_what_is_committed_is_gathered_up_to_its_bound_and_a_run_sees_all_of_it(barn, monkeypatch):
    monkeypatch.setattr(module, "GATHERED_MAX", 10)
    barn.make()
    for minute in range(9):
        barn.commit([reading("A", minute)])
    assert len(barn.windows) == 0
    barn.commit([reading("B", 0), reading("A", 9)])
    assert barn.windows.animals == ("A", "B")
    barn.commit([reading("LATER", 1, 40.9)])
    assert "LATER" not in barn.windows
    assert [f.subject for f in told(barn.run(), "fever")] == ["LATER"]


def test_what_is_committed_while_the_windows_are_rebuilt_is_not_gathered(barn):
    async def main():
        await barn.detect.begin()
        barn.commit([reading("A", 0)])
        assert "A" in barn.windows
        await barn.detect.rebuild()
        barn.commit([reading("B", 0)])
        assert "B" not in barn.windows

    asyncio.run(main())


def test_a_refusal_is_told_behind_the_readings_that_were_committed_before_it(barn):
    for _ in range(3):
        reject(barn, Reason.TEMPERATURE_OUT_OF_RANGE, temperature_c=50.0)
    barn.commit([reading("A", minute) for minute in range(8)])
    reject(barn, Reason.TEMPERATURE_OUT_OF_RANGE, temperature_c=50.0)
    barn.run()
    rejects = barn.windows.look(0.0).rejects
    assert rejects.temperature_n.tolist() == [2]  # of the last ten: eight that passed lie between


def test_a_backlog_older_than_the_ring_is_replayed_with_the_herd_and_never_moves_the_window(barn):
    day = 1440
    for cow in ("B", "C", "D", "E", "F", "A"):
        barn.commit(living(cow, range(day, day + 30)))
    for cow in ("B", "C", "D", "E", "F"):
        barn.store(living(cow, range(-300, 200)))
    barn.run()
    late = living("A", range(100))
    late[60:62] = [reading("A", 60, 41.0), reading("A", 61, 41.2)]
    barn.commit(late)
    found = told(barn.run(), "fever")
    assert {f.subject for f in found} == {"A"}
    assert max(f.severity for f in found) is Severity.CRITICAL
    assert found[0].onset_ms // 60_000 in {START + 60, START + 61}
    assert "5 animals" in found[0].evidence.herd
    assert barn.detect.counters["late_hours"] == 2
    barn.commit(living("A", range(day + 30, day + 32)))
    assert not told(barn.run(), "fever")
    assert barn.detect.counters["late_hours"] == 2


def test_the_work_of_a_run_is_bounded_and_the_rest_carried_over(barn, monkeypatch):
    monkeypatch.setattr(module, "LATE_HOURS_PER_RUN", 5)
    barn.commit([reading("A", 3000)])
    barn.run()
    late = [reading("A", m, 41.0 if m == 10 else 38.6, (0.3, (m % 7) / 100, -0.95)) for m in range(1200)]
    barn.commit(late)
    runs = 0
    while not told(barn.run(), "fever"):
        runs += 1
        assert runs < 10
    assert runs == 3
    assert barn.detect.counters["late_hours"] == 20
    assert barn.detect.counters["carried_over"] == 15 + 10 + 5


def test_scattered_old_dates_of_one_collar_keep_nobody_elses_night_waiting(barn, monkeypatch):
    monkeypatch.setattr(module, "LATE_HOURS_PER_RUN", 5)
    day = 1440
    barn.commit([reading("A", 30 * day), reading("B", 30 * day)])
    barn.run()
    barn.commit([reading("A", 7 * 60 * n) for n in range(40)])  # forty hours, one reading each
    night = 30 * day - 12 * 60
    barn.commit([reading("B", night + m, 41.0 if m > 40 else 38.6) for m in range(60)])
    assert {f.subject for f in told(barn.run(), "fever")} == {"B"}


def test_live_steps_of_a_run_are_bounded_too(barn, monkeypatch):
    monkeypatch.setattr(module, "STEPS_PER_RUN_MAX", 10)
    barn.commit(living("A", range(40)))
    barn.run()
    assert barn.detect.counters["steps"] == 10
    barn.run()
    assert barn.detect.counters["steps"] == 20
    assert barn.detect.counters["carried_over"] == 1


def test_one_stray_date_does_not_cost_years_of_hours(barn):
    barn.commit([reading("A", 3000)])
    barn.commit([reading("A", -10_000_000, 41.0)])
    found = told(barn.run(), "fever")
    assert len(found) == 1
    assert barn.detect.counters["late_hours"] == 1


def test_a_store_that_cannot_be_read_keeps_the_hours(barn, monkeypatch):
    barn.commit([reading("A", 3000)])
    barn.commit([reading("A", 0, 41.0)])

    def broken(*_):
        raise StoreError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(herd, "herd_table", broken)
        with pytest.raises(StoreError):
            barn.run()
    assert told(barn.run(), "fever")


def test_windows_are_rebuilt_from_the_store_and_the_last_hour_judged_again(tmp_path):
    with barn_at(tmp_path) as barn:
        for cow in ("A", "B"):
            barn.store(living(cow, range(0, 6 * 1440, 5)))
        barn.store([reading("A", 6 * 1440, 40.9), reading("OLD", -100_000, 40.6)])
        asyncio.run(barn.detect.rebuild())
        assert set(barn.windows.animals) == {"A", "B", "OLD"}
        found = barn.run()
        assert {f.subject for f in told(found, "fever")} == {"A", "OLD"}
        assert not told(found, "silence")  # timers start at boot
        barn.commit(living("A", range(6 * 1440 + 1, 6 * 1440 + 100), rise_c=1.3))
        own = [f for f in told(barn.run(), "fever") if f.detail == "above_own_baseline"]
        assert own
        assert own[-1].evidence.reference_n > 20


def test_an_empty_store_rebuilds_to_nothing(barn):
    asyncio.run(barn.detect.rebuild())
    assert len(barn.windows) == 0
    barn.run()


def test_a_bug_in_one_detector_is_told_and_the_others_go_on(tmp_path, caplog):
    broken = {"now": True}

    def fragile(window, baselines, policy):
        if broken["now"]:
            raise ZeroDivisionError("by zero")
        return []

    bad = Detector("malfunction", ("x",), JOB, "data", fragile)
    with barn_at(tmp_path, detectors=lambda job: (bad, *DETECTORS[1:])) as barn:
        barn.commit([reading("A", 0, 41.0)])
        found = barn.run()
        (failure,) = told(found, "detector_failure")
        assert failure.subject == "gateway"
        assert "malfunction (ZeroDivisionError: by zero)" in failure.sentence
        assert told(found, "fever")
        assert "Detector malfunction failed" in caplog.text
        assert "Traceback" in caplog.text
        broken["now"] = False
        barn.commit([reading("A", 2)])
        assert normal(barn.run(), "detector_failure")
        barn.commit([reading("A", 4)])
        assert not normal(barn.run(), "detector_failure")


def reject(barn, reason, cow="A", temperature_c=None, minute=1):
    at_ms = None if minute is None else (START + minute) * 60_000
    rejection = Rejection(reason, "text", cow, temperature_c, at_ms)
    barn.detect.rejected(rejection, 60.0)


def test_rejected_messages_reach_fever_and_malfunction(barn):
    barn.commit([reading("A", 0, 41.0)])
    reject(barn, Reason.TEMPERATURE_OUT_OF_RANGE, temperature_c=43.0)
    assert told(barn.run(), "fever")[-1].severity is Severity.CRITICAL
    for minute in (1, None, 10**9):  # no time, or one nobody believes: the gateway's own
        reject(barn, Reason.ACCELERATION_OUT_OF_RANGE, "B", minute=minute)
    assert [f.subject for f in told(barn.run(), "sensor_malfunction")] == ["B"]


@pytest.mark.parametrize(
    ("reason", "cow"),
    [
        (Reason.MISSING_FIELD, None),
        (Reason.MISSING_FIELD, "not a cow id"),
        (Reason.COW_ID_NOT_TOPIC, "A"),
        (Reason.TOO_MANY_ANIMALS, "A"),
        (Reason.TIMESTAMP_IN_FUTURE, "A"),
    ],
)
def test_what_says_nothing_about_a_sensor_makes_no_animal(barn, reason, cow):
    reject(barn, reason, cow)
    assert len(barn.windows) == 0


def test_a_job_without_detectors_leaves_the_spans_alone(barn, caplog):
    caplog.set_level(logging.DEBUG, "gateway")
    barn.commit([reading("A", 0, 41.0)])
    assert barn.run("estrus_detection") == []
    assert "estrus_detection: no detectors yet" in caplog.text
    assert told(barn.run(), "fever")


def test_the_log_tells_a_run_at_info_when_the_outcome_changed(barn, caplog):  # S0-094
    caplog.set_level(logging.DEBUG, "gateway")
    levels = []
    for minute, temperature_c in ((0, 38.6), (2, 38.6), (4, 41.0), (20, 38.6)):
        caplog.clear()
        barn.commit([reading("A", minute, temperature_c)])
        barn.run()
        (line,) = [r for r in caplog.records if "Detector run" in r.message]
        levels.append(line.levelname)
        if temperature_c == 41.0:
            assert "Detector run immediate_detection: 1 animals, 1 findings (A fever warning)" in line.message
    assert levels == ["INFO", "DEBUG", "INFO", "INFO"]


def test_an_alarm_span_does_not_become_the_baseline(barn):
    barn.commit(living("A", range(60)))
    barn.commit([reading("A", 61, 41.0)])
    barn.run()
    assert barn.windows._bins._tainted.sum() == 1
    assert barn.detect.counters["runs"] == 1


def test_feeding_goes_on_while_a_run_judges(barn):
    async def main():
        async with asyncio.timeout(30):
            barn.commit(living("A", range(400)))
            run = asyncio.create_task(barn.detect.run(JOB))
            fed = 400
            while not run.done():
                barn.detect.committed([reading("A", fed)])
                fed += 1
                await asyncio.sleep(0)
            await run
            assert fed > 401

    asyncio.run(main())
