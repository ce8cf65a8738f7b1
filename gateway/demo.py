"""`run --demo`: a private gateway on a faster clock, and a simulated herd as a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import Config
from gateway.drivers.clock import ScaledClock

FOLDER: Final = Path("data/demo")
SPEED: Final = 60
PAST_H: Final = 6
"""It starts six barn hours ago, a barn hour a minute: caught up with today after six minutes."""


def demo_config(config: Config) -> Config:
    """The same gateway on a store of its own, made anew: an old fever's cooldown would hide the next."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    replace = msgspec.structs.replace
    return replace(
        config,
        database=replace(config.database, path=str(FOLDER / "alert_state.db")),
        store=replace(config.store, farm_register=str(FOLDER / "farm.json")),
        logging=replace(config.logging, log_file=str(FOLDER / "realtime_service.log")),
    )


def demo_clock() -> ScaledClock:
    """Barn time, fast until it has caught up with today."""
    return ScaledClock(int((time.time() - PAST_H * 3600) * 1000), SPEED)


@contextmanager
def simulated_herd(port: int, start_ms: int) -> Iterator[None]:
    """`barn-sim` for as long as the block runs; the wire format is the only bond."""
    start = datetime.fromtimestamp(start_ms / 1000, UTC).isoformat()
    command = [sys.executable, "-m", "sensor_sim", "--port", str(port), "--scenario", "demo", "--quiet"]
    herd = subprocess.Popen(
        [*command, "--speed", str(SPEED), "--start", start, "--duration", "forever"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # Ctrl+C is the gateway's to handle
    )
    try:
        yield
    finally:
        herd.terminate()
        herd.wait(timeout=10)
