"""Findings and acknowledgements → alerts on disk, then light, sound and messages.

Runs on the event loop, one caller at a time. An alert, its history rows and its outbox
events are one transaction (decision 28); nobody hears of an alert before it is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from gateway.core.alert_event import event_json
from gateway.core.alerts import (
    Alert,
    AlertPolicy,
    Change,
    Move,
    State,
    Step,
    acknowledge,
    close_by_hand,
    step,
)
from gateway.core.findings import Finding
from gateway.core.severity import Severity
from gateway.core.signals import Signal, shown, signal_for
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.store import alerts as alert_rows
from gateway.store import outbox
from gateway.store.alerts import Transition
from gateway.store.database import Connection, Database

log = logging.getLogger(__name__)

WAITING_MAX = 4096
"""Findings kept while the store cannot write; about 1 KB each, so 4 MB. Ten sick animals
looked at every 2 min fill it in 13 h. The oldest goes first, counted."""
NOTE_CHARS_MAX = 200
"""What a person may write to an acknowledgement; it stays in the audit for 5 years."""
WHO_CHARS_MAX = 64
"""A name, or a client id."""

Key = tuple[str, str]
"""(subject, kind)."""


class _Author(msgspec.Struct, frozen=True):
    who: str
    origin: str


_AUTOMATIC = _Author("gateway", "automatic")


class _Plan(msgspec.Struct):
    """What one transaction will hold: the newest episodes after it, and every move on the way."""

    newest: dict[Key, Alert]
    moves: list[Move]
    passed_over: dict[str, int]


class AlarmCounters(msgspec.Struct):
    """Since start, for /metrics.

    Args:
        moves: by change ("raised", "resolved", …).
        passed_over: findings that made no alert, by why ("cooldown", "stale").
        store_failures: transactions the store refused.
        waiting_dropped: findings lost because the store stayed unwritable too long.
    """

    moves: dict[str, int]
    passed_over: dict[str, int]
    store_failures: int = 0
    waiting_dropped: int = 0


class Alarm:
    """Runs the alert law over the store and keeps the panel's signal up to date.

    Args:
        clock: the gateway's clock.
        database: where alerts, history and outbox live.
        policy: cooldowns and hysteresis.
        signal_changed: called on the loop with every new signal; must not block.
        published: called on the loop with the alert after each committed move, and at start
            with every open alert (retained topics are rebuilt); must not block.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        policy: AlertPolicy,
        signal_changed: Callable[[Signal], None],
        published: Callable[[Alert], None],
    ) -> None:
        self._clock = clock
        self._database = database
        self._policy = policy
        self._signal_changed = signal_changed
        self._published = published
        self._lock = asyncio.Lock()
        self._newest: dict[Key, Alert] = {}
        self._in_step_with_store = False
        self._waiting: deque[Finding] = deque(maxlen=WAITING_MAX)
        self._store_failing = False
        self._degraded: str | None = None
        self._hushed = False
        self._uplink_down = False
        self._clock_untrusted = False
        self.signal: Signal | None = None
        self.counters = AlarmCounters(moves={}, passed_over={})

    @property
    def open_alerts(self) -> list[Alert]:
        """All alerts whose episode still runs, as they are on disk."""
        return [alert for alert in self._newest.values() if alert.open]

    @property
    def waiting_n(self) -> int:
        """Findings that wait for a store that can write."""
        return len(self._waiting)

    async def restore(self) -> None:
        """Take up where the last run stopped.

        Raises:
            StoreError: the store cannot be read.
        """
        async with self._lock:
            await self._load()
            self._refresh_signal()

    async def report(self, findings: list[Finding]) -> None:
        """Fold findings into the alerts and commit what changed, all in one transaction.

        A store that cannot write is no error here: nothing changes, the panel shows the
        trouble, and the findings are folded again with the next report.
        """
        async with self._lock:
            fold = [*self._waiting, *findings]
            try:
                if not self._in_step_with_store:
                    await self._load()
                plan, consequential = self._fold(fold)
                await self._commit(plan, _AUTOMATIC)
            except StoreError as fault:
                if not self._in_step_with_store:
                    consequential = fold
                self._store_refused(fault, consequential)
            else:
                self._waiting.clear()
            self._refresh_signal()

    async def acknowledge(self, *, alert_id: int | None, who: str, origin: str, note: str = "") -> int:
        """Somebody has seen an alert: its sound stops, its light stays.

        Args:
            alert_id: the alert, or None for the one the panel shows (most severe, newest).
            who: a name, or "button".
            origin: "button", "web", "cli" or "mqtt".
            note: why, as they put it.

        Returns:
            the id of the alert that was acknowledged by this call; 0 if there was none, if
            it has ended, or if somebody was first.

        Raises:
            StoreError: the store cannot write; the alert is as before.
        """
        async with self._lock:
            if self._gateway_degraded and alert_id is None:
                # The chirp must be silenceable although nothing can be stored about it.
                self._hushed = True
                self._refresh_signal()
            alert = self._find(alert_id)
            if alert is None:
                return 0
            reason = _one_line(note, NOTE_CHARS_MAX) or "seen"
            return await self._by_hand(acknowledge(alert, self._clock.now_ms(), reason), who, origin)

    async def close(self, *, alert_id: int, state: State, who: str, origin: str, note: str = "") -> int:
        """A person ends an episode: `State.FALSE_POSITIVE` or `State.RESOLVED`.

        Returns:
            the alert's id, or 0 if it is not open.

        Raises:
            StoreError: the store cannot write; the alert is as before.
        """
        async with self._lock:
            alert = self._find(alert_id)
            if alert is None:
                return 0
            reason = _one_line(note, NOTE_CHARS_MAX) or state.value.replace("_", " ")
            return await self._by_hand(close_by_hand(alert, state, self._clock.now_ms(), reason), who, origin)

    def health(self, degraded: str | None, uplink_down: bool, clock_untrusted: bool) -> None:  # noqa: FBT001
        """Tell how the gateway itself is; the panel follows.

        Args:
            degraded: why the store cannot write, None while it can.
            uplink_down: an upstream is configured and cannot be reached.
            clock_untrusted: the wall clock has not been set by anything trustworthy.
        """
        self._degraded = degraded
        self._uplink_down = uplink_down
        self._clock_untrusted = clock_untrusted
        self._refresh_signal()

    @property
    def _gateway_degraded(self) -> bool:
        return self._store_failing or self._degraded is not None

    async def _load(self) -> None:
        # Through the writer, so that it comes after whatever a cancelled caller left queued there.
        newest = await self._database.write(alert_rows.latest_episodes)
        self._newest = {(alert.subject, alert.kind): alert for alert in newest}
        self._in_step_with_store = True
        self._store_accepted()

    def _fold(self, findings: Iterable[Finding]) -> tuple[_Plan, list[Finding]]:
        """Run the law without changing anything; also which findings made a difference."""
        plan = _Plan({}, [], {})
        consequential: list[Finding] = []
        now_ms = self._clock.now_ms()
        for finding in findings:
            key = (finding.subject, finding.kind)
            before = plan.newest.get(key, self._newest.get(key))
            after = step(before, finding, now_ms, self._policy)
            if after.passed_over:
                plan.passed_over[after.passed_over] = plan.passed_over.get(after.passed_over, 0) + 1
            if after.alert is not None and after.alert is not before:
                plan.newest[key] = after.alert
                plan.moves.extend(after.moves)
                consequential.append(finding)
        return plan, consequential

    async def _by_hand(self, after: Step, who: str, origin: str) -> int:
        if after.alert is None or not after.moves:
            return 0
        plan = _Plan({(after.alert.subject, after.alert.kind): after.alert}, list(after.moves), {})
        author = _Author(_one_line(who, WHO_CHARS_MAX) or "unknown", origin)
        try:
            await self._commit(plan, author)
        except StoreError:
            self.counters.store_failures += 1
            raise
        self._refresh_signal()
        return after.alert.id

    async def _commit(self, plan: _Plan, author: _Author) -> None:
        """One transaction for the whole plan; only then memory, log and the outside."""
        told = plan.moves
        if plan.newest:
            now_ms = self._clock.now_ms()
            try:
                newest, told = await self._database.write(lambda db: _write(db, plan, author, now_ms))
            except asyncio.CancelledError:
                self._in_step_with_store = False  # the writer may still commit it
                raise
            self._newest.update(newest)
            self._store_accepted()
        for why, n in plan.passed_over.items():
            self.counters.passed_over[why] = self.counters.passed_over.get(why, 0) + n
        for move in told:
            self.counters.moves[move.change] = self.counters.moves.get(move.change, 0) + 1
            _log_move(move, author)
            self._published(move.alert)

    def _store_refused(self, fault: StoreError, consequential: list[Finding]) -> None:
        self.counters.store_failures += 1
        self.counters.waiting_dropped += max(0, len(consequential) - WAITING_MAX)
        self._waiting = deque(consequential, maxlen=WAITING_MAX)
        if not self._store_failing:
            log.error("Alerts cannot be stored, %d findings wait: %s", len(consequential), fault)
        self._store_failing = True

    def _store_accepted(self) -> None:
        if self._store_failing:
            log.info("Alerts are stored again")
        self._store_failing = False

    def _find(self, alert_id: int | None) -> Alert | None:
        if alert_id is None:
            return shown(self.open_alerts)
        return next((alert for alert in self.open_alerts if alert.id == alert_id), None)

    def _refresh_signal(self) -> None:
        degraded = self._gateway_degraded
        self._hushed = self._hushed and degraded
        signal = signal_for(self.open_alerts, degraded, self._uplink_down, self._clock_untrusted)
        if self._hushed and signal.sound is not None and signal.sound.name == "chirp":
            signal = msgspec.structs.replace(signal, sound=None)
        if signal != self.signal:
            self.signal = signal
            self._signal_changed(signal)


def _write(db: Connection, plan: _Plan, author: _Author, now_ms: int) -> tuple[dict[Key, Alert], list[Move]]:
    """Alert rows, history and outbox; runs in the writer thread inside one transaction.

    A new episode gets its row number with its first save; every later state of the same
    batch carries it on.
    """
    ids: dict[tuple[str, str, int], int] = {}

    def save(alert: Alert, transition: Transition | None) -> Alert:
        key = (alert.subject, alert.kind, alert.episode)
        saved = alert_rows.save(db, msgspec.structs.replace(alert, id=ids.get(key, alert.id)), transition)
        ids[key] = saved.id
        return saved

    told = []
    for move in plan.moves:
        transition = Transition(
            at_ms=now_ms,
            from_state=move.from_state,
            to_state=move.alert.state.value,
            severity=move.alert.severity,
            who=author.who,
            origin=author.origin,
            reason=move.reason,
        )
        stored = msgspec.structs.replace(move, alert=save(move.alert, transition))
        outbox.append(db, "alert", event_json(stored.alert, move.change, move.reason), now_ms)
        told.append(stored)
    moved = {(move.alert.subject, move.alert.kind): move.alert for move in plan.moves}
    newest = {}
    for key, alert in plan.newest.items():
        # The last move saved it already, unless the numbers were refreshed after that.
        last = moved.get(key)
        ided = msgspec.structs.replace(alert, id=ids.get((*key, alert.episode), alert.id))
        newest[key] = ided if alert == last else save(alert, None)
    return newest, told


def _log_move(move: Move, author: _Author) -> None:
    alert = move.alert
    what = f"{alert.severity.label} {alert.kind} {alert.subject}"
    if move.change in (Change.RAISED, Change.ESCALATED, Change.REPEATED):
        level = logging.INFO if alert.severity is Severity.INFO else logging.WARNING
        sentence = alert.sentence.removeprefix(f"{alert.subject}: ")
        log.log(level, "ALERT %s: %s%s", what, sentence, " (late)" if alert.late else "")
    elif author is _AUTOMATIC:
        log.info("ALERT %s %s: %s", move.change.value, what, move.reason)
    else:
        log.info(
            "ALERT %s %s by %s (%s): %s", move.change.value, what, author.who, author.origin, move.reason
        )


def _one_line(text: str, chars_max: int) -> str:
    """What a person sent, fit for one line of a log and of the audit."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:chars_max]
