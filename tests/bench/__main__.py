"""`make bench`: durable readings per CPU-second, publish→PUBACK, RSS; beside document 0's stack.

Every line names its commit window. Ratios compare medians of the same run; absolute figures
belong to this machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.document_0_stack import __file__ as _stack_file
from tests.conftest import ROOT
from tests.e2e.gateway_process import running_gateway, until

WINDOW_MS = 20
IN_FLIGHT = 48
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _load(port: int, connections: int, count: int, in_flight: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", *map(str, (port, connections, count, in_flight))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return dict(json.loads(done.stdout))


def gateway_round(connections: int, readings: int) -> dict[str, float]:
    """One fresh gateway: an idle RSS, a load, and what it cost."""
    with tempfile.TemporaryDirectory() as home:
        port = _free_port()
        limits = {"store": {"commit_window_ms": WINDOW_MS}, "logging": {"level": "ERROR"}}
        with running_gateway(Path(home), port, _free_port(), **limits) as gateway:
            pid = gateway.process.pid
            idle_mb, cpu_before = _rss_mb(pid), _cpu_s(pid)
            result = _load(port, connections, max(1, readings // connections), IN_FLIGHT)
            cpu_s = _cpu_s(pid) - cpu_before
            result |= {
                "per_cpu_s": result["acknowledged"] / cpu_s,
                "idle_mb": idle_mb,
                "rss_mb": _rss_mb(pid),
            }
            with sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True) as db:
                (stored,) = db.execute("SELECT count(*) FROM sensor_data").fetchone()
            db.close()
            assert stored == result["acknowledged"], f"{stored} stored of {result['acknowledged']}"
    return result


def herd_round(connections: int) -> dict[str, float]:
    """One reading in flight a connection: the latency and the memory of a barn's usual day."""
    with tempfile.TemporaryDirectory() as home:
        port = _free_port()
        limits = {"store": {"commit_window_ms": WINDOW_MS}, "logging": {"level": "ERROR"}}
        with running_gateway(Path(home), port, _free_port(), **limits) as gateway:
            result = _load(port, connections, 20, 1)
            return result | {"rss_mb": _rss_mb(gateway.process.pid)}


def stack_round(readings: int) -> dict[str, float]:
    """Mosquitto + paho + SQLite with one commit a message (default journal, synchronous=FULL)."""
    with tempfile.TemporaryDirectory() as home:
        port, database = _free_port(), Path(home) / "peer.db"
        config = Path(home) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        broker = subprocess.Popen(["mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL)
        subscriber = None
        try:
            until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "mosquitto")
            subscriber = subprocess.Popen(
                [sys.executable, "-m", Path(_stack_file).stem, str(port), str(database)],
                cwd=Path(_stack_file).parent,
            )
            until(Path(f"{database}.subscribed").exists, "the subscription")
            pids = (broker.pid, subscriber.pid)
            before = sum(map(_cpu_s, pids))
            result = _load(port, 100, readings // 100, IN_FLIGHT)
            db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
            total = result["acknowledged"]
            until(
                lambda: db.execute("SELECT count(*) FROM sensor_data").fetchone()[0] >= total, "its rows", 300
            )
            db.close()
            cpu_s = sum(map(_cpu_s, pids)) - before
            return {"per_cpu_s": total / cpu_s, "rss_mb": sum(map(_rss_mb, pids))}
        finally:
            for process in (subscriber, broker):
                if process is not None:
                    process.terminate()
                    process.wait(timeout=10)


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readings", type=int, default=50_000)
    arguments = parser.parse_args()
    print(f"commit window {WINDOW_MS} ms, synchronous=FULL, {arguments.rounds} rounds, medians")
    base = float("nan")
    for connections in (100, 1000):
        rounds = [gateway_round(connections, arguments.readings) for _ in range(arguments.rounds)]
        print(
            f"gateway, {connections:4} connections, {IN_FLIGHT} in flight each: "
            f"{_median(rounds, 'per_cpu_s'):8.0f} durable readings per CPU-second, "
            f"publish→PUBACK p50 {_median(rounds, 'p50_ms'):.1f} ms p99 {_median(rounds, 'p99_ms'):.1f} ms, "
            f"RSS {_median(rounds, 'rss_mb'):.0f} MB (idle {_median(rounds, 'idle_mb'):.0f} MB)"
        )
        base = _median(rounds, "per_cpu_s") if connections == 100 else base
    for connections in (100, 1000):
        rounds = [herd_round(connections) for _ in range(arguments.rounds)]
        print(
            f"gateway, {connections:4} connections,  1 in flight each: "
            f"publish→PUBACK p50 {_median(rounds, 'p50_ms'):.1f} ms p99 {_median(rounds, 'p99_ms'):.1f} ms, "
            f"RSS {_median(rounds, 'rss_mb'):.0f} MB"
        )
    peers = [stack_round(max(2000, arguments.readings // 10)) for _ in range(arguments.rounds)]
    peer = _median(peers, "per_cpu_s")
    print(
        f"Mosquitto + paho + SQLite (journal_mode=delete, synchronous=FULL, a commit each), 100 connections: "
        f"{peer:8.0f} per CPU-second, RSS {_median(peers, 'rss_mb'):.0f} MB"
    )
    print(f"ratio gateway / that stack, per CPU-second: {base / peer:.1f}")


if __name__ == "__main__":
    main()
