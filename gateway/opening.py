"""Opens store and farm register, and keeps the gateway up while that is impossible for now.

Runs in the main task before anything else is built. A card that is full, read-only or failing, or a
store that a shell has locked, is no reason to end (decision 41): lamp, buzzer and /health say so, the
service manager is told that we live, and every few seconds it is tried again. The broker does not
listen yet, so nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from gateway import facts
from gateway.config import Config
from gateway.drivers.systemd import Systemd
from gateway.errors import GatewayError
from gateway.ports import Clock, Panel
from gateway.services.signalling import STORE_FAILING, Signalling
from gateway.store.database import Database
from gateway.store.farm import FarmRegister
from gateway.store.faults import StoreUnavailableError
from gateway.supervisor import Supervisor
from gateway.web.server import WebServer
from gateway.web.status import GatewayStatus

log = logging.getLogger(__name__)

RETRY_S: Final = 3.0
"""Between attempts: a person who has made room sees the lamp change at once, and 20 openings a minute
cost nothing. Well below the watchdog's minute, which each attempt feeds."""


class StopAskedError(GatewayError):
    """A stop was asked for while the store could not be opened: an orderly end, not a fault."""

    exit_code = 0


class Opening:
    """One opening, however long it takes.

    Args:
        config: where store and register are, and the health port.
        clock: the gateway's clock.
        panel: shows the trouble.
        systemd: is told that the process lives.
        supervisor: is asked whether to stop.
    """

    def __init__(
        self, config: Config, clock: Clock, *, panel: Panel, systemd: Systemd, supervisor: Supervisor
    ) -> None:
        self.config = config
        self.clock = clock
        self.began_s = time.monotonic()
        self._signalling = Signalling(panel.show, clock)
        self._systemd = systemd
        self._supervisor = supervisor
        self._fault: str | None = None
        self._web: WebServer | None = None

    async def run(self) -> tuple[Database, FarmRegister]:
        """Return both, open.

        Raises:
            StoreError: they can never be opened like this.
            NetworkError: the health port is taken.
            StopAskedError: `request_stop` came first.
        """
        try:
            while True:
                try:
                    opened = await self._try()
                except StoreUnavailableError as error:
                    await self._down(error)
                else:
                    if self._fault is not None:
                        log.info("The store can be used: %s", self.config.database.path)
                    return opened
                if await self._supervisor.stop_asked(RETRY_S):
                    raise StopAskedError("Stopped while the store could not be opened")
        finally:
            if self._web is not None:
                await self._web.stop()

    def hush(self) -> None:
        """The button: somebody has heard it, the light stays."""
        if self._fault is not None:
            self._signalling.hush()

    async def _try(self) -> tuple[Database, FarmRegister]:
        work = asyncio.create_task(asyncio.to_thread(self._open))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])  # a thread cannot be cancelled; what it opened is closed
            if work.exception() is None:
                database, farm = work.result()
                farm.close()
                await database.close()
            raise

    def _open(self) -> tuple[Database, FarmRegister]:
        section = self.config.database
        now_ms = self.clock.now_ms()
        backups = Path(self.config.backup.directory)
        database = Database.open(Path(section.path), now_ms, backups, timeout_s=section.timeout_s)
        try:
            register = Path(self.config.store.farm_register)
            return database, FarmRegister.open(register, now_ms=now_ms, backups=backups)
        except BaseException:  # closed, then raised again
            database.close_now()
            raise

    async def _down(self, error: StoreUnavailableError) -> None:
        if self._fault is None:
            log.error("The store cannot be opened for now, nothing is acknowledged: %s", error)
        self._fault = str(error)
        self._signalling.health(STORE_FAILING, uplink_down=False, clock_untrusted=not self.clock.trusted())
        if self._web is None and self.config.service.enable_health_check:
            self._web = WebServer(self.status, None, mqtt_monitor=self.config.service.enable_mqtt_monitor)
            await self._web.start(
                self.config.service.health_check_host, self.config.service.health_check_port
            )
        self._systemd.ready()
        self._systemd.status(f"The store cannot be opened: {error.message}")
        self._systemd.watchdog()

    def status(self) -> GatewayStatus:
        """What /health shows meanwhile."""
        shown = self._signalling.signal
        return facts.of_opening(self, self._fault or "", shown.label if shown else "")
