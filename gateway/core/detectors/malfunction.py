"""Sensor malfunction: a collar whose numbers cannot be a cow's (decisions 10 and 44).

Pure; runs first in the detectors' worker thread, because what it says about the temperature
channel gates the fever detector. It never speaks on one reading.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.baselines import Baselines
from gateway.core.detectors.wording import lasting, moment
from gateway.core.findings import Evidence, Finding
from gateway.core.herd import HerdWindow
from gateway.core.instants import MS_PER_MINUTE
from gateway.core.motion import norm_g
from gateway.core.severity import Severity
from gateway.core.statistics import row_mean, row_median

KIND = "sensor_malfunction"
STUCK = "stuck_accelerometer"
GRAVITY = "gravity_off"
REJECTED_TEMPERATURE = "rejected_temperature"
REJECTED_VALUES = "rejected_values"
FROZEN = "frozen_temperature"
TEMPERATURE_FAULTS = frozenset({FROZEN, REJECTED_TEMPERATURE})
"""Details that gate the temperature channel."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Grid = npt.NDArray[np.float32]


class MalfunctionPolicy(msgspec.Struct, frozen=True):
    """Thresholds.

    Args:
        stuck_n, stuck_min: readings and minutes of one and the same acceleration triple. In 24 h of
            a real heifer at a resolution of 0.01 g the longest run was 3 readings.
        gravity_off_g: how far the median length of the acceleration vector may be from 1 g; the
            heifer's 30-minute medians stayed within 0.95–1.01 g.
        gravity_min, gravity_n: minutes and samples behind that median (decision 44).
        gravity_slow_s: a collar that reports more slowly than this cannot fill it and is not asked.
        rejected_n: refused among the last ten messages; one or two may be a bad line.
        hot_within_min: refused 42.0–44.0 °C this long after a reading of `hot_c` or more speak for
            a fever and not against the sensor (decision 4).
        hot_c: °C.
        frozen_min, frozen_n: minutes and readings of one and the same temperature (to 0.01 °C).
            A living sensor with a noise of only 0.02 °C repeats its last value with a chance of
            about 0.2 a minute, so 60 in a row are out of reach; a sensor that reports in steps of
            0.1 °C may well stay 1 h on one step, but over 3 h the day's course (0.5 °C in 12 h)
            moves it on. It must have moved before: a sender whose temperature never varied (a
            replay with a constant, a collar without a thermometer) is not frozen, it is silent on
            temperature, and says nothing about fever either way.
    """

    stuck_n: int = 10
    stuck_min: int = 10
    gravity_off_g: float = 0.15
    gravity_min: int = 30
    gravity_n: int = 10
    gravity_slow_s: float = 180.0
    rejected_n: int = 3
    hot_within_min: int = 30
    hot_c: float = 40.5
    frozen_min: int = 180
    frozen_n: int = 60


class _Runs(msgspec.Struct, frozen=True):
    """Trailing runs of equal readings: their number and the minutes they span, per animal."""

    n: Ints
    minutes: Ints


def _runs(grids: tuple[Grid, ...], tolerance: float) -> _Runs:
    present = ~np.isnan(grids[0])
    same = present.copy()
    for grid in grids:
        same &= np.abs(grid - grid[:, -1:]) < tolerance
    columns = np.arange(present.shape[1])
    last_break = np.where(present & ~same, columns, -1).max(axis=1, initial=-1)
    in_run = same & (columns > last_break[:, None])
    first = np.where(in_run, columns, present.shape[1] - 1).min(axis=1, initial=present.shape[1] - 1)
    return _Runs(np.count_nonzero(in_run, axis=1), present.shape[1] - 1 - first)


class _Looks(msgspec.Struct, frozen=True):
    """All checks over the herd at once."""

    stuck: _Runs
    gravity_g: Floats
    gravity_n: Ints
    frozen: _Runs
    temperature_rejected_n: Ints
    other_rejected_n: Ints
    is_stuck: Bools
    is_gravity_off: Bools
    is_frozen: Bools


def _look(window: HerdWindow, baselines: Baselines, policy: MalfunctionPolicy) -> _Looks:
    axes = (window.fxa_g, window.mya_g, window.rza_g)
    stuck = _runs(axes, 0.0005)  # half of the store's resolution of 1/1000 g
    recent = tuple(axis[:, -policy.gravity_min :] for axis in axes)
    norms = norm_g(recent[0], recent[1], recent[2])
    gravity = row_median(norms)
    gravity_n = np.count_nonzero(~np.isnan(norms), axis=1)
    frozen = _runs((window.temperature_c,), 0.005)  # half of 1/100 °C
    hot_age = window.now_minute - window.rejects.hot_minute
    hot_window = window.peak_c[:, -(policy.hot_within_min + 1) :] >= policy.hot_c
    feverish = (np.abs(hot_age) <= policy.hot_within_min) & hot_window.any(axis=1)
    hot_n = np.where(feverish, 0, window.rejects.hot_n)
    return _Looks(
        stuck=stuck,
        gravity_g=gravity,
        gravity_n=gravity_n,
        frozen=frozen,
        temperature_rejected_n=(window.rejects.temperature_n + hot_n).astype(np.int64),
        other_rejected_n=window.rejects.other_n.astype(np.int64),
        is_stuck=(stuck.n >= policy.stuck_n) & (stuck.minutes >= policy.stuck_min),
        is_gravity_off=(gravity_n >= policy.gravity_n) & (np.abs(gravity - 1.0) > policy.gravity_off_g),
        is_frozen=(frozen.n >= policy.frozen_n) & (frozen.minutes >= policy.frozen_min) & baselines.varied,
    )


def detect(window: HerdWindow, baselines: Baselines, policy: MalfunctionPolicy) -> list[Finding]:
    """One finding per animal and step, for its worst fault; a normal judgement when all are known.

    Normal needs a triple that moved and a gravity that fits, so a collar that has stopped being
    heard stays faulty: missing is not healthy.
    """
    looks = _look(window, baselines, policy)
    quality, _ = row_mean((~np.isnan(window.fxa_g[:, -60:])).astype(np.float64))
    slow = window.arrivals.interval_s > policy.gravity_slow_s
    moved = (looks.stuck.n >= 1) & (looks.stuck.minutes < window.fxa_g.shape[1] - 1)
    known = moved & ((looks.gravity_n >= policy.gravity_n) | slow)
    several = np.count_nonzero(~np.isnan(window.fxa_g), axis=1) > looks.stuck.n
    findings: list[Finding] = []
    for i in np.flatnonzero(window.judge).tolist():
        fault = _fault(window, looks, policy, i)
        if fault is not None:
            findings.append(_finding(window, fault, i, float(quality[i])))
        elif known[i] and several[i]:
            at_ms = int(window.now_ms[i])
            findings.append(
                Finding(
                    subject=window.animals[i],
                    kind=KIND,
                    present=False,
                    severity=Severity.INFO,
                    at_ms=at_ms,
                    onset_ms=at_ms,
                    confidence=1.0,
                    sentence=f"{window.animals[i]}: sensor plausible",
                )
            )
    return findings


class _Fault(msgspec.Struct, frozen=True):
    detail: str
    what: str
    confidence: float
    minutes: float
    value: float
    unit: str
    usual: float | None = None


def _fault(window: HerdWindow, looks: _Looks, policy: MalfunctionPolicy, i: int) -> _Fault | None:
    """The fault to name: temperature first, because it is the one that gates fever."""
    temperature_n, other_n = int(looks.temperature_rejected_n[i]), int(looks.other_rejected_n[i])
    if temperature_n >= policy.rejected_n:
        return _Fault(
            REJECTED_TEMPERATURE,
            f"{temperature_n} of its last 10 messages had an impossible temperature",
            min(0.95, 0.5 + 0.1 * temperature_n),
            0.0,
            temperature_n,
            "messages",
        )
    if looks.is_frozen[i]:
        n, minutes = int(looks.frozen.n[i]), int(looks.frozen.minutes[i])
        value = float(window.temperature_c[i, -1])
        return _Fault(
            FROZEN,
            f"temperature has been exactly {value:.2f} °C for {lasting(minutes)} ({n} readings)",
            0.9,
            minutes,
            value,
            "°C",
        )
    if looks.is_stuck[i]:
        n, minutes = int(looks.stuck.n[i]), int(looks.stuck.minutes[i])
        axes = ", ".join(f"{axis[i, -1]:.2f}" for axis in (window.fxa_g, window.mya_g, window.rza_g))
        return _Fault(
            STUCK,
            f"accelerometer has shown ({axes}) g unchanged for {lasting(minutes)} ({n} readings)",
            min(0.95, 0.6 + 0.02 * n),
            minutes,
            n,
            "readings",
        )
    if looks.is_gravity_off[i]:
        value, n = float(looks.gravity_g[i]), int(looks.gravity_n[i])
        return _Fault(
            GRAVITY,
            f"accelerometer shows {value:.2f} g instead of 1 g ({policy.gravity_min}-minute median of {n})",
            0.85,
            policy.gravity_min,
            value,
            "g",
            1.0,
        )
    if other_n + temperature_n >= policy.rejected_n:
        return _Fault(
            REJECTED_VALUES,
            f"{other_n + temperature_n} of its last 10 messages had missing or impossible values",
            min(0.95, 0.5 + 0.1 * (other_n + temperature_n)),
            0.0,
            other_n + temperature_n,
            "messages",
        )
    return None


def _finding(window: HerdWindow, fault: _Fault, i: int, quality: float) -> Finding:
    rejects = fault.detail in {REJECTED_TEMPERATURE, REJECTED_VALUES}
    minute = max(int(window.rejects.minute[i]), int(window.now_minute[i]))
    at_ms = minute * MS_PER_MINUTE if rejects else int(window.now_ms[i])
    return Finding(
        subject=window.animals[i],
        kind=KIND,
        present=True,
        severity=Severity.WARNING,
        at_ms=at_ms,
        onset_ms=at_ms - round(fault.minutes * MS_PER_MINUTE),
        confidence=round(fault.confidence, 2),
        sentence=(
            f"{window.animals[i]}: {fault.what} at {moment(at_ms)}; check the collar; "
            f"confidence {fault.confidence:.1f}"
        ),
        evidence=Evidence(
            value=round(fault.value, 3),
            unit=fault.unit,
            baseline=fault.usual,
            deviation=None if fault.usual is None else round(fault.value - fault.usual, 3),
            duration_min=fault.minutes,
            reference_n=round(fault.value) if fault.unit in {"readings", "messages"} else 0,
            herd="judged alone",
            quality=round(quality, 2),
        ),
        detail=fault.detail,
    )
