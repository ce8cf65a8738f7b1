"""The alert law: what an alert does next (decisions 16–22). Pure; `services/alarm` runs it on the loop.

One alert per (subject, kind, episode). `step` folds one finding into the newest episode,
`acknowledge` and `close_by_hand` fold in what a person says. Each answers with the alert
as it is now and with the moves worth a history row, an outbox event and a log line. A
finding that only refreshes the numbers makes no move.

Order is judged in data time: a finding about an earlier moment than the newest judgement
may escalate an open alert, but never resolves it and never reopens an ended one.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.core.findings import Evidence, Finding
from gateway.core.instants import HOUR_MS, MS_PER_MINUTE
from gateway.core.severity import Severity

NOT_ANIMALS = frozenset({"herd", "gateway", "barn"})
"""Subjects that are no cow id."""
CALLS = frozenset({"panic", "sos", "fire", "medical"})
"""A person, or a device for one, asks for help; the subject is who sent it (decision 16: critical)."""
EMERGENCY_STOP = "emergency_stop"
"""Kind of the alert about the subject "barn" while the emergency stop holds; only a person ends it."""
NEVER_SILENCED = CALLS | {EMERGENCY_STOP}
"""No silence holds these back, whoever set it: a life may hang on them."""


class State(StrEnum):
    """One state machine for every alert (decision 17); the last two end the episode."""

    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"


ENDED = frozenset({State.RESOLVED, State.FALSE_POSITIVE})


class Alert(msgspec.Struct, frozen=True):
    """One episode of one kind of trouble of one subject.

    Times are UTC epoch milliseconds; `onset_ms` and `last_seen_ms` are data time,
    `raised_ms`, `changed_ms` and `ended_ms` the gateway's clock.

    Args:
        id: row number in the store, 0 until it is stored.
        subject: cow id, or "herd" / "gateway".
        kind: the finding's kind; (subject, kind, episode) is the alert's key.
        episode: counts episodes of this subject and kind, from 1.
        severity: the worst of the episode; it never falls.
        last_seen_ms: the newest judgement folded in, also one that said "normal"; in an
            ended episode the data time from which its cooldown counts.
        changed_ms: the last move, not the last refresh of the numbers.
        clear_n: how many judgements in a row said "normal" (hysteresis).
        late: onset was more than 6 h before the gateway's clock when raised (decision 5).
        told_ms: the gateway's clock when people were last told: raised, worse, or told again.
        reminders: how often it was told again because nobody had acknowledged it (decision 19);
            the rung of the ladder of contacts it has reached. Starts anew when it gets worse.
        folded_into: "subject/kind/episode" of the herd event that speaks for it; "" = for itself.
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
    told_ms: int = 0
    reminders: int = 0
    folded_into: str = ""

    @property
    def open(self) -> bool:
        """Whether the episode still runs."""
        return self.state not in ENDED

    @property
    def key(self) -> str:
        """Names the episode everywhere: "subject/kind/episode"."""
        return f"{self.subject}/{self.kind}/{self.episode}"


class AlertPolicy(msgspec.Struct, frozen=True):
    """The numbers of decisions 5, 18 and 19.

    Args:
        cooldown_health_h: after a resolved health alert (decision 18).
        cooldown_estrus_h: after a heat (decision 18).
        cooldown_sensor_h: after a sensor fault (decision 18).
        cooldown_gateway_h: after a fault of the gateway itself; decision 18 is silent. One
            hour damps flapping and still tells the second failure of the same day.
        sensor_kinds: kinds that count as sensor faults.
        gateway_kinds: kinds that are faults of gateway or network although they are seen on
            the herd (decision 6); everything about the subject "gateway" is one too.
        clear_judgements: normal judgements in a row that resolve an alert (decision 4: 3).
        clear_judgements_by_kind: exceptions; one arrival proves that a silence is over.
        late_h: onset this long before the gateway's clock makes an alert late (decision 5).
        retell_min: a critical alert that nobody acknowledged is told again after this long
            (decision 19), and a change of detail at most this often.
    """

    cooldown_health_h: float = 12.0
    cooldown_estrus_h: float = 72.0
    cooldown_sensor_h: float = 24.0
    cooldown_gateway_h: float = 1.0
    sensor_kinds: tuple[str, ...] = ("sensor_malfunction", "silence")
    gateway_kinds: tuple[str, ...] = ("silence_herd",)
    clear_judgements: int = 3
    clear_judgements_by_kind: dict[str, int] = msgspec.field(default_factory=lambda: {"silence": 1})
    late_h: float = 6.0
    retell_min: float = 30.0
    call_repeat_s: float = 30.0
    call_over_min: float = 60.0
    fold_n: int = 5
    fold_within_min: float = 15.0

    def cooldown_ms(self, subject: str, kind: str) -> int:
        """How long after an episode the same trouble raises no new one, in ms of data time."""
        if self._of_gateway(subject, kind):
            hours = self.cooldown_gateway_h
        elif kind == "estrus":
            hours = self.cooldown_estrus_h
        elif kind in self.sensor_kinds:
            hours = self.cooldown_sensor_h
        else:
            hours = self.cooldown_health_h
        return round(hours * HOUR_MS)

    def clear_n(self, subject: str, kind: str) -> int:
        """How many normal judgements in a row resolve an alert; a gateway fault needs one."""
        if self._of_gateway(subject, kind):
            return 1
        if subject == "herd" and kind.endswith("_herd"):
            return 1
        return self.clear_judgements_by_kind.get(kind, self.clear_judgements)

    def _of_gateway(self, subject: str, kind: str) -> bool:
        return subject == "gateway" or kind in self.gateway_kinds


class Change(StrEnum):
    """What a move did.

    REPEATED: nobody has acknowledged it for another `retell_min`, or a silence over it has ended.
    RENEWED: a call for help was sent again after somebody had acknowledged it.
    FOLDED: a herd event speaks for it from now on.
    """

    RAISED = "raised"
    UPDATED = "updated"
    ESCALATED = "escalated"
    REPEATED = "repeated"
    RENEWED = "renewed"
    FOLDED = "folded"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"


class Move(msgspec.Struct, frozen=True):
    """One thing worth telling: a history row, an outbox event, a log line.

    Args:
        alert: the alert after the move.
        from_state: the state before it, "" when the episode begins with it.
        change: what it did.
        reason: why, one sentence or phrase.
    """

    alert: Alert
    from_state: str
    change: Change
    reason: str


class Step(msgspec.Struct, frozen=True):
    """What became of the newest episode.

    Args:
        alert: the newest episode now; None while there has never been one.
        moves: in order; empty when nothing is worth telling.
        passed_over: why trouble was found and no alert came of it ("cooldown", "stale"),
            else "".
    """

    alert: Alert | None
    moves: tuple[Move, ...] = ()
    passed_over: str = ""

    @property
    def reason(self) -> str | None:
        """Why the outside should hear of it; None when it should not."""
        return self.moves[-1].reason if self.moves else None


def step(alert: Alert | None, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    """Fold one finding into the newest episode of its subject and kind.

    Args:
        alert: the newest episode, open or ended; None if there has never been one.
        finding: what a detector says.
        now_ms: the gateway's clock, UTC epoch ms.
        policy: cooldowns and hysteresis.
    """
    if alert is None or not alert.open:
        return _start(alert, finding, now_ms, policy)
    if finding.ended:
        return _came_and_went(alert, finding, now_ms, policy)
    if finding.present:
        return _goes_on(alert, finding, now_ms, policy)
    return _looks_normal(alert, finding, now_ms, policy)


def acknowledge(alert: Alert, now_ms: int, reason: str) -> Step:
    """Somebody has seen it: silences the sound. The first one wins; a second changes nothing."""
    if alert.state is not State.ACTIVE:
        return Step(alert)
    seen = msgspec.structs.replace(alert, state=State.ACKNOWLEDGED, changed_ms=now_ms)
    return Step(seen, (Move(seen, alert.state, Change.ACKNOWLEDGED, reason),))


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


def _start(last: Alert | None, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    if not (finding.present or finding.ended):
        return Step(last)
    if last is not None:
        cooldown_ms = policy.cooldown_ms(last.subject, last.kind)
        if last.onset_ms <= finding.at_ms <= last.last_seen_ms:
            return Step(last, passed_over="stale")
        if _cooling(last, finding, cooldown_ms):
            return Step(last, passed_over="cooldown")
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
        told_ms=now_ms,
        confidence=finding.confidence,
        sentence=finding.sentence,
        evidence=finding.evidence,
        detail=finding.detail,
        late=now_ms - finding.onset_ms > policy.late_h * HOUR_MS,
    )
    raised = Move(alert, "", Change.RAISED, finding.sentence)
    if not finding.ended:
        return Step(alert, (raised,))
    resolved = _end(alert, State.RESOLVED, Change.RESOLVED, now_ms, "came and went between two looks")
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
        worse = _escalate(alert, finding, now_ms, policy)
        resolved = _end(worse.alert, State.RESOLVED, Change.RESOLVED, now_ms, finding.sentence)
        return Step(resolved.alert, (worse, resolved))
    resolved = _end(_refresh(alert, finding), State.RESOLVED, Change.RESOLVED, now_ms, finding.sentence)
    return Step(resolved.alert, (resolved,))


def _goes_on(alert: Alert, finding: Finding, now_ms: int, policy: AlertPolicy) -> Step:
    if finding.severity > alert.severity:
        escalated = _escalate(alert, finding, now_ms, policy)
        return Step(escalated.alert, (escalated,))
    if finding.at_ms < alert.last_seen_ms:
        return Step(alert, passed_over="stale")
    fresh = _refresh(alert, finding)
    if now_ms - alert.changed_ms < policy.retell_min * MS_PER_MINUTE:
        # The old detail stays, so that the difference is still there when it may be told.
        return Step(msgspec.structs.replace(fresh, detail=alert.detail))
    if finding.detail != alert.detail:
        return _tell(alert, fresh, now_ms, Change.UPDATED, f"{alert.detail} became {finding.detail}")
    return Step(fresh)


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


def sounds(alert: Alert) -> bool:
    """Whether it may sound: critical, seen by nobody, and news rather than history."""
    return (
        alert.severity is Severity.CRITICAL
        and alert.state is State.ACTIVE
        and not alert.late
        and not alert.folded_into
    )


def elapse(alert: Alert, now_ms: int, policy: AlertPolicy) -> Step:
    """Time passes."""
    if not sounds(alert):
        return Step(alert)
    if now_ms < alert.told_ms:
        return Step(msgspec.structs.replace(alert, told_ms=now_ms))
    if now_ms - alert.told_ms < policy.retell_min * MS_PER_MINUTE:
        return Step(alert)
    told = msgspec.structs.replace(alert, told_ms=now_ms, changed_ms=now_ms, reminders=alert.reminders + 1)
    return Step(told, (Move(told, alert.state, Change.REPEATED, "critical and still not acknowledged"),))


def retell(alert: Alert, now_ms: int, reason: str) -> Step:
    """A silence over it has ended."""
    if alert.state is not State.ACTIVE:
        return Step(alert)
    told = msgspec.structs.replace(alert, told_ms=now_ms, changed_ms=now_ms)
    return Step(told, (Move(told, alert.state, Change.REPEATED, reason),))


def fold(alert: Alert, herd: Alert, now_ms: int) -> Step:
    """A herd event speaks for it."""
    if alert.folded_into == herd.key:
        return Step(alert)
    folded = msgspec.structs.replace(alert, folded_into=herd.key, changed_ms=now_ms)
    return Step(folded, (Move(folded, alert.state, Change.FOLDED, f"part of {herd.key}"),))


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


def _escalate(alert: Alert, finding: Finding, now_ms: int, policy: AlertPolicy) -> Move:
    """Worse than anybody has acknowledged: active again.

    Late is judged anew, on the moment it got worse: a backlog's fever that turns critical
    now is news.
    """
    worse = msgspec.structs.replace(
        _refresh(alert, finding),
        severity=finding.severity,
        state=State.ACTIVE,
        last_seen_ms=max(alert.last_seen_ms, finding.at_ms),
        changed_ms=now_ms,
        told_ms=now_ms,
        reminders=0,
        clear_n=alert.clear_n if finding.at_ms < alert.last_seen_ms else 0,
        late=now_ms - finding.at_ms > policy.late_h * HOUR_MS,
    )
    reason = f"{alert.severity.label} became {finding.severity.label}: {finding.sentence}"
    return Move(worse, alert.state, Change.ESCALATED, reason)


def _tell(alert: Alert, fresh: Alert, now_ms: int, change: Change, reason: str) -> Step:
    told = msgspec.structs.replace(fresh, changed_ms=now_ms)
    return Step(told, (Move(told, alert.state, change, reason),))


def _end(alert: Alert, state: State, change: Change, now_ms: int, reason: str) -> Move:
    ended = msgspec.structs.replace(alert, state=state, changed_ms=now_ms, ended_ms=now_ms)
    return Move(ended, alert.state, change, reason)
