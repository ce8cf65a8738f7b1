"""`python -m tests.bench storm`: a gateway starts again, and all collars come back at once with a backlog.

1000 clients connect at the instant the door opens and send 60 readings each with QoS 1, all of them in
flight. The gateway before was killed, as by a power cut, after it had served the same clients.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import msgspec

from tests.bench.contestants import WINDOW_MS, Contestant, register, settings
from tests.bench.generator import Plan
from tests.bench.processes import about_load, free_port, memory_mb, middle, raise_file_limit, running_load
from tests.e2e.gateway_process import running_gateway

CLIENTS, BACKLOG = 1000, 60


def storm(home: Path, plan: Plan) -> dict[str, float]:
    """One round in `home`: serve, be cut off, come back into the storm; every reading is stored once."""
    raise_file_limit()
    plan = msgspec.structs.replace(plan, devices=str(register(home, plan.clients)))
    with running_gateway(home, plan.port, free_port(), **settings()) as process:
        with running_load(msgspec.structs.replace(plan, count=1)) as load:
            load.step("connect")
            load.step("run")
        process.kill()
    with running_load(plan) as load:
        load.say("storm")
        began = time.monotonic()
        with running_gateway(home, plan.port, free_port(), **settings()) as process:
            result = load.answer()
            pid = process.process.pid
            peer = Contestant(plan.port, (pid,), process.store)
            peer.await_stored(plan.clients * plan.count)
            return result | {
                "from_start_s": time.monotonic() - began,
                "rss_mb": peer.rss_mb(),
                "peak_mb": memory_mb("VmHWM", pid),
                "gateway_cpu_s": peer.cpu_s(),
            }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench storm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--persistent", action="store_true", help="sessions that outlive their connections")
    options = parser.parse_args(arguments)
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as home:
            plan = Plan(free_port(), CLIENTS, BACKLOG, in_flight=BACKLOG, clean=not options.persistent)
            rounds.append(storm(Path(home), plan))
    figures = middle(rounds)
    print(
        f"storm: {CLIENTS} clients at once after a kill, {BACKLOG} readings each, "
        f"commit window {WINDOW_MS} ms, {'persistent' if options.persistent else 'clean'} sessions, "
        f"medians of {options.rounds}\n"
        f"  all connected after {figures['connected_s']:.2f} s, drained after {figures['seconds']:.2f} s "
        f"({figures['from_start_s']:.2f} s from the start of the process), publish→PUBACK p50 "
        f"{figures['p50_ms']:.0f} p99 {figures['p99_ms']:.0f} ms, RSS {figures['rss_mb']:.0f} MB (peak "
        f"{figures['peak_mb']:.0f}), {figures['gateway_cpu_s']:.2f} s CPU since its start, "
        f"{about_load(figures)}"
    )
