"""Fever: an absolute path that speaks on one reading, and the animal's own baseline (decision 4).

Pure; runs in the detectors' worker thread. Never asks for stillness. Does not speak where a
malfunction gates the temperature (decision 44); a fault of the accelerometer gates nothing here.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.baselines import Baselines
from gateway.core.detectors.wording import lasting, moment
from gateway.core.findings import Evidence, Finding
from gateway.core.herd import VIEW_MINUTES, HerdWindow
from gateway.core.instants import MS_PER_MINUTE
from gateway.core.severity import Severity
from gateway.core.statistics import row_last, row_mean

KIND = "fever"
LEVEL_MINUTES = 60
"""An hour's mean: drinking cools a neck or rumen sensor for some 20 min, an hour rides over it."""
LEVEL_MIN_N = 3
"""Readings behind a level; a collar that reports every 15 min has four."""
RING_MIN_N = 12
"""Readings behind the fallback reference out of the window itself."""

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


class FeverPolicy(msgspec.Struct, frozen=True):
    """Thresholds; decision 4 unless another source is named.

    Args:
        absolute_c: °C at or above which one fresh reading alerts.
        again_within_min: data minutes within which a second such reading makes it critical.
        rejected_within_min: data minutes after such a reading in which a rejected value of
            42.0–44.0 °C counts as a second one.
        herd_rise_c: °C the herd's median must have risen to explain a hot animal by the weather.
        herd_min_n: animals below which the herd counts as not risen.
        single_confidence_max: confidence of a single reading.
        normal_c: °C below which a reading is normal again; 0.5 °C of hysteresis, and still above
            the 39.5 °C usually taken as the upper end of normal in adult cattle, which a healthy
            cow passes in the evening or in oestrus.
        warning_rise_c, critical_rise_c: °C of an hour's mean above the own baseline; 1.0 °C is
            twice the circadian amplitude and over 6 σ of a healthy cow's hourly mean.
        residual_c: °C that must remain after the herd's own rise is taken off.
        clear_rise_c: °C below which an hour's mean is normal again.
        persist_min: minutes the rise must have lasted: the hour's mean of that long ago counts too.
    """

    absolute_c: float = 40.5
    again_within_min: int = 10
    rejected_within_min: int = 30
    herd_rise_c: float = 0.5
    herd_min_n: int = 5
    single_confidence_max: float = 0.6
    normal_c: float = 40.0
    warning_rise_c: float = 1.0
    critical_rise_c: float = 1.5
    residual_c: float = 0.7
    clear_rise_c: float = 0.7
    persist_min: int = 30


class _Herd(msgspec.Struct, frozen=True):
    rise_c: float
    phrase: str


class _Scene(msgspec.Struct, frozen=True):
    """What every judgement of one step shares."""

    window: HerdWindow
    baselines: Baselines
    policy: FeverPolicy
    herd: _Herd


def _levels(window: HerdWindow, back_min: int) -> tuple[Float64, npt.NDArray[np.intp]]:
    """Mean of the hour that ended `back_min` before each animal's now; NaN under three readings."""
    end = window.temperature_c.shape[1] - back_min
    mean, n = row_mean(window.temperature_c[:, max(0, end - LEVEL_MINUTES) : end])
    return np.where(n >= LEVEL_MIN_N, mean, np.nan), n


def _herd(window: HerdWindow, rise_c: Float64, policy: FeverPolicy) -> _Herd:
    """How far the herd's median stands above usual.

    Against the own baselines; where an animal has none yet, against the rest of its window (the
    hours before the last one), which sees a sudden rise of all.
    """
    earlier, n = row_mean(window.temperature_c[:, : VIEW_MINUTES - LEVEL_MINUTES])
    level, _ = _levels(window, 0)
    fallback = np.where(n >= RING_MIN_N, level - earlier, np.nan)
    rises = np.where(np.isnan(rise_c), fallback, rise_c)
    rises = rises[window.temperature_trusted & ~np.isnan(rises)]
    if len(rises) < policy.herd_min_n:
        return _Herd(0.0, f"herd unknown ({len(rises)} animals to compare with)")
    rise = float(np.median(rises))
    word = "has risen" if rise >= policy.herd_rise_c else "normal"
    return _Herd(rise, f"herd {word} ({rise:+.1f} °C, {len(rises)} animals)")


def detect(window: HerdWindow, baselines: Baselines, policy: FeverPolicy) -> list[Finding]:
    """Judge every animal with new readings; a normal judgement follows the last hot reading.

    Answers, per animal: nothing (unknown, or between hot and normal), a finding, a normal
    judgement, or a finding and the normal judgement of the readings after it.
    """
    level, _ = _levels(window, 0)
    level_before, _ = _levels(window, policy.persist_min)
    rise = level - baselines.temperature_c
    rise_before = level_before - baselines.temperature_c
    herd = _herd(window, rise, policy)
    scene = _Scene(window, baselines, policy, herd)
    own = (np.minimum(rise, rise_before) >= policy.warning_rise_c) & (rise - herd.rise_c >= policy.residual_c)
    hot_grid = window.peak_c >= policy.absolute_c
    is_hot: Bools = np.asarray(hot_grid.any(axis=1), np.bool_)
    is_normal = row_last(window.peak_c) < policy.normal_c
    fresh_n = window.now_minute - window.step_from_minute + 1
    findings: list[Finding] = []
    for i in np.flatnonzero(window.judge & window.temperature_trusted).tolist():
        fresh = max(0, int(fresh_n[i]))
        absolute = None
        rejected_minute = int(window.rejects.hot_minute[i])
        if is_hot[i] and (fresh or rejected_minute >= window.step_from_minute):
            absolute = _absolute(scene, hot_grid[i], i, fresh)
        if own[i]:
            ours = _own(scene, i, (float(level[i]), float(level_before[i])))
            findings.append(absolute if absolute is not None and absolute.severity >= ours.severity else ours)
            continue
        if absolute is not None:
            findings.append(absolute)
        usual = np.isnan(rise[i]) or rise[i] < policy.clear_rise_c
        if usual and fresh and is_normal[i]:
            findings.append(_normal(scene, i))
    return findings


def _absolute(scene: _Scene, hot: Bools, i: int, fresh: int) -> Finding | None:
    """The path of one reading: hot in this step, while the herd has not risen."""
    window, policy, herd = scene.window, scene.policy, scene.herd
    last = hot.size - 1
    hot_columns = np.flatnonzero(hot)
    if not len(hot_columns) or herd.rise_c >= policy.herd_rise_c:
        return None
    newest = int(hot_columns[-1])
    hot_minute = int(window.now_minute[i]) - (last - newest)
    rejected_minute = int(window.rejects.hot_minute[i])
    rejected = (
        rejected_minute >= window.step_from_minute
        and 0 <= rejected_minute - hot_minute <= policy.rejected_within_min
    )
    if newest <= last - fresh and not rejected:
        return None
    pair = hot_columns[(hot_columns < newest) & (hot_columns >= newest - policy.again_within_min)]
    value = float(window.peak_c[i, newest])
    at_ms = int(window.now_ms[i]) if newest == last else hot_minute * MS_PER_MINUTE
    onset_ms = (hot_minute - (newest - int(pair[0]) if len(pair) else 0)) * MS_PER_MINUTE
    again = len(pair) > 0 or rejected
    if rejected:
        seen = f"and a rejected {window.rejects.hot_c[i]:.1f} °C after it"
        at_ms = rejected_minute * MS_PER_MINUTE
        detail = "rejected_reading"
    elif again:
        minutes = (at_ms - onset_ms) / MS_PER_MINUTE
        seen = f"{len(pair) + 1} readings of {policy.absolute_c:.1f} °C or more in {lasting(minutes)}"
        detail = "repeated_reading"
    else:
        seen, detail = "one reading", "single_reading"
        onset_ms = at_ms
    confidence = min(0.95, 0.75 + 0.05 * len(pair)) if again else policy.single_confidence_max
    return _finding(
        scene,
        i,
        severity=Severity.CRITICAL if again else Severity.WARNING,
        at_ms=at_ms,
        onset_ms=onset_ms,
        confidence=confidence,
        value=value,
        what=f"{value:.1f} °C at {moment(at_ms)}, {seen}",
        detail=detail,
    )


def _own(scene: _Scene, i: int, levels_c: tuple[float, float]) -> Finding:
    """The path of the own baseline: an hour's mean well above usual, now and half an hour ago."""
    window, baselines, policy, herd = scene.window, scene.baselines, scene.policy, scene.herd
    baseline = float(baselines.temperature_c[i])
    persistent = min(levels_c)
    critical = persistent - baseline >= policy.critical_rise_c or persistent >= policy.absolute_c
    deviation = levels_c[0] - baseline
    at_ms = int(window.now_ms[i])
    z = (deviation - herd.rise_c) / float(baselines.sigma_c[i])
    return _finding(
        scene,
        i,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        at_ms=at_ms,
        onset_ms=at_ms - (policy.persist_min + LEVEL_MINUTES // 2) * MS_PER_MINUTE,
        confidence=float(min(0.95, max(0.5, 0.5 + 0.06 * (z - 3)))),
        value=levels_c[0],
        what=(
            f"{levels_c[0]:.1f} °C on average over the last hour at {moment(at_ms)}, "
            f"{deviation:+.1f} °C against its own {baseline:.1f} °C at this time of day"
        ),
        detail="above_own_baseline",
    )


def _finding(
    scene: _Scene,
    i: int,
    *,
    severity: Severity,
    at_ms: int,
    onset_ms: int,
    confidence: float,
    value: float,
    what: str,
    detail: str,
) -> Finding:
    window, baselines, herd = scene.window, scene.baselines, scene.herd
    baseline = float(baselines.temperature_c[i])
    known = not np.isnan(baseline)
    # One reading a minute is expected unless the collar has shown a slower rhythm of its own.
    interval_min = float(np.nan_to_num(window.arrivals.interval_s[i], nan=60.0)) / 60.0
    present_n = int(np.count_nonzero(~np.isnan(window.temperature_c[i, -LEVEL_MINUTES:])))
    return Finding(
        subject=window.animals[i],
        kind=KIND,
        present=True,
        severity=severity,
        at_ms=at_ms,
        onset_ms=min(onset_ms, at_ms),
        confidence=round(confidence, 2),
        sentence=f"{window.animals[i]}: {what}; {herd.phrase}; confidence {confidence:.1f}",
        evidence=Evidence(
            value=round(value, 2),
            unit="°C",
            baseline=round(baseline, 2) if known else None,
            deviation=round(value - baseline, 2) if known else None,
            duration_min=(at_ms - onset_ms) / MS_PER_MINUTE,
            reference_n=int(baselines.n[i]) if known else 0,
            herd=herd.phrase,
            quality=round(min(1.0, present_n * max(1.0, interval_min) / LEVEL_MINUTES), 2),
        ),
        detail=detail,
    )


def _normal(scene: _Scene, i: int) -> Finding:
    """The newest reading's normal judgement; the alert law counts them."""
    window, baselines, herd = scene.window, scene.baselines, scene.herd
    baseline = float(baselines.temperature_c[i])
    at_ms = int(window.now_ms[i])
    value = float(window.temperature_c[i, -1])
    known = not math.isnan(baseline)
    return Finding(
        subject=window.animals[i],
        kind=KIND,
        present=False,
        severity=Severity.INFO,
        at_ms=at_ms,
        onset_ms=at_ms,
        confidence=1.0,
        sentence=f"{window.animals[i]}: {value:.1f} °C, normal",
        evidence=Evidence(
            value=value,
            unit="°C",
            baseline=baseline if known else None,
            deviation=value - baseline if known else None,
            reference_n=int(baselines.n[i]),
            herd=herd.phrase,
        ),
    )
