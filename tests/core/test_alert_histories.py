"""A thousand random barn lives through the law: whatever happens in whatever order, it holds.

Each history is 200 events: findings of any severity in any order, people, ended silences, time, a
clock that jumps to 1970 and to next year, restarts. The audit is kept apart, from the moves alone,
as the store does; after every event it must say what the alerts say. ALERT_HISTORIES=n runs n of them.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import msgspec
import pytest

from gateway.core.alerts import (
    CALLS,
    EMERGENCY_STOP,
    ENDED,
    NEVER_SILENCED,
    Alert,
    AlertPolicy,
    Change,
    Move,
    State,
    Step,
    acknowledge,
    close_by_hand,
    elapse,
    fold,
    retell,
    sounds,
    step,
)
from gateway.core.findings import Finding
from gateway.core.herd_events import gather, members_of
from gateway.core.severity import Severity

HISTORIES = int(os.environ.get("ALERT_HISTORIES", "1000"))
EVENTS = 200
SHARES = 10
MINUTE = 60_000
DAY = 24 * 60 * MINUTE
TODAY = 1_780_000_000_000
CLOCKS = (0, TODAY - 365 * DAY, TODAY - DAY, TODAY, TODAY + DAY, TODAY + 365 * DAY)
POLICY = AlertPolicy()
Key = tuple[str, str]
FEVERS: tuple[Key, ...] = tuple((f"COW_{n}", "fever") for n in range(1, 9))
"""A third of the histories are outbreaks; in the others everything happens at once."""
KEYS: tuple[Key, ...] = (
    *FEVERS[:6],
    ("COW_1", "silence"),
    ("COW_2", "estrus"),
    ("COW_3", "sensor_malfunction"),
    ("herd", "silence_herd"),
    ("gateway", "disk"),
    ("tag-7", "panic"),
    ("barn", EMERGENCY_STOP),
)
SEVERITIES = (Severity.INFO, *[Severity.WARNING] * 3, *[Severity.CRITICAL] * 2)
VERDICTS = tuple(ENDED)
BACK_MIN = (0, 0, 0, 0, 1, 20, 700, 5000)
"""How long before the gateway's clock a finding's moment may lie."""
WAITS_MIN = (1, 1, 2, 5, 29, 30, 70)
ONSET_MIN = (0, 0, 5, 300, 400)
NOBODY = (0, None, "", 0, "")
EPISODE_GOES = {
    Change.UPDATED: {(State.ACTIVE, State.ACTIVE), (State.ACKNOWLEDGED, State.ACKNOWLEDGED)},
    Change.FOLDED: {(State.ACTIVE, State.ACTIVE), (State.ACKNOWLEDGED, State.ACKNOWLEDGED)},
    Change.ESCALATED: {(State.ACTIVE, State.ACTIVE), (State.ACKNOWLEDGED, State.ACTIVE)},
    Change.REPEATED: {(State.ACTIVE, State.ACTIVE)},
    Change.RENEWED: {(State.ACKNOWLEDGED, State.ACTIVE)},
    Change.ACKNOWLEDGED: {(State.ACTIVE, State.ACKNOWLEDGED)},
    Change.RESOLVED: {(State.ACTIVE, State.RESOLVED), (State.ACKNOWLEDGED, State.RESOLVED)},
    Change.FALSE_POSITIVE: {
        (State.ACTIVE, State.FALSE_POSITIVE),
        (State.ACKNOWLEDGED, State.FALSE_POSITIVE),
    },
}


class Barn:
    """Runs the law over several keys as `services/alarm` does, and holds it to its word."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.keys, self.ill = (FEVERS, 0.85) if seed % 3 == 0 else (KEYS, 0.6)
        self.now_ms = self.random.choice(CLOCKS)
        self.newest: dict[Key, Alert] = {}
        self.audit: dict[Key, tuple[int, Severity | None, str, int, str]] = {}
        self.open_rows: set[tuple[str, str, int]] = set()
        self.seen: Counter[str] = Counter()

    def live(self) -> None:
        """One event, and what follows from it."""
        dice = self.random.random()
        moved = False
        if dice < 0.62:
            finding = self.finding()
            key = (finding.subject, finding.kind)
            moved = self.take(key, step(self.newest.get(key), finding, self.now_ms, POLICY))
        elif dice < 0.80:
            self.now_ms += self.random.choice(WAITS_MIN) * MINUTE
            for key, alert in self.newest.items():
                moved |= self.time_passes(key, alert)
        elif dice < 0.94:
            moved = self.somebody(self.random.choice(list(self.newest)) if self.newest else None, dice)
        elif dice < 0.96:
            self.now_ms = self.random.choice(CLOCKS) + self.random.randrange(DAY)
        else:
            stored = msgspec.json.encode(list(self.newest.values()))
            self.newest = {(a.subject, a.kind): a for a in msgspec.json.decode(stored, type=list[Alert])}
        if moved:
            self.gather()

    def finding(self) -> Finding:
        random = self.random
        subject, kind = random.choice(self.keys)
        at_ms = self.now_ms - random.choice(BACK_MIN) * MINUTE
        return Finding(
            subject=subject,
            kind=kind,
            present=random.random() < self.ill,
            severity=random.choice(SEVERITIES),
            at_ms=at_ms,
            onset_ms=at_ms - random.choice(ONSET_MIN) * MINUTE,
            confidence=0.5,
            sentence="so it looks",
            detail="a" if random.random() < 0.8 else "b",
            ended=random.random() < 0.05,
        )

    def somebody(self, key: Key | None, dice: float) -> bool:
        """A person, or the end of a silence; what is done to a herd event is done to its members."""
        if key is None:
            return False
        alert = self.newest[key]
        if dice < 0.83:
            return self.take(key, retell(alert, self.now_ms, "the silence is over"))
        members = members_of(alert, self.newest.values()) if key[0] == "herd" else []
        state = self.random.choice(VERDICTS)
        moved = False
        for one in (alert, *members):
            if dice < 0.88:
                after = acknowledge(one, self.now_ms, "seen")
            else:
                after = close_by_hand(one, state, self.now_ms, "so I say")
            moved |= self.take((one.subject, one.kind), after)
        return moved

    def time_passes(self, key: Key, alert: Alert) -> bool:
        after = elapse(alert, self.now_ms, POLICY)
        if not after.moves:
            return self.take(key, after)
        (move,) = after.moves
        if move.change is Change.REPEATED:
            assert sounds(alert)
            assert move.alert.reminders == alert.reminders + 1
            assert self.now_ms - alert.told_ms >= 30 * MINUTE
            assert move.alert.told_ms == self.now_ms
        else:
            assert move.change is Change.RESOLVED
            assert alert.kind in CALLS
        return self.take(key, after)

    def gather(self) -> None:
        for gathering in gather(self.newest, self.now_ms, POLICY):
            key = (gathering.finding.subject, gathering.finding.kind)
            after = step(self.newest.get(key), gathering.finding, self.now_ms, POLICY)
            assert not after.passed_over
            self.take(key, after)
            herd = self.newest[key]
            assert herd.open == bool(gathering.members)
            for member in gathering.members:
                assert member.severity <= herd.severity
                self.take((member.subject, member.kind), fold(member, herd, self.now_ms))
        speaking = {alert.key for alert in self.newest.values() if alert.open}
        for alert in self.newest.values():
            if alert.folded_into and alert.open:
                assert alert.folded_into in speaking
                assert not sounds(alert)
                assert alert.kind not in NEVER_SILENCED
        for gathering in gather(self.newest, self.now_ms, POLICY):
            # Only a detail that has to wait for its half hour is left over.
            herd = self.newest[gathering.finding.subject, gathering.finding.kind]
            assert gathering.finding.detail != herd.detail
            assert step(herd, gathering.finding, self.now_ms, POLICY).moves == ()

    def take(self, key: Key, after: Step) -> bool:
        """Write the audit from the moves, and see that it says what the alert says."""
        shadow = self.newest.get(key)
        now = after.alert
        if now is shadow:
            assert not after.moves
            return False
        assert now is not None
        for move in after.moves:
            self.judge(shadow, move)
            shadow = move.alert
            self.audit[key] = said(shadow)
            row = (*key, shadow.episode)
            if shadow.open:
                self.open_rows.add(row)
            else:
                self.open_rows.discard(row)
            self.seen[move.change] += 1
        assert self.audit.get(key, NOBODY) == said(now)
        assert sum(row[:2] == key for row in self.open_rows) == now.open
        self.newest[key] = now
        return bool(after.moves)

    def judge(self, before: Alert | None, move: Move) -> None:
        """One move: it follows from the last, changes something, and says why."""
        after = move.alert
        assert move.reason
        assert after.changed_ms == self.now_ms
        if move.change is Change.RAISED:
            assert before is None or not before.open
            assert (move.from_state, after.state) == ("", State.ACTIVE)
            assert after.episode == (before.episode + 1 if before is not None else 1)
            assert after.folded_into == ""
            return
        assert before is not None
        assert after.episode == before.episode
        assert after.severity >= before.severity
        assert move.from_state == before.state
        assert (before.state, after.state) in EPISODE_GOES[move.change]
        assert after.id == before.id
        assert after.raised_ms == before.raised_ms
        assert (after.ended_ms is not None) == (not after.open)
        if after.severity > before.severity:
            assert move.change is Change.ESCALATED
        if move.change is Change.ESCALATED:
            assert after.severity > before.severity or (before.late and not after.late)
            assert (after.told_ms, after.reminders) == (self.now_ms, 0)
        elif move.change is Change.UPDATED:
            assert after.detail != before.detail or after.kind in CALLS
        elif move.change is Change.FOLDED:
            assert after.folded_into != before.folded_into
        elif move.change is Change.RENEWED:
            assert after.kind in CALLS
        if move.change is not Change.FOLDED:
            assert after.folded_into == before.folded_into

    def nothing_is_silent_for_ever(self) -> None:
        """From here on the clock runs true: what sounds is told again within half an hour."""
        for alert in self.newest.values():
            if sounds(alert):
                anchored = elapse(alert, self.now_ms, POLICY).alert
                assert anchored is not None
                (move,) = elapse(anchored, self.now_ms + 30 * MINUTE, POLICY).moves
                assert move.change is Change.REPEATED


def said(alert: Alert) -> tuple[int, Severity | None, str, int, str]:
    """What of an alert may not change without a row in the audit."""
    return (alert.episode, alert.severity, alert.state, alert.reminders, alert.folded_into)


@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_happens_the_law_holds(share: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(share, HISTORIES, SHARES):
        barn = Barn(seed)
        try:
            for _ in range(EVENTS):
                barn.live()
            barn.nothing_is_silent_for_ever()
        except AssertionError as fault:
            fault.add_note(f"history {seed}")
            raise
        seen += barn.seen
    if HISTORIES >= 100 * SHARES:
        assert {change for change in Change if not seen[change]} == set(), "histories that do not show it all"
