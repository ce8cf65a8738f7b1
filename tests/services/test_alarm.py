"""Alarms over the real SQLite store: what is committed, who hears of it, what survives."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import signals
from gateway.core.alerts import Alert, AlertPolicy, Move, State
from gateway.core.findings import Evidence, Finding
from gateway.core.outbox import Event
from gateway.core.severity import Severity
from gateway.core.signals import Signal
from gateway.errors import StoreError
from gateway.services import alarm as alarm_module
from gateway.services.alarm import Alarm
from gateway.services.signalling import Signalling
from gateway.store import alerts as alert_rows
from gateway.store import outbox
from gateway.store.alerts import Transition
from gateway.store.database import Database

MINUTE = 60_000
T0 = 1_700_000_000_000
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


class DataClock:
    """Stands where the test puts it."""

    def __init__(self) -> None:
        self.ms = T0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    def trusted(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


class Barn:
    """An alarm over a store file, and everybody who listens to it."""

    def __init__(self, path: Path) -> None:
        self.clock = DataClock()
        self.path = path
        self.signals: list[Signal] = []
        self.published: list[Alert] = []
        self.told: list[Move] = []
        self.open()

    def open(self) -> None:
        self.database = Database.open(self.path, timeout_s=0.05)
        self.signalling = Signalling(self.signals.append, self.clock)
        self.alarm = Alarm(
            clock=self.clock,
            database=self.database,
            policy=AlertPolicy(),
            signalling=self.signalling,
            published=self._publish,
        )

    def _publish(self, move: Move) -> None:
        self.told.append(move)
        self.published.append(move.alert)

    async def restart(self) -> None:
        await self.database.close()
        self.signals.clear()
        self.published.clear()
        self.open()
        await self.alarm.restore()

    async def report(self, *findings: Finding) -> None:
        self.clock.ms = max([self.clock.ms, *(f.at_ms for f in findings)])
        await self.alarm.report(list(findings))

    def rows(self) -> list[Alert]:
        return self.database.read_now(lambda db: alert_rows.recent(db, None, 1000))[::-1]

    def history(self, alert_id: int) -> list[Transition]:
        return self.database.read_now(lambda db: alert_rows.history(db, alert_id))

    def events(self) -> list[dict[str, Any]]:
        def read(db: sqlite3.Connection) -> list[Event]:
            return outbox.after(db, 0, 1000)

        return [json.loads(event.payload) for event in self.database.read_now(read)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another program holds the write lock, so that the store refuses to write."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


def in_barn(tmp_path: Path, story: Callable[[Barn], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with asyncio.timeout(10):
            barn = Barn(tmp_path / "alert_state.db")
            try:
                await barn.alarm.restore()
                await story(barn)
            finally:
                await barn.database.close()

    asyncio.run(tell())


async def until(condition: Callable[[], bool]) -> None:
    """Give way until it holds; the story's own deadline ends it."""
    for _ in iter(condition, True):
        await asyncio.sleep(0)


def found(
    at_min: float,
    severity: Severity = WARNING,
    cow_id: str = "COW_042",
    kind: str = "fever",
    *,
    present: bool = True,
    ended: bool = False,
) -> Finding:
    return Finding(
        subject=cow_id,
        kind=kind,
        present=present,
        severity=severity,
        at_ms=round(T0 + at_min * MINUTE),
        onset_ms=round(T0 + at_min * MINUTE),
        confidence=0.6,
        sentence=f"40.6 °C at minute {at_min:g}" if present else "",
        evidence=Evidence(value=40.6, unit="°C"),
        ended=ended,
    )


def normal(at_min: float, cow_id: str = "COW_042", kind: str = "fever") -> Finding:
    return found(at_min, cow_id=cow_id, kind=kind, present=False)


def test_alert_history_and_outbox_are_one_transaction(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        before = barn.database.commits
        await barn.report(*[found(0, cow_id=f"COW_{n:03d}") for n in range(50)])
        assert barn.database.commits - before == 1
        assert len(barn.rows()) == len(barn.events()) == len(barn.published) == 50
        first = barn.rows()[0]
        assert [(t.from_state, t.to_state, t.who, t.origin) for t in barn.history(first.id)] == [
            ("", "active", "gateway", "automatic")
        ]
        assert barn.published[0] == first
        assert barn.alarm.open_alerts == barn.rows()

    in_barn(tmp_path, story)


def test_all_or_nothing(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        trap = "CREATE TRIGGER trap BEFORE INSERT ON events BEGIN SELECT raise(ABORT, 'trap'); END"
        await barn.database.write(lambda db: db.execute(trap) and None)
        with pytest.raises(sqlite3.IntegrityError):
            await barn.report(found(0))
        assert barn.rows() == []
        assert barn.alarm.open_alerts == []
        assert barn.published == []
        await barn.database.write(lambda db: db.execute("DROP TRIGGER trap") and None)
        await barn.report(found(2))
        assert len(barn.rows()) == len(barn.events()) == 1

    in_barn(tmp_path, story)


def test_event_names_alert_animal_and_reason(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0))
        await barn.report(found(2, CRITICAL))
        raised, escalated = barn.events()
        assert (raised["key"], raised["id"], raised["cow_id"]) == ("COW_042/fever/1", 1, "COW_042")
        assert (raised["change"], raised["severity"], raised["late"]) == ("raised", "warning", False)
        assert (escalated["change"], escalated["severity"]) == ("escalated", "critical")
        assert escalated["reason"] == "warning became critical: 40.6 °C at minute 2"
        assert escalated["raised"] == "2023-11-14T22:13:20Z"

    in_barn(tmp_path, story)


def test_a_refresh_changes_the_row_and_tells_nobody(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0))
        await barn.report(found(2))
        (row,) = barn.rows()
        assert row.sentence == "40.6 °C at minute 2"
        assert len(barn.history(row.id)) == len(barn.events()) == len(barn.published) == 1

    in_barn(tmp_path, story)


def test_one_batch_may_raise_escalate_and_refresh_the_same_alert(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0), found(2, CRITICAL), found(4, CRITICAL))
        (row,) = barn.rows()
        assert (row.sentence, row.severity) == ("40.6 °C at minute 4", CRITICAL)
        assert [t.severity for t in barn.history(row.id)] == [WARNING, CRITICAL]
        assert {event["id"] for event in barn.events()} == {row.id}

    in_barn(tmp_path, story)


def test_a_gap_that_came_and_went_leaves_both_rows(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(11, INFO, kind="silence", ended=True))
        await barn.report(found(1211, INFO, kind="silence", ended=True))
        assert [(row.episode, row.state) for row in barn.rows()] == [
            (1, State.RESOLVED),
            (2, State.RESOLVED),
        ]
        assert [t.to_state for t in barn.history(2)] == ["active", "resolved"]
        assert [alert.state for alert in barn.published] == ["active", "resolved"] * 2
        assert barn.signals == [Signal("all well", signals.HEALTHY)]
        assert barn.alarm.counters.moves == {"raised": 2, "resolved": 2}

    in_barn(tmp_path, story)


def test_dedup_hysteresis_and_cooldown_survive_a_restart(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        await barn.report(normal(2))
        await barn.report(normal(4))
        await barn.restart()
        assert [alert.id for alert in barn.alarm.open_alerts] == [1]
        assert barn.signals[-1].light == signals.CRITICAL
        await barn.report(normal(4))
        assert barn.rows()[0].state is State.ACTIVE
        await barn.report(normal(6))
        assert barn.rows()[0].state is State.RESOLVED
        assert barn.signals[-1].light == signals.HEALTHY
        await barn.restart()
        assert barn.published == []
        await barn.report(found(60))
        assert len(barn.rows()) == 1
        assert barn.alarm.counters.passed_over == {"cooldown": 1}

    in_barn(tmp_path, story)


def test_a_store_that_cannot_write_is_shown_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story(barn: Barn) -> None:
        with barn.locked():
            await barn.report(found(0), found(0, INFO, kind="silence", ended=True))
            await barn.report(found(2))
            assert barn.rows() == []
            assert barn.published == []
            assert barn.alarm.open_alerts == []
            assert barn.signals[-1].light == signals.DEGRADED
            assert barn.alarm.waiting_n == 3
            assert barn.alarm.counters.store_failures == 2
        await barn.report()
        assert [(row.kind, row.state) for row in barn.rows()] == [
            ("fever", State.ACTIVE),
            ("silence", State.RESOLVED),
        ]
        assert barn.signals[-1].light == signals.WARNING
        assert barn.alarm.waiting_n == 0

    in_barn(tmp_path, story)
    lines = [record.message for record in caplog.records if "stored" in record.message]
    assert len(lines) == 2
    assert lines[0].startswith("Alerts cannot be stored, 2 findings wait: database is locked")
    assert lines[1] == "Alerts are stored again"


def test_findings_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "WAITING_MAX", 3)

    async def story(barn: Barn) -> None:
        with barn.locked():
            await barn.report(*[found(0, cow_id=f"COW_{n}") for n in range(5)])
            assert barn.alarm.waiting_n == 3
            assert barn.alarm.counters.waiting_dropped == 2
        await barn.report()
        assert [row.subject for row in barn.rows()] == ["COW_2", "COW_3", "COW_4"]

    in_barn(tmp_path, story)


def test_the_button_hushes_the_chirp_until_the_store_is_well_again(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        barn.signalling.health("disk full", uplink_down=False, clock_untrusted=False)
        assert barn.signals[-1].sound == signals.CHIRP
        assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 0
        assert barn.signals[-1] == Signal("gateway cannot store", signals.DEGRADED)
        barn.signalling.health(None, uplink_down=False, clock_untrusted=False)
        barn.signalling.health("disk full", uplink_down=False, clock_untrusted=False)
        assert barn.signals[-1].sound == signals.CHIRP

    in_barn(tmp_path, story)


def test_health_reaches_the_panel_once_per_change(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        for _ in range(3):
            barn.signalling.health(None, uplink_down=True, clock_untrusted=False)
        barn.signalling.health(None, uplink_down=True, clock_untrusted=True)
        barn.signalling.health(None, uplink_down=False, clock_untrusted=False)
        assert [signal.label for signal in barn.signals] == [
            "all well",
            "uplink down",
            "clock not set",
            "all well",
        ]

    in_barn(tmp_path, story)


def test_acknowledging_what_is_shown_silences_it_and_is_audited(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, cow_id="COW_001"), found(0, CRITICAL, cow_id="COW_002"))
        assert barn.signals[-1].sound == signals.ALARM
        barn.clock.ms += 5 * MINUTE
        assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 2
        assert barn.signals[-1] == Signal("fever COW_002", signals.CRITICAL_SEEN)
        last = barn.history(2)[-1]
        assert (last.from_state, last.to_state, last.who, last.origin) == (
            "active",
            "acknowledged",
            "button",
            "button",
        )
        assert last.at_ms == T0 + 5 * MINUTE
        assert barn.events()[-1]["change"] == "acknowledged"
        assert barn.published[-1].state is State.ACKNOWLEDGED
        assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 1
        assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 0

    in_barn(tmp_path, story)


def test_of_two_people_the_first_wins(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        answers = await asyncio.gather(
            barn.alarm.acknowledge(alert_id=1, who="Eva", origin="web", note="on my way\nALERT forged"),
            barn.alarm.acknowledge(alert_id=1, who="Jan", origin="cli"),
        )
        assert answers == [1, 0]
        raised, seen = barn.history(1)
        assert (seen.who, seen.origin, seen.reason) == ("Eva", "web", "on my way ALERT forged")
        assert raised.who == "gateway"
        assert await barn.alarm.acknowledge(alert_id=99, who="Jan", origin="cli") == 0

    in_barn(tmp_path, story)


def test_a_false_positive_ends_it_and_keeps_it_quiet(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0))
        verdict = {"state": State.FALSE_POSITIVE, "who": "Eva", "origin": "web"}
        assert await barn.alarm.close(alert_id=1, **verdict) == 1  # type: ignore[arg-type]
        assert await barn.alarm.close(alert_id=1, **verdict) == 0  # type: ignore[arg-type]
        await barn.report(found(2))
        (row,) = barn.rows()
        assert row.state is State.FALSE_POSITIVE
        assert barn.history(1)[-1].reason == "false positive"
        assert barn.signals[-1].light == signals.HEALTHY

    in_barn(tmp_path, story)


def test_an_acknowledgement_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        with barn.locked(), pytest.raises(StoreError):
            await barn.alarm.acknowledge(alert_id=1, who="Eva", origin="web")
        assert barn.alarm.open_alerts[0].state is State.ACTIVE
        assert await barn.alarm.acknowledge(alert_id=1, who="Eva", origin="web") == 1

    in_barn(tmp_path, story)


def test_two_detectors_at_once_raise_one_alert(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await asyncio.gather(*[barn.report(found(0)) for _ in range(10)])
        assert len(barn.rows()) == len(barn.events()) == 1

    in_barn(tmp_path, story)


@pytest.mark.parametrize("started", [False, True])
def test_a_cancelled_report_is_never_stored_twice(tmp_path: Path, started: bool) -> None:
    """Cancelled before or after the writer took it up: the next report sees what is there."""

    async def story(barn: Barn) -> None:
        holding, release = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold(_: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(holding.set)
            release.wait(5)

        busy = asyncio.create_task(barn.database.write(hold))
        await holding.wait()
        report = asyncio.create_task(barn.report(found(0)))
        await until(lambda: barn.database.writes_waiting == 1)
        if started:
            release.set()
            await until(lambda: barn.database.writes_waiting == 0)
        report.cancel()
        await asyncio.gather(report, return_exceptions=True)
        release.set()
        await busy
        await barn.report(found(2))
        assert len(barn.rows()) == len(barn.events()) == 1

    in_barn(tmp_path, story)


def test_cancelled_then_locked_keeps_every_finding(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        barn.alarm._in_step_with_store = False
        with barn.locked():
            await barn.report(found(0, INFO, kind="silence", ended=True))
        await barn.report()
        assert len(barn.rows()) == 1
        assert barn.signals[-1].light == signals.HEALTHY

    in_barn(tmp_path, story)


def test_log_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.services.alarm_log")

    async def story(barn: Barn) -> None:
        await barn.report(found(0))
        await barn.alarm.acknowledge(alert_id=1, who="Eva", origin="web", note="vet called")
        for at_min in (2, 4, 6):
            await barn.report(normal(at_min))
        await barn.report(found(11, INFO, kind="silence"))
        barn.clock.ms += 7 * 60 * MINUTE
        await barn.report(found(12, cow_id="COW_007"))

    in_barn(tmp_path, story)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "ALERT warning fever COW_042: 40.6 °C at minute 0"),
        ("INFO", "ALERT acknowledged warning fever COW_042 by Eva (web): vet called"),
        ("INFO", "ALERT resolved warning fever COW_042: normal 3 times in a row"),
        ("INFO", "ALERT info silence COW_042: 40.6 °C at minute 11"),
        ("WARNING", "ALERT warning fever COW_007: 40.6 °C at minute 12 (late)"),
    ]


EVENTS = st.lists(
    st.builds(
        found,
        st.integers(0, 3000),
        st.sampled_from(list(Severity)),
        st.sampled_from(["COW_1", "COW_2"]),
        st.sampled_from(["fever", "silence"]),
        present=st.booleans(),
        ended=st.booleans(),
    )
    | st.sampled_from(["ack", "false_positive", "restart", "locked"]),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(EVENTS)
def test_whatever_happens_every_change_has_its_audit_row(events: list[Finding | str]) -> None:
    async def story(barn: Barn) -> None:
        for event in events:
            if isinstance(event, Finding):
                await barn.report(event)
            elif event == "ack":
                await barn.alarm.acknowledge(alert_id=None, who="Eva", origin="web")
            elif event == "false_positive" and barn.alarm.open_alerts:
                first = barn.alarm.open_alerts[0].id
                await barn.alarm.close(alert_id=first, state=State.FALSE_POSITIVE, who="Eva", origin="web")
            elif event == "restart":
                await barn.restart()
            elif event == "locked":
                with barn.locked():
                    await barn.report(found(1500, CRITICAL, cow_id="COW_1"))
        await barn.report()
        audited(barn)

    with tempfile.TemporaryDirectory() as directory:
        in_barn(Path(directory), story)


def audited(barn: Barn) -> None:
    rows = barn.rows()
    open_keys = [(row.subject, row.kind) for row in rows if row.open]
    assert len(open_keys) == len(set(open_keys))
    transitions = 0
    for row in rows:
        steps = barn.history(row.id)
        transitions += len(steps)
        assert [s.from_state for s in steps] == ["", *(s.to_state for s in steps[:-1])]
        assert [s.severity for s in steps] == sorted(s.severity for s in steps)
        assert (steps[-1].to_state, steps[-1].severity) == (row.state.value, row.severity)
    assert len(barn.events()) == transitions
    newest = {(row.subject, row.kind): row for row in rows}
    assert sorted(newest.values(), key=_by_id) == sorted(barn.alarm._newest.values(), key=_by_id)
    assert all(msgspec.json.encode(row) for row in rows)


def _by_id(alert: Alert) -> int:
    return alert.id
