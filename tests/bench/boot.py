"""The start of a gateway on a full store: 1000 animals × 15 days, a reading a minute.

The newest 48 h lie in `hot_readings` minute by minute; of the days before there is one reading an hour, and
the hourly figures of all but the last hours are rolled up: what a rebuild reads is as in a barn.
`python -m tests.bench.boot` prints a line a figure; `--animals` and `--days` make it smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gateway.core.buckets import joined
from gateway.core.windows import Windows
from gateway.services.rebuild import Rebuild
from gateway.store import columns, hot, journal, rollups, slice_key
from gateway.store.database import Connection, Database
from tests.bench.load import connect_packet, publish_packet
from tests.bench.processes import free_port, memory_mb
from tests.conftest import ROOT
from tests.e2e.gateway_process import running_gateway, until

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
RAW_HOURS = 48
"""What lies in `hot_readings` before it is packed (DESIGN, "Store layout")."""
WINDOW_MS = 20
"""Commit window of the gateway under test."""


def build_store(path: Path, animals: int, days: int) -> None:
    """A store that ends now."""
    database = Database.open(path)
    now_ms = int(time.time() * 1000) // MINUTE_MS * MINUTE_MS
    raw_from_ms = (now_ms // HOUR_MS - RAW_HOURS) * HOUR_MS
    first_ms = now_ms // HOUR_MS * HOUR_MS - days * 24 * HOUR_MS
    hourly_ms = range(first_ms, raw_from_ms, HOUR_MS)
    minutely_ms = range(raw_from_ms, now_ms, MINUTE_MS)

    def names(db: Connection) -> None:
        db.executemany(
            "INSERT INTO animals (id, cow_id, first_hour, last_hour) VALUES (?, ?, ?, ?)",
            (
                (cow, f"COW_{cow - 1:04d}", first_ms // HOUR_MS, (now_ms - 1) // HOUR_MS)
                for cow in range(1, animals + 1)
            ),
        )

    database.write_now(names)
    for instants in (hourly_ms, minutely_ms):
        for at in range(0, len(instants), 60):
            part = instants[at : at + 60]
            database.write_now(lambda db, part=part: _insert(db, part, animals))  # type: ignore[misc]
    for hour in range(first_ms // HOUR_MS // 24 * 24, now_ms // HOUR_MS + 1, 24):
        database.write_now(lambda db, hour=hour: _roll_up_day(db, hour, animals))  # type: ignore[misc]
    database.write_now(lambda db: _close(db, now_ms // HOUR_MS))
    database.close_now()


def _roll_up_day(db: Connection, from_hour: int, animals: int) -> None:
    """What the hourly roll-up would have left by now, a UTC day at once."""
    everyone = range(1, animals + 1)
    parts = [rollups._reckoned(db, hour, everyone, rollups._ALL) for hour in range(from_hour, from_hour + 24)]
    figures = joined(parts, rollups._ALL)
    made = []
    for cow in everyone:
        table = rollups._encode(figures.take(figures.cow == cow))
        data = columns.seal(rollups.FORM, columns.encode(list(table)))
        made.append(rollups.Day(from_hour // 24 << slice_key.ANIMAL_BITS | cow, data))
    rollups.write(db, made, from_hour + 24)


def _close(db: Connection, now_hour: int) -> None:
    """The journal as the roll-up leaves it: this hour and the one before are not in it yet."""
    journal.advance(db, journal.CLOSED, now_hour - 1)
    journal.advance(db, journal.ROLLED, now_hour - 2)
    db.execute(
        "INSERT OR IGNORE INTO arrived SELECT DISTINCT received_ms / 3600000, ts_ms / 3600000, animal"
        " FROM hot_readings WHERE ts_ms >= ?",
        ((now_hour - RAW_HOURS) * HOUR_MS,),
    )


def _insert(db: Connection, instants_ms: range, animals: int) -> None:
    cursor = db.cursor()
    for row in _rows(instants_ms, animals):
        hot.insert(cursor, row)


def _rows(instants_ms: range, animals: int) -> Iterator[tuple[int | None, ...]]:
    rng = np.random.default_rng(instants_ms.start)
    for at_ms in instants_ms:
        temperature = rng.integers(3820, 3900, animals).tolist()
        axes = rng.integers(-60, 60, (3, animals)).tolist()
        for cow in range(animals):
            ts_ms = at_ms + cow * 59  # spread over the minute
            x, y, z = 300 + axes[0][cow], 50 + axes[1][cow], -950 + axes[2][cow]
            yield ts_ms, cow + 1, temperature[cow], x, y, z, -288, 14, 187, 1, None, ts_ms + 900, 0


class TimedLock:
    """A lock that remembers how long it was held at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since_s = 0.0
        self.held_s_max = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since_s = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held_s_max = max(self.held_s_max, time.perf_counter() - self._since_s)
        self._lock.release()


async def rebuild(path: Path) -> dict[str, float]:
    """In a process of its own: one rebuild in a worker thread beside an event loop that is watched."""
    database = Database.open(path)
    lock: Any = TimedLock()
    windows = Windows()
    before_mb, cpu_s, began_s = memory_mb("VmRSS"), time.process_time(), time.perf_counter()
    work = Rebuild(database, windows, lock)
    lock.held_s_max = 0.0  # nobody feeds yet
    running = asyncio.create_task(asyncio.to_thread(work.run))
    lags_s = []
    while not running.done():
        asked_s = time.perf_counter()
        await asyncio.sleep(0.005)
        lags_s.append(time.perf_counter() - asked_s - 0.005)
    await running
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    figures = {
        "animals": len(windows),
        "seconds": took_s,
        "cpu_s": cpu_s,
        "held_ms": lock.held_s_max * 1000,
        "lag_p99_ms": sorted(lags_s)[int(len(lags_s) * 0.99)] * 1000,
        "lag_ms": max(lags_s) * 1000,
        "windows_mb": windows.nbytes / 2**20,
        "grown_mb": memory_mb("VmRSS") - before_mb,
        "peak_mb": memory_mb("VmHWM") - before_mb,
    }
    await database.close()
    return figures


def _first_puback_s(port: int, began_s: float, answer: list[float]) -> None:
    """Try until a reading is acknowledged."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(connect_packet("COW_0000") + publish_packet("COW_0000", 0, 1))
                got = b""
                while len(got) < 8:  # CONNACK and PUBACK
                    got += client.recv(8)
                answer.append(time.perf_counter() - began_s)
                return
        except OSError:
            if time.perf_counter() - began_s > 60:
                return
            time.sleep(0.005)


def start(home: Path) -> dict[str, float]:
    """A real process on that store: start → first PUBACK, start → windows rebuilt."""
    port, http_port = (free_port() for _ in range(2))
    answer: list[float] = []
    began_s = time.perf_counter()
    asker = threading.Thread(target=_first_puback_s, args=(port, began_s, answer))
    asker.start()
    with running_gateway(home, port, http_port, store={"commit_window_ms": WINDOW_MS}) as gateway:
        asker.join()
        until(lambda: "Windows rebuilt" in gateway.log(), "the rebuild", 120)
        rebuilt_s = time.perf_counter() - began_s
        line = next(line for line in gateway.log().splitlines()[::-1] if "Windows rebuilt" in line)
    print(f"  its log: {line.partition(' - ')[2]}")
    return {"puback_s": answer[0], "rebuilt_s": rebuilt_s}


def report(animals: int = 1000, days: int = 15) -> None:
    """Build, measure, print."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "data" / "alert_state.db"
        began_s = time.perf_counter()
        build_store(path, animals, days)
        print(
            f"boot, {animals} animals × {days} days: store of {path.stat().st_size / 2**20:.0f} MB"
            f" made in {time.perf_counter() - began_s:.0f} s"
        )
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.boot", "--rebuild", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        of = json.loads(done.stdout)
        print(
            f"  rebuild {of['seconds']:.2f} s ({of['cpu_s']:.2f} s of a core), {of['animals']} animals; lock"
            f" held ≤ {of['held_ms']:.1f} ms; event loop late p99 {of['lag_p99_ms']:.1f} ms,"
            f" max {of['lag_ms']:.1f} ms; RSS +{of['grown_mb']:.0f} MB (peak +{of['peak_mb']:.0f} MB;"
            f" the windows {of['windows_mb']:.0f} MB)"
        )
        of = start(Path(home))
        print(
            f"  process start → first PUBACK {of['puback_s']:.2f} s (commit window {WINDOW_MS} ms),"
            f" → windows rebuilt {of['rebuilt_s']:.2f} s"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--animals", type=int, default=1000)
    parser.add_argument("--days", type=int, default=15)
    parser.add_argument("--rebuild", type=Path, help="measure one rebuild of this store, as JSON")
    options = parser.parse_args(arguments)
    if options.rebuild:
        print(json.dumps(asyncio.run(rebuild(options.rebuild))))
    else:
        report(options.animals, options.days)


if __name__ == "__main__":
    main()
