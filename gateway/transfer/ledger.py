"""How far each file has been imported: `imports.json` beside the store. Runs in the importing thread.

Written after every durable batch, whole or not at all. It only saves work: a position that is lost
or too old makes rows be read again, and a reading that is stored already is not stored twice.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.errors import StoreError
from gateway.transfer.atomic_file import replacing
from gateway.transfer.sources import Position

NAME = "imports.json"
FILES_MAX = 100
"""Files remembered, the one touched longest ago goes first: 100 × about 500 bytes = 50 KB a write."""


class Counts(msgspec.Struct):
    """What became of a file's rows, over all runs that it took.

    `acknowledged` instead of `stored` and `duplicates` where a running gateway took them. `trimmed`
    rows are stored without an optional value that was out of bounds.
    """

    read: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    acknowledged: int = 0
    trimmed: int = 0
    rejected: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def rejected_rows(self) -> int:
        """All reasons together."""
        return sum(self.rejected.values())


class Progress(msgspec.Struct):
    """One file: identity, where the last durable batch ended, what came of it.

    `rejected_bytes` is how much of the file of rejected rows belongs to what was read.
    """

    key: str
    name: str
    position: Position = Position()
    counts: Counts = msgspec.field(default_factory=Counts)
    rejected_file: str | None = None
    rejected_bytes: int = 0
    finished: bool = False


class _Ledger(msgspec.Struct):
    files: list[Progress] = msgspec.field(default_factory=list)


class Ledger:
    """The remembered files of one store.

    Attributes:
        fault: why what was remembered could not be read, or None.
    """

    def __init__(self, folder: Path) -> None:
        """Read `imports.json`; a missing or damaged one remembers nothing."""
        self.path = folder / NAME
        self.fault: str | None = None
        self._ledger = _Ledger()
        try:
            self._ledger = msgspec.json.decode(self.path.read_bytes(), type=_Ledger)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.fault = (
                f"{self.path}: {error}; every file is read from its beginning, nothing is stored twice"
            )

    def find(self, key: str) -> Progress | None:
        """What is remembered of a file."""
        return next((file for file in self._ledger.files if file.key == key), None)

    def save(self, progress: Progress) -> None:
        """Remember a file's progress; on disk when this returns.

        Raises:
            StoreError: the store's folder cannot be written.
        """
        others = [file for file in self._ledger.files if file.key != progress.key]
        self._ledger.files = [*others, progress][-FILES_MAX:]
        try:
            with replacing(self.path) as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._ledger), indent=1) + b"\n")
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written: {error.strerror}", "check free space and the folder's owner"
            ) from error
