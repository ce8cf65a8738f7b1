"""How an alert stands, and who has made it so: functions over a connection."""

from __future__ import annotations

import sqlite3

import msgspec

from gateway.core.alerts import Alert, State
from gateway.core.instants import plain_utc
from gateway.store.alerts import COLUMNS, Transition, decode, history


class Told(msgspec.Struct, frozen=True):
    """One message about an alert. Where it went is left out: pages show this to everyone who opens them.

    Args:
        at_ms: UTC epoch milliseconds by the gateway's clock.
        contact: the person's name.
        channel: "sms", "email", …
        outcome: "sent", "digest" (together with others) or "dropped".
    """

    at_ms: int
    contact: str
    channel: str
    outcome: str


class Standing(msgspec.Struct, frozen=True):
    """One alert with everything that has been done about it.

    Args:
        alert: as it is on disk.
        history: its steps, oldest first.
        told: who was told of it, oldest first.
    """

    alert: Alert
    history: tuple[Transition, ...]
    told: tuple[Told, ...] = ()

    @property
    def decided(self) -> Transition | None:
        """The step that brought it into its state; None for an alert that is active."""
        if self.alert.state is State.ACTIVE:
            return None
        into = [step for step in self.history if step.to_state == self.alert.state != step.from_state]
        return into[-1] if into else None

    @property
    def sentence(self) -> str:
        """Who was first: `alert 17 was acknowledged by Anna (web) at 2025-11-25 14:30:00 UTC: seen`."""
        alert, step = self.alert, self.decided
        if step is None:
            return f"alert {alert.id} is {alert.state.value}"
        verb = {State.FALSE_POSITIVE: "called a false alarm"}.get(alert.state, alert.state.value)
        said = f": {step.reason}" if step.reason else ""
        return (
            f"alert {alert.id} was {verb} by {step.who} ({step.origin}) at {plain_utc(step.at_ms)} UTC{said}"
        )


def standing(db: sqlite3.Connection, alert_id: int) -> Standing | None:
    """One alert by its row number; None if there is none."""
    row = db.execute(f"SELECT id, {COLUMNS} FROM alert_episodes WHERE id = ?", (alert_id,)).fetchone()
    if row is None:
        return None
    told = db.execute(
        "SELECT at_ms, contact, channel, outcome FROM notices WHERE alert_id = ?"
        " ORDER BY at_ms, seq, contact, channel",
        (alert_id,),
    )
    return Standing(decode(row), tuple(history(db, alert_id)), tuple(Told(*found) for found in told))


def standings(db: sqlite3.Connection, alerts: list[Alert]) -> dict[int, Standing]:
    """Those alerts by their row number, without who was told."""
    return {alert.id: Standing(alert, tuple(history(db, alert.id))) for alert in alerts}
