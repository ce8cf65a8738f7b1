"""Document 0's rules for one neck-sensor message (S0-051…062, decisions 7–9). Pure.

A valid message costs one msgspec decode. Anything else is read again slowly, in the
documented order, so that the log line names the first thing that is wrong.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Final

import msgspec

from gateway.core.instants import DAY_MS, HOUR_MS
from gateway.core.messages import RawMessage, Reason, Rejection
from gateway.core.readings import FLAG_CLOCK_AHEAD, FLAG_CLOCK_UNTRUSTED, Reading

TEMPERATURE_C_MIN: Final = 35.0
TEMPERATURE_C_MAX: Final = 42.0
"""Body temperature limits, inclusive (S0-055)."""
ACCELERATION_G_MAX: Final = 2.0
"""Limit of |fxa|, |mya|, |rza|, inclusive (S0-056)."""
GYRO_DPS_MAX: Final = 2000.0
"""Full scale of the widest MEMS gyro range in collars; beyond it the field is dropped (decision 9)."""
MOTION_INTENSITY_MAX: Final = 100.0
"""A collar's own motion figure is 0–100 by any convention seen; beyond it the field is dropped."""
STATES: Final = frozenset({"lying", "standing", "walking", "feeding", "ruminating"})
"""S0-058, and rumination where a collar sends it (decision 2)."""
TIMESTAMP_MS_MIN: Final = 946_684_800_000
"""2000-01-01T00:00:00Z, the earliest instant accepted (decision 7)."""
FUTURE_REJECT_MS: Final = DAY_MS
FUTURE_FLAG_MS: Final = 5 * 60_000
"""Ahead of a trusted clock: rejected beyond 24 h, flagged beyond 5 min (decision 7)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
COW_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What an animal may be called (decision 9); with `fullmatch`."""
_REQUIRED = ("cow_id", "timestamp", "temperature", "fxa", "mya", "rza")
_AXES = ("fxa", "mya", "rza")
_GYRO = ("sxg", "lyg", "dzg")

_Temperature = Annotated[float, msgspec.Meta(ge=TEMPERATURE_C_MIN, le=TEMPERATURE_C_MAX)]
_Acceleration = Annotated[float, msgspec.Meta(ge=-ACCELERATION_G_MAX, le=ACCELERATION_G_MAX)]
_Rate = Annotated[float, msgspec.Meta(ge=-GYRO_DPS_MAX, le=GYRO_DPS_MAX)]
_Intensity = Annotated[float, msgspec.Meta(ge=0.0, le=MOTION_INTENSITY_MAX)]


class _Wire(msgspec.Struct, gc=False):
    """The message as a healthy collar sends it."""

    cow_id: str
    timestamp: str
    temperature: _Temperature
    fxa: _Acceleration
    mya: _Acceleration
    rza: _Acceleration
    sxg: _Rate | None = None
    lyg: _Rate | None = None
    dzg: _Rate | None = None
    state: str | None = None
    motion_intensity: _Intensity | None = None


_decode = msgspec.json.Decoder(_Wire).decode


class Rules(msgspec.Struct, frozen=True):
    """What validation needs to know of the site.

    Args:
        timezone: zone of a naive timestamp (`site.timezone`, default UTC).
    """

    timezone: tzinfo = UTC


class Trimmed(msgspec.Struct, frozen=True):
    """A reading that is kept although optional fields had to be dropped."""

    reading: Reading
    warning: str


class _FaultError(Exception):
    """Carries a rejection out of the slow path; never leaves this module."""

    def __init__(
        self, reason: Reason, text: str, temperature_c: float | None = None, timestamp_ms: int | None = None
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.temperature_c = temperature_c
        self.timestamp_ms = timestamp_ms


def parse(message: RawMessage, rules: Rules, *, clock_trusted: bool) -> Reading | Trimmed | Rejection:
    """Turn one publish on a sensor row into a reading, or say why not.

    The topic's last level is the animal. Bounds are inclusive. Never raises.
    """
    expected = message.topic.rpartition("/")[2]
    try:
        wire = _decode(message.payload)
        cow_id = wire.cow_id
        timestamp_ms = _timestamp_ms(wire.timestamp, rules.timezone)
    except (msgspec.DecodeError, ValueError, RecursionError, _FaultError):
        return _parse_slowly(message, expected, rules, clock_trusted=clock_trusted)
    ahead_ms = timestamp_ms - message.received_ms
    if (
        cow_id != expected
        or COW_ID.fullmatch(cow_id) is None
        or timestamp_ms < TIMESTAMP_MS_MIN
        or ahead_ms > FUTURE_FLAG_MS
        or not clock_trusted
        or (wire.state is not None and wire.state not in STATES)
    ):
        return _parse_slowly(message, expected, rules, clock_trusted=clock_trusted)
    return Reading(
        cow_id,
        timestamp_ms,
        wire.temperature,
        wire.fxa,
        wire.mya,
        wire.rza,
        wire.sxg,
        wire.lyg,
        wire.dzg,
        wire.state,
        wire.motion_intensity,
        message.received_ms,
        message.received_s,
    )


def one_too_many(cow_id: str, limit: int) -> Rejection:
    """The refusal of an animal beyond the bound on ghost ids (decision 9)."""
    text = (
        f"Too many animals: cow_id={cow_id} would be number {limit + 1} "
        f"(limit {limit}; check for collars that invent ids)"
    )
    return Rejection(Reason.TOO_MANY_ANIMALS, text)


def _timestamp_ms(text: str, timezone: tzinfo) -> int:
    """ISO 8601 date and time → UTC epoch ms; a naive one is in the site's zone (S0-054)."""
    if len(text) < len("20000101T00"):
        raise ValueError(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone)
    return (moment - _EPOCH) // _MILLISECOND


def _parse_slowly(
    message: RawMessage, expected: str, rules: Rules, *, clock_trusted: bool
) -> Reading | Trimmed | Rejection:
    label = _shown(expected)
    try:
        fields = _json_object(message.payload)
        if isinstance(fields.get("cow_id"), str):
            label = _shown(fields["cow_id"])
        reading, dropped = _check(fields, label, expected, message, rules, clock_trusted=clock_trusted)
    except _FaultError as fault:
        known = label if COW_ID.fullmatch(label) and label == expected else None
        return Rejection(fault.reason, fault.text, known, fault.temperature_c, fault.timestamp_ms)
    if dropped:
        return Trimmed(reading, f"Dropped optional fields for cow_id={label}: {', '.join(dropped)}")
    return reading


def _json_object(payload: bytes) -> dict[str, object]:
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _FaultError(
            Reason.NOT_UTF8, f"Payload is not UTF-8 text: byte {error.start} of {len(payload)}"
        ) from None
    try:
        # The standard parser here: it reads NaN, so that the fault can be named by its field.
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _FaultError(Reason.NOT_JSON_OBJECT, f"Payload is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise _FaultError(
            Reason.NOT_JSON_OBJECT, f"Payload is not a JSON object but a {type(fields).__name__}"
        )
    return fields


def _check(
    fields: dict[str, object],
    label: str,
    expected: str,
    message: RawMessage,
    rules: Rules,
    *,
    clock_trusted: bool,
) -> tuple[Reading, list[str]]:
    """Every rule in document 0's order; the first broken one is raised."""
    missing = [name for name in _REQUIRED if fields.get(name) is None]
    if missing:
        raise _FaultError(
            Reason.MISSING_FIELD, f"Missing required fields for cow_id={label}: {', '.join(missing)}"
        )
    cow_id = fields["cow_id"]
    if not isinstance(cow_id, str) or COW_ID.fullmatch(cow_id) is None:
        raise _FaultError(
            Reason.BAD_COW_ID, f"Invalid cow_id {label}: must be 1-64 letters, digits or one of _ . : -"
        )
    if cow_id != expected:
        raise _FaultError(
            Reason.COW_ID_NOT_TOPIC,
            f"cow_id={label} does not match its topic {_shown(message.topic)}: "
            "the topic's last level must be the cow_id",
        )
    timestamp_ms, flags = _check_timestamp(
        fields["timestamp"], label, message, rules, clock_trusted=clock_trusted
    )
    temperature = _number(fields["temperature"], "temperature", label)
    if not TEMPERATURE_C_MIN <= temperature <= TEMPERATURE_C_MAX:
        raise _FaultError(
            Reason.TEMPERATURE_OUT_OF_RANGE,
            f"Temperature out of range for cow_id={label}: {temperature}°C "
            f"(valid range: {TEMPERATURE_C_MIN}-{TEMPERATURE_C_MAX}°C)",
            temperature,
            timestamp_ms,
        )
    axes = {axis: _number(fields[axis], axis, label) for axis in _AXES}
    for axis, value in axes.items():
        if not -ACCELERATION_G_MAX <= value <= ACCELERATION_G_MAX:
            raise _FaultError(
                Reason.ACCELERATION_OUT_OF_RANGE,
                f"Acceleration out of range for cow_id={label}: {axis}={value}g "
                f"(valid range: {-ACCELERATION_G_MAX}-{ACCELERATION_G_MAX}g)",
                timestamp_ms=timestamp_ms,
            )
    dropped: list[str] = []
    rates = {name: _optional(fields, name, -GYRO_DPS_MAX, GYRO_DPS_MAX, dropped) for name in _GYRO}
    intensity = _optional(fields, "motion_intensity", 0.0, MOTION_INTENSITY_MAX, dropped)
    state = _state(fields, dropped)
    reading = Reading(
        cow_id,
        timestamp_ms,
        temperature,
        fxa_g=axes["fxa"],
        mya_g=axes["mya"],
        rza_g=axes["rza"],
        sxg_dps=rates["sxg"],
        lyg_dps=rates["lyg"],
        dzg_dps=rates["dzg"],
        state=state,
        motion_intensity=intensity,
        received_ms=message.received_ms,
        received_s=message.received_s,
        flags=flags,
    )
    return reading, dropped


def _check_timestamp(
    value: object, label: str, message: RawMessage, rules: Rules, *, clock_trusted: bool
) -> tuple[int, int]:
    """Instant in UTC epoch ms, and the flags of decision 7."""
    try:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY301, TRY004 - one refusal for every way to be no instant
        timestamp_ms = _timestamp_ms(value, rules.timezone)
    except (ValueError, OverflowError):
        raise _FaultError(
            Reason.BAD_TIMESTAMP,
            f"Invalid timestamp for cow_id={label}: {_shown(value)} "
            "(expected ISO 8601 date and time, e.g. 2025-11-19T14:30:00Z)",
        ) from None
    if timestamp_ms < TIMESTAMP_MS_MIN:
        raise _FaultError(
            Reason.TIMESTAMP_TOO_OLD,
            f"Timestamp too old for cow_id={label}: {_shown(value)} "
            "(earliest accepted: 2000-01-01T00:00:00Z)",
        )
    if not clock_trusted:
        return timestamp_ms, FLAG_CLOCK_UNTRUSTED
    ahead_ms = timestamp_ms - message.received_ms
    if ahead_ms > FUTURE_REJECT_MS:
        raise _FaultError(
            Reason.TIMESTAMP_IN_FUTURE,
            f"Timestamp in the future for cow_id={label}: {_shown(value)} is "
            f"{ahead_ms / HOUR_MS:.1f} h ahead of the gateway's clock (limit 24 h; set the collar's clock)",
            timestamp_ms=timestamp_ms,
        )
    return timestamp_ms, FLAG_CLOCK_AHEAD if ahead_ms > FUTURE_FLAG_MS else 0


def _finite(value: object) -> float | None:
    """A JSON number as float; booleans, strings, NaN and infinities are no numbers (decision 9)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(value: object, name: str, label: str) -> float:
    number = _finite(value)
    if number is None:
        raise _FaultError(
            Reason.BAD_TYPE, f"Invalid {name} for cow_id={label}: {_shown(value)} is not a finite number"
        )
    return number


def _optional(
    fields: dict[str, object], name: str, low: float, high: float, dropped: list[str]
) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    number = _finite(value)
    if number is None or not low <= number <= high:
        dropped.append(f"{name}={_shown(value)}")
        return None
    return number


def _state(fields: dict[str, object], dropped: list[str]) -> str | None:
    value = fields.get("state")
    if value is None or (isinstance(value, str) and value in STATES):
        return value
    dropped.append(f"state={_shown(value)}")
    return None


def _shown(value: object) -> str:
    """A foreign value as it may stand in a log line: printable, one line, at most 80 characters."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'JSON object'}"
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 80 else text[:77] + "..."
