"""An alert as the outside reads it: the JSON of the outbox, of MQTT and of the live page. Pure."""

from __future__ import annotations

import msgspec

from gateway.core.alerts import Alert, Change
from gateway.core.findings import Evidence
from gateway.core.instants import iso_utc

SCHEMA = "artemis.alert/1"
"""Grows by fields only; a change of meaning is a new number."""
ALERT_TOPICS = "artemis/alerts/"
"""Where the gateway publishes alerts, and nobody else."""


class AlertEvent(msgspec.Struct, frozen=True):
    """One move of one alert. Times are ISO 8601, UTC, with `Z`.

    Args:
        schema: always `SCHEMA`.
        key: "subject/kind/episode", the same for all events of an episode.
        id: the alert's row number on its gateway.
        cow_id: the animal; None for herd, gateway and barn, and where the subject called for help.
        change: what happened ("raised", "escalated", …); "" in a retained state.
        reason: why it happened.
        reminders: how often it was told again unacknowledged.
        folded_into: key of the herd event that speaks for it, else "".
        who: the person or device that moved it; "" when the gateway did.
    """

    schema: str
    key: str
    id: int
    subject: str
    cow_id: str | None
    kind: str
    episode: int
    severity: str
    state: str
    change: str
    reason: str
    sentence: str
    detail: str
    confidence: float
    evidence: Evidence
    late: bool
    onset: str
    last_seen: str
    raised: str
    changed: str
    ended: str | None
    reminders: int = 0
    folded_into: str = ""
    who: str = ""


def event_of(alert: Alert, change: Change | None = None, reason: str = "", who: str = "") -> AlertEvent:
    """The alert as an event; without a change, as a state."""
    return AlertEvent(
        schema=SCHEMA,
        key=alert.key,
        id=alert.id,
        subject=alert.subject,
        cow_id=alert.subject if alert.about_animal else None,
        kind=alert.kind,
        episode=alert.episode,
        severity=alert.severity.label,
        state=alert.state.value,
        change=change.value if change is not None else "",
        reason=reason,
        sentence=alert.sentence,
        detail=alert.detail,
        confidence=alert.confidence,
        evidence=alert.evidence,
        late=alert.late,
        onset=iso_utc(alert.onset_ms),
        last_seen=iso_utc(alert.last_seen_ms),
        raised=iso_utc(alert.raised_ms),
        changed=iso_utc(alert.changed_ms),
        ended=iso_utc(alert.ended_ms) if alert.ended_ms is not None else None,
        reminders=alert.reminders,
        folded_into=alert.folded_into,
        who=who,
    )


def event_json(alert: Alert, change: Change | None = None, reason: str = "", who: str = "") -> bytes:
    """`event_of` as one JSON object, UTF-8."""
    return msgspec.json.encode(event_of(alert, change, reason, who))


def alert_topic(alert: Alert) -> str:
    """Where the alert stands, retained, while it is open."""
    return f"{ALERT_TOPICS}{alert.subject}/{alert.kind}"
