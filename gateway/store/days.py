"""One day of the barn, counted for the daily summary. Functions over a connection.

Readings and messages are counted while they are still in the hot table: for days of the last 48 h.
"""

from __future__ import annotations

import sqlite3

from gateway.core.alert_event import event_of
from gateway.core.day_summary import DaySummary, Raised
from gateway.core.severity import Severity
from gateway.store import alerts, meta, outbox
from gateway.store.hot import ANIMAL_BITS

DONE_DAY = "summary_day"
"""Key in `meta`: the local date of the last summary, ISO."""
SUMMARY_KIND = "summary"
OPEN_MAX = 200
"""Open alerts that a summary carries; 1 KB each, and its text names 20."""


def summarise(db: sqlite3.Connection, from_ms: int, until_ms: int) -> DaySummary:
    """What happened from one instant to another (the first that does not count)."""
    raised = db.execute(
        "SELECT severity, kind, count(*) FROM alert_episodes WHERE raised_ms >= ? AND raised_ms < ?"
        " GROUP BY severity, kind ORDER BY severity DESC, kind",
        (from_ms, until_ms),
    )
    (animals_n, readings_n) = db.execute(
        "SELECT count(DISTINCT animal), count(*) FROM hot_readings WHERE key >= ? AND key < ?",
        (from_ms << ANIMAL_BITS, until_ms << ANIMAL_BITS),
    ).fetchone()
    (rejected_n,) = db.execute(
        "SELECT count(*) FROM dead_letters WHERE received_ms >= ? AND received_ms < ?", (from_ms, until_ms)
    ).fetchone()
    open_now = alerts.open_alerts(db)
    return DaySummary(
        from_ms=from_ms,
        until_ms=until_ms,
        raised=tuple(Raised(Severity(severity).label, kind, n) for severity, kind, n in raised),
        open_now=tuple(event_of(alert) for alert in open_now[-OPEN_MAX:]),
        animals_n=animals_n,
        readings_n=readings_n,
        rejected_n=rejected_n,
        silent=tuple(alert.subject for alert in open_now if alert.kind == "silence")[:OPEN_MAX],
    )


def done_day(db: sqlite3.Connection) -> str | None:
    """The local date of the last summary; None before the first."""
    found = meta.get(db, DONE_DAY)
    return None if found is None else str(found)


def mark(db: sqlite3.Connection, day: str) -> None:
    """No summary for this local date, nor for one before."""
    meta.put(db, DONE_DAY, day)


def append(db: sqlite3.Connection, day: str, payload: bytes, now_ms: int) -> None:
    """The summary as an event of the outbox, and the mark that it is there."""
    outbox.append(db, SUMMARY_KIND, payload, now_ms)
    mark(db, day)
