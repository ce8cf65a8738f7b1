"""Herd events: many animals with the same trouble at once are one alert. Pure; run by `services/alarm`.

After every report `gather` looks at the newest episodes and says which herd events begin, change
or end; the law (`alerts.step`) makes the alert of each, and `alerts.fold` makes it speak for its
members. Members keep their own episodes, so each animal's history stays whole. What the network
does to many animals (`AlertPolicy.gateway_kinds`) has its own detector and is not gathered here,
and neither is a call for help.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.alerts import HERD, HERD_SUFFIX, Alert, AlertPolicy
from gateway.core.findings import Evidence, Finding
from gateway.core.instants import DAY_MS, HOUR_MS, MS_PER_MINUTE, plain_utc
from gateway.core.severity import Severity

NAMED_MAX = 10
"""Animals a sentence names; with 64 characters each it stays below 700, and nobody reads more."""


class Gathering(msgspec.Struct, frozen=True):
    """What there is to say about one herd event.

    Args:
        finding: for `alerts.step`, about ("herd", "<kind>_herd").
        members: the open alerts it speaks for, first raised first; folding one twice is harmless.
            Empty when the event is over.
    """

    finding: Finding
    members: tuple[Alert, ...]


def members_of(herd: Alert, alerts: Iterable[Alert]) -> list[Alert]:
    """Those of the alerts, open or ended, that the herd event speaks for."""
    return [alert for alert in alerts if alert.folded_into == herd.key]


def gather(newest: Mapping[tuple[str, str], Alert], now_ms: int, policy: AlertPolicy) -> list[Gathering]:
    """Which herd events begin, have other members or a worse one, or are over.

    Args:
        newest: the newest episode of every (subject, kind).
        now_ms: the gateway's clock, UTC epoch ms.
        policy: `fold_n`, `fold_within_min` and which kinds are the gateway's.

    Returns:
        nothing about a herd event that stands as it stood, so that nothing is written for it.
    """
    by_kind: dict[str, list[Alert]] = {}
    for alert in newest.values():
        if alert.open and policy.is_herd_event(alert.subject, alert.kind):
            by_kind.setdefault(alert.kind.removesuffix(HERD_SUFFIX), [])
        elif _may_join(alert, policy):
            by_kind.setdefault(alert.kind, []).append(alert)
    gatherings = []
    for kind, candidates in by_kind.items():
        candidates.sort(key=lambda alert: (alert.raised_ms, alert.subject))
        last = newest.get((HERD, kind + HERD_SUFFIX))
        if last is not None and last.open:
            gathering = _goes_on(last, candidates, now_ms, policy)
        else:
            gathering = _begins(last, kind, candidates, now_ms, policy)
        if gathering is not None:
            gatherings.append(gathering)
    return gatherings


def _may_join(alert: Alert, policy: AlertPolicy) -> bool:
    return (
        alert.open
        and alert.about_animal
        and alert.severity > Severity.INFO
        and alert.kind + HERD_SUFFIX not in policy.gateway_kinds
    )


def _begins(
    last: Alert | None, kind: str, candidates: list[Alert], now_ms: int, policy: AlertPolicy
) -> Gathering | None:
    """Enough of them were raised within the span, whenever that was.

    What an ended event spoke for is silent as long as it is open, so it counts like any other.
    """
    span_ms = policy.fold_within_min * MS_PER_MINUTE
    many: set[int] = set()
    for first in range(len(candidates) - policy.fold_n + 1):
        span = range(first, first + policy.fold_n)
        if candidates[span[-1]].raised_ms - candidates[first].raised_ms <= span_ms:
            many.update(span)
    if not many:
        return None
    members = [
        alert
        for i, alert in enumerate(candidates)
        if i in many or alert.raised_ms >= now_ms - span_ms  # who would join it at the next look
    ]
    return Gathering(_finding(last, kind, members, now_ms, policy), tuple(members))


def _goes_on(herd: Alert, candidates: list[Alert], now_ms: int, policy: AlertPolicy) -> Gathering | None:
    """Its own members, and who fell ill since it began or in the span before."""
    joined_from_ms = herd.raised_ms - policy.fold_within_min * MS_PER_MINUTE
    members = [
        alert for alert in candidates if alert.folded_into == herd.key or alert.raised_ms >= joined_from_ms
    ]
    kind = herd.kind.removesuffix(HERD_SUFFIX)
    finding = _finding(herd, kind, members, now_ms, policy)
    if (
        finding.present
        and finding.severity <= herd.severity
        and (finding.sentence, finding.detail) == (herd.sentence, herd.detail)
        and all(alert.folded_into == herd.key for alert in members)
    ):
        return None
    return Gathering(finding, tuple(members))


def _finding(
    last: Alert | None, kind: str, members: list[Alert], now_ms: int, policy: AlertPolicy
) -> Finding:
    """Judged by the gateway's clock, and yet later than the last judgement however that was set."""
    at_ms = now_ms if last is None else max(now_ms, last.last_seen_ms + 1)
    words = kind.replace("_", " ")
    if not members:
        sentence = f"no animal of the herd has {words} any more"
        return Finding(
            subject=HERD,
            kind=kind + HERD_SUFFIX,
            present=False,
            severity=Severity.INFO,
            at_ms=at_ms,
            onset_ms=at_ms,
            confidence=1.0,
            sentence=sentence,
        )
    onset_ms = min(alert.onset_ms for alert in members)
    n = len(members)
    names = ", ".join(alert.subject for alert in members[:NAMED_MAX])
    more = f" and {n - NAMED_MAX} more" if n > NAMED_MAX else ""
    animals = "animal" if n == 1 else "animals"
    verb = "has" if n == 1 else "have"
    return Finding(
        subject=HERD,
        kind=kind + HERD_SUFFIX,
        present=True,
        severity=max(alert.severity for alert in members),
        at_ms=at_ms,
        onset_ms=_judged_from(members, onset_ms, now_ms, policy),
        confidence=max(alert.confidence for alert in members),
        sentence=f"{n} {animals} {verb} {words} since {_since(onset_ms, now_ms)}: {names}{more}",
        evidence=Evidence(
            value=float(n),
            unit=animals,
            duration_min=max(0.0, (now_ms - onset_ms) / MS_PER_MINUTE),
            herd=f"{n} {animals} at once",
            quality=min(alert.evidence.quality for alert in members),
        ),
        detail=f"{n} {animals}",
    )


def _judged_from(members: list[Alert], onset_ms: int, now_ms: int, policy: AlertPolicy) -> int:
    """One animal whose alert is news makes the event news; a backlog's alone are as late as they are."""
    if all(alert.late for alert in members):
        return onset_ms
    return max(onset_ms, now_ms - int(policy.late_h * HOUR_MS))


def _since(onset_ms: int, now_ms: int) -> str:
    """`14:10 UTC`; with the date where the clock time alone could mean another day."""
    day, _, clock = plain_utc(onset_ms).partition(" ")
    minute = clock[:5]
    return f"{minute} UTC" if abs(now_ms - onset_ms) < DAY_MS else f"{day} {minute} UTC"
