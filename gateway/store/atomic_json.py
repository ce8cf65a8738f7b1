"""A TinyDB storage that a power cut cannot break. Runs in the thread of whoever edits the register.

TinyDB's own storage overwrites its only file in place: 18 of 30 power cuts left broken JSON. This
one writes a temp file, fsyncs it, renames it over the old one and fsyncs the directory, and keeps
the version before as `<name>.previous`. The file is read once, when it is opened. Where neither can
be used both are kept as `.bad-<time>`, and the newest readable backup takes their place.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

from gateway.core.backups import farm_time
from gateway.errors import StoreError
from gateway.store.faults import file_error
from gateway.store.links import followed

DOCUMENTS_MAX = 2000
"""Documents in one file. Every change writes the whole file twice: 2000 × about 200 bytes = 0.4 MB."""

Tables = dict[str, dict[str, Any]]


class AtomicJsonStorage(Storage):
    """One JSON file and its previous version.

    Attributes:
        recovered_from: what had to be done to get a readable file, or None.
    """

    def __init__(self, path: Path, *, now_ms: int | None = None, backups: Path | None = None) -> None:
        """Read the file, or its previous version where it is missing or damaged.

        Args:
            path: the file, or a link to it; its directory is created with the first write.
            now_ms: UTC epoch milliseconds for the name of a damaged file that is put aside.
            backups: folder with copies of it; default: `backups` beside it.

        Raises:
            StoreUnavailableError: the card refuses the repair for now.
            StoreError: the directory refuses it, or a version may not be read.
        """
        super().__init__()
        self._backups = path.parent / "backups" if backups is None else backups
        path = followed(path)
        self.path = path
        self.previous = path.with_name(path.name + ".previous")
        self.recovered_from: str | None = None
        self._text: str | None = None
        stamp_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        fault = self._load(path)
        if fault is None:
            return
        previous_fault = self._load(self.previous)
        if previous_fault is None:
            self._recover(fault, stamp_ms)
        elif fault != _MISSING or previous_fault != _MISSING:
            self._replace_both(fault, previous_fault, stamp_ms)

    def read(self) -> Tables | None:
        """The tables as last written; a copy each time, because TinyDB changes it in place."""
        return None if self._text is None else _parse(self._text)

    def write(self, data: Tables) -> None:
        """Replace the file; when this returns, the new version is on the disk.

        Raises:
            StoreError: too many documents, or the disk refuses; the old version stays in force.
        """
        documents = sum(len(table) for table in data.values())
        if documents > DOCUMENTS_MAX:
            raise StoreError(
                f"{self.path}: {documents} documents, at most {DOCUMENTS_MAX} fit",
                "remove animals that have left the farm",
            )
        text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        if text == self._text:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The first version is its own predecessor: from then on there are always two.
            _replace(self.previous, text if self._text is None else self._text)
            _replace(self.path, text)
        except OSError as error:
            raise self._refused(error) from error
        self._text = text

    def _load(self, path: Path) -> str | None:
        """Take over a file's text; returns what is wrong with it otherwise."""
        try:
            text = path.read_text(encoding="utf-8")
            _parse(text)
        except FileNotFoundError:
            return _MISSING
        except UnicodeDecodeError:
            return "is not UTF-8"
        except ValueError as error:
            return f"is damaged: {error}"
        except OSError as error:
            raise file_error(path, error, "check the card, and the file's owner and mode") from error
        self._text = text
        return None

    def _recover(self, fault: str, stamp_ms: int) -> None:
        assert self._text is not None  # noqa: S101 - set by the load of the previous version
        try:
            kept = self._put_aside(self.path, fault, stamp_ms)
            _replace(self.path, self._text)
        except OSError as error:
            raise self._refused(error) from error
        self.recovered_from = f"{self.path}: {fault}{kept}; the previous version is used"

    def _replace_both(self, fault: str, previous_fault: str, stamp_ms: int) -> None:
        """Neither version can be used: the newest good backup, or an empty register."""
        backup = self._newest_backup()
        try:
            kept = self._put_aside(self.path, fault, stamp_ms)
            previous_kept = self._put_aside(self.previous, previous_fault, stamp_ms)
            if self._text is not None:
                _replace(self.previous, self._text)
                _replace(self.path, self._text)
        except OSError as error:
            raise self._refused(error) from error
        self.recovered_from = (
            f"{self.path}: {fault}{kept}; {self.previous.name}: {previous_fault}{previous_kept}; "
            + (f"the backup {backup.name} is used" if backup else "the register is empty now")
        )

    def _newest_backup(self) -> Path | None:
        """Take over the newest readable one; damaged ones are passed over."""
        found = (file for file in self._backups.glob("*.json") if farm_time(file.name))
        for backup in sorted(found, reverse=True):
            if self._load(backup) is None:
                return backup
        return None

    def _put_aside(self, path: Path, fault: str, stamp_ms: int) -> str:
        """Keep a damaged file under another name; returns a phrase that says so."""
        if fault == _MISSING:
            return ""
        bad = self._bad_name(path, stamp_ms)
        path.rename(bad)
        return f", kept as {bad.name}"

    def _bad_name(self, path: Path, stamp_ms: int) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(stamp_ms / 1000))
        name, n = f"{path.name}.bad-{stamp}", 1
        while (bad := path.with_name(name if n == 1 else f"{name}-{n}")).exists():
            n += 1  # a Pi without a clock can meet the same second twice
        return bad

    def _refused(self, error: OSError) -> StoreError:
        return file_error(self.path, error, "cannot be written; check free space and the directory's owner")


_MISSING = "is missing"


def _parse(text: str) -> Tables:
    """Raises ValueError where the text is not what `write` has written."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - damage is one kind of error here
    for table in data.values():
        if not isinstance(table, dict) or not all(
            key.isdecimal() and isinstance(document, dict) for key, document in table.items()
        ):
            raise ValueError("not a farm register")
    return data


def _replace(path: Path, text: str) -> None:
    temp = path.with_name(path.name + ".tmp")
    with temp.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temp.replace(path)
    with contextlib.suppress(OSError):  # some network file systems cannot sync a directory
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """The rename itself must survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
