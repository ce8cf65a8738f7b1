"""What the parts of the benchmark share: ports, CPU and memory of a process, a load in its own process."""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from tests.bench.generator import Plan
from tests.conftest import ROOT

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(*pids: int) -> float:
    """CPU seconds these processes have used together."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def rss_mb(*pids: int) -> float:
    """Their resident memory."""
    return sum(memory_mb("VmRSS", pid) for pid in pids)


def memory_mb(field: str, pid: int | None = None) -> float:
    """A line of /proc/PID/status, by default of this process: VmRSS (now), VmHWM (the peak)."""
    for line in Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"/proc/{pid or 'self'}/status has no {field}")


def open_files(pid: int) -> Counter[str]:
    """What a process holds open: files by their path, sockets and the like by their kind."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed since it was listed
            found[str(entry.readlink()).partition("[")[0]] += 1
    return found


def raise_file_limit() -> None:
    """Let this process and those it starts hold as many sockets as the system grants."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Load:
    """A generator process, step by step (tests/bench/generator.py)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, step: str) -> None:
        """Begin a step and do not wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(step + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """What the step begun last has to say."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the load ended with {self._process.wait()}; its reason is on standard error"
        return dict(json.loads(line))

    def step(self, step: str) -> dict[str, float]:
        self.say(step)
        return self.answer()


@contextmanager
def running_load(plan: Plan) -> Iterator[Load]:
    """A generator that is ready; afterwards its connections are closed."""
    command = [sys.executable, "-m", "tests.bench.generator", msgspec.json.encode(plan).decode()]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            load = Load(process)
            load.answer()
            yield load
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=20)
        finally:
            if process.poll() is None:
                process.kill()


def middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def about_load(figures: dict[str, float]) -> str:
    """What a reader must know of the load itself before believing the rest of the line."""
    late = (
        f", its sends late by p99 {figures['lateness_p99_ms']:.1f} ms" if figures["lateness_p99_ms"] else ""
    )
    return f"the load took {figures['cpu_s'] / figures['seconds']:.0%} of a core{late}"


def load(port: int, connections: int, count: int, in_flight: int) -> dict[str, float]:
    """Connect, send everything, close."""
    with running_load(Plan(port, connections, count, in_flight)) as one:
        one.step("connect")
        return one.step("run")
