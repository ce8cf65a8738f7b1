"""What one transaction of the alarm service will hold: findings, people and time folded into all alerts.

Pure; `services/alarm` commits the plan and tells of it. The law for one alert is `core/alerts`; here
it meets what concerns several: herd events with their members, and silences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from gateway.core.alerts import (
    Alert,
    AlertPolicy,
    Change,
    Move,
    State,
    Step,
    elapse,
    fold,
    retell,
    step,
)
from gateway.core.findings import Finding
from gateway.core.herd_events import gather, members_of
from gateway.core.severity import Severity
from gateway.core.silences import Silence, covers, silenced

Key = tuple[str, str]
"""(subject, kind)."""
Known = Mapping[Key, Alert]
"""The newest episode of every subject and kind."""

_TELLING = (Change.RAISED, Change.ESCALATED)


class Plan(msgspec.Struct):
    """One transaction, before it is written.

    Args:
        newest: the newest episodes after it, of the subjects and kinds it changes.
        moves: every move on the way, in order.
        passed_over: findings that made no alert, by why.
        silences: silences that are new (id 0) or have ended.
    """

    newest: dict[Key, Alert] = msgspec.field(default_factory=dict)
    moves: list[Move] = msgspec.field(default_factory=list)
    passed_over: dict[str, int] = msgspec.field(default_factory=dict)
    silences: list[Silence] = msgspec.field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.newest or self.silences)


class Situation(msgspec.Struct, frozen=True):
    """What a plan starts from.

    Args:
        known: the newest episode of every subject and kind, as on disk.
        holding: the silences that hold.
        now_ms: the gateway's clock, UTC epoch ms.
        policy: the law's numbers.
    """

    known: Known
    holding: Sequence[Silence]
    now_ms: int
    policy: AlertPolicy


def findings_folded(situation: Situation, findings: Iterable[Finding]) -> tuple[Plan, list[Finding]]:
    """Run the law over findings in the order they came, then see what they make of the herd.

    Returns:
        the plan, and which of the findings made a difference.
    """
    plan = Plan()
    consequential = [finding for finding in findings if _take_finding(plan, situation, finding)]
    gathered(plan, situation)
    return plan, consequential


def gathered(plan: Plan, situation: Situation, *, ends_only: bool = False) -> None:
    """Add the herd events that begin, grow or end with what the plan holds so far.

    Args:
        plan: is added to.
        situation: what the plan starts from.
        ends_only: only those that end: their last member was closed by hand.
    """
    known = situation.known
    for gathering in gather({**known, **plan.newest}, situation.now_ms, situation.policy):
        finding = gathering.finding
        if finding.present and ends_only:
            continue
        _take_finding(plan, situation, finding)
        key = (finding.subject, finding.kind)
        herd = plan.newest.get(key, known.get(key))
        if herd is None or not herd.open:
            continue
        for member in gathering.members:
            if member.folded_into != herd.key:
                _raised_folded(plan, member, herd)
                _take(plan, member, fold(member, herd, situation.now_ms))


def by_hand(known: Known, alert: Alert, act: Callable[[Alert, str], Step], reason: str) -> Plan:
    """What a person says about one alert; of a herd event it is said about its members, too.

    Args:
        known: as on disk.
        alert: what it is said about.
        act: the law's answer for one alert, given why.
        reason: why; a member's names the herd event besides.
    """
    plan = Plan()
    if not _take(plan, alert, act(alert, reason)):
        return plan
    for member in members_of(alert, known.values()):
        _take(plan, member, act(member, f"{reason} (with {alert.key})"))
    return plan


def lifted(situation: Situation, over: Sequence[Silence], ended: Sequence[Silence]) -> Plan:
    """Silences end: whoever may be woken again hears what they have held back.

    Args:
        situation: the silences that go on are those that hold.
        over: the silences as they were while they held.
        ended: the same as they are to be stored.
    """
    plan = Plan(silences=list(ended))
    for alert in situation.known.values() if over else ():
        mine = next((silence for silence in over if covers(silence, alert)), None)
        if mine is not None and _held_back(alert) and not silenced(alert, situation.holding):
            _take(plan, alert, retell(alert, situation.now_ms, f"the silence set by {mine.who} has ended"))
    return plan


def elapsed(plan: Plan, situation: Situation) -> None:
    """Add what time alone does to open alerts; nobody is reminded of what is silenced."""
    for key, before in situation.known.items():
        alert = plan.newest.get(key, before)
        after = elapse(alert, situation.now_ms, situation.policy) if alert.open else Step(alert)
        if after.alert is not alert and not silenced(alert, situation.holding):
            _take(plan, alert, after)


def _held_back(alert: Alert) -> bool:
    """Whether it was raised or got worse under a silence and nobody has been told since."""
    return (
        alert.state is State.ACTIVE
        and alert.severity >= Severity.WARNING
        and not alert.folded_into
        and not alert.told_ms
    )


def _take_finding(plan: Plan, situation: Situation, finding: Finding) -> bool:
    key = (finding.subject, finding.kind)
    before = plan.newest.get(key, situation.known.get(key))
    after = step(before, finding, situation.now_ms, situation.policy)
    if after.passed_over:
        plan.passed_over[after.passed_over] = plan.passed_over.get(after.passed_over, 0) + 1
    if after.alert is None or after.alert is before:
        return False
    if silenced(after.alert, situation.holding):
        after = _untold(before, after.alert, after.moves)
    return _take(plan, before, after)


def _untold(before: Alert | None, alert: Alert, moves: Sequence[Move]) -> Step:
    """Under a silence nobody is told: `told_ms` is 0 once it was raised or got worse, else as it was."""
    told_ms = before.told_ms if before is not None and before.open else 0
    silent = []
    for move in moves:
        told_ms = 0 if move.change in _TELLING else told_ms
        quiet = msgspec.structs.replace(move.alert, told_ms=told_ms)
        silent.append(msgspec.structs.replace(move, alert=quiet))
    return Step(msgspec.structs.replace(alert, told_ms=told_ms), tuple(silent))


def _take(plan: Plan, before: Alert | None, after: Step) -> bool:
    """Add one step; whether it changed anything."""
    if after.alert is None or after.alert is before:
        return False
    plan.newest[(after.alert.subject, after.alert.kind)] = after.alert
    plan.moves.extend(after.moves)
    return True


def _raised_folded(plan: Plan, member: Alert, herd: Alert) -> None:
    """What the plan says of a member says whose part it is, so that nobody is woken for both."""
    plan.moves = [
        msgspec.structs.replace(move, alert=msgspec.structs.replace(move.alert, folded_into=herd.key))
        if move.alert.key == member.key
        else move
        for move in plan.moves
    ]
