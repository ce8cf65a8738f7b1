"""`python -m tests.bench ingest`: durable readings per CPU-second, beside the stack document 0 describes.

The gateway checks a password and the topics of each client; Mosquitto lets everybody do everything. CPU
of all processes behind the broker's port, in two parts: connecting the clients, and from there until
every reading is stored. The rounds of all contestants alternate; the ratios compare medians of the second
part.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from tests.bench.contestants import WINDOW_MS, Contestant, document_0_stack, gateway, gateway_pragmas
from tests.bench.generator import Plan
from tests.bench.processes import about_load, middle, running_load

CONNECTIONS = (100, 1000)
IN_FLIGHT = 48
BATCH = 100
PEERS = {"one commit a message": 1, f"{BATCH} messages a commit": BATCH}
BARS = dict(zip(PEERS, (8.0, 3.0), strict=True))


class Entry(NamedTuple):
    """Who takes part, and how many readings it takes to use a second of CPU or so."""

    name: str
    start: Callable[[int], AbstractContextManager[Contestant]]
    share: float


def _stack(per_commit: int) -> Callable[[int], AbstractContextManager[Contestant]]:
    return lambda _clients: document_0_stack(per_commit)


ENTRIES = (
    Entry("gateway", gateway, 1.0),
    *(
        Entry(name, _stack(per_commit), share)
        for (name, per_commit), share in zip(PEERS.items(), (0.05, 0.5), strict=True)
    ),
)


def one_round(entry: Entry, connections: int, readings: int) -> dict[str, float]:
    count = max(1, round(readings * entry.share / connections))
    assert connections * count % BATCH == 0, "the last batch of a peer would never be committed"
    plan = Plan(0, connections, count, IN_FLIGHT)
    with entry.start(connections) as peer, running_load(peer.takes(plan)) as load:
        start_s = peer.cpu_s()
        load.step("connect")
        connected_s = peer.cpu_s()
        result = load.step("run")
        peer.await_stored(connections * count)
        end_s = peer.cpu_s()
        return result | {
            "per_cpu_s": result["acknowledged"] / (end_s - connected_s),
            "connect_ms": (connected_s - start_s) / connections * 1000,
        }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench ingest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--readings", type=int, default=100_000, help="a round of the gateway; peers get less"
    )
    options = parser.parse_args(arguments)
    print(
        f"ingest: commit window {WINDOW_MS} ms, QoS 1, {IN_FLIGHT} in flight a client, "
        f"medians of {options.rounds} rounds"
    )
    print(f"  gateway: {gateway_pragmas()}")
    for name, per_commit in PEERS.items():
        with document_0_stack(per_commit) as peer:
            print(f"  {name}: Mosquitto, paho with QoS 1, json, document 0's checks, {peer.pragmas}")
    for connections in CONNECTIONS:
        rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(options.rounds):
            for entry in ENTRIES:
                rounds[entry.name].append(one_round(entry, connections, options.readings))
        medians = {name: middle(every) for name, every in rounds.items()}
        for name, figures in medians.items():
            print(
                f"  {connections:4} connections, {name:22}: "
                f"{figures['per_cpu_s']:7.0f} durable readings per CPU-second once connected, "
                f"{figures['connect_ms']:.2f} ms CPU to connect one, publish→PUBACK "
                f"p50 {figures['p50_ms']:.0f} p99 {figures['p99_ms']:.0f} ms; {about_load(figures)}"
            )
        for name, bar in BARS.items():
            ratio = medians["gateway"]["per_cpu_s"] / medians[name]["per_cpu_s"]
            print(f"  {connections:4} connections, ratio to {name}: {ratio:.1f} (bar {bar:.0f})")
