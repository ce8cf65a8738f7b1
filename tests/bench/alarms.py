"""`python -m tests.bench alarms`: how soon the panel shows what happens, under 500 readings a second.

Three processes: collars (tests/bench/generator.py), somebody with a panic button, and a gateway whose panel
writes down when it was told what. Both clocks are CLOCK_MONOTONIC, which is one for the whole machine.
Every call comes from another id, with QoS 2, and its alert is closed before the next one, so that each
finds a barn in which nothing sounds.

  publish→panel   from the write to the socket to `show` on the panel's driver
  publish→PUBREC  until the alert is on disk and acknowledged
  finding→panel   from a detector's finding to `show`, the commit included
  finding→letter  until a webhook on this machine has the notification of it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway import farming, wiring
from gateway.app import Gateway
from gateway.config import Config
from gateway.config import schema as sections
from gateway.core.alerts import State
from gateway.core.contacts import Address, Contact
from gateway.core.findings import Finding
from gateway.core.severity import Severity
from gateway.core.signals import Signal
from gateway.drivers.clock import SystemClock
from tests.bench.generator import Plan, percentile
from tests.bench.load import connect_packet, publish_bytes
from tests.bench.processes import Load, about_load, cpu_s, free_port, running_load
from tests.conftest import ROOT
from tests.post_offices import Webhook

COLLARS = 100
RATE = 500.0
LETTER_KIND = "sensor_malfunction"
"""Of the alerts that somebody is told of."""
CALL_EVERY_S = 0.1
"""Time for the last call's alert to be stored and closed, which is two commits."""
BAR_MS = 100.0
SETTLE_S = 2.0
"""The load runs this long before the first call and after the last."""


class StampingPanel:
    """A panel that remembers when it was first told to show each signal, by its label."""

    def __init__(self) -> None:
        self.shown_s: dict[str, float] = {}

    def show(self, signal: Signal) -> None:
        self.shown_s.setdefault(signal.label, time.monotonic())

    def close(self) -> None:
        """Nothing to let go of."""


# The gateway's process --------------------------------------------------------------------------


async def serve(port: int, home: Path) -> None:
    """Answer each line on standard input with one of JSON: `calls`, `findings N`."""
    panel = StampingPanel()
    wiring.panel = lambda *_args, **_options: panel  # type: ignore[assignment]  # pins are not measured here
    own = wiring.private_config(home)
    config: Config = msgspec.structs.replace(
        own, mqtt=sections.Mqtt(broker_port=port), store=sections.Store(farm_register=str(home / "farm.json"))
    )
    hook = Webhook(free_port())
    await hook.open()
    address = Address("webhook", f"http://127.0.0.1:{hook.port}/", "critical")
    farming.add(config, Contact("Anna", (address,), kinds=(LETTER_KIND,)), languages=("en",), say=print)
    async with Gateway(config, SystemClock()) as gateway:
        closing = asyncio.create_task(close_what_is_raised(gateway))
        print(json.dumps({}), flush=True)
        steps: dict[str, Callable[[list[str]], Awaitable[dict[str, float]]]] = {
            "calls": lambda _: shown(panel),
            "findings": lambda words: findings(gateway, panel, int(words[0])),
            "letters": lambda words: letters(gateway, hook, int(words[0])),
        }
        while line := await asyncio.to_thread(sys.stdin.readline):
            step, *words = line.split()
            print(json.dumps(await steps[step](words)), flush=True)
        closing.cancel()
    await hook.close()


async def close_what_is_raised(gateway: Gateway) -> None:
    """The next call finds a quiet barn."""
    while True:
        for alert in gateway.alarm.open_alerts:
            if alert.kind == LETTER_KIND:
                continue  # closed when its letter has come
            await gateway.alarm.close(alert_id=alert.id, state=State.RESOLVED, who="bench", origin="cli")
        await asyncio.sleep(CALL_EVERY_S / 5)


async def shown(panel: StampingPanel) -> dict[str, float]:
    return panel.shown_s


async def findings(gateway: Gateway, panel: StampingPanel, count: int) -> dict[str, float]:
    """Milliseconds from a finding handed to the alarm to the panel, for each of `count` animals."""
    took_ms = {}
    for number in range(count):
        finding = found(subject := f"SICK_{number:04d}", "fever", gateway.clock.now_ms())
        began_s = time.monotonic()
        await gateway.alarm.report([finding])
        label = next(label for label in panel.shown_s if label.endswith(subject))
        took_ms[subject] = (panel.shown_s[label] - began_s) * 1000
        await asyncio.sleep(CALL_EVERY_S)
    return took_ms


async def letters(gateway: Gateway, hook: Webhook, count: int) -> dict[str, float]:
    """Milliseconds from a finding handed to the alarm to its notification at the webhook."""
    took_ms = {}
    for number in range(count):
        finding = found(subject := f"COLLAR_{number:04d}", LETTER_KIND, gateway.clock.now_ms())
        began_s = time.monotonic()
        await gateway.alarm.report([finding])
        await hook.until(lambda: bool(hook.got) and hook.got[-1]["subject"] == subject)
        took_ms[subject] = (time.monotonic() - began_s) * 1000
        for alert in gateway.alarm.open_alerts:
            await gateway.alarm.close(alert_id=alert.id, state=State.RESOLVED, who="bench", origin="cli")
        await asyncio.sleep(CALL_EVERY_S)
    return took_ms


def found(subject: str, kind: str, now_ms: int) -> Finding:
    """A critical finding of now."""
    return Finding(
        subject=subject,
        kind=kind,
        present=True,
        severity=Severity.CRITICAL,
        at_ms=now_ms,
        onset_ms=now_ms,
        confidence=0.9,
        sentence=f"{subject}: 41.0 °C",
    )


# The process with the button ----------------------------------------------------------------------


async def press(port: int, count: int) -> None:
    """Call for help `count` times, each time as somebody else; print when, and how long the answer took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connect_packet("button"))
    assert (await reader.readexactly(4))[3] == 0
    pressed: dict[str, tuple[float, float]] = {}
    for number in range(count):
        packet_id, who = number % 65535 + 1, f"guard-{number:04d}"
        body = json.dumps(
            {
                "alert_type": "panic",
                "severity": "critical",
                "message": "Emergency assistance needed",
                "location": {"lat": 12.9716, "lon": 77.5946},
            }
        ).encode()
        packet = bytearray(publish_bytes(f"alert/panic/{who}", body, packet_id))
        packet[0] = 0x34  # QoS 2
        identifier = packet_id.to_bytes(2, "big")
        sent_s = time.monotonic()
        writer.write(packet)
        assert await reader.readexactly(4) == b"\x50\x02" + identifier
        pressed[who] = (sent_s, time.monotonic())
        writer.write(b"\x62\x02" + identifier)
        assert await reader.readexactly(4) == b"\x70\x02" + identifier
        await asyncio.sleep(max(0.0, sent_s + CALL_EVERY_S - time.monotonic()))
    writer.close()
    print(json.dumps(pressed), flush=True)


# The round ----------------------------------------------------------------------------------------


@contextmanager
def recording_gateway() -> Iterator[tuple[Load, int, int]]:
    """A gateway in its own process, the port it listens on, and its process id."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "tests.bench.alarms", "gateway", str(port), home]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                gateway = Load(process)
                gateway.answer()
                yield gateway, port, process.pid
                assert process.stdin is not None
                process.stdin.close()
                process.wait(timeout=30)
            finally:
                if process.poll() is None:
                    process.kill()


def pressed_button(port: int, count: int) -> dict[str, tuple[float, float]]:
    """Who called, when that was written to the socket, and when it was acknowledged."""
    command = [sys.executable, "-m", "tests.bench.alarms", "button", str(port), str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {
        who: (sent_s, acknowledged_s) for who, (sent_s, acknowledged_s) in json.loads(done.stdout).items()
    }


def spread(name: str, took_ms: list[float], note: str = "") -> str:
    p50, p99 = percentile(took_ms, 0.5), percentile(took_ms, 0.99)
    return f"  {name} p50 {p50:.1f} p99 {p99:.1f} max {max(took_ms):.1f} ms of {len(took_ms)}{note}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench alarms")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--findings", type=int, default=200)
    parser.add_argument("--letters", type=int, default=100)
    options = parser.parse_args(arguments)
    events = options.calls + options.findings + 3 * options.letters
    seconds = events * CALL_EVERY_S * 1.3 + 2 * SETTLE_S
    with recording_gateway() as (gateway, port, pid):
        plan = Plan(port, COLLARS, round(RATE * seconds / COLLARS), in_flight=65535, rate=RATE)
        with running_load(plan) as load:
            load.step("connect")
            load.say("run")
            time.sleep(SETTLE_S)
            cpu_began_s, began_s = cpu_s(pid), time.monotonic()
            pressed = pressed_button(port, options.calls)
            found_ms = gateway.step(f"findings {options.findings}")
            told_ms = gateway.step(f"letters {options.letters}")
            share = (cpu_s(pid) - cpu_began_s) / (time.monotonic() - began_s)
            labels = gateway.step("calls")
            done = load.answer()
    shown_s = {label.rpartition(" ")[2]: at_s for label, at_s in labels.items()}
    panel_ms = [(shown_s[who] - sent_s) * 1000 for who, (sent_s, _) in pressed.items()]
    answer_ms = [(acknowledged_s - sent_s) * 1000 for sent_s, acknowledged_s in pressed.values()]
    print(
        f"alarms: {RATE:.0f} readings a second from {COLLARS} collars, commit window "
        f"{sections.Store().commit_window_ms} ms, the gateway on {share:.0%} of a core; {about_load(done)}\n"
        + "\n".join(
            (
                spread("panic: publish→panel ", panel_ms, f"; bar p99 {BAR_MS:.0f} ms"),
                spread("panic: publish→PUBREC", answer_ms, "; the alert is on disk"),
                spread("fever: finding→panel ", list(found_ms.values()), "; commit included"),
                spread("collar: finding→letter", list(told_ms.values()), "; bar 1000 ms, S3-062 10-20 s"),
            )
        )
    )


if __name__ == "__main__":
    role, own_port, argument = sys.argv[1:]
    if role == "gateway":
        asyncio.run(serve(int(own_port), Path(argument)))
    else:
        asyncio.run(press(int(own_port), int(argument)))
