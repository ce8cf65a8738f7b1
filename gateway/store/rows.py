"""A reading as a row of scaled whole numbers, and back. Pure.

Values are scaled integers (temperature and gyro 1/100, acceleration and motion intensity 1/1000), so
a reading costs about 46 bytes in the store; what is read back is the sent value at that resolution.
"""

from __future__ import annotations

from typing import Any

from gateway.core.readings import Reading

SCALED_MAX = 2**53
"""Beyond this a float no longer holds every integer; no sensor means such a value."""
STATE_CODES = {"lying": 1, "standing": 2, "walking": 3, "feeding": 4, "ruminating": 5, "drinking": 6}
"""The rows of table `states`; any other word is stored as it is."""
_WORDS = {code: word for word, code in STATE_CODES.items()}

Row = tuple[Any, ...]
"""In this order: ts_ms, animal, temperature_centi, fxa_milli, mya_milli,
rza_milli, sxg_centi, lyg_centi, dzg_centi, state, motion_milli, received_ms, flags."""


def encode(reading: Reading, animal: int) -> Row:
    """The row of a reading; `animal` is its number."""
    state = reading.state
    return (
        reading.timestamp_ms,
        animal,
        round(reading.temperature_c * 100),
        round(reading.fxa_g * 1000),
        round(reading.mya_g * 1000),
        round(reading.rza_g * 1000),
        _scaled(reading.sxg_dps, 100),
        _scaled(reading.lyg_dps, 100),
        _scaled(reading.dzg_dps, 100),
        None if state is None else STATE_CODES.get(state, state),
        _scaled(reading.motion_intensity, 1000),
        reading.received_ms,
        reading.flags,
    )


def decode(row: Row, cow_id: str) -> Reading:
    """The reading of a row."""
    ts_ms, _, temperature, fxa, mya, rza, sxg, lyg, dzg, state, motion, received_ms, flags = row
    return Reading(
        cow_id=cow_id,
        timestamp_ms=ts_ms,
        temperature_c=temperature / 100,
        fxa_g=fxa / 1000,
        mya_g=mya / 1000,
        rza_g=rza / 1000,
        sxg_dps=None if sxg is None else sxg / 100,
        lyg_dps=None if lyg is None else lyg / 100,
        dzg_dps=None if dzg is None else dzg / 100,
        state=_WORDS.get(state) if isinstance(state, int) else state,
        motion_intensity=None if motion is None else motion / 1000,
        received_ms=received_ms,
        flags=flags,
    )


def _scaled(value: float | None, per_unit: int) -> int | None:
    """An optional value as an integer; one that is too big counts as not sent."""
    # A single absurd number (1e300) must not fail the batch of everybody else.
    if value is None:
        return None
    scaled = value * per_unit
    return round(scaled) if -SCALED_MAX <= scaled <= SCALED_MAX else None
