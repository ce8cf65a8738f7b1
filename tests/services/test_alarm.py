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
from gateway.core.alerts import Alert, AlertPolicy, Change, Move, State
from gateway.core.findings import Evidence, Finding
from gateway.core.outbox import Event
from gateway.core.severity import Severity
from gateway.core.signals import Signal
from gateway.core.silences import Silence
from gateway.errors import StoreError
from gateway.services import alarm as alarm_module
from gateway.services.alarm import Alarm
from gateway.services.signalling import Signalling
from gateway.store import alerts as alert_rows
from gateway.store import outbox
from gateway.store import silences as silence_rows
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
        self.told.clear()
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
        await barn.report(*[found(0, kind=f"trouble_{n}") for n in range(50)])
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
        barn.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=False)
        assert barn.signals[-1].sound == signals.CHIRP
        assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 0
        assert barn.signals[-1] == Signal("gateway cannot store", signals.DEGRADED)
        barn.signalling.health(None, uplink_down=False, clock_untrusted=False)
        barn.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=False)
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


def sick(at_min: float, first: int, last: int, severity: Severity = WARNING) -> list[Finding]:
    """The same trouble of many animals."""
    return [found(at_min, severity, cow_id=f"COW_{n:03d}") for n in range(first, last + 1)]


def test_many_sick_animals_are_one_event_in_one_transaction(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(*sick(0, 1, 4, CRITICAL))
        before = barn.database.commits
        await barn.report(*sick(5, 5, 6, CRITICAL))
        assert barn.database.commits - before == 1
        *members, herd = barn.rows()
        assert (herd.subject, herd.kind, herd.severity) == ("herd", "fever_herd", CRITICAL)
        assert {member.folded_into for member in members} == {herd.key}
        assert barn.signals[-1].label == "fever_herd herd"
        raised = [event for event in barn.events() if event["change"] == "raised"]
        told_of_itself = [event["subject"] for event in raised if not event["folded_into"]]
        assert told_of_itself == ["COW_001", "COW_002", "COW_003", "COW_004", "herd"]
        await barn.report(*sick(6, 7, 7, CRITICAL))
        assert barn.rows()[-1].folded_into == herd.key, "who falls ill while it lasts joins it"

    in_barn(tmp_path, story)


def test_what_is_said_of_a_herd_event_is_said_of_its_members(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(*sick(0, 1, 5, CRITICAL))
        before = barn.database.commits
        assert await barn.alarm.acknowledge(alert_id=6, who="Eva", origin="web", note="vet called") == 6
        assert barn.database.commits - before == 1
        assert {row.state for row in barn.rows()} == {State.ACKNOWLEDGED}
        last = barn.history(3)[-1]
        assert (last.who, last.origin, last.reason) == ("Eva", "web", "vet called (with herd/fever_herd/1)")
        assert barn.history(6)[-1].reason == "vet called"
        verdict = State.FALSE_POSITIVE
        assert await barn.alarm.close(alert_id=6, state=verdict, who="Eva", origin="web") == 6
        assert {row.state for row in barn.rows()} == {State.FALSE_POSITIVE}

    in_barn(tmp_path, story)


def test_a_herd_event_ends_when_the_last_of_its_members_was_closed_by_hand(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(*sick(0, 1, 5))
        for alert_id in range(1, 6):
            await barn.alarm.close(alert_id=alert_id, state=State.RESOLVED, who="Eva", origin="web")
        assert barn.rows()[-1].state is State.ACTIVE
        await barn.alarm.tick()
        assert barn.rows()[-1].state is State.RESOLVED
        assert barn.history(6)[-1].who == "gateway"

    in_barn(tmp_path, story)


def test_a_critical_alert_is_told_again_until_somebody_comes(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        for minute in range(1, 95):
            barn.clock.ms = T0 + minute * MINUTE
            await barn.alarm.tick()
        again = [move for move in barn.told if move.change is Change.REPEATED]
        assert [(move.alert.changed_ms - T0) // MINUTE for move in again] == [30, 60, 90]
        assert [move.alert.reminders for move in again] == [1, 2, 3]
        await barn.alarm.acknowledge(alert_id=1, who="Eva", origin="cli")
        barn.clock.ms += 24 * 60 * MINUTE
        await barn.alarm.tick()
        assert barn.told[-1].change is Change.ACKNOWLEDGED

    in_barn(tmp_path, story)


def test_a_tick_with_nothing_due_touches_no_disk(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL), *sick(0, 1, 6))
        await quiet(barn, cow_id="COW_009", minutes=60)
        before = barn.database.commits
        for minute in range(1, 30):
            barn.clock.ms = T0 + minute * MINUTE
            await barn.alarm.tick()
        assert barn.database.commits == before

    in_barn(tmp_path, story)


async def quiet(barn: Barn, *, minutes: float, cow_id: str | None = None, kind: str | None = None) -> Silence:
    until_ms = barn.clock.ms + round(minutes * MINUTE)
    return await barn.alarm.silence(
        subject=cow_id, kind=kind, until_ms=until_ms, who="Anna", origin="web", reason="treated"
    )


def test_a_silence_stops_the_sound_at_once_and_leaves_the_light(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        silence = await quiet(barn, cow_id="COW_042", minutes=60)
        assert barn.signals[-1] == Signal("fever COW_042", signals.CRITICAL)
        assert barn.alarm.silences == [silence]
        assert barn.rows()[0].state is State.ACTIVE
        await barn.report(found(1, CRITICAL, cow_id="COW_007"))
        assert barn.signals[-1] == Signal("fever COW_007", signals.CRITICAL, signals.ALARM)
        (event,) = [event for event in barn.events() if event["schema"] == "artemis.silence/1"]
        assert (event["id"], event["subject"], event["kind"]) == (silence.id, "COW_042", None)
        assert (event["who"], event["origin"], event["reason"]) == ("Anna", "web", "treated")
        assert (event["from"], event["until"], event["ended"]) == (
            "2023-11-14T22:13:20Z",
            "2023-11-14T23:13:20Z",
            None,
        )

    in_barn(tmp_path, story)


def test_a_silence_survives_a_restart_and_ends_by_itself(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        silence = await quiet(barn, minutes=60)
        await barn.restart()
        assert barn.alarm.silences == [silence]
        await barn.report(found(10, CRITICAL))
        assert barn.signals[-1].sound is None
        await barn.restart()
        barn.clock.ms = silence.until_ms
        before = barn.database.commits
        await barn.alarm.tick()
        assert barn.database.commits - before == 1
        assert barn.signals[-1].sound is not None
        assert [move.change for move in barn.told] == [Change.REPEATED]
        assert barn.history(1)[-1].reason == "the silence set by Anna has ended"
        assert barn.alarm.silences == []
        (stored,) = barn.database.read_now(lambda db: silence_rows.recent(db, 9))
        assert (stored.ended_ms, stored.ended_by) == (silence.until_ms, "")

    in_barn(tmp_path, story)


def test_what_a_silence_held_back_is_told_at_its_end_and_nothing_else(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, cow_id="told"), found(0, cow_id="worse"), found(0, cow_id="seen"))
        first = await quiet(barn, minutes=60)
        barn.clock.ms += 30 * MINUTE
        second = await quiet(barn, minutes=60, kind="fever")
        await barn.report(
            found(31, cow_id="new"),
            found(31, CRITICAL, cow_id="worse"),
            found(31, CRITICAL, cow_id="seen"),
            found(31, INFO, cow_id="info"),
            found(31, cow_id="other", kind="mastitis"),
        )
        await barn.alarm.acknowledge(alert_id=3, who="Eva", origin="web")
        barn.told.clear()
        barn.clock.ms = first.until_ms
        await barn.alarm.tick()
        assert [move.alert.subject for move in barn.told] == ["other"], "the second still holds the others"
        barn.clock.ms = second.until_ms
        await barn.alarm.tick()
        assert [move.alert.subject for move in barn.told] == ["other", "worse", "new"]
        await barn.alarm.tick()
        assert len(barn.told) == 3

    in_barn(tmp_path, story)


def test_a_reminder_that_fell_due_under_a_silence_comes_at_its_end(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        silence = await quiet(barn, minutes=120)
        for minute in range(10, 120, 10):
            barn.clock.ms = T0 + minute * MINUTE
            await barn.alarm.tick()
        assert len(barn.told) == 1
        barn.clock.ms = silence.until_ms
        await barn.alarm.tick()
        assert [move.change for move in barn.told] == [Change.RAISED, Change.REPEATED]

    in_barn(tmp_path, story)


def test_a_silence_may_be_ended_by_hand_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.services.alarm_log")

    async def story(barn: Barn) -> None:
        silence = await quiet(barn, minutes=60, kind="fever")
        await barn.report(found(1, CRITICAL))
        assert await barn.alarm.end_silence(silence_id=silence.id, who="Eva\n", origin="cli")
        assert barn.signals[-1].sound is not None
        assert not await barn.alarm.end_silence(silence_id=silence.id, who="Eva", origin="cli")
        (stored,) = barn.database.read_now(lambda db: silence_rows.recent(db, 9))
        assert stored.ended_by == "Eva (cli)"

    in_barn(tmp_path, story)
    assert [record.message for record in caplog.records if record.message.startswith("SILENCE")] == [
        "SILENCE 1 fever until 2023-11-14T23:13:20Z by Anna (web): treated",
        "SILENCE ended 1 fever: Eva (cli)",
    ]


def test_a_clock_that_is_set_back_makes_no_silence_last_longer(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await quiet(barn, minutes=60)
        barn.clock.ms -= 30 * 24 * 60 * MINUTE
        assert barn.alarm.silences == []
        await barn.alarm.tick()
        assert barn.database.read_now(silence_rows.holding) == []

    in_barn(tmp_path, story)


def test_a_silence_ends_although_its_end_cannot_be_stored(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        silence = await quiet(barn, minutes=60)
        barn.clock.ms = silence.until_ms
        with barn.locked():
            await barn.alarm.tick()
        assert barn.signals[-1].sound == signals.ALARM
        await barn.alarm.tick()
        assert barn.database.read_now(silence_rows.holding) == []

    in_barn(tmp_path, story)


@pytest.mark.parametrize(
    ("minutes", "kind", "why"),
    [
        (-1, None, "before it begins"),
        (8 * 24 * 60, None, "longer than 7 days"),
        (5, "panic", "panic is never"),
    ],
)
def test_a_silence_that_is_none_is_refused_with_a_reason(
    tmp_path: Path, minutes: float, kind: str | None, why: str
) -> None:
    async def story(barn: Barn) -> None:
        with pytest.raises(ValueError, match=why):
            await quiet(barn, minutes=minutes, kind=kind)
        assert barn.events() == []

    in_barn(tmp_path, story)


def test_silences_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "SILENCES_MAX", 2)

    async def story(barn: Barn) -> None:
        await quiet(barn, minutes=1)
        await quiet(barn, minutes=9)
        with pytest.raises(ValueError, match="2 silences already; end one of them first"):
            await quiet(barn, minutes=9)
        barn.clock.ms += 2 * MINUTE
        await quiet(barn, minutes=9)

    in_barn(tmp_path, story)


def test_a_silence_that_cannot_be_stored_is_none(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        with barn.locked(), pytest.raises(StoreError):
            await quiet(barn, minutes=9)
        assert barn.alarm.silences == []
        assert barn.signals[-1].sound == signals.ALARM

    in_barn(tmp_path, story)


def calling(at_s: float, cow_id: str = "worker-3", kind: str = "panic") -> Finding:
    return found(at_s / 60, CRITICAL, cow_id=cow_id, kind=kind)


def test_a_call_for_help_sounds_before_it_is_stored_and_goes_over_into_its_alert(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        barn.alarm.call(calling(0))
        assert barn.signals[-1].sound == signals.CALL
        assert barn.rows() == []
        shown_n = len(barn.signals)
        assert await barn.alarm.report([calling(0)])
        assert len(barn.signals) == shown_n, "the sound goes on without a break"
        await barn.alarm.acknowledge(alert_id=None, who="button", origin="button")
        assert barn.signals[-1].sound is None

    in_barn(tmp_path, story)


def test_a_copy_of_an_answered_call_is_not_heard_again_but_a_new_one_is(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(calling(0))
        await barn.alarm.acknowledge(alert_id=1, who="Eva", origin="web")
        barn.clock.ms = T0 + 20_000
        barn.alarm.call(calling(20))
        assert barn.signals[-1].sound is None
        await barn.report(calling(20))
        barn.clock.ms = T0 + 90_000
        barn.alarm.call(calling(90))
        assert barn.signals[-1].sound == signals.CALL
        await barn.report(calling(90))
        assert barn.told[-1].change is Change.RENEWED

    in_barn(tmp_path, story)


def test_a_call_sounds_on_while_the_store_cannot_write_and_the_button_stills_it(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        with barn.locked():
            barn.alarm.call(calling(0))
            assert not await barn.alarm.report([calling(0)])
            assert barn.signals[-1].sound == signals.CALL
            assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 0
            assert (barn.signals[-1].label, barn.signals[-1].sound) == ("panic worker-3", None)
        await barn.alarm.tick()
        assert [row.kind for row in barn.rows()] == ["panic"]
        assert barn.signals[-1].sound == signals.CALL, "nobody has acknowledged it"
        assert await barn.alarm.acknowledge(alert_id=None, who="button", origin="button") == 1

    in_barn(tmp_path, story)


def test_of_findings_that_wait_calls_for_help_are_dropped_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarm_module, "WAITING_MAX", 3)

    async def story(barn: Barn) -> None:
        with barn.locked():
            await barn.report(calling(0), *[found(0, kind=f"trouble_{n}") for n in range(4)])
        assert await barn.alarm.report([])
        assert sorted(row.kind for row in barn.rows()) == ["panic", "trouble_2", "trouble_3"]

    in_barn(tmp_path, story)


def test_the_button_stills_an_alarm_that_the_store_cannot_acknowledge(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        await barn.report(found(0, CRITICAL))
        with barn.locked(), pytest.raises(StoreError):
            await barn.alarm.acknowledge(alert_id=None, who="button", origin="button")
        assert (barn.signals[-1].label, barn.signals[-1].sound) == ("fever COW_042", None)
        assert barn.alarm.open_alerts[0].state is State.ACTIVE
        await barn.report(found(2, cow_id="COW_001"))
        assert barn.signals[-1].sound == signals.ALARM, "the store can write: it must be acknowledged"

    in_barn(tmp_path, story)


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
    | st.sampled_from(
        ["ack", "false_positive", "restart", "locked", "silence", "hour", "herd", "call", "unsilence"]
    ),
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
            elif event == "silence" and len(barn.alarm.silences) < 3:
                await quiet(barn, minutes=90, kind="fever")
            elif event == "unsilence" and barn.alarm.silences:
                first = barn.alarm.silences[0].id
                await barn.alarm.end_silence(silence_id=first, who="Eva", origin="web")
            elif event == "hour":
                barn.clock.ms += 60 * MINUTE
                await barn.alarm.tick()
            elif event == "herd":
                await barn.report(*sick((barn.clock.ms - T0) / MINUTE, 1, 6))
            elif event == "call":
                finding = calling((barn.clock.ms - T0) / 1000)
                barn.alarm.call(finding)
                await barn.report(finding)
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
    told = [event for event in barn.events() if event["schema"] == "artemis.alert/1"]
    assert len(told) == transitions
    set_n = len(barn.database.read_now(lambda db: silence_rows.recent(db, 1000)))
    ended_n = set_n - len(barn.database.read_now(silence_rows.holding))
    assert len(barn.events()) - len(told) == set_n + ended_n
    newest = {(row.subject, row.kind): row for row in rows}
    assert sorted(newest.values(), key=_by_id) == sorted(barn.alarm._newest.values(), key=_by_id)
    assert all(msgspec.json.encode(row) for row in rows)


def _by_id(alert: Alert) -> int:
    return alert.id
