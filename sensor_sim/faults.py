"""What the radio does to readings: drop, duplicate, deliver late. Deterministic by seed. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from sensor_sim.errors import SimError
from sensor_sim.herd import Reading, encode
from sensor_sim.times import MINUTE_MS

_FAULT_STREAM = 0xFA17
"""Keeps the faults' deviates apart from the cow's own, so faults never change a reading."""
LATE_MIN, LATE_MAX = 3, 30
"""Minutes a late reading waits in its collar; 3 or more, so that it overtakes nothing but is overtaken."""


@dataclass(frozen=True, slots=True)
class WireFaults:
    """Shares of readings, 0–1, that are lost, sent twice, or sent some minutes late."""

    drop: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate", "late"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise SimError(f"--{name} {share} is no share; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Transmission:
    """One publish: `send_ms` is when the collar sends it, `timestamp_ms` when it measured."""

    send_ms: int
    timestamp_ms: int
    cow_id: str
    payload: bytes


def transmissions(
    readings: Iterable[tuple[int, str, Reading]],
    faults: WireFaults,
    seed: int,
    fault_noted: Callable[[str, str, int], None] = lambda _kind, _cow_id, _timestamp_ms: None,
) -> Iterator[Transmission]:
    """Readings as they go over the wire, in order of `send_ms`.

    `fault_noted` hears every fault as ("drop" | "duplicate" | "late", cow_id, timestamp_ms).
    The heap of late readings is bounded by LATE_MAX minutes of the herd.
    """
    rngs: dict[str, np.random.Generator] = {}
    held: list[tuple[int, int, str, bytes]] = []
    for timestamp_ms, cow_id, reading in readings:
        while held and held[0][0] <= timestamp_ms:
            yield Transmission(*heapq.heappop(held))
        rng = rngs.get(cow_id)
        if rng is None:
            rng = rngs[cow_id] = np.random.default_rng([seed, crc32(cow_id.encode()), _FAULT_STREAM])
        lost, twice, late, wait = rng.random(4).tolist()
        payload = encode(reading)
        if lost < faults.drop:
            fault_noted("drop", cow_id, timestamp_ms)
            continue
        copies = 1
        if twice < faults.duplicate:
            fault_noted("duplicate", cow_id, timestamp_ms)
            copies = 2
        send_ms = timestamp_ms
        if late < faults.late:
            fault_noted("late", cow_id, timestamp_ms)
            send_ms += MINUTE_MS * (LATE_MIN + int(wait * (LATE_MAX - LATE_MIN + 1)))
        for _ in range(copies):
            if send_ms == timestamp_ms:
                yield Transmission(send_ms, timestamp_ms, cow_id, payload)
            else:
                heapq.heappush(held, (send_ms, timestamp_ms, cow_id, payload))
    while held:
        yield Transmission(*heapq.heappop(held))
