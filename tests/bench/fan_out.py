"""`python -m tests.bench fan_out`: 1000 readings a second to 10 subscribers, beside Mosquitto (S4-001).

An open loop; time from the write of a reading to its arrival at each subscriber, on one clock.
"""

from __future__ import annotations

import argparse
from functools import partial

from tests.bench.contestants import WINDOW_MS, gateway, mosquitto
from tests.bench.generator import Plan
from tests.bench.processes import about_load, middle, running_load

CLIENTS, LISTENERS, RATE = 100, 10, 1000.0
BAR_MS = 50.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench fan_out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args(arguments)
    print(
        f"fan-out: {RATE:.0f} readings a second to {LISTENERS} subscribers, open loop, {options.seconds} s a "
        f"round, medians of {options.rounds}; commit window {WINDOW_MS} ms, which fan-out does not wait for"
    )
    count = round(RATE * options.seconds / CLIENTS)
    for qos in (0, 1):
        plan = Plan(0, CLIENTS, count, in_flight=65535, rate=RATE, listeners=LISTENERS, qos=qos)
        for name, start in (
            ("gateway", partial(gateway, CLIENTS, listeners=LISTENERS)),
            ("Mosquitto", mosquitto),
        ):
            rounds = []
            for _ in range(options.rounds):
                with start() as peer, running_load(peer.takes(plan)) as load:
                    load.step("connect")
                    before_s = peer.cpu_s()
                    one = load.step("run")
                    one["peer_cpu_s"] = peer.cpu_s() - before_s
                    assert not one["lost"], f"{name}: {one}"
                rounds.append(one)
            figures = middle(rounds)
            print(
                f"  QoS {qos} to {name:9}: publish→receive p50 {figures['receive_p50_ms']:.2f} "
                f"p99 {figures['receive_p99_ms']:.1f} ms"
                f"{f' (bar {BAR_MS:.0f})' if name == 'gateway' else ''}, "
                f"{figures['peer_cpu_s'] / figures['received'] * 1e6:.0f} µs CPU a delivery; "
                f"{about_load(figures)}"
            )
