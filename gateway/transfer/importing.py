"""Import: file → wire messages → validation → the store, in batches that are durable one by one.

Runs on the importing command's event loop. What is in memory is one batch: at most BATCH_BYTES_MAX
of lines, as many bytes of messages, and the readings: about 5 MB whatever the file weighs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from gateway import wiring
from gateway.config import Config
from gateway.core.messages import RawMessage, Rejection
from gateway.core.readings import Reading
from gateway.core.validation import Rules, Trimmed, one_too_many, parse
from gateway.ports import Clock
from gateway.transfer.ledger import Counts, Ledger, Progress
from gateway.transfer.rejects import RejectedRow, RejectFile
from gateway.transfer.sources import STDIN, Options, Position, Row, Source, form_of, open_source
from gateway.transfer.targets import Accepted, Target, open_target

BATCH_ROWS_MAX = 1000
"""One transaction. 1000 readings take 4-16 ms on a 2-core x86 machine; at a quarter of its speed (a
Raspberry Pi 4) that is still about the 50 ms for which a commit may hold up others."""
BATCH_BYTES_MAX = 1024 * 1024
"""A batch ends earlier when its lines are long: 16 lines of the longest kind, 5000 readings' worth."""
SHOWN_MAX = 10
"""Rejected rows of a file that are shown; all are kept and counted."""
TRIMMED = "optional_fields_dropped"
"""Why a stored row is kept beside the rejected ones: a value of it was dropped."""


class Onlooker(msgspec.Struct, frozen=True):
    """Who is told how it goes.

    Args:
        say: one sentence.
        moved: file, bytes done, bytes in all (None: not known).
    """

    say: Callable[[str], None]
    moved: Callable[[str, int, int | None], None]


class Imported(msgspec.Struct, frozen=True):
    """What came of one file.

    Args:
        name: as the user wrote it.
        counts: over all runs that it took.
        rejected_file: where rejected rows are kept.
        skipped: it had been imported whole before; nothing was done.
        rows_per_s: of this run.
    """

    name: str
    counts: Counts
    rejected_file: Path | None
    skipped: bool = False
    rows_per_s: float = 0.0


async def import_files(
    config: Config,
    names: Sequence[str],
    options: Options,
    *,
    restart: bool,
    onlooker: Onlooker,
) -> list[Imported]:
    """Import files one after the other; every one is looked at before the first is begun.

    Args:
        config: of the gateway whose store it is.
        names: paths, or `-` for standard input.
        options: how to read them.
        restart: read files from their beginning, also finished ones.
        onlooker: told how it goes.

    Raises:
        ConfigError: a file cannot be used; rows before that place are stored.
        StoreError: the store cannot be opened or written.
        NetworkError: the gateway that runs on the store does not take readings.
    """
    for name in names:
        if name == STDIN:
            form_of(name, options)
        else:
            with open_source(name, options):
                pass
    target = await open_target(config)
    try:
        onlooker.say(target.sentence)
        importer = _Importer(config, target, restart=restart, onlooker=onlooker)
        done = []
        for name in names:
            with open_source(name, options) as source:
                done.append(await importer.run(source))
        return done
    finally:
        await target.close()


class _Judge:
    """The running gateway's rules, applied here (decision 9)."""

    def __init__(self, config: Config, clock: Clock, cow_ids: set[str]) -> None:
        self._rules = Rules(timezone=ZoneInfo(config.site.timezone))
        self._animals_max = wiring.ingest_limits(config).animals_max
        self._clock = clock
        self._cow_ids = cow_ids

    def judge(self, row: Row) -> Reading | Trimmed | Rejection:
        clock = self._clock
        message = RawMessage(row.cow_id, row.payload, "import", clock.now_ms(), clock.monotonic_s(), qos=1)
        verdict = parse(message, self._rules, clock_trusted=clock.trusted())
        if isinstance(verdict, Rejection) or row.cow_id in self._cow_ids:
            return verdict
        if len(self._cow_ids) >= self._animals_max:
            return one_too_many(row.cow_id, self._animals_max)
        self._cow_ids.add(row.cow_id)
        return verdict


class _Importer:
    """One command: its target, its rules, and what is remembered of earlier ones."""

    def __init__(self, config: Config, target: Target, *, restart: bool, onlooker: Onlooker) -> None:
        self._folder = Path(config.database.path).parent
        self._target = target
        self._judge = _Judge(config, wiring.machine_clock(), target.cow_ids).judge
        self._zone = config.site.timezone
        self._restart = restart
        self._onlooker = onlooker
        self._ledger = Ledger(self._folder)
        if self._ledger.fault:
            onlooker.say(self._ledger.fault)

    async def run(self, source: Source) -> Imported:
        began_s = time.monotonic()
        progress = self._progress(source)
        before = progress.counts.read
        if progress.finished:
            return Imported(source.name, progress.counts, _path(progress.rejected_file), skipped=True)
        rejects = self._rejects(source, progress)
        try:
            for batch in batches(source.rows(progress.position)):
                await self._keep(batch, source, progress, rejects)
            source.require_rows(progress.counts.read)
        finally:
            rejects.close()
        progress.finished = True
        self._save(progress)
        read = progress.counts.read - before
        rate = read / max(time.monotonic() - began_s, 0.001)
        return Imported(source.name, progress.counts, rejects.path, rows_per_s=rate)

    def _progress(self, source: Source) -> Progress:
        """Where to begin: behind the last durable batch of an earlier run on this store."""
        identity = source.identity()
        # A store that was replaced, and another zone for naive times, have imported nothing yet.
        key = "" if identity is None else f"{identity}:{self._target.epoch}:{self._zone}"
        known = self._ledger.find(key) if key and not self._restart else None
        if known is None:
            return Progress(key, source.name)
        if not known.finished:
            self._onlooker.say(f"{source.name}: going on after line {known.position.line}")
        return msgspec.structs.replace(known, name=source.name)

    def _rejects(self, source: Source, progress: Progress) -> RejectFile:
        beside = Path(source.name)
        if source.name == STDIN:  # cannot be read again: never in the place of another's
            beside = self._folder / f"stdin-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        return RejectFile(
            beside, self._folder, resume=progress.rejected_file, size_bytes=progress.rejected_bytes
        )

    async def _keep(
        self, batch: Sequence[Row], source: Source, progress: Progress, rejects: RejectFile
    ) -> None:
        """Judge a batch, make it durable, remember how far that is."""
        counts, accepted = progress.counts, []
        for row in batch:
            verdict = None if row.fault else self._judge(row)
            if isinstance(verdict, Reading):
                accepted.append(Accepted(verdict, row.payload))
            elif isinstance(verdict, Trimmed):
                accepted.append(Accepted(verdict.reading, row.payload))
                counts.trimmed += 1
                rejects.add(_rejected(source, row, TRIMMED, verdict.warning))
            else:
                reason, text = row.fault or (verdict.reason, verdict.text)  # type: ignore[union-attr]
                if counts.rejected_rows < SHOWN_MAX:
                    self._onlooker.say(f"{source.name}:{row.line}: {text}")
                counts.rejected[str(reason)] = counts.rejected.get(str(reason), 0) + 1
                rejects.add(_rejected(source, row, str(reason), text))
        if accepted:
            await self._target.keep(accepted, counts)
        rejects.sync()
        counts.read += len(batch)
        progress.position = Position(batch[-1].end, batch[-1].line)
        progress.rejected_bytes = rejects.size_bytes
        progress.rejected_file = str(rejects.path.resolve()) if rejects.path else None
        self._save(progress)
        self._onlooker.moved(source.name, source.done_bytes(), source.size_bytes)

    def _save(self, progress: Progress) -> None:
        if progress.key:
            self._ledger.save(progress)


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists of at most BATCH_ROWS_MAX and about BATCH_BYTES_MAX."""
    batch: list[Row] = []
    size_bytes = 0
    for row in rows:
        batch.append(row)
        size_bytes += len(row.original)
        if len(batch) >= BATCH_ROWS_MAX or size_bytes >= BATCH_BYTES_MAX:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _rejected(source: Source, row: Row, reason: str, text: str) -> RejectedRow:
    return RejectedRow(reason, text, source.name, row.line, row.original.decode("utf-8", "backslashreplace"))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
