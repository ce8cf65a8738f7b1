"""Rows that were not stored, kept as JSON lines beside their file. Runs in the importing thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from gateway.errors import StoreError

SUFFIX = ".rejected.jsonl"
PREVIOUS = ".previous"


class RejectedRow(msgspec.Struct, frozen=True):
    """One line of the file of rejected rows: why, where, and what it was."""

    reason: str
    text: str
    file: str
    line: int
    original: str


class RejectFile:
    """`<file>.rejected.jsonl`, made with the first rejected row.

    Where the file's own folder cannot be written it lies in `fallback`. An older one is kept as
    `.previous` when a file is read from its beginning.

    Attributes:
        path: where it is, once it is; None while nothing was rejected.
        size_bytes: what has been written to it.
    """

    def __init__(
        self, beside: Path, fallback: Path, *, resume: str | None = None, size_bytes: int = 0
    ) -> None:
        """Go on with an existing one: `resume` at `size_bytes`, what stands behind is written again."""
        self.path: Path | None = None
        self.size_bytes = size_bytes
        self._beside = beside.with_name(beside.name + SUFFIX)
        self._fallback = fallback / self._beside.name
        self._file: BinaryIO | None = None
        if resume is not None:
            self._resume(Path(resume))

    def add(self, row: RejectedRow) -> None:
        """Write one row.

        Raises:
            StoreError: it can be written nowhere.
        """
        line = msgspec.json.encode(row) + b"\n"
        try:
            if self._file is None:
                self._file = self._create()
            self._file.write(line)
        except OSError as error:
            raise self._refused(error) from error
        self.size_bytes += len(line)

    def sync(self) -> None:
        """What was added is on disk when this returns."""
        if self._file is not None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._refused(error) from error

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()

    def _create(self) -> BinaryIO:
        for path in (self._beside, self._fallback):
            try:
                if path.exists():
                    path.replace(path.with_name(path.name + PREVIOUS))
                file = path.open("wb")
            except OSError:
                if path is self._fallback:
                    raise
            else:
                self.path = path
                break
        return file

    def _resume(self, path: Path) -> None:
        try:
            file = path.open("r+b")
        except OSError:  # taken away meanwhile: the next rejected row makes a new one
            self.size_bytes = 0
            return
        file.truncate(self.size_bytes)
        file.seek(0, os.SEEK_END)
        self.size_bytes = file.tell()
        self._file, self.path = file, path

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.path or self._fallback}: rejected rows cannot be kept: {error.strerror}",
            "free space, then run the same command again; it goes on where it stopped",
        )
