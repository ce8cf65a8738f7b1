"""Decode → validate → group commit → acknowledge. Runs on the event loop.

A message is judged the moment it arrives and acknowledged only after the commit that
holds it (a reading, or the dead letter of a rejected one) is on disk (decision 29). What the
broker keeps over a restart is written by the same commits, and acknowledged likewise.
While the store cannot write, the batch waits and is tried again; nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from gateway.core.broker_state import Change
from gateway.core.message_stats import MessageStats
from gateway.core.messages import DeadLetter, RawMessage, Reason, Rejection
from gateway.core.readings import Reading
from gateway.core.validation import Rules, Trimmed, one_too_many, parse
from gateway.errors import StoreError
from gateway.ports import Clock, Receipt
from gateway.store import animals, broker_state, dead_letters, readings
from gateway.store.database import Connection, Database

log = logging.getLogger(__name__)

BACKLOG_COMMIT_S_MIN = 0.05
"""At most 20 commits a second for connections that wait (DESIGN, step 5)."""
SOON_S = 0.02
SOON_BURST = 20
"""What is no reading (a refused publish, a QoS 2 handshake, a subscription) is rare and stops its client
until it is on disk, so it is committed after 20 ms: twenty times in a row, and in the long run no more often
than once a window, so that the wear stays what the window makes it."""
RETRY_S = 1.0
"""Between attempts while the store cannot write."""
ALIVE_S = 10.0
"""How often an idle commit loop shows that it runs."""
STATS_FIRST_S = 5.0
STATS_EVERY_S = 60.0
"""When the statistics line appears (decision 36)."""


class IngestLimits(msgspec.Struct, frozen=True):
    """Bounds of the group commit.

    Args:
        commit_window_s: the longest a reading waits for company. A commit costs the card
            about 16 KB whatever it holds, so this decides wear (DESIGN, step 5).
        batch_max: readings that trigger a commit at once.
        queue_max: QoS 0 messages beyond this many waiting ones are dropped and counted.
            QoS 1 and 2 are bounded by 64 unacknowledged publishes a connection.
        animals_max: a bound on ghost ids (decision 9): 5000 × about 16 KB of detector
            window is 80 MB, the most a Pi should give.
    """

    commit_window_s: float = 0.5
    batch_max: int = 512
    queue_max: int = 10_000
    animals_max: int = 5000


class _Batch:
    """What the next commit will hold; `wanted` once anything asks for that commit."""

    __slots__ = ("changes", "letters", "readings", "receipts", "wanted")

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.letters: list[DeadLetter] = []
        self.changes: Sequence[Change] = ()
        self.receipts: list[Receipt] = []
        self.wanted = False


class Ingest:
    """The path from a publish to the disk and back to its sender.

    Args:
        clock: gateway time, to judge collar clocks.
        database: the open store.
        rules: site rules of validation.
        limits: bounds of the group commit.
        committed: told of newly stored readings after each commit.
        rejected: told of each rejection, with its arrival (monotonic seconds).
        store_state: told None when the store writes, else why it does not.
        alive: called at least every ten seconds while `run` does (for the watchdog).
        changes: hands over what the broker has changed since it was asked last. Asked when a batch
            is closed; its answer belongs to that commit.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        rules: Rules,
        limits: IngestLimits,
        committed: Callable[[Sequence[Reading]], None],
        rejected: Callable[[Rejection, float], None],
        store_state: Callable[[str | None], None],
        alive: Callable[[], None] = lambda: None,
        changes: Callable[[], Sequence[Change]] = tuple,
    ) -> None:
        self.stats = MessageStats()
        self.last_commit_ms: int | None = None
        self._clock = clock
        self._database = database
        self._rules = rules
        self._limits = limits
        self._committed = committed
        self._rejected = rejected
        self._store_state = store_state
        self._alive = alive
        self._changes = changes
        self._animals: set[str] = set()
        self._batch = _Batch()
        self._held: _Batch | None = None
        self._due = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._window: asyncio.TimerHandle | None = None
        self._stats_timer: asyncio.TimerHandle | None = None
        self._stats_total = 0
        self._last_commit_s = float("-inf")
        self._soon_left = float(SOON_BURST)
        self._soon_stamp_s = 0.0
        self._store_fault: str | None = None

    async def restore(self) -> None:
        """Learn which animals the store already knows."""
        self._animals = set(await self._database.read(animals.cow_ids))

    def accept(self, message: RawMessage, receipt: Receipt) -> None:
        """Judge one publish of a sensor row and queue it for the next commit. Never blocks."""
        if message.qos == 0 and len(self._batch.receipts) >= self._limits.queue_max:
            self.stats.flood_dropped += 1
            receipt.settle()
            return
        self._arrived(message)
        verdict = parse(message, self._rules, clock_trusted=self._clock.trusted())
        if isinstance(verdict, Rejection):
            self._reject(message, verdict)
        else:
            if isinstance(verdict, Trimmed):
                self.stats.trimmed += 1
                log.warning(verdict.warning)
                verdict = verdict.reading
            if verdict.cow_id not in self._animals and not self._admit(verdict.cow_id):
                self._reject(message, one_too_many(verdict.cow_id, self._limits.animals_max))
            else:
                self.stats.valid += 1
                self._batch.readings.append(verdict)
        self._want(receipt)

    def refuse(self, message: RawMessage, why: str, receipt: Receipt) -> None:
        """Keep a publish that the broker refused as a dead letter, then acknowledge it (decision 23)."""
        if message.qos == 0 and len(self._batch.receipts) >= self._limits.queue_max:
            self.stats.flood_dropped += 1
            receipt.settle()
            return
        self._arrived(message)
        self._reject(message, Rejection(Reason.TOPIC_REFUSED, why))
        self._want(receipt)
        self._soon()

    def keep(self, receipt: Receipt | None) -> None:
        """The broker has noted a change that must outlive a restart: take it into the next commit.

        Args:
            receipt: settled after the commit that holds the change; None where nobody waits for it.
        """
        self._want(receipt)
        if receipt is not None:
            self._soon()

    def _soon(self) -> None:
        """Somebody waits for something that is no reading."""
        now_s = asyncio.get_running_loop().time()
        if self._window is None or self._window.when() <= now_s + SOON_S:
            return  # it is due, or nearly
        gained = (now_s - self._soon_stamp_s) / self._limits.commit_window_s
        self._soon_left, self._soon_stamp_s = min(self._soon_left + gained, SOON_BURST), now_s
        if self._soon_left >= 1:
            self._soon_left -= 1
            self._arm(SOON_S)

    def hurry(self) -> None:
        """A connection holds many unacknowledged publishes: commit soon, at most 20 times a second."""
        loop = asyncio.get_running_loop()
        wait_s = self._last_commit_s + BACKLOG_COMMIT_S_MIN - loop.time()
        if wait_s <= 0:
            self._due.set()
        elif self._window is None or self._window.when() > loop.time() + wait_s:
            self._arm(wait_s)

    async def run(self) -> None:
        """Commit whenever the window, the size or a waiting connection asks for it. Never returns."""
        while True:
            self._alive()
            with suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_S):
                    await self._due.wait()
            self._due.clear()
            self._held = self._closed_batch()
            if self._held is not None:
                await self._commit_until_stored(self._held)
                self._held = None
            if not self._batch.wanted:
                self._idle.set()

    async def drain(self) -> None:
        """Commit what waits and return when nothing is left. Called at stop, while `run` still runs."""
        while self._batch.wanted or not self._idle.is_set():
            self._due.set()
            await self._idle.wait()

    async def finish(self) -> None:
        """Once more after `run` has ended: what the store refused until then, and the broker's goodbyes.

        A store that still does not write is told in the log, and what waited for it is given up.
        """
        held, self._held = self._held, None
        try:
            for batch in (held, self._closed_batch()):
                if batch is not None:
                    self._stored(batch, await self._database.write(partial(_store, batch=batch)))
        except StoreError as error:
            log.error("The last changes of the broker were not stored: %s", error.message)  # noqa: TRY400

    def log_stats(self) -> None:
        """The statistics line now, as at stop (S0-076)."""
        if self._stats_timer is not None:
            self._stats_timer.cancel()
            self._stats_timer = None
        log.info(self.stats.line())

    def _admit(self, cow_id: str) -> bool:
        if len(self._animals) >= self._limits.animals_max:
            return False
        self._animals.add(cow_id)
        return True

    def _arrived(self, message: RawMessage) -> None:
        self.stats.total += 1
        self.stats.last_message_ms = message.received_ms
        if self._stats_timer is None:
            self._stats_timer = asyncio.get_running_loop().call_later(STATS_FIRST_S, self._periodic_stats)

    def _periodic_stats(self) -> None:
        """One line, and another in a minute while messages flow; silence re-arms the first."""
        self._stats_timer = None
        if self.stats.total == self._stats_total:
            return
        self._stats_total = self.stats.total
        log.info(self.stats.line())
        self._stats_timer = asyncio.get_running_loop().call_later(STATS_EVERY_S, self._periodic_stats)

    def _reject(self, message: RawMessage, rejection: Rejection) -> None:
        self.stats.reject(rejection.reason)
        log.error(rejection.text)
        self._batch.letters.append(
            DeadLetter(
                message.received_ms,
                message.topic,
                message.payload,
                message.client_id,
                rejection.reason,
                rejection.text,
                rejection.cow_id,
            )
        )
        self._rejected(rejection, message.received_s)

    def _want(self, receipt: Receipt | None) -> None:
        """A commit within the window, for whoever waits for it."""
        self._idle.clear()
        self._batch.wanted = True
        if receipt is not None:
            self._batch.receipts.append(receipt)
        if len(self._batch.receipts) >= self._limits.batch_max:
            self._due.set()
        elif self._window is None:
            self._arm(self._limits.commit_window_s)

    def _arm(self, wait_s: float) -> None:
        if self._window is not None:
            self._window.cancel()
        self._window = asyncio.get_running_loop().call_later(wait_s, self._due.set)

    def _closed_batch(self) -> _Batch | None:
        """What has come so far, readings and changes, with an empty batch behind it; None for nothing."""
        batch, self._batch = self._batch, _Batch()
        if self._window is not None:
            self._window.cancel()
            self._window = None
        batch.changes = self._changes()
        return batch if batch.wanted or batch.changes else None

    async def _commit_until_stored(self, batch: _Batch) -> None:
        first = True
        while True:
            try:
                outcomes = await self._database.write(partial(_store, batch=batch))
                break
            except StoreError as error:
                if first:
                    self.stats.storage_errors += len(batch.readings)
                    first = False
                if self._store_fault is None:
                    log.error("Database insertion failure: %s", error.message)  # noqa: TRY400 - one line an outage
                self._store_fault = error.message
                self._store_state(error.message)
                self._alive()
                await asyncio.sleep(RETRY_S)
        if self._store_fault is not None:
            log.info("Database writes again; nothing acknowledged was lost")
            self._store_fault = None
        self._store_state(None)
        self._stored(batch, outcomes)

    def _stored(self, batch: _Batch, outcomes: list[readings.Outcome]) -> None:
        """A batch is on disk: count, acknowledge, tell."""
        self._last_commit_s = asyncio.get_running_loop().time()
        self.last_commit_ms = self._clock.now_ms()
        fresh = [r for r, outcome in zip(batch.readings, outcomes, strict=True) if outcome is _STORED]
        self.stats.stored += len(fresh)
        self.stats.duplicates += len(outcomes) - len(fresh)
        self.stats.conflicts += outcomes.count(readings.Outcome.CONFLICT)
        for receipt in batch.receipts:
            receipt.settle()
        if fresh:
            self._committed(fresh)


_STORED = readings.Outcome.STORED


def _store(db: Connection, batch: _Batch) -> list[readings.Outcome]:
    """One transaction: readings, dead letters and changes of a batch. Runs on the writer thread."""
    outcomes = readings.append(db, batch.readings)
    dead_letters.add(db, batch.letters)
    broker_state.apply(db, batch.changes)
    return outcomes
