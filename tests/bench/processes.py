"""What the parts of the benchmark share: ports, a load, CPU and memory of a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_mb(pid: int) -> float:
    """Its resident memory."""
    return memory_mb("VmRSS", pid)


def memory_mb(field: str, pid: int | None = None) -> float:
    """A line of /proc/PID/status, by default of this process: VmRSS (now), VmHWM (the peak)."""
    for line in Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"/proc/{pid or 'self'}/status has no {field}")


def load(port: int, connections: int, count: int, in_flight: int) -> dict[str, float]:
    """One run of tests/bench/load.py."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", *map(str, (port, connections, count, in_flight))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return dict(json.loads(done.stdout))
