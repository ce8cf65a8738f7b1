"""A tiny herd for the detector tests: readings by the minute, windows, and one run over them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from gateway.core.detection import DETECTORS, Policies, gate
from gateway.core.findings import Finding
from gateway.core.readings import Reading
from gateway.core.windows import Windows

START = 28_999_980
"""A minute in February 2025, on a full hour."""
assert START % 60 == 0


def reading(
    cow_id: str = "COW_001",
    minute: int = 0,
    temperature_c: float = 38.6,
    axes: tuple[float, float, float] = (0.3, 0.05, -0.95),
    *,
    second: int = 0,
    arrived_s: float | None = None,
    motion: float | None = None,
) -> Reading:
    at = START + minute
    return Reading(
        cow_id=cow_id,
        timestamp_ms=(at * 60 + second) * 1000,
        temperature_c=temperature_c,
        fxa_g=axes[0],
        mya_g=axes[1],
        rza_g=axes[2],
        motion_intensity=motion,
        received_s=minute * 60.0 + second if arrived_s is None else arrived_s,
    )


def living(cow_id: str, minutes: Iterable[int], *, seed: int = 0, rise_c: float = 0.0) -> list[Reading]:
    """A healthy cow: gravity with small moves, a daily course of ± 0.25 °C and sensor noise."""
    rng = np.random.default_rng([seed, *cow_id.encode()])
    made = []
    for minute in minutes:
        day = math.sin(2 * math.pi * (START + minute) / 1440)
        temperature_c = round(38.6 + 0.25 * day + float(rng.normal(0, 0.05)) + rise_c, 2)
        axes = np.round(np.array([0.3, 0.05, -0.95]) + rng.normal(0, 0.03, 3), 2)
        made.append(reading(cow_id, minute, temperature_c, (axes[0], axes[1], axes[2])))
    return made


def judge(
    windows: Windows, *, now_s: float = 0.0, policies: Policies | None = None, step_minutes: int = 2
) -> list[Finding]:
    """What services/detect does with the ring, without threads and store."""
    policies = policies or Policies()
    pending = windows.take_spans()
    findings: list[Finding] = []
    for step in windows.steps(pending.live, step_minutes):
        window = windows.view(pending.live, step, step_minutes, now_s)
        baselines = windows.baselines(window)
        found: list[Finding] = []
        for detector in DETECTORS:
            if detector.basis == "data":
                policy = getattr(policies, detector.name)
                found += detector.detect(gate(window, found), baselines, policy)
        findings += found
    look = windows.look(now_s)
    for detector in DETECTORS:
        if detector.basis == "arrival":
            findings += detector.detect(look, windows.baselines(look), getattr(policies, detector.name))
    return findings


def told(findings: Iterable[Finding], kind: str) -> list[Finding]:
    return [finding for finding in findings if finding.present and finding.kind == kind]


def normal(findings: Iterable[Finding], kind: str) -> list[Finding]:
    return [finding for finding in findings if not finding.present and finding.kind == kind]
