"""`python -m tests.bench memory`: resident memory with 1000 connections, beside Mosquitto and a subscriber.

Every client has sent readings and stays connected while the memory is read; in the clear, then behind TLS.
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
BARS_MB = {False: 100.0, True: 160.0}
"""Without and with TLS."""


class Memory(NamedTuple):
    idle_mb: float
    loaded_mb: float


def one_round(start: Callable[[], AbstractContextManager[Contestant]]) -> Memory:
    plan = Plan(0, CONNECTIONS, READINGS, in_flight=1)
    with start() as peer, running_load(peer.takes(plan)) as load:
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
    for tls, bar_mb in BARS_MB.items():
        for name, start in (
            (f"gateway (bar {bar_mb:.0f} MB)", partial(gateway, CONNECTIONS, tls=tls)),
            ("Mosquitto and subscriber", partial(document_0_stack, 1, tls=tls)),
        ):
            measure(f"{'TLS' if tls else 'clear'}: {name}", start, options.rounds)


def measure(name: str, start: Callable[[], AbstractContextManager[Contestant]], count: int) -> None:
    """Print one line."""
    rounds = [one_round(start) for _ in range(count)]
    idle_mb, loaded_mb = (statistics.median(column) for column in zip(*rounds, strict=True))
    per_kb = (loaded_mb - idle_mb) * 1024 / CONNECTIONS
    print(f"  {name}: {loaded_mb:.0f} MB RSS, idle {idle_mb:.0f} MB, {per_kb:.0f} KB a connection")
