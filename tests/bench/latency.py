"""`python -m tests.bench latency`: publish→PUBACK in an open loop, beside a bare write of this disk.

An open loop sends by the clock and never waits for an answer, so a stall is felt by everything that was
due meanwhile. The yardstick is what a commit cannot do without: 16 KB written and fdatasync'ed, one
after another, to a file on the same file system, just before each round.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from tests.bench.contestants import WINDOW_MS, gateway
from tests.bench.generator import Plan, percentile
from tests.bench.processes import about_load, middle, running_load

CLIENTS = 100
RATE = 1000.0
SYNCS = 500
WRITE_BYTES = 16 * 1024
FILE_BYTES = 4 * 1024 * 1024
"""Written over and over, as a write-ahead log is; the file does not grow while it is measured."""
SLACK_MS = 5.0


def bare_syncs_ms() -> list[float]:
    """How long each of `SYNCS` writes takes to be on disk."""
    took_ms = []
    with tempfile.TemporaryFile() as file:
        file.write(bytes(FILE_BYTES))
        os.fsync(file.fileno())
        block = os.urandom(WRITE_BYTES)
        for number in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), block, number * WRITE_BYTES % FILE_BYTES)
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - began) * 1000)
    return took_ms


def one_round(seconds: int) -> dict[str, float]:
    bare_ms = bare_syncs_ms()
    plan = Plan(0, CLIENTS, round(RATE * seconds / CLIENTS), in_flight=65535, rate=RATE)
    with gateway(CLIENTS) as peer, running_load(peer.takes(plan)) as load:
        load.step("connect")
        result = load.step("run")
        peer.await_stored(plan.clients * plan.count)
    bare_p99_ms = percentile(bare_ms, 0.99)
    return result | {
        "bare_p50_ms": percentile(bare_ms, 0.5),
        "bare_p99_ms": bare_p99_ms,
        "bar_ms": WINDOW_MS + 2 * bare_p99_ms + SLACK_MS,
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench latency")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args(arguments)
    rounds = [one_round(options.seconds) for _ in range(options.rounds)]
    figures = middle(rounds)
    print(
        f"latency: commit window {WINDOW_MS} ms, {RATE:.0f} readings a second from {CLIENTS} clients, "
        f"open loop, {options.seconds} s a round, medians of {options.rounds}\n"
        f"  publish→PUBACK p50 {figures['p50_ms']:.1f} p99 {figures['p99_ms']:.1f} ms "
        f"(rounds: {' '.join(str(round(one['p99_ms'], 1)) for one in rounds)}); "
        f"{about_load(figures)}\n"
        f"  {WRITE_BYTES // 1024} KB write + fdatasync p50 {figures['bare_p50_ms']:.1f} "
        f"p99 {figures['bare_p99_ms']:.1f} ms\n"
        f"  bar: window + 2 × that p99 + {SLACK_MS:.0f} ms = {figures['bar_ms']:.1f} ms"
    )
