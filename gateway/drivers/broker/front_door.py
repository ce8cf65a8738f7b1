"""The front door: who is in, and where each publish goes. Runs on the event loop.

It owns everything a client can do wrong; amqtt behind it sees clean clients only.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine

import msgspec

from gateway.core.messages import RawMessage
from gateway.core.topics import RouteTable, topic_fault
from gateway.drivers.broker import packets
from gateway.drivers.broker.access import Access, Principal
from gateway.drivers.broker.connection import Connection
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.framing import MalformedError
from gateway.drivers.broker.gate import Gate, Ticket
from gateway.drivers.broker.limits import RULINGS_MAX, DoorLimits
from gateway.drivers.broker.session import Session
from gateway.ports import Clock, Receipt

_log = logging.getLogger(__name__)

# A client that breaks the protocol in a loop must not fill the card: one line in this time.
COMPLAINT_INTERVAL_S = 10.0
# Sets of roles with a cache of rulings; an installation has a handful.
ROLE_SETS_MAX = 16

Ingest = Callable[[RawMessage, Receipt], None]
Refused = Callable[[RawMessage, str, Receipt], None]


class Ruling(msgspec.Struct, frozen=True):
    """What the route table says about one topic for one set of roles."""

    topic: str
    refusal: str | None
    ingest: bool
    state: bool
    size_max: int


class FrontDoor:
    """All connections, and what they share.

    Args:
        routes: the route table.
        clock: stamps what arrives.
        ingest: takes publishes of ingest rows.
        refused: takes publishes that are not allowed, with the reason.
        hurry: a connection has a backlog; commit soon.
        access: who may speak.
        limits: bounds of an installation.
        exchange: amqtt.
        counters: shared with the exchange.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        clock: Clock,
        ingest: Ingest,
        refused: Refused,
        hurry: Callable[[], None],
        access: Access,
        limits: DoorLimits,
        exchange: Exchange,
        counters: Counter[str],
    ) -> None:
        self.clock = clock
        self.access = access
        self.limits = limits
        self.exchange = exchange
        self.hurry = hurry
        self.counters = counters
        self.gate = Gate(limits, counters)
        self.stopping = False
        self._routes = routes
        self._ingest = ingest
        self._refused = refused
        self._connections: dict[Connection, Ticket] = {}
        self._clients: dict[str, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rulings: dict[frozenset[str], dict[bytes, Ruling]] = {}
        self._complained_s = float("-inf")
        self._unsaid = 0

    # Coming and going.

    def connect(self) -> Connection:
        """The protocol of a new socket, or of a new layer over one."""
        return Connection(self)

    @property
    def connections(self) -> int:
        """Sockets now."""
        return len(self.gate)

    def admit(self, connection: Connection, transport: asyncio.BaseTransport) -> Ticket | None:
        """Let it in, unless a layer below has passed the gate already; None if there is no room."""
        ticket: Ticket | None = transport.get_extra_info("ticket")
        if ticket is None:
            ticket = self.gate.enter(transport)
        if ticket is None:
            self.gate.turn_away(transport, packets.connack_packet(packets.UNAVAILABLE))
        else:
            self._connections[connection] = ticket
        return ticket

    def gone(self, connection: Connection) -> None:
        """The socket is closed."""
        ticket = self._connections.pop(connection, None)
        if ticket is not None:
            self.gate.leave(ticket)

    def new_client_id(self) -> str:
        """An id for a client that leaves it to us (3.1.3.1)."""
        return f"auto-{secrets.token_hex(8)}"

    def enter(self, connection: Connection, *, clean: bool) -> tuple[Session, bool] | None:
        """Make it the one holder of its client id; its session and whether it was there, None = no room."""
        old = self._clients.get(connection.client_id)
        if old is not None:
            self.counters["takeovers"] += 1
            old.evict()
        opened = self.exchange.open(
            connection.client_id, clean=clean, outlet=connection, now_ms=self.clock.now_ms()
        )
        if opened is not None:
            self._clients[connection.client_id] = connection
            self.counters["sessions_opened"] += 1
        return opened

    def leave(self, connection: Connection, session: Session) -> None:
        """The client has gone, or another connection speaks for it."""
        if self._clients.get(connection.client_id) is connection:
            del self._clients[connection.client_id]
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

    def protocol_error(self, connection: Connection, why: str) -> None:
        """Count it, and say so unless it was said a moment ago."""
        self.counters["protocol_errors"] += 1
        now_s = self.clock.monotonic_s()
        if now_s - self._complained_s < COMPLAINT_INTERVAL_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        who = connection.client_id or "unknown"
        _log.warning("Closed MQTT client %r at %s: %s%s", who, connection.address, why, more)
        self._complained_s, self._unsaid = now_s, 0

    # Messages.

    def rulings_for(self, roles: frozenset[str]) -> dict[bytes, Ruling]:
        """The cache of decisions for one set of roles, keyed by the topic's bytes."""
        if roles not in self._rulings and len(self._rulings) >= ROLE_SETS_MAX:
            self._rulings.clear()
        return self._rulings.setdefault(roles, {})

    def rule(self, name: bytes, roles: frozenset[str]) -> Ruling:
        """Decide about a topic.

        Raises:
            MalformedError: it is no topic name at all.
        """
        try:
            topic = name.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise MalformedError("a topic is not UTF-8") from fault
        why = topic_fault(topic)
        if why is not None:
            raise MalformedError(why)
        route = self._routes.match(topic)
        ruling = Ruling(
            topic=topic,
            refusal=self._routes.publish_refusal(topic, roles),
            ingest=route is not None and route.ingest,
            state=route is not None and route.retain,
            size_max=route.size_max if route is not None else self.limits.packet_size_max,
        )
        cache = self.rulings_for(roles)
        if len(cache) >= RULINGS_MAX:
            cache.clear()
        cache[name] = ruling
        return ruling

    def dispatch(
        self, message: RawMessage, ruling: Ruling, principal: Principal, receipt: Receipt, *, durable: bool
    ) -> None:
        """Send a publish on its way: refused, or to subscribers and, on an ingest row, to the store.

        Args:
            message: what came.
            ruling: what the route table says about its topic.
            principal: who sent it.
            receipt: settled when all that must outlive a restart is on disk.
            durable: something about it must do so already.
        """
        self.counters["publishes_in"] += 1
        why = ruling.refusal
        if why is None and not self.access.may_publish(principal, message.topic):
            why = "the client may not publish here"
        if why is None and len(message.payload) > ruling.size_max:
            why = f"the payload has {len(message.payload)} bytes; {ruling.size_max} are allowed"
        if why is not None:
            self.counters["refused_publishes"] += 1
            self._refused(message, why, receipt)
            return
        topic, payload, qos = message.topic, message.payload, message.qos
        if message.retain:
            durable |= self.exchange.retain(topic, payload, qos, keep=True)
        durable |= self.exchange.distribute(topic, payload, qos, state=message.retain or ruling.state)
        if ruling.ingest:
            self._ingest(message, receipt)  # the same commit takes both
        elif durable and qos:
            self.exchange.keeper.after_commit(receipt)
        else:
            receipt.settle()

    def may_subscribe(self, principal: Principal, topic_filter: str) -> bool:
        """Whether route table and access both agree."""
        if self._routes.subscribe_refusal(topic_filter, principal.roles) is not None:
            return False
        return self.access.may_subscribe(principal, topic_filter)

    # The end.

    def stop(self) -> None:
        """Read nothing more; what is in flight can still be acknowledged."""
        self.stopping = True
        self.gate.shut()
        for connection in self._connections:
            connection.stop_reading()

    async def close(self) -> None:
        """Close every connection: politely, then by force."""
        self.stop()
        for connection in tuple(self._connections):
            connection.close()
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
