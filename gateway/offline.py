"""What a command may read from a store, with or without a gateway running on it. Main thread."""

from __future__ import annotations

from pathlib import Path

from gateway.config import Config
from gateway.core.alerts import Alert
from gateway.core.readings import Reading
from gateway.store import alerts, newest
from gateway.store.opening import open_readonly
from gateway.store.standing import Standing, standing


def newest_readings(config: Config, cow_id: str | None, limit: int) -> list[Reading]:
    """Newest first.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    with open_readonly(Path(config.database.path)) as db:
        return newest.recent(db, cow_id, limit)


def newest_alerts(config: Config, subject: str | None, limit: int) -> list[Alert]:
    """Newest first, open and ended.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    with open_readonly(Path(config.database.path)) as db:
        return alerts.recent(db, subject, limit)


def alert_standing(config: Config, alert_id: int) -> Standing | None:
    """One alert with its history and who was told; None if there is none.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    with open_readonly(Path(config.database.path)) as db:
        return standing(db, alert_id)
