"""What a command may do for a store: back it up, restore it, look whether it is whole. Main thread."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.config import Config
from gateway.core.integrity import Fault, Progress
from gateway.store import backup, integrity
from gateway.store import restore as restoring
from gateway.store.backup import Backup
from gateway.store.restore import Restored


def back_up(config: Config, folder: Path | None, progress: Progress) -> Backup:
    """A backup now, beside a running gateway or at rest.

    Args:
        config: where store and farm register lie.
        folder: where to; None = the nightly one.
        progress: told ("pages", done, of how many).

    Raises:
        StoreError: no store, no room, or the folder refuses.
    """
    return backup.create(
        Path(config.database.path),
        folder or Path(config.backup.directory),
        _now_local(config),
        farm=Path(config.store.farm_register),
        look=lambda left, total: progress("pages", total - left, total),
    )


def restore(config: Config, source: Path, farm_source: Path | None, say: Callable[[str], None]) -> Restored:
    """A backup in the store's place; see store/restore.py for what it raises."""
    return restoring.restore(
        source,
        Path(config.database.path),
        Path(config.store.farm_register),
        _now_local(config),
        farm_source=farm_source,
        say=say,
    )


def verify(path: Path, progress: Progress) -> list[Fault]:
    """Everything wrong with a store or a backup.

    Raises:
        StoreError: there is no such file.
    """
    return integrity.verify(path, progress)


def _now_local(config: Config) -> datetime:
    return datetime.now(ZoneInfo(config.site.timezone)).replace(tzinfo=None)
