"""The front door: who is in. Runs on the event loop."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Coroutine
from typing import Protocol

from gateway.drivers.broker import packets
from gateway.drivers.broker.access import Access, Principal
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.gate import Gate, Ticket
from gateway.drivers.broker.limits import DoorLimits
from gateway.drivers.broker.session import Outlet, Session
from gateway.ports import Clock

_log = logging.getLogger(__name__)

# A client that breaks the protocol in a loop must not fill the card: one line in this time.
COMPLAINT_INTERVAL_S = 10.0


class Visitor(Outlet, Protocol):
    """A connection, as the door sees it."""

    @property
    def client_id(self) -> str:
        """As in its CONNECT; empty before."""
        ...

    @property
    def address(self) -> str:
        """Of the peer."""
        ...

    @property
    def principal(self) -> Principal | None:
        """Who it speaks for; None before that is known."""
        ...

    def stop_reading(self) -> None:
        """Take nothing more; acknowledgements still go out."""
        ...

    def evict(self, *, will_due: bool = True) -> None:
        """Somebody else has its client id now, or it may not speak any more: then its will is not due."""
        ...

    def close(self) -> None:
        """Say what is still to be said, then close."""
        ...


class FrontDoor:
    """All connections, and what they share.

    Args:
        clock: for what is noted of sessions.
        access: who may come in.
        limits: bounds of an installation.
        exchange: where the sessions are.
        counters: shared with the exchange.
    """

    def __init__(
        self, *, clock: Clock, access: Access, limits: DoorLimits, exchange: Exchange, counters: Counter[str]
    ) -> None:
        self.clock = clock
        self.access = access
        self.limits = limits
        self.exchange = exchange
        self.counters = counters
        self.gate = Gate(limits, counters)
        self.stopping = False
        self._inside: dict[Visitor, Ticket] = {}
        self._clients: dict[str, Visitor] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained_s = float("-inf")
        self._unsaid = 0

    # Coming and going.

    @property
    def connections(self) -> int:
        """Sockets now."""
        return len(self.gate)

    def admit(self, visitor: Visitor, transport: asyncio.BaseTransport) -> Ticket | None:
        """Let it in, if there is room; inside a layer it is in already."""
        ticket = self.gate.enter(transport)
        if ticket is None:
            self.gate.turn_away(transport, packets.connack_packet(packets.UNAVAILABLE))
        else:
            self._inside[visitor] = ticket
        return ticket

    def gone(self, visitor: Visitor) -> None:
        """The socket is closed."""
        ticket = self._inside.pop(visitor, None)
        if ticket is not None:
            self.gate.leave(ticket)

    def recheck(self) -> None:
        """Who may speak has changed: end what would not be let in any more, without its last word."""
        for visitor in tuple(self._inside):
            principal = visitor.principal
            if principal is not None and not self.access.still_valid(principal, visitor.client_id):
                self.counters["revoked"] += 1
                visitor.evict(will_due=False)

    def new_client_id(self) -> str:
        """An id for a client that leaves it to us (3.1.3.1)."""
        return f"auto-{secrets.token_hex(8)}"

    def enter(self, visitor: Visitor, *, clean: bool) -> tuple[Session, bool] | None:
        """Make it the one holder of its client id; its session and whether it was there, None = no room."""
        old = self._clients.get(visitor.client_id)
        if old is not None:
            self.counters["takeovers"] += 1
            old.evict()
        opened = self.exchange.open(
            visitor.client_id, clean=clean, outlet=visitor, now_ms=self.clock.now_ms()
        )
        if opened is not None:
            self._clients[visitor.client_id] = visitor
            self.counters["sessions_opened"] += 1
        return opened

    def leave(self, visitor: Visitor, session: Session) -> None:
        """The client has gone, or another visitor speaks for it."""
        if self._clients.get(visitor.client_id) is visitor:
            del self._clients[visitor.client_id]
        self.exchange.leave(session, self.clock.now_ms())

    def serve(self, asking: Coroutine[None, None, None], client_id: str) -> None:
        """Find out who a client is, where that takes a while."""
        task = asyncio.get_running_loop().create_task(asking, name=f"mqtt {client_id}")
        self._tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        """Look at how it ended: a fault in access closes that client only."""
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self.counters["session_faults"] += 1
            _log.error("Asking who %s is failed", task.get_name(), exc_info=fault)

    def protocol_error(self, visitor: Visitor, why: str) -> None:
        """Count it, and say so unless something was said a moment ago."""
        self.counters["protocol_errors"] += 1
        self._say("Closed", visitor, why)

    def no_room(self, visitor: Visitor) -> None:
        """A newcomer is refused because all sessions are taken."""
        self._say("Refused", visitor, f"{self.limits.sessions_max} sessions are held, none may be forgotten")

    def _say(self, what: str, visitor: Visitor, why: str) -> None:
        now_s = self.clock.monotonic_s()
        if now_s - self._complained_s < COMPLAINT_INTERVAL_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        who = visitor.client_id or "unknown"
        _log.warning("%s MQTT client %r at %s: %s%s", what, who, visitor.address, why, more)
        self._complained_s, self._unsaid = now_s, 0

    # The end.

    def stop(self) -> None:
        """Read nothing more; what is in flight can still be acknowledged."""
        self.stopping = True
        self.gate.shut()
        for visitor in self._inside:
            visitor.stop_reading()

    async def close(self) -> None:
        """Close every visitor: politely, then by force."""
        self.stop()
        for visitor in tuple(self._inside):
            visitor.close()
        await self._wait_closed(self.limits.close_timeout_s)
        self.gate.clear()
        await self._wait_closed(self.limits.close_timeout_s)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _wait_closed(self, timeout_s: float) -> None:
        await self.gate.wait_empty(timeout_s)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)
