"""One reading of one neck sensor, after validation."""

from __future__ import annotations

import msgspec

from gateway.core.instants import iso_utc

FLAG_CLOCK_AHEAD = 1
"""The collar's clock was 5 min to 24 h ahead of the gateway's (decision 7)."""
FLAG_CLOCK_UNTRUSTED = 2
"""The gateway's own clock was not yet set when the reading arrived (decision 7)."""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """Units are in the names; g is standard gravity, dps degrees per second.

    `timestamp_ms` and `received_ms` are UTC epoch milliseconds. `received_s` is the
    gateway's monotonic clock. Optional values are None when the collar did not send them.
    """

    cow_id: str
    timestamp_ms: int
    temperature_c: float
    fxa_g: float
    mya_g: float
    rza_g: float
    sxg_dps: float | None = None
    lyg_dps: float | None = None
    dzg_dps: float | None = None
    state: str | None = None
    motion_intensity: float | None = None
    received_ms: int = 0
    received_s: float = 0.0
    flags: int = 0


def wire_fields(reading: Reading) -> dict[str, str | float | None]:
    """A reading under the field names it arrived with (S0-052); None = the collar did not send it."""
    return {
        "cow_id": reading.cow_id,
        "timestamp": iso_utc(reading.timestamp_ms),
        "temperature": reading.temperature_c,
        "fxa": reading.fxa_g,
        "mya": reading.mya_g,
        "rza": reading.rza_g,
        "sxg": reading.sxg_dps,
        "lyg": reading.lyg_dps,
        "dzg": reading.dzg_dps,
        "state": reading.state,
        "motion_intensity": reading.motion_intensity,
    }
