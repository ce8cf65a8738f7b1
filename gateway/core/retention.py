"""How long things are kept, and how many bytes in all (decision 30). Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Days = Annotated[float, Meta(gt=0, le=36_525)]  # up to a century


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Ages count from arrival.

    Args:
        readings_days: readings as they came; their hourly figures stay.
        rollups_days: hourly figures.
        alerts_days: ended alerts with their history.
        dead_letters_days: rejected messages.
        events_days: entries of the outbox that every destination has acknowledged.
        disk_share: the most the store may use of its partition, 0 to 1; backups that lie on the
            same one get half of it.
        disk_mib: the same in MiB; wins over the share.
    """

    readings_days: Days = 90.0
    rollups_days: Days = 1826.0
    alerts_days: Days = 1826.0
    dead_letters_days: Days = 30.0
    events_days: Days = 7.0
    disk_share: Annotated[float, Meta(gt=0, le=1)] = 0.7
    disk_mib: Annotated[int, Meta(ge=16)] | None = None


def budget_bytes(policy: RetentionPolicy, partition_bytes: int) -> int:
    """The most the store may use on a partition of that size."""
    if policy.disk_mib is not None:
        return policy.disk_mib * 2**20
    return int(policy.disk_share * partition_bytes)
