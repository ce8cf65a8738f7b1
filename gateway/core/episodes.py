"""What an alert is: its episode, its states, its policy, and the moves it makes. Pure.

The law that moves it is in `alerts`, which hands these names on.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from gateway.core.findings import Evidence
from gateway.core.instants import HOUR_MS
from gateway.core.severity import Severity

NOT_ANIMALS = frozenset({"herd", "gateway", "barn"})
"""Subjects that are no cow id."""
CALLS = frozenset({"panic", "sos", "fire", "medical"})
"""A person, or a device for one, asks for help; the subject is who sent it (decision 16: critical)."""
EMERGENCY_STOP = "emergency_stop"
"""Kind of the alert about the subject "barn" while the emergency stop holds; only a person ends it."""
NEVER_SILENCED = CALLS | {EMERGENCY_STOP}
"""No silence holds these back, whoever set it: a life may hang on them."""
HERD = "herd"
"""The subject of what concerns the animals together."""
HERD_SUFFIX = "_herd"
"""What the kind of a herd event adds to the kind of its members."""


class State(StrEnum):
    """One state machine for every alert (decision 17); the last two end the episode."""

    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"

    @classmethod
    def of(cls, word: str) -> Self:
        """The state that a word of ours or of another system means, in any case (decision 17).

        Raises:
            ValueError: a word that means none; names those that do.
        """
        plain = word.strip().lower()
        try:
            return cls(_STATE_WORDS.get(plain, plain))
        except ValueError:
            known = ", ".join([*cls, *_STATE_WORDS])
            raise ValueError(f"{word!r} is no state of an alert; known: {known}") from None


_STATE_WORDS = {"new": "active", "in_progress": "acknowledged", "false_alarm": "false_positive"}
ENDED = frozenset({State.RESOLVED, State.FALSE_POSITIVE})


class Alert(msgspec.Struct, frozen=True):
    """One episode of one kind of trouble of one subject.

    Times are UTC epoch milliseconds; `onset_ms` and `last_seen_ms` are data time,
    `raised_ms`, `changed_ms` and `ended_ms` the gateway's clock.

    Args:
        id: row number in the store, 0 until it is stored.
        subject: cow id, one of `NOT_ANIMALS`, or who called for help (`CALLS`).
        kind: the finding's kind; (subject, kind, episode) is the alert's key.
        episode: counts episodes of this subject and kind, from 1.
        severity: the worst of the episode; it never falls.
        last_seen_ms: the newest judgement folded in, also one that said "normal"; in an
            ended episode the data time from which its cooldown counts.
        changed_ms: the last move, not the last refresh of the numbers.
        late: onset was more than 6 h before the gateway's clock when raised (decision 5); a call
            for help and an emergency stop never are, for their sender's clock may be wrong.
        clear_n: how many judgements in a row said "normal" (hysteresis).
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

    @property
    def about_animal(self) -> bool:
        """Whether the subject is a cow id."""
        return self.subject not in NOT_ANIMALS and self.kind not in NEVER_SILENCED


class AlertPolicy(msgspec.Struct, frozen=True):
    """The numbers of decisions 5, 18 and 19, and of herd events and calls for help.

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
        fold_n: alerts of one kind about this many animals become one herd event. Five is also
            the smallest herd of which decision 4 says anything.
        fold_within_min: if they were raised within this long by the gateway's clock. Seven
            detector runs, so that an outbreak is one event although not all fall ill at once.
        call_repeat_s: a call for help sent again within this long is the same call (S3-067).
        call_over_min: a call that somebody has acknowledged is over after this long.
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
    fold_n: Annotated[int, Meta(ge=2)] = 5
    fold_within_min: Annotated[float, Meta(gt=0)] = 15.0
    call_repeat_s: Annotated[float, Meta(ge=0)] = 30.0
    call_over_min: Annotated[float, Meta(gt=0)] = 60.0

    def cooldown_ms(self, subject: str, kind: str) -> int:
        """How long after an episode the same trouble raises no new one, in ms of data time."""
        if kind in NEVER_SILENCED or self.is_herd_event(subject, kind):
            return 0
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
        """How many normal judgements in a row resolve an alert.

        One for a gateway fault, and for a herd event, whose members have taken theirs.
        """
        if self._of_gateway(subject, kind) or self.is_herd_event(subject, kind):
            return 1
        return self.clear_judgements_by_kind.get(kind, self.clear_judgements)

    def is_herd_event(self, subject: str, kind: str) -> bool:
        """Whether it speaks for alerts about single animals."""
        return subject == HERD and kind.endswith(HERD_SUFFIX) and kind not in self.gateway_kinds

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
