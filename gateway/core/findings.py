"""What a detector says: one animal, one kind of trouble, with its reasons (decision 22)."""

from __future__ import annotations

import msgspec

from gateway.core.severity import Severity


class Evidence(msgspec.Struct, frozen=True):
    """The numbers behind a finding. None means "does not apply", never "zero".

    Args:
        value: what was measured, in `unit`.
        unit: unit of value, baseline and deviation ("°C", "g", "min").
        baseline: what is usual for this animal at this hour.
        deviation: value minus baseline.
        duration_min: how long it has lasted, in minutes of data time.
        reference_n: samples behind the baseline.
        herd: one phrase about the herd at the same time ("herd normal", "herd unknown").
        quality: share of expected readings present in the window looked at, 0–1.
    """

    value: float | None = None
    unit: str = ""
    baseline: float | None = None
    deviation: float | None = None
    duration_min: float | None = None
    reference_n: int = 0
    herd: str = "herd unknown"
    quality: float = 1.0


class Finding(msgspec.Struct, frozen=True):
    """One detector's statement about one subject at one moment of data time.

    Args:
        subject: cow id, or "herd" / "gateway".
        kind: stable name of the trouble ("fever", "sensor_malfunction", "silence").
        present: True while the cause is there; False says "looked, and it is normal",
            which is what lets an alert resolve with hysteresis. No finding = unknown.
        severity: how bad, meaningful when present.
        at_ms: data time judged (UTC epoch ms).
        onset_ms: when it began, as far as the data shows.
        confidence: 0–1.
        sentence: one plain sentence with numbers.
        evidence: the numbers.
        detail: sub-kind ("stuck_accelerometer", "single_reading"); free of user text.
        ended: the cause came and went between two looks (a gap that closed again).
    """

    subject: str
    kind: str
    present: bool
    severity: Severity
    at_ms: int
    onset_ms: int
    confidence: float
    sentence: str
    evidence: Evidence = Evidence()
    detail: str = ""
    ended: bool = False


def told_of_gateway(kind: str, sentence: str, now_ms: int, severity: Severity = Severity.WARNING) -> Finding:
    """Something that happened to the gateway itself: told once, over as soon as it is told."""
    return Finding(
        subject="gateway",
        kind=kind,
        present=True,
        severity=severity,
        at_ms=now_ms,
        onset_ms=now_ms,
        confidence=1.0,
        sentence=sentence,
        ended=True,
    )
