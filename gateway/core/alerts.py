"""The alert law: what an alert does next (decisions 16-22). Pure; `services/alarm` runs it on the loop.

One alert per (subject, kind, episode). `step` folds one finding into the newest episode,
`acknowledge` and `close_by_hand` fold in what a person says, `elapse` that time has passed,
`retell` that a silence is over, `fold` that a herd event speaks for it. Each answers with the
alert as it is now and with the moves worth a history row, an outbox event and a log line. A
finding that only refreshes the numbers makes no move.

Order is judged in data time: a finding about an earlier moment than the newest judgement
may escalate an open alert, but never resolves it and never reopens an ended one. Calls for
help are judged by the moment they came; however the clock is set, each new one is told.
"""

from __future__ import annotations

import msgspec

from gateway.core.episodes import (
    CALLS,
    EMERGENCY_STOP,
    ENDED,
    HERD,
    HERD_SUFFIX,
    NEVER_SILENCED,
    NOT_ANIMALS,
    Alert,
    AlertPolicy,
    Change,
    Move,
    State,
    Step,
)
from gateway.core.findings import Finding
from gateway.core.instants import HOUR_MS, MS_PER_MINUTE
from gateway.core.severity import Severity

# What an alert is belongs to the law; users of the law find it here.
__all__ = [
    "CALLS",
    "EMERGENCY_STOP",
    "ENDED",
    "HERD",
    "HERD_SUFFIX",
    "NEVER_SILENCED",
    "NOT_ANIMALS",
    "Alert",
    "AlertPolicy",
    "Change",
    "Move",
    "State",
    "Step",
    "acknowledge",
    "close_by_hand",
    "elapse",
    "fold",
    "retell",
    "sounds",
    "step",
]

_MS_PER_S = 1000


def step(alert: Alert | None, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    """Fold one finding into the newest episode of its subject and kind.

    Args:
        alert: the newest episode, open or ended; None if there has never been one.
        finding: what a detector, or a person who calls for help, says.
        now_ms: the gateway's clock, UTC epoch ms.
        policy: cooldowns and hysteresis.
    """
    if finding.kind in NEVER_SILENCED:
        return _called(alert, finding, now_ms, policy)
    if alert is None or not alert.open:
        return _start(alert, finding, now_ms, policy)
    if finding.ended:
        return _came_and_went(alert, finding, now_ms, policy)
    if finding.present:
        return _goes_on(alert, finding, now_ms, policy)
    return _looks_normal(alert, finding, now_ms, policy)


def elapse(alert: Alert, now_ms: int, policy: AlertPolicy) -> Step:
    """Time has passed: remind people of what sounds, end a call that was answered long ago.

    However far the clock has jumped, one call makes one reminder at most. A clock that went
    back starts the wait anew, so that nothing is silent until it has caught up. An emergency
    stop never ends by itself.
    """
    if alert.state is State.ACKNOWLEDGED and alert.kind in CALLS:
        if now_ms < alert.changed_ms:
            return Step(msgspec.structs.replace(alert, changed_ms=now_ms))
        if now_ms - alert.changed_ms < policy.call_over_min * MS_PER_MINUTE:
            return Step(alert)
        reason = f"acknowledged {policy.call_over_min:g} min ago"
        over = _end(alert, State.RESOLVED, Change.RESOLVED, now_ms, reason)
        return Step(over.alert, (over,))
    if not sounds(alert):
        return Step(alert)
    # A row of a version that kept no told_ms says 0; its last move told people.
    told_ms = alert.told_ms or alert.changed_ms
    if now_ms < told_ms:
        return Step(msgspec.structs.replace(alert, told_ms=now_ms))
    if now_ms - told_ms < policy.retell_min * MS_PER_MINUTE:
        return Step(alert)
    again = msgspec.structs.replace(alert, told_ms=now_ms, reminders=alert.reminders + 1)
    return _tell(alert, again, now_ms, Change.REPEATED, "critical and still not acknowledged")


def retell(alert: Alert, now_ms: int, reason: str) -> Step:
    """A silence over it has ended: tell what nobody has seen, if it speaks for itself.

    No reminder, and so no rung of the ladder; the next one is due a whole wait from here.
    """
    if alert.state is not State.ACTIVE or alert.folded_into:
        return Step(alert)
    again = msgspec.structs.replace(alert, told_ms=now_ms)
    return _tell(alert, again, now_ms, Change.REPEATED, reason)


def fold(alert: Alert, herd: Alert, now_ms: int) -> Step:
    """A herd event speaks for it from now on. An ended one speaks for nobody."""
    if not alert.open or not herd.open or alert.folded_into == herd.key:
        return Step(alert)
    member = msgspec.structs.replace(alert, folded_into=herd.key)
    return _tell(alert, member, now_ms, Change.FOLDED, f"one of many: {herd.sentence}")


def acknowledge(alert: Alert, now_ms: int, reason: str) -> Step:
    """Somebody has seen it: silences the sound. The first one wins; a second changes nothing."""
    if alert.state is not State.ACTIVE:
        return Step(alert)
    seen = msgspec.structs.replace(alert, state=State.ACKNOWLEDGED)
    return _tell(alert, seen, now_ms, Change.ACKNOWLEDGED, reason)


def close_by_hand(alert: Alert, state: State, now_ms: int, reason: str) -> Step:
    """A person's verdict: `resolved`, or `false_positive`. An ended episode stays as it ended.

    The cooldown follows either verdict, so the same trouble is not raised again at the
    next look; a worse one is.
    """
    if not alert.open or state not in ENDED:
        return Step(alert)
    change = Change.RESOLVED if state is State.RESOLVED else Change.FALSE_POSITIVE
    move = _end(alert, state, change, now_ms, reason)
    return Step(move.alert, (move,))


def sounds(alert: Alert) -> bool:
    """Whether it may sound: critical, seen by nobody, news rather than history, for itself."""
    return (
        alert.severity is Severity.CRITICAL
        and alert.state is State.ACTIVE
        and not alert.late
        and not alert.folded_into
    )


def _called(alert: Alert | None, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    """A person asks for help, or the emergency stop was pressed.

    No cooldown, and only a person (for a call: and time) ends it. Repeats are counted from the
    call that was told last, so that a button held down for an hour is told every 30 s, not once.
    """
    if not finding.present:
        return Step(alert)
    if alert is None or not alert.open:
        if alert is not None and finding.at_ms == alert.last_seen_ms:
            return Step(alert, passed_over="stale")
        raised = _raise(alert, finding, now_ms, late=False)
        return Step(raised.alert, (raised,))
    if finding.severity > alert.severity:
        worse = _escalate(alert, finding, now_ms, late=False)
        return Step(worse.alert, (worse,))
    if abs(finding.at_ms - alert.last_seen_ms) < policy.call_repeat_s * _MS_PER_S:
        return Step(alert, passed_over="repeat")
    fresh = _refresh(alert, finding)
    if finding.kind not in CALLS:
        return Step(fresh)
    if alert.state is State.ACTIVE:
        return _tell(alert, fresh, now_ms, Change.UPDATED, f"sent again: {finding.sentence}")
    renewed = msgspec.structs.replace(fresh, state=State.ACTIVE, told_ms=now_ms, reminders=0)
    reason = f"sent again after it was acknowledged: {finding.sentence}"
    return _tell(alert, renewed, now_ms, Change.RENEWED, reason)


def _start(last: Alert | None, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    if not (finding.present or finding.ended):
        return Step(last)
    if last is not None:
        cooldown_ms = policy.cooldown_ms(last.subject, last.kind)
        if last.onset_ms <= finding.at_ms <= last.last_seen_ms:
            return Step(last, passed_over="stale")
        if _cooling(last, finding, cooldown_ms):
            return Step(last, passed_over="cooldown")
    raised = _raise(last, finding, now_ms, late=_is_late(finding.onset_ms, now_ms, policy))
    if not finding.ended:
        return Step(raised.alert, (raised,))
    reason = "came and went between two looks"
    resolved = _end(raised.alert, State.RESOLVED, Change.RESOLVED, now_ms, reason)
    return Step(resolved.alert, (raised, resolved))


def _cooling(last: Alert, finding: Finding, cooldown_ms: int) -> bool:
    """Whether the ended episode still covers this finding.

    Info has no cooldown: it neither sounds nor blinks, it is a record, and a record must be
    complete (two gaps on one day are two gaps). A worse finding than the ended episode is
    an escalation and passes.
    """
    if Severity.INFO in (finding.severity, last.severity) or finding.severity > last.severity:
        return False
    return last.onset_ms - cooldown_ms < finding.at_ms < last.last_seen_ms + cooldown_ms


def _came_and_went(alert: Alert, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    if finding.at_ms < alert.last_seen_ms:
        return Step(alert, passed_over="stale")
    if finding.severity > alert.severity:
        worse = _escalate(alert, finding, now_ms, late=_is_late(finding.at_ms, now_ms, policy))
        resolved = _end(worse.alert, State.RESOLVED, Change.RESOLVED, now_ms, finding.sentence)
        return Step(resolved.alert, (worse, resolved))
    resolved = _end(_refresh(alert, finding), State.RESOLVED, Change.RESOLVED, now_ms, finding.sentence)
    return Step(resolved.alert, (resolved,))


def _goes_on(alert: Alert, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    if finding.severity > alert.severity or _becomes_news(alert, finding, now_ms, policy):
        # Late is judged anew, on the moment it got worse: a backlog's fever that turns critical
        # now is news.
        escalated = _escalate(alert, finding, now_ms, late=_is_late(finding.at_ms, now_ms, policy))
        return Step(escalated.alert, (escalated,))
    if finding.at_ms < alert.last_seen_ms:
        return Step(alert, passed_over="stale")
    fresh = _refresh(alert, finding)
    if finding.detail == alert.detail:
        return Step(fresh)
    if 0 <= now_ms - alert.changed_ms < policy.retell_min * MS_PER_MINUTE:
        # The old detail stays, so that the difference is still there when it may be told.
        return Step(msgspec.structs.replace(fresh, detail=alert.detail))
    return _tell(alert, fresh, now_ms, Change.UPDATED, f"{alert.detail} became {finding.detail}")


def _becomes_news(alert: Alert, finding: Finding, now_ms: int, policy: AlertPolicy) -> bool:
    """Whether a herd event over a backlog's animals has got its first one of today.

    Else the late event would keep that animal from ever being heard.
    """
    return (
        alert.late
        and policy.is_herd_event(alert.subject, alert.kind)
        and not _is_late(finding.onset_ms, now_ms, policy)
    )


def _looks_normal(alert: Alert, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    if finding.at_ms <= alert.last_seen_ms:
        # The same judgement again, after a restart, is no further evidence.
        return Step(alert, passed_over="stale")
    calmer = msgspec.structs.replace(alert, clear_n=alert.clear_n + 1, last_seen_ms=finding.at_ms)
    if calmer.clear_n < policy.clear_n(alert.subject, alert.kind):
        return Step(calmer)
    reason = finding.sentence or f"normal {calmer.clear_n} times in a row"
    resolved = _end(calmer, State.RESOLVED, Change.RESOLVED, now_ms, reason)
    return Step(resolved.alert, (resolved,))


def _is_late(moment_ms: int, now_ms: int, policy: AlertPolicy) -> bool:
    return now_ms - moment_ms > policy.late_h * HOUR_MS


def _raise(last: Alert | None, finding: Finding, now_ms: int, *, late: bool) -> Move:
    alert = Alert(
        id=0,
        subject=finding.subject,
        kind=finding.kind,
        episode=last.episode + 1 if last is not None else 1,
        severity=finding.severity,
        state=State.ACTIVE,
        onset_ms=finding.onset_ms,
        last_seen_ms=finding.at_ms,
        raised_ms=now_ms,
        changed_ms=now_ms,
        confidence=finding.confidence,
        sentence=finding.sentence,
        evidence=finding.evidence,
        detail=finding.detail,
        late=late,
        told_ms=now_ms,
    )
    return Move(alert, "", Change.RAISED, finding.sentence)


def _refresh(alert: Alert, finding: Finding) -> Alert:
    """The newest numbers; severity, state and onset stay."""
    return msgspec.structs.replace(
        alert,
        last_seen_ms=finding.at_ms,
        confidence=finding.confidence,
        sentence=finding.sentence,
        evidence=finding.evidence,
        detail=finding.detail,
        clear_n=0,
    )


def _escalate(alert: Alert, finding: Finding, now_ms: int, *, late: bool) -> Move:
    """Worse than anybody has acknowledged: active again, and reminders start anew."""
    worse = msgspec.structs.replace(
        _refresh(alert, finding),
        severity=max(alert.severity, finding.severity),
        state=State.ACTIVE,
        last_seen_ms=max(alert.last_seen_ms, finding.at_ms),
        changed_ms=now_ms,
        clear_n=alert.clear_n if finding.at_ms < alert.last_seen_ms else 0,
        late=late,
        told_ms=now_ms,
        reminders=0,
    )
    if worse.severity is alert.severity:
        reason = f"history became news: {finding.sentence}"
    else:
        reason = f"{alert.severity.label} became {worse.severity.label}: {finding.sentence}"
    return Move(worse, alert.state, Change.ESCALATED, reason)


def _tell(alert: Alert, fresh: Alert, now_ms: int, change: Change, reason: str) -> Step:
    told = msgspec.structs.replace(fresh, changed_ms=now_ms)
    return Step(told, (Move(told, alert.state, change, reason),))


def _end(alert: Alert, state: State, change: Change, now_ms: int, reason: str) -> Move:
    ended = msgspec.structs.replace(alert, state=state, changed_ms=now_ms, ended_ms=now_ms)
    return Move(ended, alert.state, change, reason)
