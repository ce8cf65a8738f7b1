"""`make bench`: the ingest path, the card's wear, questions to a full store, a start on one.

`python -m tests.bench ingest|wear|queries|boot` runs one part and takes its options (`wear --hours 24`);
without a part all of them run. Ingest: durable readings per CPU-second, publish→PUBACK, RSS, beside
document 0's stack.

Every line names its commit window. Ratios compare medians of the same run; absolute figures
belong to this machine alone.
"""

from __future__ import annotations

import argparse
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import boot, queries, wear
from tests.bench.document_0_stack import __file__ as _stack_file
from tests.bench.processes import cpu_s, free_port, load, rss_mb
from tests.e2e.gateway_process import running_gateway, until

WINDOW_MS = 20
IN_FLIGHT = 48


def gateway_round(connections: int, readings: int) -> dict[str, float]:
    """One fresh gateway: an idle RSS, a load, and what it cost."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        limits = {"store": {"commit_window_ms": WINDOW_MS}, "logging": {"level": "ERROR"}}
        with running_gateway(Path(home), port, free_port(), **limits) as gateway:
            pid = gateway.process.pid
            idle_mb, cpu_before = rss_mb(pid), cpu_s(pid)
            result = load(port, connections, max(1, readings // connections), IN_FLIGHT)
            used_s = cpu_s(pid) - cpu_before
            result |= {
                "per_cpu_s": result["acknowledged"] / used_s,
                "idle_mb": idle_mb,
                "rss_mb": rss_mb(pid),
            }
            with sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True) as db:
                (stored,) = db.execute("SELECT count(*) FROM sensor_data").fetchone()
            db.close()
            assert stored == result["acknowledged"], f"{stored} stored of {result['acknowledged']}"
    return result


def herd_round(connections: int) -> dict[str, float]:
    """One reading in flight a connection: the latency and the memory of a barn's usual day."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        limits = {"store": {"commit_window_ms": WINDOW_MS}, "logging": {"level": "ERROR"}}
        with running_gateway(Path(home), port, free_port(), **limits) as gateway:
            result = load(port, connections, 20, 1)
            return result | {"rss_mb": rss_mb(gateway.process.pid)}


def stack_round(readings: int) -> dict[str, float]:
    """Mosquitto + paho + SQLite with one commit a message (default journal, synchronous=FULL)."""
    with tempfile.TemporaryDirectory() as home:
        port, database = free_port(), Path(home) / "peer.db"
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
            before = sum(map(cpu_s, pids))
            result = load(port, 100, readings // 100, IN_FLIGHT)
            db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
            total = result["acknowledged"]
            until(
                lambda: db.execute("SELECT count(*) FROM sensor_data").fetchone()[0] >= total, "its rows", 300
            )
            db.close()
            used_s = sum(map(cpu_s, pids)) - before
            return {"per_cpu_s": total / used_s, "rss_mb": sum(map(rss_mb, pids))}
        finally:
            for process in (subscriber, broker):
                if process is not None:
                    process.terminate()
                    process.wait(timeout=10)


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in rounds)


def ingest(arguments: list[str]) -> None:
    """Rounds of the ingest path; medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench ingest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readings", type=int, default=50_000)
    options = parser.parse_args(arguments)
    print(f"commit window {WINDOW_MS} ms, synchronous=FULL, {options.rounds} rounds, medians")
    base = float("nan")
    for connections in (100, 1000):
        rounds = [gateway_round(connections, options.readings) for _ in range(options.rounds)]
        print(
            f"gateway, {connections:4} connections, {IN_FLIGHT} in flight each: "
            f"{_median(rounds, 'per_cpu_s'):8.0f} durable readings per CPU-second, "
            f"publish→PUBACK p50 {_median(rounds, 'p50_ms'):.1f} ms p99 {_median(rounds, 'p99_ms'):.1f} ms, "
            f"RSS {_median(rounds, 'rss_mb'):.0f} MB (idle {_median(rounds, 'idle_mb'):.0f} MB)"
        )
        base = _median(rounds, "per_cpu_s") if connections == 100 else base
    for connections in (100, 1000):
        rounds = [herd_round(connections) for _ in range(options.rounds)]
        print(
            f"gateway, {connections:4} connections,  1 in flight each: "
            f"publish→PUBACK p50 {_median(rounds, 'p50_ms'):.1f} ms p99 {_median(rounds, 'p99_ms'):.1f} ms, "
            f"RSS {_median(rounds, 'rss_mb'):.0f} MB"
        )
    peers = [stack_round(max(2000, options.readings // 10)) for _ in range(options.rounds)]
    peer = _median(peers, "per_cpu_s")
    print(
        f"Mosquitto + paho + SQLite (journal_mode=delete, synchronous=FULL, a commit each), 100 connections: "
        f"{peer:8.0f} per CPU-second, RSS {_median(peers, 'rss_mb'):.0f} MB"
    )
    print(f"ratio gateway / that stack, per CPU-second: {base / peer:.1f}")


PARTS = {"ingest": ingest, "wear": wear.main, "queries": queries.main, "boot": boot.main}


def main() -> None:
    part, *arguments = sys.argv[1:] or [""]
    if part in PARTS:
        PARTS[part](arguments)
    elif part == "":
        for run in PARTS.values():
            run([])
    elif part.startswith("-") and part not in ("-h", "--help"):
        ingest([part, *arguments])  # the options of the first part, as ever
    else:
        sys.exit(f"{__doc__}\nparts: {', '.join(PARTS)}")


if __name__ == "__main__":
    main()
