"""`python -m tests.bench memory`: resident memory with 1000 connections, beside Mosquitto and a subscriber.

Every client has sent readings and stays connected while the memory is read. With `--tls DIRECTORY` (ca.crt,
server.crt, server.key) a further line measures the gateway and Mosquitto behind TLS.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

from tests.bench.contestants import Contestant, document_0_stack, gateway
from tests.bench.generator import Plan
from tests.bench.processes import running_load

CONNECTIONS, READINGS = 1000, 10
BAR_MB = 100.0


class Memory(NamedTuple):
    idle_mb: float
    loaded_mb: float


def one_round(start: Callable[[], AbstractContextManager[Contestant]]) -> Memory:
    plan = Plan(0, CONNECTIONS, READINGS, in_flight=1)
    with start() as peer, running_load(plan.at(peer.port)) as load:
        idle_mb = peer.rss_mb()
        load.step("connect")
        load.step("run")
        peer.await_stored(CONNECTIONS * READINGS)
        return Memory(idle_mb, peer.rss_mb())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench memory")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"memory: {CONNECTIONS} connections, {READINGS} readings each, medians of {options.rounds} rounds")
    entries: dict[str, Callable[[], AbstractContextManager[Contestant]]] = {
        f"gateway (bar {BAR_MB:.0f} MB)": gateway,
        "Mosquitto and subscriber": partial(document_0_stack, 1),
    }
    for name, start in entries.items():
        rounds = [one_round(start) for _ in range(options.rounds)]
        idle_mb, loaded_mb = (statistics.median(column) for column in zip(*rounds, strict=True))
        per_kb = (loaded_mb - idle_mb) * 1024 / CONNECTIONS
        print(f"  {name}: {loaded_mb:.0f} MB RSS, idle {idle_mb:.0f} MB, {per_kb:.0f} KB a connection")
