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
        disk_share: the most the store may use of its partition, and the backups of theirs, 0 to 1;
            where that is the same one, each gets half of it.
        disk_mib: the same in MiB; wins over the share.
    """

    readings_days: Days = 90.0
    rollups_days: Days = 1826.0
    alerts_days: Days = 1826.0
    dead_letters_days: Days = 30.0
    events_days: Days = 7.0
    disk_share: Annotated[float, Meta(gt=0, le=1)] = 0.7
    disk_mib: Annotated[int, Meta(ge=16)] | None = None

    def __post_init__(self) -> None:
        """A chart of an hour's width would lose what a finer one still shows."""
        if self.rollups_days < self.readings_days:
            raise ValueError(
                f"rollups_days ({self.rollups_days:g}) is below readings_days ({self.readings_days:g}); "
                "hourly figures must be kept at least as long as the readings they sum up"
            )


def budget_bytes(policy: RetentionPolicy, partition_bytes: int) -> int:
    """The most that store and backups may use on a partition of that size."""
    if policy.disk_mib is not None:
        return policy.disk_mib * 2**20
    return int(policy.disk_share * partition_bytes)


def part_bytes(policy: RetentionPolicy, partition_bytes: int, *, shared: bool) -> int:
    """What of it falls to one of the two: half where both lie on the partition, else all of it."""
    budget = budget_bytes(policy, partition_bytes)
    return budget // 2 if shared else budget
