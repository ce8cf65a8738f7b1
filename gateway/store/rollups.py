"""Hourly figures of every animal, computed from the readings. Functions over a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.store.herd import herd_table

MS_PER_MINUTE = 60_000
MINUTES_PER_HOUR = 60
HOUR_MS = MINUTES_PER_HOUR * MS_PER_MINUTE


class HourlyTable(msgspec.Struct, frozen=True, eq=False):
    """Animal-hours, one entry each, in no particular order; NaN = none."""

    cow_ids: list[str]
    cow: npt.NDArray[np.int32]
    hour: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray[np.float64]]


def hourly(db: sqlite3.Connection, from_hour: int, to_hour: int, columns: Sequence[str]) -> HourlyTable:
    """Every stored hour with from_hour ≤ hour < to_hour."""
    table = herd_table(db, from_hour * HOUR_MS - MS_PER_MINUTE, to_hour * HOUR_MS)
    order = np.argsort(table.cow, kind="stable")
    cow, minute = table.cow[order].astype(np.int64), table.timestamp_ms[order] // MS_PER_MINUTE
    values = table.values[order]
    hour = minute // MINUTES_PER_HOUR
    last = np.flatnonzero((np.diff(cow, append=-1) != 0) | (np.diff(minute, append=-1) != 0))
    step = np.linalg.norm(np.diff(values[last, 1:4], axis=0, prepend=np.nan), axis=1)
    step[(np.diff(cow[last], prepend=-1) != 0) | (np.diff(minute[last], prepend=-1) != 1)] = np.nan
    motion = np.full(len(cow), np.nan)
    motion[last] = np.where(np.isnan(values[last, 4]), step, values[last, 4])
    wanted = hour >= from_hour
    cow, hour, values, motion = cow[wanted], hour[wanted], values[wanted], motion[wanted]
    keys, at = np.unique(cow * 2**32 + hour, return_inverse=True)
    moved = ~np.isnan(motion)
    n, motion_n = np.bincount(at, minlength=len(keys)), np.bincount(at[moved], minlength=len(keys))
    with np.errstate(invalid="ignore"):
        made = {
            "n": n.astype(np.float64),
            "temperature_mean_c": np.bincount(at, values[:, 0], len(keys)) / n,
            "motion_n": motion_n.astype(np.float64),
            "motion_mean_g": np.bincount(at[moved], motion[moved], len(keys)) / motion_n,
        }
    return HourlyTable(
        cow_ids=table.cow_ids,
        cow=(keys >> 32).astype(np.int32),
        hour=keys & 0xFFFFFFFF,
        values={name: made[name] for name in columns},
    )
