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
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from tinydb.storages import Storage

from gateway.errors import StoreError
from gateway.store.faults import file_error
from gateway.store.links import followed

Tables = dict[str, dict[str, Any]]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between one register and another.

    Args:
        documents_max: entries of one file. Every change writes the whole file twice.
        when_full: what a person can do then.
        backup_time: when a file in the folder of backups was made; None if it is no copy of this register.
        mode: of the file and its previous version; None leaves it to the umask.
    """

    documents_max: int
    when_full: str
    backup_time: Callable[[str], datetime | None]
    mode: int | None = None


class AtomicJsonStorage(Storage):
    """One JSON file and its previous version.

    Attributes:
        recovered_from: what had to be done to get a readable file, or None.
    """

    def __init__(
        self, path: Path, kind: Kind, *, now_ms: int | None = None, backups: Path | None = None
    ) -> None:
        """Read the file, or its previous version where it is missing or damaged.

        Args:
            path: the file, or a link to it; its directory is created with the first write.
            kind: bounds and mode of this register.
            now_ms: UTC epoch milliseconds for the name of a damaged file that is put aside.
            backups: folder with copies of it; default: `backups` beside it.

        Raises:
            StoreUnavailableError: the card refuses the repair for now.
            StoreError: the directory refuses it, or a version may not be read.
        """
        super().__init__()
        self._kind = kind
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
        if documents > self._kind.documents_max:
            raise StoreError(
                f"{self.path}: {documents} documents, at most {self._kind.documents_max} fit",
                self._kind.when_full,
            )
        text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        if text == self._text:
            return
        try:
            make_folder(self.path.parent)
            # The first version is its own predecessor: from then on there are always two.
            self._replace(self.previous, text if self._text is None else self._text)
            self._replace(self.path, text)
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
            self._replace(self.path, self._text)
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
                self._replace(self.previous, self._text)
                self._replace(self.path, self._text)
        except OSError as error:
            raise self._refused(error) from error
        self.recovered_from = (
            f"{self.path}: {fault}{kept}; {self.previous.name}: {previous_fault}{previous_kept}; "
            + (f"the backup {backup.name} is used" if backup else "the register is empty now")
        )

    def _newest_backup(self) -> Path | None:
        """Take over the newest readable one; damaged ones are passed over."""
        found = (file for file in self._backups.glob("*.json") if self._kind.backup_time(file.name))
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

    def _replace(self, path: Path, text: str) -> None:
        mode = self._kind.mode
        temp = path.with_name(path.name + ".tmp")
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode or 0o666)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # a temp file that a power cut left may have another
            if os.geteuid() == 0:
                _give(temp, path if path.exists() else path.parent)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
        with contextlib.suppress(OSError):  # some network file systems cannot sync a directory
            _sync_directory(path.parent)

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
            raise ValueError("not a register")
    return data


def make_folder(folder: Path) -> None:
    """Make it with those above it; what root makes belongs to whoever owns the place."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        _give(folder, folder.parent)


def _give(path: Path, model: Path) -> None:
    """What `sudo barn-gateway …` writes must stay the gateway's: the owner of `model` becomes its owner."""
    owner = model.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def _sync_directory(path: Path) -> None:
    """The rename itself must survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
