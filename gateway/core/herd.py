"""The frozen view of the herd a detector looks at, and the spans that wait to be looked at. Pure."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.arrivals import Arrivals, Rejects

VIEW_MINUTES = 240
"""Minutes a detector sees: the longest rule looks at 3 h, with an hour in front of it."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class HerdWindow(msgspec.Struct, frozen=True):
    """What a detector may see of the herd at one step. Arrays are never written to.

    Grids have the shape [animals, minutes]: the last column is each animal's own now (decision 5),
    NaN is missing, and nothing later than that now is in them. A minute with several readings
    shows its last one; `peak_c` shows its hottest.

    Args:
        animals: ids, one a row.
        step_from_minute, step_to_minute: the step judged, both included (minutes since the epoch).
        now_minute: each animal's newest minute not after the step.
        now_ms: the exact instant of that reading (UTC epoch ms).
        judge: animals with new data in this step; the others are herd context only.
        temperature_trusted: False where a malfunction gates the temperature channel (decision 44).
        temperature_c, peak_c: °C.
        fxa_g, mya_g, rza_g, motion_g: g; motion as decision 1 has it.
        rejects: what was refused of the last messages.
        arrivals: when messages came in.
    """

    animals: tuple[str, ...]
    step_from_minute: int
    step_to_minute: int
    now_minute: Int64
    now_ms: Int64
    judge: Bools
    temperature_trusted: Bools
    temperature_c: Floats
    peak_c: Floats
    fxa_g: Floats
    mya_g: Floats
    rza_g: Floats
    motion_g: Floats
    rejects: Rejects
    arrivals: Arrivals


class Span(msgspec.Struct, frozen=True):
    """Minutes of one animal that hold data nobody has judged yet, both included."""

    cow_id: str
    from_minute: int
    to_minute: int


class Pending(msgspec.Struct, frozen=True):
    """What is to be judged: spans the ring covers, and (animal, hour) pairs only the store has."""

    live: tuple[Span, ...] = ()
    late: tuple[tuple[str, int], ...] = ()
