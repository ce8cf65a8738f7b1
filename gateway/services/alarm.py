"""Findings, people and time → alerts on disk, then light, sound and messages.

Runs on the event loop, one caller at a time. An alert, its history rows and its outbox
events are one transaction (decision 28); nobody hears of an alert before it is committed,
but of a call for help the panel does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from gateway.core import alert_plan
from gateway.core.alert_plan import Key, Plan, Situation
from gateway.core.alerts import (
    NEVER_SILENCED,
    Alert,
    AlertPolicy,
    Move,
    State,
    Step,
    acknowledge,
    close_by_hand,
    step,
)
from gateway.core.findings import Finding
from gateway.core.signals import shown
from gateway.core.silences import Silence, silence_fault, silence_over, silenced
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.services.alarm_log import log_move, log_silence, one_line
from gateway.services.signalling import Signalling
from gateway.store import alerts as alert_rows
from gateway.store import moves
from gateway.store import silences as silence_rows
from gateway.store.database import Connection, Database
from gateway.store.moves import AUTOMATIC, Author, Written

log = logging.getLogger(__name__)

WAITING_MAX = 4096
"""Findings kept while the store cannot write; about 1 KB each, so 4 MB. Ten sick animals
looked at every 2 min fill it in 13 h. The oldest goes first, calls for help last, counted."""
SILENCES_MAX = 64
"""Silences at a time: 20 animals under treatment with three kinds of trouble each. Each of 200 open
alerts is compared with each, 12,800 comparisons or about 3 ms, whenever something changes."""
NOTE_CHARS_MAX = 200
"""What a person may write to an acknowledgement; it stays in the audit for 5 years."""
WHO_CHARS_MAX = 64
"""A name, or a client id."""
NAME_CHARS_MAX = 64
"""Of a subject or a kind in a silence: as long as a cow id may be."""


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
    """Runs the alert law over the store and tells the panel.

    Args:
        clock: the gateway's clock.
        database: where alerts, history, silences and outbox live.
        policy: cooldowns, hysteresis, reminders.
        signalling: light and sound.
        published: called on the loop with each committed move; must not block.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        policy: AlertPolicy,
        signalling: Signalling,
        published: Callable[[Move], None],
    ) -> None:
        self._clock = clock
        self._database = database
        self._policy = policy
        self._signalling = signalling
        self._published = published
        self._lock = asyncio.Lock()
        self._newest: dict[Key, Alert] = {}
        self._silences: dict[int, Silence] = {}
        self._in_step_with_store = False
        self._waiting: deque[Finding] = deque(maxlen=WAITING_MAX)
        self._store_failing = False
        self.counters = AlarmCounters(moves={}, passed_over={})

    @property
    def open_alerts(self) -> list[Alert]:
        """All alerts whose episode still runs, as they are on disk."""
        return [alert for alert in self._newest.values() if alert.open]

    @property
    def silences(self) -> list[Silence]:
        """The silences that hold now."""
        now_ms = self._clock.now_ms()
        return [silence for silence in self._silences.values() if not silence_over(silence, now_ms)]

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

    async def report(self, findings: list[Finding]) -> bool:
        """Fold findings into the alerts and commit what changed, all in one transaction.

        A store that cannot write is no error here: nothing changes, the panel shows the
        trouble, and the findings are folded again with the next report or tick.

        Returns:
            whether all findings so far are on disk.
        """
        async with self._lock:
            fold = [*self._waiting, *findings]
            consequential = fold
            try:
                await self._load_if_out_of_step()
                plan, consequential = alert_plan.findings_folded(self._situation(), fold)
                await self._commit(plan, AUTOMATIC)
            except StoreError as fault:
                self._store_refused(fault, consequential)
            else:
                self._waiting.clear()
            self._refresh_signal()
            if not self._waiting:
                self._signalling.stored(fold)
            return not self._waiting

    def call(self, finding: Finding) -> None:
        """Somebody calls for help: light and sound at once; `report` it next, that puts it on disk.

        A copy of a call that is known already makes no new sound.
        """
        known = self._newest.get((finding.subject, finding.kind))
        if not self._in_step_with_store or (
            step(known, finding, self._clock.now_ms(), self._policy).moves and finding.present
        ):
            self._signalling.call(finding)

    async def acknowledge(self, *, alert_id: int | None, who: str, origin: str, note: str = "") -> int:
        """Somebody has seen an alert: its sound stops, its light stays.

        A herd event's members are acknowledged with it. Without an id it is what the panel shows:
        if a call sounds that is not yet on disk, or the chirp, that is silenced and nothing else.

        Args:
            alert_id: the alert, or None for the one the panel shows (most severe, newest).
            who: a name, or "button".
            origin: "button", "web", "cli", "mqtt" or "link".
            note: why, as they put it.

        Returns:
            the id of the alert that was acknowledged by this call; 0 if there was none, if
            it has ended, or if somebody was first.

        Raises:
            StoreError: the store cannot write; the alert is as before, but what the panel
                showed sounds no more until the store can.
        """
        if alert_id is None and self._signalling.hush():  # at once, whatever the store is doing
            return 0

        def seen(alert: Alert, reason: str) -> Step:
            return acknowledge(alert, self._clock.now_ms(), reason)

        async with self._lock:
            alert = self._find(alert_id)
            try:
                return await self._by_hand(alert, seen, one_line(note, NOTE_CHARS_MAX) or "seen", who, origin)
            except StoreError:
                if alert_id is None and alert is not None:
                    self._signalling.seen(alert.id)
                raise

    async def close(self, *, alert_id: int, state: State, who: str, origin: str, note: str = "") -> int:
        """A person ends an episode: `State.FALSE_POSITIVE` or `State.RESOLVED`; of a herd event all.

        Returns:
            the alert's id, or 0 if it is not open.

        Raises:
            StoreError: the store cannot write; the alert is as before.
        """

        def closed(alert: Alert, reason: str) -> Step:
            return close_by_hand(alert, state, self._clock.now_ms(), reason)

        async with self._lock:
            reason = one_line(note, NOTE_CHARS_MAX) or state.value.replace("_", " ")
            return await self._by_hand(self._find(alert_id), closed, reason, who, origin)

    async def silence(
        self, *, subject: str | None, kind: str | None, until_ms: int, who: str, origin: str, reason: str
    ) -> Silence:
        """Let sound and messages rest for an animal, a kind of trouble, or the barn; light stays.

        Args:
            subject: the animal, None = all.
            kind: of trouble, None = all.
            until_ms: its end, UTC epoch ms by the gateway's clock.
            who: a name.
            origin: "web", "cli" or "mqtt".
            reason: why, as they put it.

        Raises:
            ValueError: an end that is none, or too many silences; the text says so.
            StoreError: the store cannot write; there is no silence.
        """
        async with self._lock:
            await self._load_if_out_of_step()
            now_ms = self._clock.now_ms()
            wanted = Silence(
                id=0,
                subject=one_line(subject, NAME_CHARS_MAX) if subject else None,
                kind=one_line(kind, NAME_CHARS_MAX) if kind else None,
                from_ms=now_ms,
                until_ms=until_ms,
                who=one_line(who, WHO_CHARS_MAX) or "unknown",
                origin=origin,
                reason=one_line(reason, NOTE_CHARS_MAX),
            )
            fault = silence_fault(wanted)
            if fault is None and len(self.silences) >= SILENCES_MAX:
                fault = f"there are {SILENCES_MAX} silences already; end one of them first"
            if fault is not None:
                raise ValueError(fault)
            written = await self._commit_by_hand(Plan(silences=[wanted]), Author(wanted.who, origin))
            return written.silences[0]

    async def end_silence(self, *, silence_id: int, who: str, origin: str) -> bool:
        """End a silence before its time; what it has held back is told now.

        Returns:
            False if it does not hold.

        Raises:
            StoreError: the store cannot write; it holds on.
        """
        async with self._lock:
            await self._load_if_out_of_step()
            silence = next((one for one in self.silences if one.id == silence_id), None)
            if silence is None:
                return False
            author = Author(one_line(who, WHO_CHARS_MAX) or "unknown", origin)
            plan = self._lift([silence], f"{author.who} ({author.origin})")
            await self._commit_by_hand(plan, author)
            return True

    async def tick(self) -> None:
        """What time alone does: reminders, calls that are over, silences that end, findings that waited.

        Every few seconds; without a transaction when nothing is due.
        """
        if self._waiting:
            await self.report([])
        async with self._lock:
            try:
                await self._load_if_out_of_step()
                situation = self._situation()
                over = [one for one in self._silences.values() if one not in situation.holding]
                plan = self._lift(over, "")
                alert_plan.elapsed(plan, situation)
                alert_plan.gathered(plan, situation, ends_only=True)
                if plan.empty:
                    return
                await self._commit(plan, AUTOMATIC)
            except StoreError as fault:
                self._store_refused(fault, list(self._waiting))
            self._refresh_signal()

    async def _load_if_out_of_step(self) -> None:
        if not self._in_step_with_store:
            await self._load()

    async def _load(self) -> None:
        def read(db: Connection) -> tuple[list[Alert], list[Silence]]:
            return alert_rows.latest_episodes(db), silence_rows.holding(db)

        # Through the writer, so that it comes after whatever a cancelled caller left queued there.
        newest, silences = await self._database.write(read)
        self._newest = {(alert.subject, alert.kind): alert for alert in newest}
        self._silences = {silence.id: silence for silence in silences}
        self._in_step_with_store = True
        self._store_accepted()

    def _situation(self) -> Situation:
        return Situation(self._newest, self.silences, self._clock.now_ms(), self._policy)

    def _lift(self, over: Sequence[Silence], ended_by: str) -> Plan:
        now = self._situation()
        ended = [msgspec.structs.replace(one, ended_ms=now.now_ms, ended_by=ended_by) for one in over]
        holding = [one for one in now.holding if one not in over]
        return alert_plan.lifted(msgspec.structs.replace(now, holding=holding), over, ended)

    async def _by_hand(
        self, alert: Alert | None, act: Callable[[Alert, str], Step], reason: str, who: str, origin: str
    ) -> int:
        if alert is None:
            return 0
        plan = alert_plan.by_hand(self._newest, alert, act, reason)
        if plan.empty:
            return 0
        await self._commit_by_hand(plan, Author(one_line(who, WHO_CHARS_MAX) or "unknown", origin))
        return alert.id

    async def _commit_by_hand(self, plan: Plan, author: Author) -> Written:
        try:
            written = await self._commit(plan, author)
        except StoreError:
            self.counters.store_failures += 1
            raise
        self._refresh_signal()
        return written

    async def _commit(self, plan: Plan, author: Author) -> Written:
        """One transaction for the whole plan; only then memory, log and the outside."""
        written = Written({}, [], [])
        if not plan.empty:
            now_ms = self._clock.now_ms()
            try:
                written = await self._database.write(lambda db: moves.write(db, plan, author, now_ms))
            except asyncio.CancelledError:
                self._in_step_with_store = False  # the writer may still commit it
                raise
            self._store_accepted()
        self._newest.update(written.newest)
        for silence in written.silences:
            self._silences[silence.id] = silence
            if silence.ended_ms is not None:
                del self._silences[silence.id]
            log_silence(silence)
        for why, n in plan.passed_over.items():
            self.counters.passed_over[why] = self.counters.passed_over.get(why, 0) + n
        for move in written.moves:
            self.counters.moves[move.change] = self.counters.moves.get(move.change, 0) + 1
            log_move(move, author)
            self._published(move)
        return written

    def _store_refused(self, fault: StoreError, consequential: list[Finding]) -> None:
        self.counters.store_failures += 1
        self.counters.waiting_dropped += max(0, len(consequential) - WAITING_MAX)
        kept = sorted(consequential, key=lambda finding: finding.kind in NEVER_SILENCED)
        self._waiting = deque(kept, maxlen=WAITING_MAX)
        if not self._store_failing:
            log.error("Alerts cannot be stored, %d findings wait: %s", len(consequential), fault)
        self._store_failing = True
        self._signalling.store_failing(True)  # noqa: FBT003

    def _store_accepted(self) -> None:
        if self._store_failing:
            log.info("Alerts are stored again")
        self._store_failing = False
        self._signalling.store_failing(False)  # noqa: FBT003

    def _find(self, alert_id: int | None) -> Alert | None:
        if alert_id is None:
            return shown(self.open_alerts, self._muted())
        return next((alert for alert in self.open_alerts if alert.id == alert_id), None)

    def _muted(self) -> frozenset[int]:
        holding = self.silences
        return frozenset(alert.id for alert in self.open_alerts if silenced(alert, holding))

    def _refresh_signal(self) -> None:
        self._signalling.alerts(self.open_alerts, self._muted())
