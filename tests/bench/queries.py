"""`python -m tests.bench queries`: questions to a store of 90 days × 200 animals, and what they cost.

Each question runs in a fresh process over a read-only connection, as a reader of the gateway does,
with the file in the page cache. Memory is how far the process' peak rose while it answered. Then
publish → PUBACK of a real gateway on that store is measured alone, and while another process asks
all of the questions again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gateway.store import history
from gateway.store.database import Connection
from gateway.store.opening import open_readonly
from tests.bench.barn_day import START_MS
from tests.bench.processes import free_port, load, memory_mb
from tests.bench.seasons import ANIMALS, DAYS, END_MS, build
from tests.bench.stores import DAY_MS
from tests.conftest import ROOT
from tests.e2e.gateway_process import running_gateway

COW = "COW_101"
CHANNELS = ("temperature_c", "motion_g")
PACKED_MS = START_MS + 40 * DAY_MS
REPEATS = 7
WINDOW_MS = 20
"""The default window of 500 ms would hide what the questions add."""
LOAD = (100, 200, 1)
"""Connections, readings each, in flight each: about 10 s."""
GROWTH_MAX = 2.0
RSS_MB_MAX = 20.0


class Question(NamedTuple):
    """What is asked, and how many milliseconds it may take."""

    text: str
    limit_ms: float
    ask: Callable[[Connection], history.SeriesTable]


QUESTIONS = (
    Question("24 h of one animal, as it came", 20, lambda db: _day(db, [COW], END_MS - DAY_MS)),
    Question("24 h of one animal, packed", 20, lambda db: _day(db, [COW], PACKED_MS)),
    Question("24 h of all animals, as it came", 400, lambda db: _day(db, None, END_MS - DAY_MS)),
    Question("24 h of all animals, packed", 400, lambda db: _day(db, None, PACKED_MS)),
    Question(
        "90 days of one animal at 500 points",
        50,
        lambda db: history.points(db, [COW], START_MS, END_MS, CHANNELS, points_max=500),
    ),
)


def _day(db: Connection, cow_ids: list[str] | None, from_ms: int) -> history.SeriesTable:
    return history.series(db, cow_ids, from_ms, from_ms + DAY_MS, CHANNELS)


def _answer(path: Path, number: int) -> dict[str, float]:
    """Ask one question in this process: first and median time, and how far the peak of memory rose."""
    with open_readonly(path) as db:
        db.execute("SELECT count(*) FROM animals").fetchone()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before_mb = memory_mb("VmRSS")
        took_ms, cpu_ms = [], []
        for _ in range(REPEATS):
            began, cpu_began = time.perf_counter(), time.process_time()
            rows = len(QUESTIONS[number].ask(db).timestamp_ms)
            took_ms.append((time.perf_counter() - began) * 1000)
            cpu_ms.append((time.process_time() - cpu_began) * 1000)
    grown_mb = memory_mb("VmHWM") - before_mb
    return {
        "first_ms": took_ms[0],
        "median_ms": statistics.median(took_ms),
        "cpu_ms": statistics.median(cpu_ms),
        "rows": rows,
        "mb": grown_mb,
    }


def _ask_for_ever(path: Path) -> None:
    with open_readonly(path) as db:
        while True:
            for question in QUESTIONS:
                db.execute("BEGIN")
                question.ask(db)
                db.execute("ROLLBACK")  # one snapshot a question, as in the gateway


def _child(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.queries", *arguments]


@contextmanager
def _asking(path: Path) -> Iterator[None]:
    """Another process that asks everything, over and over."""
    asker = subprocess.Popen(_child("--for-ever", str(path)), cwd=ROOT)
    try:
        yield
        assert asker.poll() is None, "the asking process has ended by itself"
    finally:
        asker.kill()
        asker.wait()


def _ingest_beside(home: Path) -> None:
    """PUBACKs alone and beside the questions, alternating, on the same gateway."""
    quick = {"store": {"commit_window_ms": WINDOW_MS}, "logging": {"level": "ERROR"}}
    with running_gateway(home, free_port(), free_port(), **quick) as gateway:
        alone, beside = [], []
        for _ in range(3):
            alone.append(load(gateway.port, *LOAD))
            with _asking(gateway.store):
                beside.append(load(gateway.port, *LOAD))
    for name in ("p50_ms", "p99_ms"):
        quiet, busy = (statistics.median(one[name] for one in rounds) for rounds in (alone, beside))
        verdict = "ok" if busy < GROWTH_MAX * quiet else "TOO MUCH"
        print(
            f"  publish→PUBACK {name[:3]}, window {WINDOW_MS} ms, 100 connections: {quiet:.0f} ms alone, "
            f"{busy:.0f} ms beside these questions, x {busy / quiet:.2f} (limit {GROWTH_MAX:g}) {verdict}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench queries", description=__doc__)
    parser.add_argument(
        "--store", type=Path, help="keep the built store in this directory, or take it from there"
    )
    parser.add_argument("--answer", nargs=2, metavar=("FILE", "NUMBER"), help=argparse.SUPPRESS)
    parser.add_argument("--for-ever", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.answer:
        print(json.dumps(_answer(Path(options.answer[0]), int(options.answer[1]))))
    elif options.for_ever:
        _ask_for_ever(options.for_ever)
    else:
        with tempfile.TemporaryDirectory() as home:
            _questions(options.store or Path(home) / "kept", Path(home))


def _questions(kept: Path, home: Path) -> None:
    if not kept.exists():
        began = time.monotonic()
        build(kept).close()
        print(f"queries: built {DAYS} days x {ANIMALS} animals in {time.monotonic() - began:.0f} s")
    (path,) = kept.glob("*.db")
    busy, _, _ = os.getloadavg()
    print(
        f"queries: {DAYS} days x {ANIMALS} animals, {path.stat().st_size / 1e6:.0f} MB; "
        f"{', '.join(CHANNELS)}; load average {busy:.1f} on {os.cpu_count()} cores"
    )
    for number, question in enumerate(QUESTIONS):
        command = _child("--answer", str(path), str(number))
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
        got = json.loads(out.stdout)
        verdict = "ok" if got["median_ms"] < question.limit_ms and got["mb"] < RSS_MB_MAX else "TOO MUCH"
        print(
            f"  {question.text:37} {got['rows']:7.0f} rows: {got['median_ms']:6.1f} ms, of which CPU "
            f"{got['cpu_ms']:.1f}, the first {got['first_ms']:.1f} (limit {question.limit_ms:g}), "
            f"memory +{got['mb']:.1f} MB (limit {RSS_MB_MAX:g}) {verdict}"
        )
    (home / "barn" / "data").mkdir(parents=True)
    shutil.copy(path, home / "barn" / "data" / "alert_state.db")
    _ingest_beside(home / "barn")


if __name__ == "__main__":
    main()
