"""Tells people of alerts over the channels that can send. Runs as one task with one task per channel.

Channels never wait for each other: each walks the outbox with a cursor of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import time
from zoneinfo import ZoneInfo

from gateway.core.breaker import BreakerPolicy
from gateway.core.contacts import Contact
from gateway.core.findings import Finding
from gateway.core.instants import MS_PER_MINUTE
from gateway.core.letters import Letter
from gateway.core.notices import NotifyPolicy
from gateway.core.phrases import Phrases
from gateway.core.silences import Silence
from gateway.ports import Clock
from gateway.services.notify_channel import Answer, ChannelCounts, ChannelWalk, Surroundings
from gateway.services.notify_letters import LetterWriter
from gateway.services.notify_summary import DailySummary
from gateway.store.database import Database

log = logging.getLogger(__name__)

REMEDIES = {
    "sms": "Twilio not configured: set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_PHONE_NUMBER",
}
"""What to do about a channel that people have addresses on and that is not there (S3-085)."""


class Notify:
    """The notification service.

    Args:
        clock: the gateway's clock.
        database: log, cursors, rows, and the series behind an alert.
        policy: channels and ages.
        contacts: people as the farm register has them now, without fault.
        groups_of: the groups an animal is in.
        silences: those that hold.
        send: hands a letter over; must not raise.
        phrases: by language; "en" is there.
        zone: the site's.
        link: alert id and person → address that acknowledges it; "" = none.
        report: takes the finding that letters were given up.
        daily_summary: local time of the summary; None = none.
        breaker: when to stop asking a channel.
        random_unit: jitter, uniform in 0..1.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        policy: NotifyPolicy,
        contacts: Callable[[], tuple[Contact, ...]],
        groups_of: Callable[[str], tuple[str, ...]],
        silences: Callable[[], Sequence[Silence]],
        send: Callable[[Letter], Awaitable[Answer]],
        phrases: Mapping[str, Phrases],
        zone: ZoneInfo,
        link: Callable[[int, str], str],
        report: Callable[[list[Finding]], Awaitable[object]],
        daily_summary: time | None = None,
        breaker: BreakerPolicy = BreakerPolicy(),  # noqa: B008 - frozen
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self._contacts = contacts
        self._warned: set[str] = set()
        around = Surroundings(
            contacts=contacts,
            groups_of=groups_of,
            silences=silences,
            zone=zone,
            stale_ms=round(policy.stale_min * MS_PER_MINUTE),
        )
        writer = LetterWriter(database=database, phrases=phrases, zone=zone, link=link)
        self.channels = {
            name: ChannelWalk(
                name=name,
                short=form.short,
                clock=clock,
                database=database,
                around=around,
                writer=writer,
                send=send,
                report=report,
                breaker_policy=breaker,
                random_unit=random_unit,
            )
            for name, form in policy.channels.items()
        }
        self._summary = (
            None
            if daily_summary is None
            else DailySummary(clock=clock, database=database, at=daily_summary, zone=zone, appended=self.wake)
        )

    @property
    def counts(self) -> dict[str, ChannelCounts]:
        """By channel, since the start."""
        return {name: channel.counts for name, channel in self.channels.items()}

    @property
    def down(self) -> tuple[str, ...]:
        """Channels whose last letters failed."""
        return tuple(name for name, channel in self.channels.items() if channel.down)

    def wake(self) -> None:
        """An event was committed, or people or silences changed."""
        self._warn()
        for channel in self.channels.values():
            channel.wake()

    async def begin(self) -> None:
        """Give every channel its place in the log: what comes from here on is told.

        Raises:
            StoreError: the store cannot be read or written.
        """
        for channel in self.channels.values():
            await channel.begin()

    async def run(self) -> None:
        """Send until cancelled.

        Raises:
            StoreError: the store cannot be read or written; the supervisor starts all channels again.
        """
        self._warn()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, channel in self.channels.items():
                    tasks.create_task(channel.run(), name=f"notify {name}")
                if self._summary is not None:
                    tasks.create_task(self._summary.run(), name="notify summary")
        except ExceptionGroup as group:  # the first says why; the others are the same store
            raise group.exceptions[0] from None

    def _warn(self) -> None:
        """One line for each channel that people have addresses on and that is not configured."""
        for contact in self._contacts():
            for address in contact.addresses:
                name = address.channel
                if name in self.channels or name in self._warned:
                    continue
                self._warned.add(name)
                remedy = REMEDIES.get(name, f"notify.channels.{name} not configured: write its url")
                log.warning("%s; %s is not told by %s, other channels go on", remedy, contact.name, name)
