"""Ships the outbox and the changed readings to one upstream destination. One task per destination.

Two lanes: events (alerts) in the order of the log, each acknowledged before the next, and slices
of readings whenever no event waits. What is already sent is a cursor or a row in the store,
never a flag in memory: a process that dies between the acknowledgement and the commit sends the
same event again under the same message id, and the receiver drops it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

import msgspec

from gateway.core.delivery import (
    BackoffPolicy,
    Delivered,
    Rejected,
    RetryLater,
    event_message,
    event_topic,
    next_delay,
    slice_messages,
    slice_topic,
)
from gateway.core.outbox import Event, Slice
from gateway.ports import Clock, Transport
from gateway.store import history, outbox, slices
from gateway.store.chunks import ChunkError
from gateway.store.database import Connection, Database

log = logging.getLogger(__name__)

EVENTS_IN_MEMORY = 100
"""Events read at once: 100 x at most 4 KB = 400 KB."""

SLICES_PER_CYCLE = 10_000
"""Keys of changed slices held at once: 5000 animals (decision 9) x the current and the last hour,
150 bytes each = 1.5 MB. Their readings are read one slice at a time. After a longer outage the
next cycle follows at once."""

SETTLE_S = 1.0
"""What was acknowledged is committed at least this often while sending. A commit costs the card
16 KB, so a commit for each event of a backlog would cost more than the events."""

SETTLE_SLICES = 100
"""Acknowledged slices in one commit; a kill sends at most these again."""

IDLE_S = 10.0
"""Longest look away from the store when nobody calls `wake()`."""

DEFAULT_BACKOFF = BackoffPolicy()


class ForwardCounts(msgspec.Struct):
    """What happened since the start."""

    delivered: int = 0
    rejected: int = 0
    slices_delivered: int = 0
    slices_rejected: int = 0
    retries: int = 0
    outages: int = 0


class Forward:
    """Walks the outbox and the undelivered slices for one destination.

    Args:
        clock: for back-off and cycles; the real one, also in a demonstration, because the line
            upstream does not run faster.
        database: gives the gateway's id and epoch, the cursor and the rows.
        transport: hands over one message and waits for its acknowledgement.
        destination: name of the cursor; the word in the log.
        topic_prefix: first levels of all topics.
        backoff: waits between attempts while the line is down (`mqtt.reconnect.*`).
        readings_interval_s: a slice is sent at most once in this time; None = events only.
        random_unit: jitter, uniform in 0..1.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        transport: Transport,
        destination: str,
        topic_prefix: str,
        backoff: BackoffPolicy = DEFAULT_BACKOFF,
        readings_interval_s: float | None = 300.0,
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._database = database
        self._transport = transport
        self._destination = destination
        self._prefix = topic_prefix
        self._backoff = backoff
        self._interval_s = readings_interval_s
        self._random_unit = random_unit
        self._woken = asyncio.Event()
        self._sent_seq = 0
        self._stored_seq: int | None = None
        self._settled_s = clock.monotonic_s()
        self._cycle: deque[Slice] = deque()
        self._cycle_due_s = clock.monotonic_s()
        self._acknowledged: list[Slice] = []
        self._attempts = 0
        self._down_since_s: float | None = None
        self._greeted = False
        self.counts = ForwardCounts()

    @property
    def down(self) -> bool:
        """Whether the last attempt found the line or the destination down."""
        return self._down_since_s is not None

    async def pending(self) -> int:
        """Events that wait for this destination."""
        return await self._database.read(lambda db: outbox.pending(db, self._destination))

    def wake(self) -> None:
        """An event was committed: send it now. During an outage the back-off is kept."""
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled.

        Raises:
            StoreError: the store cannot be read or written; the supervisor starts it again.
        """
        await self._settle()  # what a failed commit left over before a restart
        while True:
            self._woken.clear()
            trouble = await self._send_events() or await self._send_slices()
            if trouble is None:
                await self._rest()
            else:
                wait_s = next_delay(self._attempts, self._backoff, self._random_unit())
                await self._clock.sleep(wait_s)

    async def _rest(self) -> None:
        """Until somebody calls `wake()`, at most `IDLE_S`."""
        nap = asyncio.create_task(self._clock.sleep(IDLE_S), name=f"forward {self._destination} nap")
        call = asyncio.create_task(self._woken.wait(), name=f"forward {self._destination} call")
        try:
            await asyncio.wait({nap, call}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            call.cancel()
            await asyncio.gather(nap, call, return_exceptions=True)

    # Events ------------------------------------------------------------------------------------

    async def _send_events(self) -> RetryLater | None:
        """Everything after the cursor, in order; stops at the first that has to wait."""
        while True:
            if self._stored_seq is None:
                self._stored_seq = await self._database.read(lambda db: outbox.cursor(db, self._destination))
                self._sent_seq = self._stored_seq
            after = self._sent_seq
            events = await self._database.read(lambda db: outbox.after(db, after, EVENTS_IN_MEMORY))  # noqa: B023
            if not events:
                return None
            try:
                for event in events:
                    if isinstance(answer := await self._send_event(event), RetryLater):
                        return answer
                    self._sent_seq = event.seq
                    await self._settle_if_due()
            finally:
                await self._settle()

    async def _send_event(self, event: Event) -> Delivered | RetryLater | Rejected:
        answer: Delivered | RetryLater | Rejected
        body = event_message(event, self._database.gateway_id, self._database.epoch)
        if isinstance(body, Rejected):
            answer = body
        else:
            topic = event_topic(self._prefix, self._database.gateway_id, event.kind)
            answer = await self._deliver(topic, body)
        if isinstance(answer, Rejected):
            self.counts.rejected += 1
            log.error(
                "Uplink %s will never take event %d (%s), skipped: %s",
                self._destination,
                event.seq,
                event.kind,
                answer.why,
            )
        elif isinstance(answer, Delivered):
            self.counts.delivered += 1
        return answer

    # Readings ----------------------------------------------------------------------------------

    async def _send_slices(self) -> RetryLater | None:
        """One cycle over the changed slices, or more after an outage; events overtake."""
        while self._cycle or await self._begin_cycle():
            try:
                if trouble := await self._send_cycle():
                    return trouble
            finally:
                await self._settle()
        return None

    async def _send_cycle(self) -> RetryLater | None:
        while self._cycle:
            if trouble := await self._send_events():
                return trouble
            answer = await self._send_slice(self._cycle[0])
            if isinstance(answer, RetryLater):
                return answer
            part = self._cycle.popleft()
            if answer is not None:
                self._acknowledged.append(part)
            await self._settle_if_due()
        return None

    async def _begin_cycle(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._interval_s is None or now_s < self._cycle_due_s:
            return False
        if not await self._database.read(slices.waiting):
            return False
        changed = await self._database.write(lambda db: slices.claim(db, SLICES_PER_CYCLE))
        self._cycle.extend(changed)
        if changed:
            full = len(changed) >= SLICES_PER_CYCLE
            self._cycle_due_s = now_s + (0.0 if full else self._interval_s)
        return bool(changed)

    async def _send_slice(self, part: Slice) -> Delivered | RetryLater | Rejected | None:
        try:
            rows = await self._database.read(lambda db: history.slice_readings(db, part))
        except ChunkError:  # the housekeeping sets it aside and tells; what is left goes with a later cycle
            return None
        topic = slice_topic(self._prefix, self._database.gateway_id, part.cow_id)
        for body in slice_messages(part, rows, self._database.gateway_id):
            answer = await self._deliver(topic, body)
            if isinstance(answer, RetryLater):
                return answer
            if isinstance(answer, Rejected):
                self.counts.slices_rejected += 1
                log.error("Uplink %s will never take readings of %s: %s", *self._about(part), answer.why)
                return answer
        self.counts.slices_delivered += 1
        return Delivered()

    def _about(self, part: Slice) -> tuple[str, str]:
        return self._destination, f"{part.cow_id}, hour {part.hour}"

    # Both --------------------------------------------------------------------------------------

    async def _settle_if_due(self) -> None:
        due_s = self._settled_s + SETTLE_S
        if self._clock.monotonic_s() >= due_s or len(self._acknowledged) >= SETTLE_SLICES:
            await self._settle()

    async def _settle(self) -> None:
        """Commit what the destination has acknowledged."""
        seq, done = self._sent_seq, self._acknowledged
        moved = seq != self._stored_seq and self._stored_seq is not None
        self._settled_s = self._clock.monotonic_s()
        if not moved and not done:
            return

        def commit(db: Connection) -> None:
            if moved:
                outbox.advance(db, self._destination, seq)
            for part in done:
                slices.delivered(db, part)

        self._acknowledged = []
        await self._database.write(commit)
        self._stored_seq = seq

    async def _deliver(self, topic: str, body: bytes) -> Delivered | RetryLater | Rejected:
        answer = await self._transport.deliver(topic, body)
        if isinstance(answer, RetryLater):
            self._line_is_down(answer.why)
        else:
            self._line_is_up()
        return answer

    def _line_is_down(self, why: str) -> None:
        """One line in the log for each outage, not for each attempt (decision 35; S0-096)."""
        self._attempts += 1
        self.counts.retries += 1
        if self._down_since_s is None:
            self._down_since_s = self._clock.monotonic_s()
            self.counts.outages += 1
            log.error("%s", why)

    def _line_is_up(self) -> None:
        if self._down_since_s is not None:
            lasted_s = self._clock.monotonic_s() - self._down_since_s
            log.info(
                "Uplink %s is back after %.0f s, attempt %d", self._destination, lasted_s, self._attempts + 1
            )
        elif not self._greeted:
            log.info("Uplink %s is connected", self._destination)
        self._greeted = True
        self._down_since_s = None
        self._attempts = 0
