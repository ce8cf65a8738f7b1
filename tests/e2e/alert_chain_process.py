"""Runs the real gateway in children of one process, and kills a child at a point that the test names.

Run as `python -m tests.e2e.alert_chain_process`; takes one JSON object a line on stdin, forks a gateway for
it, and answers with the child's exit code (negative: the signal that ended it). Everything heavy is
imported before the fork, so that a start takes a fraction of a second. The faults are put in from here:
one callable of the product is wrapped, the product itself knows nothing of it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apprise  # noqa: F401 - before the fork
import msgspec

from gateway import wiring
from gateway.app import Gateway
from gateway.config import Config
from gateway.config import schema as sections
from gateway.core.alerts import State
from gateway.core.findings import Finding
from gateway.core.notices import DESTINATION
from gateway.core.severity import Severity
from gateway.drivers.broker.embedded import EmbeddedBroker
from gateway.drivers.clock import SystemClock
from gateway.drivers.notifier import Notifier
from gateway.drivers.panel import GpioPanel
from gateway.store import moves, notices, outbox

PLACES: dict[str, tuple[Any, str]] = {
    "write": (moves, "write"),  # alert, history and event, in the transaction
    "publish": (EmbeddedBroker, "publish"),  # committed by then
    "show": (GpioPanel, "show"),
    "send": (Notifier, "send"),
    "note": (notices, "add"),  # in the transaction with the cursor
}
"""Between any two of these nothing leaves the process and nothing reaches the disk."""
CHANNELS = ("email", "webhook")
LOOK_S = 0.01
"""Between two looks at the cursors."""


class Fault(msgspec.Struct, frozen=True):
    """Kill just `when` ("before", "after") the `nth` call of a place, in "raise" or "acknowledge"."""

    phase: str
    place: str
    when: str
    nth: int = 1


class Order(msgspec.Struct, frozen=True):
    """One run of a gateway. `mail_url` is the e-mail channel's."""

    home: str
    mail_url: str
    fault: Fault | None = None


class Doom:
    """Counts the calls of one place while its phase runs, and ends the process at the right one."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._calls = 0
        self.phase = ""
        owner, name = PLACES[fault.place]
        setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(call):

            @functools.wraps(call)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                mine = self._begins()
                answer = await call(*args, **kwargs)
                self._ends(mine=mine)
                return answer

            return awaited

        @functools.wraps(call)
        def called(*args: Any, **kwargs: Any) -> Any:
            mine = self._begins()
            answer = call(*args, **kwargs)
            self._ends(mine=mine)
            return answer

        return called

    def _begins(self) -> bool:
        self._calls += self.phase == self._fault.phase
        mine = self.phase == self._fault.phase and self._calls == self._fault.nth
        if mine and self._fault.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        return mine

    def _ends(self, *, mine: bool) -> None:
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)


def configuration(order: Order) -> Config:
    """A gateway of its own in `home`, with an e-mail channel beside the built-in webhook."""
    notify = sections.Notify(
        channels={"email": sections.NotifyChannel(url=order.mail_url)}, daily_summary=None
    )
    return msgspec.structs.replace(wiring.private_config(Path(order.home)), notify=notify)


async def drive(order: Order) -> None:
    """Raise, send, acknowledge, send: on from wherever the last run stopped."""
    doom = None if order.fault is None else Doom(order.fault)

    def enter(phase: str) -> None:
        if doom is not None:
            doom.phase = phase

    async with Gateway(configuration(order), SystemClock()) as gateway:
        await _told(gateway)
        enter("raise")
        await gateway.alarm.report([_fever(gateway.clock.now_ms())])
        await _told(gateway)
        enter("acknowledge")
        (alert,) = (one for one in gateway.alarm.open_alerts if one.subject == "COW_001")
        if alert.state is State.ACTIVE:
            await gateway.alarm.acknowledge(alert_id=alert.id, who="Bert", origin="web")
        await _told(gateway)
        enter("")


def _fever(now_ms: int) -> Finding:
    return Finding(
        subject="COW_001",
        kind="fever",
        present=True,
        severity=Severity.CRITICAL,
        at_ms=now_ms,
        onset_ms=now_ms - 600_000,
        confidence=0.9,
        sentence="41.0 °C for 10 min",
    )


async def _told(gateway: Gateway) -> None:
    """Every channel has begun and has passed all events."""

    def done(db: Any) -> bool:
        known = {row[0] for row in db.execute("SELECT destination FROM cursors")}
        names = [f"{DESTINATION}{name}" for name in CHANNELS]
        return known.issuperset(names) and not any(outbox.pending(db, name) for name in names)

    while not await gateway.database.read(done):  # noqa: ASYNC110 - the cursors are in a file
        await asyncio.sleep(LOOK_S)


def child(order: Order) -> None:
    """In the fork: never returns."""
    console = os.open(Path(order.home) / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(console, 1)
    os.dup2(console, 2)
    try:
        asyncio.run(drive(order))
    except BaseException:  # noqa: BLE001 - the exit code says it, and the console why
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """One order a line until stdin ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if pid == 0:
            child(order)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
