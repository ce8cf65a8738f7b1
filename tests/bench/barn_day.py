"""What 200 collars send in a barn's day, in the order it arrives, and how ingest cuts it into commits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from gateway.core.readings import Reading
from sensor_sim.herd import Herd

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
HOUR_MS = 3_600_000
DELAY_MS_MAX = 1000
"""Collars report on whole seconds; radio and broker spread their readings over the next second."""


def arrivals(animals: int, from_hour: int, hours: int, *, seed: int = 1) -> Iterator[Reading]:
    """Readings of [from_hour, from_hour + hours) after START_MS, by arrival; one a minute and animal."""
    start_ms = START_MS + from_hour * HOUR_MS
    delays = np.random.default_rng([seed, from_hour])
    second: list[Reading] = []
    for timestamp_ms, cow_id, wire in Herd(animals, seed).timed(start_ms, hours * 60):
        if second and second[0].timestamp_ms != timestamp_ms:
            yield from sorted(second, key=_arrival)
            second.clear()
        second.append(
            Reading(
                cow_id,
                timestamp_ms,
                float(wire["temperature"]),
                float(wire["fxa"]),
                float(wire["mya"]),
                float(wire["rza"]),
                float(wire["sxg"]),
                float(wire["lyg"]),
                float(wire["dzg"]),
                str(wire["state"]),
                received_ms=timestamp_ms + int(delays.integers(DELAY_MS_MAX)),
            )
        )
    yield from sorted(second, key=_arrival)


def commits(readings: Iterable[Reading], window_ms: int) -> Iterator[list[Reading]]:
    """Ingest's group commit: `window_ms` after the first waiting reading, everything that has come."""
    batch: list[Reading] = []
    for reading in readings:
        if batch and reading.received_ms > batch[0].received_ms + window_ms:
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


def _arrival(reading: Reading) -> int:
    return reading.received_ms
