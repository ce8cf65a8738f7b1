"""When a backup is due, what its files are called and which of them go. Pure; services/backups asks.

Times are the site's local wall time without a zone, because that is what the names hold (S0-111).
Such a clock has nights of 23 and 25 hours, and a Pi's steps when the network sets it: a name that
lies ahead of the clock by more than a change of summer time says nothing about tonight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, time, timedelta

AT = time(2, 0)
"""S0-113."""
KEEP_DAYS = 7
"""S0-112."""
AHEAD_MAX = timedelta(hours=1)
"""How far a name may lie ahead of the clock and still count: the hour that an autumn night repeats."""
STORE_STEM = "alert_state"
FARM_STEM = "farm"
PARTIAL = ".partial"
"""Ends the name of a file that is still being written, or was when the power failed."""

_STAMP = "%Y%m%d_%H%M%S"
_NAME = re.compile(r"(?P<stem>.+)_(?P<stamp>[0-9]{8}_[0-9]{6})(?P<ending>\.db|\.json)")


def store_name(at_local: datetime, stem: str = STORE_STEM) -> str:
    """`alert_state_20251125_020000.db`; the stem is the store's own."""
    return f"{stem}_{at_local.strftime(_STAMP)}.db"


def farm_name(at_local: datetime) -> str:
    """`farm_20251125_020000.json`: the farm register that belongs to a store of the same stamp."""
    return f"{FARM_STEM}_{at_local.strftime(_STAMP)}.json"


def store_time(name: str, stem: str = STORE_STEM) -> datetime | None:
    """When this backup of a store was made; None for any other file."""
    return _time(name, stem, ".db")


def farm_time(name: str) -> datetime | None:
    """When this backup of a farm register was made; None for any other file."""
    return _time(name, FARM_STEM, ".json")


def farm_beside(store_backup: str) -> str | None:
    """The name of the farm register that was saved with this store, whatever the store's stem."""
    match = _NAME.fullmatch(store_backup)
    return None if match is None or match["ending"] != ".db" else f"{FARM_STEM}_{match['stamp']}.json"


def _time(name: str, stem: str, ending: str) -> datetime | None:
    match = _NAME.fullmatch(name)
    if match is None or match["stem"] != stem or match["ending"] != ending:
        return None
    try:
        return datetime.strptime(match["stamp"], _STAMP)  # noqa: DTZ007 - local wall time, see above
    except ValueError:  # a 31st of February: not one of ours
        return None


def newest(names: Iterable[str], now_local: datetime, stem: str = STORE_STEM) -> datetime | None:
    """The newest backup that the clock can vouch for; names ahead of it are passed over."""
    times = (store_time(name, stem) for name in names)
    return max((at for at in times if at is not None and at <= now_local + AHEAD_MAX), default=None)


def backup_due(now_local: datetime, newest: datetime | None, at: time = AT) -> bool:
    """Whether no backup was made since the last `at` o'clock.

    So a night without power is made up for at once, and a night that has no 02:00 or has it twice
    gets one backup. Asking a minute later gives the same answer until there is one.

    Args:
        now_local: local wall time.
        newest: time of the newest backup; None without any. One further ahead of the clock than
            AHEAD_MAX counts as none: the clock was wrong then, or is now.
        at: the hour of the night.
    """
    if newest is None or newest > now_local + AHEAD_MAX:
        return True
    last = datetime.combine(now_local.date(), at)
    if last > now_local:
        last -= timedelta(days=1)
    return newest < last


def expired(
    names: Iterable[str], now_local: datetime, keep_days: int = KEEP_DAYS, *, stem: str = STORE_STEM
) -> list[str]:
    """Backups older than `keep_days` days, oldest first; the newest is never among them.

    A farm register goes with the store of its stamp. Of names ahead of the clock (made while it
    was wrong) the last `keep_days` stay. Names of any other shape are nobody's to delete.
    """
    files = sorted((at, name) for name in names if (at := store_time(name, stem) or farm_time(name)))
    times = sorted({at for at, name in files if store_time(name, stem)})
    known = [at for at in times if at <= now_local + AHEAD_MAX]
    ahead = times[len(known) :]
    keep = {at for at in known if at >= now_local - timedelta(days=keep_days)}
    keep.update(known[-1:], ahead[-keep_days:])
    begun = now_local - timedelta(days=keep_days)
    return [name for at, name in files if at not in keep and (at in times or at < begun)]


def make_room(sizes: Sequence[tuple[str, int]], missing_bytes: int) -> list[str] | None:
    """Which backups to give up so that `missing_bytes` more are free: the oldest, never the last.

    Args:
        sizes: (name, bytes) of the backups, oldest first.
        missing_bytes: at most 0 = there is room.

    Returns:
        the names; None if giving up all but one would not do, and then nothing should go.
    """
    given_up: list[str] = []
    for name, size_bytes in sizes[:-1]:
        if missing_bytes <= 0:
            break
        given_up.append(name)
        missing_bytes -= size_bytes
    return given_up if missing_bytes <= 0 else None


def beyond_room(
    sizes: Iterable[tuple[str, int]], room_bytes: int, now_local: datetime, *, stem: str = STORE_STEM
) -> list[str]:
    """Which backups to give up so that all of them together fit: the oldest, never the newest.

    A farm register counts with the store of its stamp and goes with it. The newest is the newest
    that the clock can vouch for, which one made a moment ago is.

    Args:
        sizes: (name, bytes) of everything in the folder; names of any other shape do not count.
        room_bytes: the most that backups may take.
        now_local: local wall time.
        stem: the store's.

    Returns:
        the names, oldest first.
    """
    found = dict(sizes)
    stores = sorted((at, name) for name in found if (at := store_time(name, stem)) is not None)
    kept = newest(found, now_local, stem) or max((at for at, _ in stores), default=None)
    pairs = [(at, [name, *({farm_name(at)} & found.keys())]) for at, name in stores]
    total_bytes = sum(found[name] for _, pair in pairs for name in pair)
    given_up: list[str] = []
    for at, pair in pairs:
        if total_bytes <= room_bytes:
            break
        if at != kept:
            given_up += pair
            total_bytes -= sum(found[name] for name in pair)
    return given_up
