"""The device register's way into the broker: a look every other second, and what it found.

Runs on the event loop; the file is read in a worker thread, because a dying card can take 30 s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.core.credentials import Roster
from gateway.drivers.broker.tokens import TokenAccess
from gateway.store.devices import DeviceFile
from gateway.store.register_look import Found

log = logging.getLogger(__name__)


class Admission:
    """Register and door together. A broken register is no reason to end: it is told, and nobody new comes in.

    Args:
        file: the register.
        access: what the broker asks; it knows the devices when this returns.
        needed: nobody on the network comes in without being registered, so an empty register is told.

    Attributes:
        access: the same.
    """

    def __init__(self, file: DeviceFile, access: TokenAccess, *, needed: bool = True) -> None:
        self._needed = needed
        self.access = access
        self._file = file
        self._take(file.look())

    async def look(self, changed: Callable[[], None]) -> None:
        """Call `changed` where the devices are others now, so that connections must be asked for again."""
        if self._take(await asyncio.to_thread(self._file.look)):
            changed()

    def _take(self, found: Found[Roster]) -> bool:
        if found.fault is not None:
            log.error("%s", found.fault)
        if found.content is None:
            return False
        self.access.use(found.content)
        if len(found.content):
            log.info("Devices registered in %s: %d", self._file.path, len(found.content))
        elif self._needed:
            log.warning(
                "No device is registered in %s; `barn-gateway device add` enters one", self._file.path
            )
        return True
