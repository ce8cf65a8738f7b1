"""`python -m tests.bench crowd`: what a reading costs when ever more connections bring the same number.

One open loop of the same total rate and the same herd of 5000 animals, over 100, 1000 and 5000
connections; CPU of the gateway between "all are connected" and "all is stored". So it is the connections
that grow and nothing else; what more animals cost the detectors, the last line tells: as many as
connections.
"""

from __future__ import annotations

import argparse

from tests.bench.contestants import WINDOW_MS, gateway
from tests.bench.generator import Plan
from tests.bench.processes import about_load, middle, running_load

CONNECTIONS = (100, 1000, 5000)
RATE = 2000.0
HERD = 5000
BAR = 1.3


def one_round(connections: int, seconds: int, herd: int) -> dict[str, float]:
    count = round(RATE * seconds / connections)
    plan = Plan(0, connections, count, in_flight=65535, rate=RATE, herd=herd)
    with gateway(connections, herd=bool(herd)) as peer, running_load(peer.takes(plan)) as load:
        start_s = peer.cpu_s()
        load.step("connect")
        connected_s = peer.cpu_s()
        result = load.step("run")
        peer.await_stored(plan.clients * plan.count)
        return result | {
            "cost_us": (peer.cpu_s() - connected_s) / result["acknowledged"] * 1e6,
            "connect_ms": (connected_s - start_s) / connections * 1000,
            "rss_mb": peer.rss_mb(),
        }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench crowd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args(arguments)
    print(
        f"crowd: {RATE:.0f} readings a second in all, open loop, {options.seconds} s a round, commit window "
        f"{WINDOW_MS} ms, medians of {options.rounds} rounds"
    )
    rounds: dict[int, list[dict[str, float]]] = {connections: [] for connections in CONNECTIONS}
    for _ in range(options.rounds):
        for connections, every in rounds.items():
            every.append(one_round(connections, options.seconds, HERD))
    costs_us = []
    for connections, every in rounds.items():
        figures = middle(every)
        costs_us.append(figures["cost_us"])
        print(
            f"  {connections:4} connections: {figures['cost_us']:.0f} µs CPU a durable reading, "
            f"publish→PUBACK p50 {figures['p50_ms']:.1f} p99 {figures['p99_ms']:.1f} ms, "
            f"{figures['connect_ms']:.2f} ms CPU to connect one, RSS {figures['rss_mb']:.0f} MB; "
            f"{about_load(figures)}"
        )
    growth = costs_us[-1] / costs_us[0]
    small = middle([one_round(CONNECTIONS[0], options.seconds, 0) for _ in range(options.rounds)])
    print(f"  grows {growth:.2f} times from {CONNECTIONS[0]} to {CONNECTIONS[-1]} (bar {BAR})")
    print(f"  with {CONNECTIONS[0]} connections and {CONNECTIONS[0]} animals: {small['cost_us']:.0f} µs")
