"""The alert law: what an alert does next (decisions 16–22)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.core.findings import Evidence
from gateway.core.severity import Severity


class State(StrEnum):
    """One state machine for every alert (decision 17); the last two end the episode."""

    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"


class Alert(msgspec.Struct, frozen=True):
    """One episode of one kind of trouble of one subject.

    Times are UTC epoch milliseconds; `onset_ms` and `last_seen_ms` are data time,
    `raised_ms`, `changed_ms` and `ended_ms` the gateway's clock.

    Args:
        id: row number in the store, 0 until it is stored.
        subject: cow id, or "herd" / "gateway".
        kind: the finding's kind; (subject, kind, episode) is the alert's key.
        episode: counts episodes of this subject and kind, from 1.
        clear_n: how many judgements in a row said "normal" (hysteresis).
        late: onset was more than 6 h before the gateway's clock when raised (decision 5).
    """

    id: int
    subject: str
    kind: str
    episode: int
    severity: Severity
    state: State
    onset_ms: int
    last_seen_ms: int
    raised_ms: int
    changed_ms: int
    confidence: float
    sentence: str
    evidence: Evidence = Evidence()
    detail: str = ""
    clear_n: int = 0
    late: bool = False
    ended_ms: int | None = None
