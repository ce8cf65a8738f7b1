"""`barn-gateway check`: every fault and warning of a configuration file at once. Main thread."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from gateway.config import read
from gateway.errors import ConfigError


def check(
    path: Path | str,
    environ: Mapping[str, str] | None = None,
    jobs_without_detectors: tuple[str, ...] = (),
) -> tuple[list[str], list[str]]:
    """Faults and warnings of a file, one line each, in the order of the file."""
    try:
        loaded = read(path, environ, jobs_without_detectors)
    except ConfigError as error:
        return list(error.faults), []
    return [str(fault) for fault in loaded.faults], [str(note) for note in loaded.notes]


def run_check(
    path: Path | str,
    environ: Mapping[str, str] | None = None,
    jobs_without_detectors: tuple[str, ...] = (),
    out: TextIO | None = None,
) -> int:
    """Print them all; the exit code is 0 when the gateway would start, 1 otherwise."""
    out = out or sys.stdout
    faults, warnings = check(path, environ, jobs_without_detectors)
    for line in faults:
        print(f"fault: {line}", file=out)
    for line in warnings:
        print(f"warning: {line}", file=out)
    if faults:
        print(f"{path}: {len(faults)} fault{'s' * (len(faults) > 1)}; the gateway would not start", file=out)
        return ConfigError.exit_code
    print(f"{path}: ok, {len(warnings)} warning{'s' * (len(warnings) != 1)}", file=out)
    return 0
