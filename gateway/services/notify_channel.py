"""Walks the outbox for one notification channel, one letter at a time. One task per channel.

Before each letter it looks anew: who is told is decided when it is sent, and what is urgent overtakes.
What is told is a row in the store, written with the cursor in one transaction: a process that dies
between the service's yes and the commit sends the same letter again under the same message id.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

from gateway.core import breaker
from gateway.core.attempts import GIVE_UP_STRIKES, MINUTE_S, ROUND_LETTERS, Attempts
from gateway.core.breaker import Breaker, BreakerPolicy
from gateway.core.contacts import Contact
from gateway.core.delivery import BackoffPolicy, Delivered, Rejected, RetryLater, next_delay
from gateway.core.findings import Finding, told_of_gateway
from gateway.core.instants import HOUR_MS
from gateway.core.letters import Letter
from gateway.core.notices import (
    DESTINATION,
    FAILED_KIND,
    Circumstances,
    Plan,
    Sending,
    Waiting,
    plan,
    waiting_of,
)
from gateway.core.silences import Silence
from gateway.ports import Clock
from gateway.services.notify_letters import LetterWriter
from gateway.store import notices, outbox
from gateway.store.database import Connection, Database
from gateway.store.notices import Notice

log = logging.getLogger(__name__)

WINDOW_EVENTS = 500
"""Oldest and newest events looked at: 2 x 500 x 1.5 KB = 1.5 MB, decoded 3 MB, for the time of a look (5 ms
on a laptop). A sick barn of 200 animals makes about 50 events a day. Nothing in between is lost: quiet
hours end within a day and a letter is given up after three, and then the oldest are passed."""
IDLE_S = 30.0
"""Longest look away from the store when nobody calls `wake()`: quiet hours end, people are entered."""
GIVE_UP_H = 24.0
GIVE_UP_URGENT_H = 72.0
"""A failing letter this old is given up: a weekend without a line for what is urgent, else a day."""
BACKOFF = BackoffPolicy()

Answer = Delivered | RetryLater | Rejected


class ChannelCounts(msgspec.Struct):
    """Since start. `sent` counts letters, `digests` those of them that were several in one."""

    sent: int = 0
    digests: int = 0
    dropped: int = 0
    failures: int = 0
    outages: int = 0
    damaged: int = 0


class Surroundings(msgspec.Struct, frozen=True):
    """What every channel asks for anew before each letter."""

    contacts: Callable[[], tuple[Contact, ...]]
    groups_of: Callable[[str], tuple[str, ...]]
    silences: Callable[[], Sequence[Silence]]
    zone: ZoneInfo
    stale_ms: int

    def now(self, channel: str, now_ms: int) -> Circumstances:
        """As they are at this moment."""
        return Circumstances(
            channel=channel,
            contacts=self.contacts(),
            groups_of=self.groups_of,
            silences=self.silences(),
            local=local_time(now_ms, self.zone),
            now_ms=now_ms,
            stale_ms=self.stale_ms,
        )


def local_time(now_ms: int, zone: ZoneInfo) -> time:
    """Time of day at the site."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)
    return moment.astimezone(zone).time()


class _Look(msgspec.Struct, frozen=True):
    """What a look at the store found."""

    waiting: list[Waiting]
    until_seq: int
    more: bool
    done: set[tuple[int, str]]
    now: Circumstances

    def plan(self, told: Sequence[Notice] = ()) -> Plan:
        """What is left to do once `told` is done too."""
        done = self.done | {(notice.seq, notice.address) for notice in told}
        return plan(self.waiting, self.until_seq, done, self.now)


class ChannelWalk:
    """One channel.

    Args:
        name: of the channel.
        short: whether its letters are short and limited to `SMS_PER_MIN`.
        clock: the gateway's; wall time for hours and ages, monotonic for waits.
        database: log, cursor and rows.
        around: people, silences, the site's time.
        writer: writes the letters.
        send: hands one over; must not raise.
        report: takes the finding that letters of a channel were given up.
        random_unit: jitter, uniform in 0..1.
    """

    def __init__(
        self,
        *,
        name: str,
        short: bool,
        clock: Clock,
        database: Database,
        around: Surroundings,
        writer: LetterWriter,
        send: Callable[[Letter], Awaitable[Answer]],
        report: Callable[[list[Finding]], Awaitable[object]],
        breaker_policy: BreakerPolicy,
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.counts = ChannelCounts()
        self.waiting_n = 0
        """Letters that could go, at the last look."""
        self.held_n = 0
        """Events that wait for the end of somebody's quiet hours, at the last look."""
        self._short = short
        self._clock = clock
        self._database = database
        self._around = around
        self._writer = writer
        self._send = send
        self._report = report
        self._breaker_policy = breaker_policy
        self._random_unit = random_unit
        self._destination = f"{DESTINATION}{name}"
        self._cursor = 0
        self._woken = asyncio.Event()
        self._breaker = Breaker()
        self._rounds_failed = 0
        self._attempts = Attempts(limited=short)
        self._down_since_s: float | None = None
        self._gave_up: set[str] = set()
        self._why = ""
        self._damaged_seq = 0
        self._unsettled: list[Notice] = []

    @property
    def down(self) -> bool:
        """Whether the last letters failed."""
        return self._down_since_s is not None

    def wake(self) -> None:
        """An event was committed, or people or silences changed. Back-off and breaker are kept."""
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled.

        Raises:
            StoreError: the store cannot be read or written; the supervisor starts it again. What was
                accepted meanwhile is noted first then, and nothing is sent before it is.
        """
        await self.begin()
        while True:
            self._woken.clear()
            wait_s, deaf = await self._work()
            await self._rest(wait_s, deaf=deaf)

    async def begin(self) -> None:
        """Take its place in the log: the end of it for a channel that is new.

        Raises:
            StoreError: the store cannot be read or written.
        """
        if self._unsettled:
            await self._settle(self._unsettled, self._cursor)
        self._cursor = await self._database.write(lambda db: notices.begin(db, self._destination))
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        since_ms = now_ms - round(MINUTE_S * 1000)
        for address, at_ms in await self._database.read(
            lambda db: notices.letters_since(db, self.name, since_ms)
        ):
            age_s = max(0.0, (now_ms - at_ms) / 1000)  # a clock that went back counts as just now
            self._attempts.tried(address, now_s - age_s)

    async def _rest(self, wait_s: float, *, deaf: bool) -> None:
        if deaf:
            await self._clock.sleep(wait_s)
            return
        nap = asyncio.create_task(self._clock.sleep(wait_s), name=f"notify {self.name} nap")
        call = asyncio.create_task(self._woken.wait(), name=f"notify {self.name} call")
        try:
            await asyncio.wait({nap, call}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            call.cancel()
            await asyncio.gather(nap, call, return_exceptions=True)

    # Deciding ----------------------------------------------------------------------------------

    async def _work(self) -> tuple[float, bool]:
        """Send what may go; then how long to rest, and whether the rest is deaf to `wake`.

        While letters fail, a round is the first in order and one other: so the first stays the first
        when the line is back, and a letter that always fails does not stand in the others' way.
        """
        suspects: list[Sending] = []
        while True:
            look = await self._look()
            ahead = look.plan()
            self.waiting_n, self.held_n = len(ahead.sendings), ahead.held
            if ahead.pass_to > self._cursor:
                await self._settle([], ahead.pass_to)
                if look.more:
                    continue
            now_s = self._clock.monotonic_s()
            self._attempts.keep(ahead.sendings, now_s)
            closed_s = breaker.wait_s(self._breaker, now_s, self._breaker_policy)
            if ahead.sendings and closed_s and not suspects:
                return closed_s, True
            sending = self._attempts.next(ahead.sendings, suspects, now_s)
            if sending is None and not suspects:
                return min([IDLE_S, *(self._attempts.wait_s(one, now_s) for one in ahead.sendings)]), False
            was_open = self._breaker.open
            failed = sending is not None and await self._fails(sending, look, suspects)
            if failed and sending is not None:
                suspects.append(sending)
            just_opened = self._breaker.open and not was_open
            if suspects and (sending is None or len(suspects) == ROUND_LETTERS or just_opened):
                return self._round_failed(), True

    async def _look(self) -> _Look:
        cursor = self._cursor

        def read(db: Connection) -> tuple[notices.Window, set[tuple[int, str]]]:
            return notices.window(db, cursor, WINDOW_EVENTS), notices.done(db, self.name, cursor)

        window, done = await self._database.read(read)
        waiting = []
        for event in window.events:
            try:
                item = waiting_of(event)
            except msgspec.DecodeError as error:
                if event.seq > self._damaged_seq:
                    self._damaged_seq = event.seq
                    self.counts.damaged += 1
                    text = "Event %d is no alert, nobody is told of it: %s"
                    log.error(text, event.seq, error)  # noqa: TRY400 - the sentence says it all
                continue
            if item is not None:
                waiting.append(item)
        now = self._around.now(self.name, self._clock.now_ms())
        return _Look(waiting, window.until_seq, window.more, done, now)

    # Sending -----------------------------------------------------------------------------------

    async def _fails(self, sending: Sending, look: _Look, suspects: list[Sending]) -> bool:
        """Try one letter; whether it speaks against the channel. A success clears the suspects."""
        letter = await self._writer.write(self.name, sending, look.now.now_ms, short=self._short)
        now_s = self._clock.monotonic_s()
        self._attempts.tried(letter.to, now_s)
        answer = await self._send(letter)
        if isinstance(answer, Delivered):
            await self._went_through(sending, look, suspects)
            return False
        self.counts.failures += 1
        if isinstance(answer, Rejected):
            await self._give_up(sending, look, answer.why)
            return False
        trouble = self._attempts.failed(sending, now_s, self._random_unit())
        if not trouble.strikes:
            self._why = answer.why
            self._breaker = breaker.failed(self._breaker, now_s, self._breaker_policy)
        if trouble.strikes >= GIVE_UP_STRIKES or self._too_old(sending):
            await self._give_up(sending, look, answer.why)
        return not trouble.strikes

    async def _went_through(self, sending: Sending, look: _Look, suspects: list[Sending]) -> None:
        self.counts.sent += 1
        self.counts.digests += sending.digest
        self._breaker = breaker.succeeded()
        was_down, self._rounds_failed = self._rounds_failed > 0, 0
        self._gave_up.discard(sending.address.to)
        # What failed a moment before the line came back did not fail by itself: it goes first again.
        failed_alone = () if was_down else suspects
        self._attempts.went_through(failed_alone, self._clock.monotonic_s(), self._random_unit())
        suspects.clear()
        if self._down_since_s is not None:
            lasted_s = self._clock.monotonic_s() - self._down_since_s
            log.info("Notification channel %s is back after %.0f s", self.name, lasted_s)
            self._down_since_s = None
        told = self._notices(sending, notices.SENT)
        self._unsettled = told  # accepted: noted first, whatever happens to the store now
        await self._settle(told, look.plan(told).pass_to)
        log.info("Told %s by %s: %s", sending.contact.name, self.name, _about(sending))

    def _round_failed(self) -> float:
        """One line for an outage, not for an attempt (decision 35); seconds until the next round."""
        now_s = self._clock.monotonic_s()
        self._rounds_failed += 1
        if self._down_since_s is None:
            self._down_since_s = now_s
            self.counts.outages += 1
            log.error("Notification channel %s is down, letters wait: %s", self.name, self._why)
        if self._breaker.open:
            return breaker.wait_s(self._breaker, now_s, self._breaker_policy)
        return next_delay(self._rounds_failed, BACKOFF, self._random_unit())

    def _too_old(self, sending: Sending) -> bool:
        hours = GIVE_UP_URGENT_H if sending.urgent else GIVE_UP_H
        age_ms = self._clock.now_ms() - sending.items[-1].created_ms
        return self._clock.trusted() and age_ms > hours * HOUR_MS

    async def _give_up(self, sending: Sending, look: _Look, why: str) -> None:
        """Told as an alert of the gateway, until the address works again once and not for each letter.

        It never goes over this channel itself.
        """
        self.counts.dropped += 1
        told = self._notices(sending, notices.DROPPED)
        await self._settle(told, look.plan(told).pass_to)
        if sending.address.to in self._gave_up:
            return
        self._gave_up.add(sending.address.to)
        sentence = f"{sending.contact.name} cannot be told by {self.name}: {why}"
        log.error("Given up: %s (%s)", sentence, _about(sending))
        finding = told_of_gateway(FAILED_KIND, sentence, self._clock.now_ms())
        await self._report([msgspec.structs.replace(finding, detail=self.name)])

    def _notices(self, sending: Sending, outcome: str) -> list[Notice]:
        at_ms = self._clock.now_ms()
        return [
            Notice(
                channel=self.name,
                seq=item.seq,
                contact=sending.contact.name,
                outcome=notices.DIGEST if outcome == notices.SENT and item.seq != sending.seq else outcome,
                at_ms=at_ms,
                alert_id=item.event.id if item.event is not None else None,
                address=sending.address.to,
            )
            for item in sending.items
        ]

    async def _settle(self, told: Sequence[Notice], pass_to: int) -> None:
        """Rows and cursor in one transaction."""

        def commit(db: Connection) -> None:
            notices.add(db, told)
            outbox.advance(db, self._destination, pass_to)

        await self._database.write(commit)
        self._cursor = max(self._cursor, pass_to)
        self._unsettled = []


def _about(sending: Sending) -> str:
    event = sending.items[-1].event
    if sending.digest:
        return f"{len(sending.items)} events up to {sending.seq} in one"
    if event is None:
        return "the summary of the day"
    return f"{event.severity} {event.kind} {event.subject} {event.change}, event {sending.seq}"
