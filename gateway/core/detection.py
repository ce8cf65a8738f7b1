"""Which detectors there are, which job runs them, and what one finding means for the others.

Pure; services/detect calls it in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from gateway.core.baselines import Baselines
from gateway.core.detectors import fever, malfunction, silence
from gateway.core.detectors.fever import FeverPolicy
from gateway.core.detectors.malfunction import MalfunctionPolicy
from gateway.core.detectors.silence import SilencePolicy
from gateway.core.findings import Finding
from gateway.core.herd import HerdWindow


class Policies(msgspec.Struct, frozen=True):
    """The thresholds of every detector; one field each, named like the detector."""

    malfunction: MalfunctionPolicy = MalfunctionPolicy()
    fever: FeverPolicy = FeverPolicy()
    silence: SilencePolicy = SilencePolicy()


class Detector(msgspec.Struct, frozen=True):
    """One pure function and when it runs.

    Args:
        name: also the field of `Policies` that holds its thresholds.
        kinds: the kinds of finding it may answer.
        job: the configuration's entry under `detector_schedules` that runs it.
        basis: "data" = once for every step of data time; "arrival" = once per run.
        detect: (window, baselines, its policy) → findings.
    """

    name: str
    kinds: tuple[str, ...]
    job: str
    basis: Literal["data", "arrival"]
    detect: Callable[[HerdWindow, Baselines, Any], list[Finding]]


IMMEDIATE = "immediate_detection"

DETECTORS: tuple[Detector, ...] = (
    # Malfunction first: it gates the others channel by channel.
    Detector("malfunction", (malfunction.KIND,), IMMEDIATE, "data", malfunction.detect),
    Detector("fever", (fever.KIND,), IMMEDIATE, "data", fever.detect),
    Detector("silence", (silence.KIND, silence.HERD_KIND), IMMEDIATE, "arrival", silence.detect),
)

JOBS: tuple[str, ...] = (IMMEDIATE, "inactivity_detection", "health_scoring", "estrus_detection")
"""The entries `detector_schedules` may hold (S0-037 to S0-040)."""


def detectors_of(job: str) -> tuple[Detector, ...]:
    """The detectors of one entry; empty for one whose detectors are not there yet."""
    return tuple(detector for detector in DETECTORS if detector.job == job)


def jobs_without_detectors() -> tuple[str, ...]:
    """Entries that are accepted and have nothing to run yet; `check` and the log name them."""
    return tuple(job for job in JOBS if not detectors_of(job))


TAINTS = frozenset({fever.KIND})
"""Kinds whose spans stay out of the animal's baselines, beside faults of the temperature."""


def taints_baseline(finding: Finding) -> bool:
    """Whether baselines must not learn from the span of this finding."""
    return finding.present and taints(finding.kind, finding.detail)


def taints(kind: str, detail: str) -> bool:
    """Whether baselines must not learn from an alarm of this kind and sub-kind."""
    return kind in TAINTS or (kind == malfunction.KIND and detail in malfunction.TEMPERATURE_FAULTS)


def gate(window: HerdWindow, findings: Sequence[Finding]) -> HerdWindow:
    """The window as later detectors of the same step may trust it (decision 44).

    A fault of the temperature channel silences what is judged on temperature, for that animal
    only; a fault of the accelerometer touches no temperature.
    """
    faulty = {
        finding.subject
        for finding in findings
        if finding.present
        and finding.kind == malfunction.KIND
        and finding.detail in malfunction.TEMPERATURE_FAULTS
    }
    if not faulty:
        return window
    trusted = window.temperature_trusted & np.array([name not in faulty for name in window.animals])
    return msgspec.structs.replace(window, temperature_trusted=trusted)
