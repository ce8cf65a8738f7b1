"""How the gateway itself is: looked at every two seconds, told to panel, status and service manager.

Runs as a task of its own on the event loop. It needs neither network nor a trusted clock, and goes on
while the store cannot write: that is what it has to tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.drivers.systemd import Systemd
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.services.forward import Forward
from gateway.services.signalling import STORE_FAILING
from gateway.store.database import Database
from gateway.supervisor import Supervisor

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
"""How often clock, uplink and watchdog are looked at."""
SILENCE_S_MAX: Final = 60.0
"""A part that has not answered for this long is hung: twice the longest fsync seen on a dying
card (about 30 s). An explicit "disk full" is an answer (decision 41)."""
PROBE_EVERY_S: Final = 30.0
"""How often the broker is asked whether it still answers: one connection of its own in thirty seconds."""
PROBES_FAILED_MAX: Final = 2
"""One unanswered probe may be a busy minute; two are a fault."""
BROKER_FAILING: Final = "broker does not answer"


class Vitals:
    """Watches the gateway's own parts.

    Args:
        clock: the gateway's.
        database: is asked for a sign of life, and for its size.
        probe: asks the broker for an answer; None = it gave one, else why not.
        supervisor: knows who is silent.
        systemd: is told that we live, as long as nobody is.
        forward: the uplink, where there is one.
        changed: told (what the gateway cannot do or None, uplink down, clock untrusted); must not block.
        looks: what else is to be looked at as often: files that people edit.

    Attributes:
        store_fault: why the store cannot write; None while it can.
        broker_fault: why the broker does not answer; None while it does.
        store_bytes: size of the store's files.
        pending_n: events the uplink has not got yet.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        probe: Callable[[], Awaitable[str | None]],
        supervisor: Supervisor,
        systemd: Systemd,
        forward: Forward | None,
        changed: Callable[[str | None, bool, bool], None],
        looks: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._clock = clock
        self._database = database
        self._ask_broker = probe
        self._supervisor = supervisor
        self._systemd = systemd
        self._forward = forward
        self._changed = changed
        self._looks = looks
        self._probe_due_s = 0.0
        self._probes_failed = 0
        self.store_fault: str | None = None
        self.broker_fault: str | None = None
        self.store_bytes = 0
        self.pending_n = 0

    def store_state(self, fault: str | None) -> None:
        """The store has answered: None = it writes, else why it does not."""
        if fault != self.store_fault:
            self.store_fault = fault
            self._tell()

    async def run(self) -> None:
        """Look until cancelled."""
        for part in ("store", "ingest"):
            self._supervisor.expect(part, SILENCE_S_MAX)
        while True:
            self._tell()
            try:
                await self._database.heartbeat()
                self._supervisor.beat("store")
            except StoreError:
                self._supervisor.beat("store")  # an explicit answer: degraded, not hung
            if self._supervisor.healthy():
                self._systemd.watchdog()
            for look in self._looks:
                await look()
            await self._probe()
            await self._measure()
            await asyncio.sleep(LOOK_EVERY_S)

    def _tell(self) -> None:
        down = self._forward is not None and self._forward.down
        degraded = STORE_FAILING if self.store_fault else BROKER_FAILING if self.broker_fault else None
        self._changed(degraded, down, not self._clock.trusted())

    async def _probe(self) -> None:
        """In real time whatever the barn's clock says: it is about this process."""
        if time.monotonic() < self._probe_due_s:
            return
        self._probe_due_s = time.monotonic() + PROBE_EVERY_S
        why = await self._ask_broker()
        if why is None:
            self._probes_failed = 0
            if self.broker_fault is not None:
                log.info("The broker answers again")
            self.broker_fault = None
            return
        self._probes_failed += 1
        if self._probes_failed >= PROBES_FAILED_MAX and self.broker_fault is None:
            self.broker_fault = f"the broker does not answer: {why}"
            log.error("%s", self.broker_fault)

    async def _measure(self) -> None:
        """Figures for the status that need the disk."""
        self.store_bytes = await asyncio.to_thread(self._database.size_bytes)
        if self._forward is not None:
            self.pending_n = await self._forward.pending()
