"""Silence: an animal nobody hears, judged on arrival time (decision 6).

Pure; runs once per detector run in the worker thread. Data time plays no part in the judgement, it
only dates the finding: the gap begins at the last reading and is as long as the wait for the next.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.arrivals import ARRIVALS_MIN
from gateway.core.baselines import Baselines
from gateway.core.detectors.wording import lasting, moment
from gateway.core.findings import Evidence, Finding
from gateway.core.herd import HerdWindow
from gateway.core.severity import Severity

KIND = "silence"
HERD_KIND = "silence_herd"

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


class SilencePolicy(msgspec.Struct, frozen=True):
    """Thresholds; decision 6.

    Args:
        arrivals_min: arrivals since boot before an animal is judged.
        gap_s: seconds without a message that make a sensor gap (info).
        interval_factor: the same in units of the learned reporting interval; three in a row
            lost, whichever is longer.
        missing_s: seconds that make a missing animal (warning).
        herd_share: share of the herd silent at once that is a fault of gateway or network.
        herd_min_n: animals below which there is no herd to speak of.
        forgotten_s: an animal silent for longer no longer counts as herd (sold, collar off): a
            barn that loses its collars one by one is no outage.
    """

    arrivals_min: int = ARRIVALS_MIN
    gap_s: float = 600.0
    interval_factor: float = 3.0
    missing_s: float = 3600.0
    herd_share: float = 0.5
    herd_min_n: int = 3
    forgotten_s: float = 86_400.0


def detect(window: HerdWindow, baselines: Baselines, policy: SilencePolicy) -> list[Finding]:
    """Open gaps, gaps that closed since the last look, and a normal judgement of whoever was heard.

    The normal judgement is said at every look and not only on return: after a restart nobody knows
    any more who was missing, and a collar that empties its memory first speaks of the past.
    """
    del baselines  # the usual interval is learned from arrivals
    arrivals = window.arrivals
    interval_s = np.nan_to_num(arrivals.interval_s, nan=0.0)
    bound_s = np.maximum(policy.gap_s, policy.interval_factor * interval_s)
    quiet_s = np.nan_to_num(arrivals.now_s - arrivals.last_s, nan=0.0)
    judged = arrivals.n >= policy.arrivals_min
    silent = judged & (quiet_s > bound_s)
    closed_s = np.nan_to_num(arrivals.gap_to_s - arrivals.gap_from_s, nan=0.0)
    closed = judged & arrivals.gap_new & (closed_s > bound_s)
    herd = judged & (quiet_s <= policy.forgotten_s)
    herd_n, herd_silent_n = int(herd.sum()), int((silent & herd).sum())
    is_herd = herd_n >= policy.herd_min_n
    herd_down = is_herd and herd_silent_n >= policy.herd_share * herd_n
    with_herd = _gaps_of_the_herd(window, policy, herd, silent, closed)
    findings: list[Finding] = []
    if herd_down:
        findings.append(_herd_silent(window, herd & silent, herd_n, quiet_s))
    elif is_herd and bool((arrivals.heard & herd).any()):
        findings.append(_herd_normal(window, arrivals.heard & herd, herd_silent_n, herd_n))
    for i in range(len(window.animals)):
        if silent[i] and not herd_down:
            findings.append(_gap(window, policy, i, float(quiet_s[i]), float(bound_s[i])))
        elif closed[i] and not with_herd[i]:
            findings.append(_closed(window, policy, i, float(closed_s[i]), float(bound_s[i])))
        if arrivals.heard[i] and not silent[i]:
            findings.append(_speaks(window, i))
    return findings


def _gaps_of_the_herd(
    window: HerdWindow, policy: SilencePolicy, herd: Bools, silent: Bools, closed: Bools
) -> Bools:
    """Which closed gaps were part of an outage of the herd: half of it was silent in their middle."""
    arrivals = window.arrivals
    result = np.zeros(len(herd), np.bool_)
    herd_n = int(herd.sum())
    if herd_n < policy.herd_min_n:
        return result
    for i in np.flatnonzero(closed).tolist():
        middle_s = (arrivals.gap_from_s[i] + arrivals.gap_to_s[i]) / 2
        within = (arrivals.gap_from_s < middle_s) & (middle_s < arrivals.gap_to_s)
        within |= silent & (arrivals.last_s < middle_s)
        result[i] = (within & herd).sum() >= policy.herd_share * herd_n
    return result


def _gap(window: HerdWindow, policy: SilencePolicy, i: int, quiet_s: float, bound_s: float) -> Finding:
    onset_ms = int(window.arrivals.last_ms[i])
    missing = quiet_s >= max(policy.missing_s, bound_s)
    word = "missing animal" if missing else "sensor gap"
    return _finding(
        window,
        i,
        onset_ms=onset_ms,
        gap_s=quiet_s,
        bound_s=bound_s,
        missing=missing,
        sentence=(
            f"{window.animals[i]}: {word}, nothing heard for {lasting(quiet_s / 60)}, "
            f"last reading {moment(onset_ms)}; {_rhythm(window, i)}"
        ),
    )


def _closed(window: HerdWindow, policy: SilencePolicy, i: int, gap_s: float, bound_s: float) -> Finding:
    onset_ms = int(window.arrivals.gap_from_ms[i])
    missing = gap_s >= max(policy.missing_s, bound_s)
    return _finding(
        window,
        i,
        onset_ms=onset_ms,
        gap_s=gap_s,
        bound_s=bound_s,
        missing=missing,
        ended=True,
        sentence=(
            f"{window.animals[i]}: nothing was heard for {lasting(gap_s / 60)} after {moment(onset_ms)}, "
            f"it reports again; {_rhythm(window, i)}"
        ),
    )


def _rhythm(window: HerdWindow, i: int) -> str:
    interval_s = float(window.arrivals.interval_s[i])
    if np.isnan(interval_s):
        return "its usual interval is not known yet"
    return f"it usually reports every {interval_s:.0f} s"


def _finding(
    window: HerdWindow,
    i: int,
    *,
    onset_ms: int,
    gap_s: float,
    bound_s: float,
    missing: bool,
    sentence: str,
    ended: bool = False,
) -> Finding:
    interval_s = float(window.arrivals.interval_s[i])
    known = not np.isnan(interval_s)
    confidence = min(0.95, 0.5 + 0.1 * gap_s / bound_s + (0.1 if known else 0.0))
    return Finding(
        subject=window.animals[i],
        kind=KIND,
        present=True,
        severity=Severity.WARNING if missing else Severity.INFO,
        at_ms=onset_ms + round(gap_s * 1000),
        onset_ms=onset_ms,
        confidence=round(confidence, 2),
        sentence=f"{sentence}; confidence {confidence:.1f}",
        evidence=Evidence(
            value=round(gap_s / 60, 1),
            unit="min",
            baseline=round(interval_s / 60, 2) if known else None,
            deviation=round((gap_s - interval_s) / 60, 1) if known else None,
            duration_min=round(gap_s / 60, 1),
            reference_n=int(window.arrivals.n[i]),
            herd="herd heard",
            quality=0.0,
        ),
        detail="missing_animal" if missing else "sensor_gap",
        ended=ended,
    )


def _speaks(window: HerdWindow, i: int) -> Finding:
    arrivals = window.arrivals
    at_ms = int(arrivals.last_ms[i])
    if arrivals.gap_new[i]:  # a backlog speaks of the past, but it was heard after the gap
        gap_ms = round(float(arrivals.gap_to_s[i] - arrivals.gap_from_s[i]) * 1000)
        at_ms = max(at_ms, int(arrivals.gap_from_ms[i]) + gap_ms)
    return Finding(
        subject=window.animals[i],
        kind=KIND,
        present=False,
        severity=Severity.INFO,
        at_ms=at_ms,
        onset_ms=at_ms,
        confidence=1.0,
        sentence=f"{window.animals[i]}: heard, newest reading {moment(int(arrivals.last_ms[i]))}",
        evidence=Evidence(herd="herd heard", reference_n=int(arrivals.n[i])),
    )


def _herd_silent(window: HerdWindow, silent: Bools, herd_n: int, quiet_s: Float64) -> Finding:
    silent_n = int(silent.sum())
    longest_s = float(np.median(quiet_s[silent]))
    onset_ms = int(window.arrivals.last_ms[silent].max())
    return Finding(
        subject="herd",
        kind=HERD_KIND,
        present=True,
        severity=Severity.WARNING,
        at_ms=onset_ms + round(float(quiet_s[silent].min()) * 1000),
        onset_ms=onset_ms,
        confidence=round(min(0.95, 0.5 + 0.45 * silent_n / herd_n), 2),
        sentence=(
            f"{silent_n} of {herd_n} animals have not been heard for {lasting(longest_s / 60)}: "
            "check base station, network and gateway before looking for cows"
        ),
        evidence=Evidence(
            value=float(silent_n),
            unit="animals",
            baseline=0.0,
            deviation=float(silent_n),
            duration_min=round(longest_s / 60, 1),
            reference_n=herd_n,
            herd=f"{silent_n} of {herd_n} silent",
            quality=round(1 - silent_n / herd_n, 2),
        ),
        detail="gateway_fault",
    )


def _herd_normal(window: HerdWindow, heard: Bools, silent_n: int, herd_n: int) -> Finding:
    at_ms = int(window.arrivals.last_ms[heard].max())
    return Finding(
        subject="herd",
        kind=HERD_KIND,
        present=False,
        severity=Severity.INFO,
        at_ms=at_ms,
        onset_ms=at_ms,
        confidence=1.0,
        sentence=f"{herd_n - silent_n} of {herd_n} animals are heard",
    )
