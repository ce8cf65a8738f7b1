"""Export: stored readings → CSV in document 0's fields, or JSON lines. Runs in the calling thread.

Reads an hour at a time beside a running gateway, so memory holds one hour of the herd (1000 animals
at one reading a minute: 60,000 × about 0.4 KB = 24 MB) whatever the span.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from gateway.config import Config
from gateway.core.readings import Reading, wire_fields
from gateway.core.recording import FIELDS
from gateway.errors import ConfigError
from gateway.store import animals, history
from gateway.store.opening import open_readonly
from gateway.transfer.atomic_file import replacing
from gateway.transfer.sources import Format, by_suffix

BEGINNING_MS: Final = 0
END_MS: Final = 253_402_300_800_000
"""The year 10000: no timestamp lies behind it."""
GZIP_LEVEL = 6
"""zlib's own default; 9 takes three times as long on a Pi for 2 % less."""


class Exported(msgspec.Struct, frozen=True):
    """How many readings were written."""

    rows: int


class Selection(msgspec.Struct, frozen=True):
    """Which readings: from_ms ≤ instant < to_ms, of these animals (none named = all)."""

    from_ms: int = BEGINNING_MS
    to_ms: int = END_MS
    cow_ids: tuple[str, ...] = ()


def export(
    config: Config,
    selection: Selection,
    output: Path | None,
    form: Format | None,
    *,
    moved: Callable[[int], None] = lambda _rows: None,
) -> Exported:
    """Write the selected readings, by hour, then animal, then instant.

    Args:
        config: whose store.
        selection: which readings.
        output: a file that appears when it is complete, packed when it ends in .gz; None =
            standard output.
        form: None = by the file's suffix, CSV without one.
        moved: told how many readings are written.

    Raises:
        StoreError: there is no store, or it cannot be read.
        ConfigError: an animal that never sent a reading; a file that cannot be written, or a pipe or
            device, in whose place a file would be put.
        BrokenPipeError: the reader of standard output has seen enough.
    """
    with open_readonly(Path(config.database.path)) as db:
        unknown = set(selection.cow_ids).difference(animals.cow_ids(db))
        if unknown:
            raise ConfigError(
                f"{config.database.path}: no readings of {', '.join(sorted(unknown))}",
                hint="`barn-gateway readings -n 100` lists the animals",
            )
        hours = history.raw(db, selection.from_ms, selection.to_ms, selection.cow_ids or None)
        if output is None:
            return Exported(_write(sys.stdout.buffer, hours, form or "csv", moved))
        if output.exists() and not output.is_file():
            hint = "name a file; without --output it goes to standard output"
            raise ConfigError(f"Cannot write {output}: it is a folder, a pipe or a device", hint=hint)
        form = form or by_suffix(output) or "csv"
        try:
            with replacing(output.resolve()) as file:  # a link goes on being one
                if output.suffix != ".gz":
                    return Exported(_write(file, hours, form, moved))
                # mtime 0: the same readings are the same file.
                with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
                    return Exported(_write(cast("BinaryIO", packed), hours, form, moved))
        except OSError as error:
            raise ConfigError(
                f"Cannot write {output}: {error.strerror}", hint="check the folder, its owner and free space"
            ) from error


def _write(
    file: BinaryIO, hours: Iterable[Sequence[Reading]], form: Format, moved: Callable[[int], None]
) -> int:
    rows = 0
    if form == "csv":
        file.write((",".join(FIELDS) + "\n").encode())
    for hour in hours:
        file.write(_csv(hour) if form == "csv" else _json_lines(hour))
        rows += len(hour)
        moved(rows)
    file.flush()
    return rows


def _csv(hour: Sequence[Reading]) -> bytes:
    """An empty cell was not sent; numbers in as many digits as it takes to read them back unchanged."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(wire_fields(reading).values() for reading in hour)
    return text.getvalue().encode()


def _json_lines(hour: Sequence[Reading]) -> bytes:
    """As a collar sends it: what it did not send is left out."""
    lines = ({k: v for k, v in wire_fields(reading).items() if v is not None} for reading in hour)
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
