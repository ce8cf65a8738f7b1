"""Many alerts of one kind at once are one event of the herd. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.alerts import CALLS, NOT_ANIMALS, Alert, AlertPolicy
from gateway.core.findings import Finding
from gateway.core.instants import MS_PER_MINUTE
from gateway.core.severity import Severity


class Gathering(msgspec.Struct, frozen=True):
    """What to say about the herd, and which alerts it speaks for."""

    finding: Finding
    members: tuple[Alert, ...]


def gather(newest: Mapping[tuple[str, str], Alert], now_ms: int, policy: AlertPolicy) -> list[Gathering]:
    """Herd events that begin, go on or end now."""
    found = []
    for kind in {alert.kind for alert in newest.values()}:
        herd = newest.get(("herd", f"{kind}_herd"))
        of_kind = [
            alert
            for alert in newest.values()
            if alert.kind == kind
            and alert.open
            and alert.subject not in NOT_ANIMALS
            and alert.kind not in CALLS
            and alert.severity > Severity.INFO
        ]
        going_on = herd is not None and herd.open
        recent = [
            alert
            for alert in of_kind
            if not alert.folded_into and alert.raised_ms > now_ms - policy.fold_within_min * MS_PER_MINUTE
        ]
        if not going_on and len(recent) < policy.fold_n:
            continue
        members = tuple(of_kind if going_on else recent)
        names = ", ".join(sorted(alert.subject for alert in members))
        finding = Finding(
            subject="herd",
            kind=f"{kind}_herd",
            present=bool(members),
            severity=max((alert.severity for alert in members), default=Severity.INFO),
            at_ms=now_ms,
            onset_ms=min((alert.onset_ms for alert in members), default=now_ms),
            confidence=1.0,
            sentence=f"{len(members)} animals have {kind}: {names}",
        )
        found.append(Gathering(finding, members))
    return found


def members_of(herd: Alert, alerts: Iterable[Alert]) -> list[Alert]:
    """The alerts a herd event speaks for."""
    return [alert for alert in alerts if alert.open and alert.folded_into == herd.key]
