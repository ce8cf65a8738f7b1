"""A file to import, line by line: format, delimiter, byte order mark, gzip, where to go on.

Runs in the thread that imports. At no time more than one line of the file is in memory here,
and a line is cut at LINE_BYTES_MAX, so the size of a file does not matter.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import hashlib
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from gateway.core.recording import FIELDS, REQUIRED, wire_of_row
from gateway.errors import ConfigError

Format = Literal["csv", "jsonl"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Each may be followed by .gz."""
STDIN = "-"
LINE_BYTES_MAX = 64 * 1024
"""Longest line: the broker takes no longer message from a sensor either; a reading is 100-300 bytes."""
EDGE_BYTES = 64 * 1024
"""How much of a file's beginning and end identifies it, beside its size: two reads, whatever it weighs."""
BUFFER_BYTES = 64 * 1024
"""Read from the card at once."""
HEAD_BYTES = 4096
"""How much is looked at to tell a text from something else."""
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = ",;"


class Options(msgspec.Struct, frozen=True):
    """How to read what is imported.

    Args:
        format: None = by the file's suffix.
        temperature_c: stands in where a row has no temperature; None = such a row is rejected.
    """

    format: Format | None = None
    temperature_c: float | None = None


class Position(msgspec.Struct, frozen=True):
    """A place between two lines: bytes (of the unpacked text) and lines before it."""

    offset: int = 0
    line: int = 0


class Row(msgspec.Struct, frozen=True, gc=False):
    """One line of a file as a wire message.

    Args:
        line: its number, from 1.
        end: the position behind it, in bytes of the unpacked text.
        original: the line as it is in the file.
        cow_id: the animal where it can be read, else empty.
        payload: the message a collar would have sent.
        fault: reason and sentence of a line that is no message at all.
    """

    line: int
    end: int
    original: bytes
    cow_id: str = ""
    payload: bytes = b""
    fault: tuple[str, str] | None = None


class _Named(msgspec.Struct, gc=False):
    cow_id: str = ""


_name = msgspec.json.Decoder(_Named).decode


class Source:
    """An open file of readings.

    Attributes:
        name: as the user wrote it.
        size_bytes: of the file, packed or not; None for standard input.
    """

    def __init__(
        self, name: str, file: io.BufferedReader[io.FileIO], raw: io.FileIO, form: Format, options: Options
    ) -> None:
        """Look at the beginning; see `open_source` for what is raised."""
        self.name = name
        self.size_bytes = None if name == STDIN else os.fstat(raw.fileno()).st_size
        self._raw = raw
        self._form = form
        self._options = options
        self._offset = self._line = 0
        packed = file.peek(len(_GZIP)).startswith(_GZIP)
        self._text = io.BufferedReader(gzip.GzipFile(fileobj=file)) if packed else file
        with self._faults_named():
            _check_text(name, self._text.peek(HEAD_BYTES)[:HEAD_BYTES])
            self._columns, self._delimiter = self._read_header() if form == "csv" else ((), "")

    def identity(self) -> str | None:
        """What tells this file from others: size, both edges, and how it is to be read.

        None for standard input, which has no second time.
        """
        if self.size_bytes is None:
            return None
        digest = hashlib.sha256(msgspec.json.encode([self.size_bytes, self._form, self._options]))
        fd = self._raw.fileno()
        digest.update(os.pread(fd, EDGE_BYTES, 0))
        digest.update(os.pread(fd, EDGE_BYTES, max(0, self.size_bytes - EDGE_BYTES)))
        return digest.hexdigest()

    def done_bytes(self) -> int:
        """Bytes of the file read so far (of the packed one)."""
        return self._offset if self.size_bytes is None else min(self._raw.tell(), self.size_bytes)

    def rows(self, start: Position) -> Iterator[Row]:
        """Every line behind `start` that is not blank. A packed file is unpacked up to there.

        Raises:
            ConfigError: the file ends in the middle (gzip) or cannot be read on; names the line.
        """
        with self._faults_named():
            if start.offset > self._offset:
                self._text.seek(start.offset)
                self._offset, self._line = start.offset, start.line
            while line := self._next_line():
                if not line.isspace():
                    yield self._row(line)

    def require_rows(self, read: int) -> None:
        """A file without a single row is a mistake.

        Raises:
            ConfigError: `read` is 0.
        """
        if not read:
            raise ConfigError(
                f"{self.name}:{self._line}: has no rows",
                hint="expected one reading a line"
                + (" below the header line" if self._form == "csv" else ""),
            )

    def _next_line(self) -> bytes:
        """One line with its break; of a line that is too long, LINE_BYTES_MAX + 1 bytes and no break."""
        line = self._text.readline(LINE_BYTES_MAX + 1)
        self._offset += len(line)
        self._line += 1
        rest = line
        while len(rest) > LINE_BYTES_MAX and not rest.endswith(b"\n"):
            rest = self._text.readline(LINE_BYTES_MAX + 1)
            self._offset += len(rest)
        return line

    def _row(self, line: bytes) -> Row:
        text = line.rstrip(b"\r\n")
        if len(text) > LINE_BYTES_MAX:
            why = f"The line is longer than {LINE_BYTES_MAX} bytes; a reading has about 200"
            return Row(self._line, self._offset, text, fault=("line_too_long", why))
        if self._line == 1:
            text = text.removeprefix(codecs.BOM_UTF8)
        return self._csv_row(text) if self._form == "csv" else self._json_row(text)

    def _csv_row(self, line: bytes) -> Row:
        try:
            cells = _cells(line.decode("utf-8"), self._delimiter)
        except UnicodeDecodeError:
            return Row(self._line, self._offset, line, "", line)  # validation says which byte
        except csv.Error as error:
            return Row(self._line, self._offset, line, fault=("bad_row", f"The line is no CSV row: {error}"))
        if len(cells) > len(self._columns) and any(cells[len(self._columns) :]):
            why = f"The line has {len(cells)} cells, the header {len(self._columns)}; is a comma in a number?"
            return Row(self._line, self._offset, line, fault=("bad_row", why))
        wire = wire_of_row(dict(zip(self._columns, cells, strict=False)), self._options.temperature_c)
        payload = msgspec.json.encode(wire)
        return Row(self._line, self._offset, line, str(wire.get("cow_id", "")), payload)

    def _json_row(self, line: bytes) -> Row:
        payload = line.strip()
        try:
            if self._options.temperature_c is not None:
                wire = msgspec.json.decode(payload, type=dict[str, object])
                if wire.get("temperature") is None:
                    payload = msgspec.json.encode({**wire, "temperature": self._options.temperature_c})
            cow_id = _name(payload).cow_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            cow_id = ""  # validation says what is wrong
        return Row(self._line, self._offset, line, cow_id, payload)

    def _read_header(self) -> tuple[tuple[str, ...], str]:
        """Column names and delimiter, from the first line.

        Raises:
            ConfigError: not a header of readings.
        """
        line = self._next_line().removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
        where = f"{self.name}:{self._line}"
        try:
            text = line.decode("utf-8")
            delimiter = max(_DELIMITERS, key=text.count)
            columns = tuple(cell.strip() for cell in _cells(text, delimiter))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{where}: is not a CSV file in UTF-8: {error}", hint=_HEADER_HINT) from error
        needed = [n for n in REQUIRED if n != "temperature" or self._options.temperature_c is None]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ConfigError(
                f"{where}: columns missing: {_with_nearest(missing, columns)}", hint=_hint(missing)
            )
        twice = [name for name in FIELDS if columns.count(name) > 1]
        if twice:
            raise ConfigError(f"{where}: columns given twice: {', '.join(twice)}", hint="keep one of each")
        return columns, delimiter

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"{self.name}:{self._line + 1}: cannot be read on: {why}",
                hint="get the file again; what stands before this line is not lost, and is not stored twice",
            ) from error


@contextmanager
def open_source(name: str, options: Options) -> Iterator[Source]:
    """Open a file, or standard input for `-`.

    Raises:
        ConfigError: missing, a directory, unreadable, empty, of unknown format, not text, or with
            a header that lacks a column; names the file and the remedy.
    """
    try:
        raw = io.FileIO(sys.stdin.fileno(), closefd=False) if name == STDIN else io.FileIO(name)
    except IsADirectoryError:
        raise ConfigError(f"{name} is a directory", hint="name the files in it, e.g. with *.csv") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {name}: {error.strerror}") from error
    with io.BufferedReader(raw, BUFFER_BYTES) as file:
        yield Source(name, file, raw, form_of(name, options), options)


def by_suffix(path: Path) -> Format | None:
    """The format that a file's name tells, with or without .gz."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return SUFFIXES.get(suffix.lower())


def form_of(name: str, options: Options) -> Format:
    """The format that was asked for, or that the file's name tells.

    Raises:
        ConfigError: neither does.
    """
    form = options.format or by_suffix(Path(name))
    if form is None:
        what = "standard input" if name == STDIN else name
        raise ConfigError(
            f"{what} has no suffix that tells its format ({', '.join(SUFFIXES)}, each also with .gz)",
            hint="give --format csv or --format jsonl",
        )
    return form


def _check_text(name: str, head: bytes) -> None:
    if not head.strip():
        raise ConfigError(f"{name}:1: is empty", hint="expected readings, one a line")
    if head.startswith(_UTF16):
        raise ConfigError(f"{name}:1: is UTF-16", hint='save it as "CSV UTF-8"')
    if b"\x00" in head:
        raise ConfigError(
            f"{name}:1: is a binary file", hint="expected CSV or JSON lines, plain or packed with gzip"
        )


def _cells(line: str, delimiter: str) -> list[str]:
    """Raises csv.Error for a quote that is not closed on this line."""
    if '"' not in line:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter, strict=True), [])


_HEADER_HINT = f"the first line names the columns: {','.join(FIELDS)}"


def _hint(missing: list[str]) -> str:
    if missing == ["temperature"]:
        return "--temperature 38.6 stands in for a recording without one"
    return _HEADER_HINT


def _with_nearest(missing: list[str], columns: tuple[str, ...]) -> str:
    """`fxa, temperature (temprature?)`: a missing column, and the one that was probably meant."""
    unknown = {column.lower(): column for column in columns if column not in FIELDS}
    shown = []
    for name in missing:
        near = difflib.get_close_matches(name, unknown, 1)
        shown.append(f"{name} (is it {unknown[near[0]]!r}?)" if near else name)
    return ", ".join(shown)
