"""After a damaged store was set aside: its readings follow in the background, and people are told.

Runs as a task on the event loop; the damaged file is read in a thread of its own, the new store is
written in small pieces, with as long a pause after each as it took. Cut off, it begins again at the
next start: what is there already is found and stays.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import msgspec

from gateway.core.alerts import Alert, State
from gateway.core.findings import Finding
from gateway.core.instants import iso_utc
from gateway.core.severity import Severity
from gateway.ports import Clock
from gateway.store import salvage_readings
from gateway.store.database import Connection, Database
from gateway.store.faults import StoreUnavailableError
from gateway.store.quarantine import prune, remember_sources
from gateway.store.salvage import Tally
from gateway.store.salvage_readings import YEAR_2100_MS, Source

log = logging.getLogger(__name__)

T = TypeVar("T")

KIND: Final = "store_salvaged"
ROOM_BYTES_MIN: Final = 64 * 1024 * 1024
"""Free space salvaging leaves to the readings that arrive: a day of 1000 animals at rest is 16 MB,
its log 16 MB more; twice that."""
RETRY_S: Final = 5.0
"""Between attempts while the card is full or the store cannot write."""
PAUSE_S_MAX: Final = 0.5
GAPS_NAMED_MAX: Final = 3
"""Spans of lost readings an alert names; the rest is counted."""


class _Outcome(msgspec.Struct):
    """What came of one damaged store."""

    name: str
    saved: int = 0
    refused: int = 0
    from_backup: int = 0
    unreadable: str = ""
    gaps: list[tuple[int, int]] = msgspec.field(default_factory=list)

    @property
    def lost(self) -> bool:
        return bool(self.unreadable or self.gaps or self.refused)


class Salvage:
    """Tells what an opening had to do, and finishes it.

    Args:
        clock: the gateway's clock.
        database: the open store.
        report: takes findings (services/alarm).
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        report: Callable[[list[Finding]], Awaitable[object]],
    ) -> None:
        self._clock = clock
        self._database = database
        self._report = report
        self.pieces = 0
        """Pieces written since the start."""

    @property
    def wanted(self) -> bool:
        """Whether there is anything left to salvage."""
        return bool(self._database.salvage_sources)

    async def announce(self, open_alerts: list[Alert]) -> None:
        """Say what the opening met; once, when the alarm service is up.

        Args:
            open_alerts: an earlier loss that somebody has acknowledged ends with this start.
        """
        recovery, identity = self._database.recovery, self._database.identity
        if recovery is None:
            seen = any(one.kind == KIND and one.state is State.ACKNOWLEDGED for one in open_alerts)
            if seen and not self.wanted:
                await self._tell("The store was opened without a fault", present=False)
        elif recovery.bad is None:
            why = recovery.why
            sentence = f"{why[:1].upper()}{why[1:]}; readings since the last checkpoint may be missing"
            log.error("%s: %s", self._database.path, sentence)
            await self._tell(sentence, ended=True)
        else:
            records = identity.records or Tally()
            sentence = (
                f"The store was damaged ({recovery.why}) and is kept as {recovery.bad.name}; "
                f"{_records(records)} were taken over{_from(identity.from_backup)}, "
                "its readings are being salvaged"
            )
            log.error("%s: %s", self._database.path, sentence)
            await self._tell(sentence)

    async def run(self) -> None:
        """Salvage every damaged store there is; returns when all is done.

        Raises:
            StoreError: the new store broke as well.
        """
        left = list(self._database.salvage_sources)
        while left:
            outcome = await self._salvage(left[0])
            left.pop(0)
            rest = tuple(left)
            await self._write(partial(remember_sources, sources=rest))
            for name in await asyncio.to_thread(prune, self._database.path, rest):
                log.info("Removed %s: at most the newest damaged stores are kept", name)
            await self._tell_outcome(outcome)

    async def _salvage(self, name: str) -> _Outcome:
        outcome = _Outcome(name)
        path = self._database.path
        tally = Tally()
        with ThreadPoolExecutor(1, thread_name_prefix="store-salvage") as thread:
            source = Source.damaged(path.with_name(name), tally)
            await self._drain(thread, source)
            outcome.unreadable = source.unreadable
            outcome.saved = salvage_readings.readings_in(tally.saved)
            outcome.refused = salvage_readings.readings_in(tally.refused)
            if any(tally.lost.values()):
                spare = await asyncio.to_thread(
                    Source.backup,
                    self._database.backups,
                    self._database.named,
                    self._database.gateway_id,
                    tally.lost,
                )
                outcome.from_backup = await self._drain(thread, spare)
        outcome.gaps = salvage_readings.spans_ms(tally)
        return outcome

    async def _drain(self, thread: ThreadPoolExecutor, source: Source) -> int:
        """Move everything a source gives; returns how many readings were new."""
        loop = asyncio.get_running_loop()
        stored = 0
        try:
            await loop.run_in_executor(thread, source.open)
            while (piece := await loop.run_in_executor(thread, source.next_piece)) is not None:
                await self._room()
                began_s = loop.time()
                stored += await self._write(piece)
                self.pieces += 1
                await asyncio.sleep(min(PAUSE_S_MAX, loop.time() - began_s))
        finally:
            thread.submit(source.close)  # after whatever it is reading; the pool waits for it
        return stored

    async def _room(self) -> None:
        """Wait while what is free belongs to the readings that arrive."""
        told = False
        while shutil.disk_usage(self._database.path.parent).free < ROOM_BYTES_MIN:
            if not told:
                log.warning("Salvage waits: less than %d MB are free", ROOM_BYTES_MIN // 1024**2)
                told = True
            await asyncio.sleep(RETRY_S)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        """Write until it is on disk; a full card only makes it wait."""
        while True:
            try:
                return await self._database.write(work)
            except StoreUnavailableError as error:
                log.debug("Salvage waits: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _tell_outcome(self, outcome: _Outcome) -> None:
        sentence = _sentence(outcome)
        log.log(logging.ERROR if outcome.lost else logging.INFO, "%s", sentence)
        if outcome.lost:
            await self._tell(sentence, severity=Severity.CRITICAL)
        else:
            await self._tell(sentence, ended=True)

    async def _tell(
        self,
        sentence: str,
        *,
        present: bool = True,
        ended: bool = False,
        severity: Severity = Severity.WARNING,
    ) -> None:
        now_ms = self._clock.now_ms()
        finding = Finding(
            subject="gateway",
            kind=KIND,
            present=present,
            severity=severity,
            at_ms=now_ms,
            onset_ms=now_ms,
            confidence=1.0,
            sentence=sentence,
            ended=ended,
        )
        await self._report([finding])


def _records(tally: Tally) -> str:
    saved = tally.saved
    text = f"{saved.get('animals', 0)} animals, {saved.get('alert_episodes', 0)} alerts"
    text += f", {saved.get('events', 0)} messages and {saved.get('dead_letters', 0)} dead letters"
    broken = [name for name, gaps in tally.lost.items() if gaps or tally.refused.get(name)]
    broken += [name for name in tally.cut_short if name not in broken]
    return f"{text} (not all rows of {', '.join(broken)})" if broken else text


def _from(backup: str) -> str:
    return f" with the help of {backup}" if backup else ""


def _sentence(outcome: _Outcome) -> str:
    """One sentence with the numbers."""
    text = f"{outcome.saved:,} readings of the damaged store {outcome.name} were salvaged"
    if outcome.unreadable:
        text = f"No reading of the damaged store {outcome.name} could be salvaged: {outcome.unreadable}"
    lost = []
    if outcome.gaps:
        named = [_span(*gap) for gap in outcome.gaps[:GAPS_NAMED_MAX]]
        more = len(outcome.gaps) - len(named)
        lost.append(
            f"those {', '.join(named)}{f' and in {more} more spans' if more else ''} could not be read"
        )
    if outcome.refused:
        lost.append(f"{outcome.refused:,} rows held no reading")
    if outcome.from_backup:
        lost.append(f"{outcome.from_backup:,} came from a backup instead")
    return "; ".join([text, *lost])


def _span(after_ms: int, before_ms: int) -> str:
    if after_ms <= 0 and before_ms >= YEAR_2100_MS:
        return "of all times"
    if after_ms <= 0:
        return f"before {iso_utc(before_ms)}"
    if before_ms >= YEAR_2100_MS:
        return f"after {iso_utc(after_ms)}"
    return f"between {iso_utc(after_ms)} and {iso_utc(before_ms)}"
