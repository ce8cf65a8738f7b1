"""What a rejected message says about its animal's sensor (decisions 4, 7, 10). Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.instants import MS_PER_MINUTE
from gateway.core.messages import Reason, Rejection
from gateway.core.validation import COW_ID, FUTURE_REJECT_MS, TEMPERATURE_C_MAX, TIMESTAMP_MS_MIN

HOT_C_MAX: Final = 44.0
"""Refused temperatures above 42.0 and up to 44.0 °C may be a fever (decision 4)."""
_SENSOR_FAULTS: Final = frozenset(
    {
        Reason.MISSING_FIELD,
        Reason.BAD_TYPE,
        Reason.TEMPERATURE_OUT_OF_RANGE,
        Reason.ACCELERATION_OUT_OF_RANGE,
    }
)
_CLOCK_FAULTS: Final = frozenset({Reason.BAD_TIMESTAMP, Reason.TIMESTAMP_TOO_OLD, Reason.TIMESTAMP_IN_FUTURE})


class Refusal(msgspec.Struct, frozen=True):
    """A rejected message as the detectors count it.

    Args:
        cow_id: the animal that was heard.
        minute: data minute (since the epoch), None where its time cannot be believed.
        fault: whether it speaks against the sensor; a wrong clock does not.
        temperature_c: the value refused, °C, if it was the temperature.
        hot: whether that value may be a fever.
    """

    cow_id: str
    minute: int | None
    fault: bool
    temperature_c: float | None
    hot: bool


def weigh(rejection: Rejection, now_minute: int) -> Refusal | None:
    """What a rejection counts for; None if it says nothing about an animal.

    Args:
        rejection: as validation gave it.
        now_minute: the gateway's minute; a time from 2000 to 24 h ahead of it is believed.
    """
    if rejection.cow_id is None or not COW_ID.fullmatch(rejection.cow_id):
        return None
    fault = rejection.reason in _SENSOR_FAULTS
    if not fault and rejection.reason not in _CLOCK_FAULTS:
        return None
    minute = None if rejection.timestamp_ms is None else rejection.timestamp_ms // MS_PER_MINUTE
    latest = now_minute + FUTURE_REJECT_MS // MS_PER_MINUTE
    if minute is not None and not TIMESTAMP_MS_MIN // MS_PER_MINUTE <= minute <= latest:
        minute = None
    wrong_temperature = rejection.reason is Reason.TEMPERATURE_OUT_OF_RANGE
    temperature_c = rejection.temperature_c if wrong_temperature else None
    hot = temperature_c is not None and TEMPERATURE_C_MAX < temperature_c <= HOT_C_MAX
    return Refusal(rejection.cow_id, minute, fault, temperature_c, hot)
