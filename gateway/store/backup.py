"""Backups of store and farm register into a folder (decision 31, S0-111 to S0-114). Worker thread.

A backup appears under its name only when it is whole: it is written to `<name>.partial`, synced,
checked, and then renamed. The farm register goes first, so a store that is there has its register
beside it. Leftovers of a power cut are removed by the next backup.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from gateway.core.backups import PARTIAL, farm_name, farm_time, make_room, store_name, store_time
from gateway.errors import StoreError
from gateway.store.snapshot import LOG_BYTES_MAX, Snapshot, remove_database, sync_directory
from gateway.store.writer_lock import WriterLock

ROOM_RESERVE_BYTES = 64 * 1024 * 1024
"""Left free after a backup: the store may lie on the same card, and wants room for its log
(16 MiB), a few days of readings (46 bytes each: 13 MB a day of 200 animals) and the log files."""

REGISTER_MODE = 0o600
"""Of a copy of the farm register."""

_REGISTER = msgspec.json.Decoder(dict[str, dict[str, dict[str, object]]])


class Backup(msgspec.Struct, frozen=True):
    """A backup that is on disk.

    Args:
        path: the store's copy, below the folder as the configuration names it.
        farm: the farm register's copy; None while nobody has edited one.
        size_bytes: of the store's copy.
        given_up: names of older backups that went because the folder had no room.
    """

    path: Path
    farm: Path | None
    size_bytes: int
    given_up: tuple[str, ...] = ()


def names(folder: Path) -> list[str]:
    """Everything in the folder; nothing if there is no folder.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return [entry.name for entry in folder.iterdir()] if folder.exists() else []
    except OSError as error:
        raise _unusable(folder, error) from error


def sizes(folder: Path) -> list[tuple[str, int]]:
    """(name, bytes) of every file in the folder; nothing if there is no folder.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        files = [entry for entry in folder.iterdir() if entry.is_file()] if folder.exists() else []
        return [(file.name, file.stat().st_size) for file in files]
    except OSError as error:
        raise _unusable(folder, error) from error


def create(
    store: Path,
    folder: Path,
    at_local: datetime,
    *,
    farm: Path | None = None,
    look: Callable[[int, int], None] | None = None,
    reserve_bytes: int = ROOM_RESERVE_BYTES,
    log_bytes_max: int = LOG_BYTES_MAX,
) -> Backup:
    """Copy the store of this instant and the farm register; works beside a running gateway.

    Args:
        store: the live file. It is read through a connection of its own and never written.
        folder: made if it is not there.
        at_local: the site's wall time, for the names; where one is taken, the next free second.
        farm: the farm register's file; a missing one is no error.
        look: called between steps with (pages left, pages in all); what it raises ends the backup.
        reserve_bytes: see ROOM_RESERVE_BYTES.
        log_bytes_max: see snapshot.LOG_BYTES_MAX.

    Raises:
        StoreError: no room (names bytes), folder not writable, store or register damaged. The store
            is untouched, no half backup stays, and older backups go only if that makes the room.
    """
    with Snapshot(store) as snapshot, _alone(folder, store.stem, _owner(store)):
        _remove_leftovers(folder, store.stem)
        text, fault = _read_register(farm)
        need_bytes = snapshot.size_bytes + len(text or b"") + reserve_bytes
        given_up = _make_room(folder, store.stem, need_bytes)
        while (folder / store_name(at_local, store.stem)).exists():
            at_local += timedelta(seconds=1)
        path, register = folder / store_name(at_local, store.stem), folder / farm_name(at_local)
        partial = path.with_name(path.name + PARTIAL)
        try:
            if text is not None:
                write_whole(register, text, _owner(store))
            snapshot.copy_to(partial, look=look, log_bytes_max=log_bytes_max)
            give_to(partial, _owner(store))
            partial.rename(path)
            sync_directory(folder)
        except BaseException as error:  # cleaned up, then raised again
            remove_database(partial)
            with contextlib.suppress(OSError):
                register.unlink()
            if isinstance(error, OSError):
                raise _unusable(folder, error) from error
            raise
    if fault is not None:
        raise StoreError(f"{path} was written, but without the farm register: {fault.message}", fault.hint)
    return Backup(path, None if text is None else register, snapshot.size_bytes, tuple(given_up))


def delete(folder: Path, which: Iterable[str]) -> None:
    """Take backups out of the folder; one that is gone already is no error.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        for name in which:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error


def write_whole(path: Path, text: bytes, owner: tuple[int, int] | None) -> None:
    """A farm register, all of it or none: temp file, sync, rename. The caller syncs the folder.

    Only its owner may read it, as the register itself: it holds phone numbers and secret addresses.

    Raises:
        OSError: the disk refuses.
    """
    temp = path.with_name(path.name + PARTIAL)
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, REGISTER_MODE)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, REGISTER_MODE)  # a temp file that a power cut left may have another
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    give_to(temp, owner)
    temp.replace(path)


def give_to(path: Path, owner: tuple[int, int] | None) -> None:
    """What root writes must stay the gateway's: `sudo barn-gateway backup` is the usual way."""
    if owner is not None and os.geteuid() == 0:
        os.chown(path, *owner)


def read_register(path: Path) -> bytes | None:
    """A farm register as it is on disk; None if there is none.

    Raises:
        StoreError: it cannot be read or is damaged.
    """
    try:
        text = path.read_bytes()
        _REGISTER.decode(text)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path}: is no farm register: {error}", "restore one from a backup") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}", "check the file's owner") from error
    return text


def _read_register(farm: Path | None) -> tuple[bytes | None, StoreError | None]:
    """A damaged register must not keep the store from being saved; it is told afterwards."""
    try:
        return (None if farm is None else read_register(farm)), None
    except StoreError as fault:
        return None, fault


@contextlib.contextmanager
def _alone(folder: Path, stem: str, owner: tuple[int, int] | None) -> Iterator[None]:
    """The folder exists, and nobody else writes a backup of this store into it."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            give_to(folder, owner)
            sync_directory(folder.parent)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        lock = WriterLock(folder / f".{stem}")
    except StoreError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise StoreError(
                f"{folder}: another backup is being written there", "wait for its end"
            ) from error
        raise
    try:
        with contextlib.suppress(OSError):
            give_to(folder / f".{stem}.lock", owner)
        yield
    finally:
        lock.release(closed=True)


def _remove_leftovers(folder: Path, stem: str) -> None:
    for name in names(folder):
        whole, mark, _ = name.partition(PARTIAL)
        if mark and (store_time(whole, stem) or farm_time(whole)):
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def _make_room(folder: Path, stem: str, need_bytes: int) -> list[str]:
    """Oldest backups go until `need_bytes` are free, if that is possible at all."""
    try:
        free_bytes = shutil.disk_usage(folder).free
        stores = sorted(name for name in names(folder) if store_time(name, stem))
        sizes = [(name, (folder / name).stat().st_size) for name in stores]
    except OSError as error:
        raise _unusable(folder, error) from error
    given_up = make_room(sizes, need_bytes - free_bytes)
    if given_up is None:
        raise StoreError(
            f"{folder}: a backup needs {need_bytes} bytes and {free_bytes} are free",
            "free space there, or set backup.directory to a bigger disk",
        )
    for name in given_up:
        at = store_time(name, stem)
        delete(folder, [name] if at is None else [name, farm_name(at)])
    return given_up


def _owner(store: Path) -> tuple[int, int] | None:
    try:
        facts = store.stat()
    except OSError:
        return None
    return facts.st_uid, facts.st_gid


def _unusable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{folder}: {error.strerror}", "the gateway's user must be able to write it; check backup.directory"
    )
