"""`import FILE...` and `export`: readings in and out of a store, beside a running gateway or without."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gateway.cli.options import ConfigFile, load_config
from gateway.config import Config
from gateway.core.timespan import instant_ms
from gateway.errors import ChecksFailedError, ConfigError
from gateway.transfer.exporting import BEGINNING_MS, END_MS, Selection
from gateway.transfer.exporting import export as run_export
from gateway.transfer.importing import Imported, Onlooker, import_files
from gateway.transfer.sources import Format, Options
from gateway.wiring import machine_clock

INTERRUPTED = 130
"""What a shell makes of Ctrl+C: 128 + SIGINT."""


class Form(StrEnum):
    """The two formats."""

    CSV = "csv"
    JSONL = "jsonl"


FormOption = Annotated[Form | None, typer.Option("--format", help="Default: by the file's suffix.")]


def import_(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="CSV or JSON lines, also .gz; - is standard input.")
    ],
    config: ConfigFile = None,
    form: FormOption = None,
    temperature: Annotated[
        float | None, typer.Option(min=35.0, max=42.0, help="°C, where a row has no temperature.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin at the first line, also with files that are done.")
    ] = False,
) -> None:
    """Store the readings of files; what is stored already is not stored twice.

    A command that was cut short goes on where it stopped when it is given again. Exit code 4 when
    rows were rejected.
    """
    settings = load_config(config)
    console = Console(stderr=True)
    with _bar(console) as bar:
        onlooker = Onlooker(
            say=lambda text: bar.console.print(text, markup=False, soft_wrap=True), moved=_Bars(bar)
        )
        options = Options(_format(form), temperature)
        try:
            done = asyncio.run(import_files(settings, files, options, restart=restart, onlooker=onlooker))
        except KeyboardInterrupt:
            onlooker.say("Stopped. The same command goes on where this one has stopped.")
            raise typer.Exit(INTERRUPTED) from None
    for imported in done:
        print(_line(imported))
    _fail_if_rejected(done)


def export(
    *,
    config: ConfigFile = None,
    from_: Annotated[str | None, typer.Option("--from", help="2025-11-01, -7d, -6h; default: all.")] = None,
    to: Annotated[str | None, typer.Option(help="Up to, but not with, this moment.")] = None,
    cow: Annotated[list[str] | None, typer.Option(help="Only this animal; may be repeated.")] = None,
    form: FormOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: standard output. .gz packs.")
    ] = None,
) -> None:
    """Print or save stored readings: document 0's fields, times in UTC, empty = not sent."""
    settings = load_config(config)
    selection = Selection(
        from_ms=_moment(from_, "--from", settings, BEGINNING_MS),
        to_ms=_moment(to, "--to", settings, END_MS),
        cow_ids=tuple(cow or ()),
    )
    console = Console(stderr=True)
    if output is None:
        run_export(settings, selection, None, _format(form))
        return
    with _bar(console, total=False) as bar:
        task = bar.add_task(f"exporting to {output.name}", total=None)
        exported = run_export(
            settings, selection, output, _format(form), moved=lambda rows: bar.update(task, completed=rows)
        )
    print(f"{output}: {exported.rows} readings", file=sys.stderr)


class _Bars:
    """One progress bar a file, made when it moves first."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(f"importing {Path(name).name}", total=total)
        self._bar.update(self._tasks[name], completed=done)


def _bar(console: Console, *, total: bool = True) -> Progress:
    """On a terminal only."""
    if not total:
        return Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.completed} readings"),
            console=console,
            disable=not console.is_terminal,
        )
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _format(form: Form | None) -> Format | None:
    return None if form is None else "csv" if form is Form.CSV else "jsonl"


def _moment(text: str | None, option: str, config: Config, default_ms: int) -> int:
    if text is None:
        return default_ms
    try:
        return instant_ms(text, machine_clock().now_ms(), ZoneInfo(config.site.timezone))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _line(imported: Imported) -> str:
    """What came of a file."""
    counts = imported.counts
    if imported.skipped:
        return (
            f"{imported.name}: imported before, {counts.read} rows, {counts.rejected_rows} rejected; "
            "nothing done (--restart reads it again)"
        )
    kept = f"{counts.stored} stored, {counts.duplicates} duplicates, {counts.conflicts} conflicts"
    if counts.acknowledged:
        sent = f"{counts.acknowledged} acknowledged by the gateway (stored now or before)"
        kept = sent if not counts.stored + counts.duplicates else f"{kept}, {sent}"
    trimmed = f"{counts.trimmed} without a bad optional value, " if counts.trimmed else ""
    return (
        f"{imported.name}: {counts.read} read, {kept}, {trimmed}{counts.rejected_rows} rejected, "
        f"{imported.rows_per_s:.0f} rows/s"
    )


def _fail_if_rejected(done: list[Imported]) -> None:
    faults = []
    for imported in done:
        if imported.counts.rejected_rows and not imported.skipped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(imported.counts.rejected.items()))
            faults.append(f"{imported.name}: rows rejected: {reasons}; all are in {imported.rejected_file}")
    if faults:
        raise ChecksFailedError(
            "; ".join(faults), "correct the file and import it again; what is stored is not stored twice"
        )
