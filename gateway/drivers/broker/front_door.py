"""The front door: who is in, and where each publish goes. Runs on the event loop.

It owns everything a client can do wrong; amqtt behind it sees clean clients only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine

import msgspec

from gateway.core.messages import RawMessage
from gateway.core.topics import RouteTable, topic_fault
from gateway.drivers.broker.access import Access, Principal
from gateway.drivers.broker.connection import Connection
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.framing import MalformedError
from gateway.drivers.broker.limits import RULINGS_MAX, SESSIONS_MAX, DoorLimits
from gateway.drivers.broker.receipts import Receipt
from gateway.ports import Clock
from gateway.ports import Receipt as ReceiptPort

_log = logging.getLogger(__name__)

# A client that breaks the protocol in a loop must not fill the card: one line in this time.
COMPLAINT_INTERVAL_S = 10.0
# Sets of roles with a cache of rulings; an installation has a handful.
ROLE_SETS_MAX = 16

Ingest = Callable[[RawMessage, ReceiptPort], None]
Refused = Callable[[RawMessage, str, ReceiptPort], None]


class Ruling(msgspec.Struct, frozen=True):
    """What the route table says about one topic for one set of roles."""

    topic: str
    refusal: str | None
    ingest: bool
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
        self.stopping = False
        self._routes = routes
        self._ingest = ingest
        self._refused = refused
        self._connections: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._clients: dict[str, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rulings: dict[frozenset[str], dict[bytes, Ruling]] = {}
        self._qos2_ids: dict[str, dict[int, Receipt]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._complained_s = float("-inf")
        self._unsaid = 0

    # Coming and going.

    def connect(self) -> Connection:
        """The protocol of a new socket."""
        return Connection(self)

    @property
    def connections(self) -> int:
        """Sockets now."""
        return len(self._connections)

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more, in all and from its address."""
        self.counters["connections_total"] += 1
        crowded = self._counted(connection.address) and (
            self._per_address[connection.address] >= self.limits.connections_per_address_max
        )
        if self.stopping or crowded or len(self._connections) >= self.limits.connections_max:
            self.counters["refused_connections"] += 1
            return False
        self._connections.add(connection)
        self._empty.clear()
        self._per_address[connection.address] += 1
        return True

    def _counted(self, address: str) -> bool:
        if not self.limits.loopback_exempt:
            return True
        try:
            return not ipaddress.ip_address(address.partition("%")[0]).is_loopback
        except ValueError:
            return True

    def gone(self, connection: Connection) -> None:
        """The socket is closed."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()
        self._per_address[connection.address] -= 1
        if self._per_address[connection.address] <= 0:
            del self._per_address[connection.address]

    def recheck(self) -> None:
        """Who may speak has changed: end what would not be let in any more. Its will is due."""
        for connection in tuple(self._connections):
            who = connection.principal
            if who is not None and not self.access.still_valid(who):
                self.counters["revoked"] += 1
                connection.abort()

    def new_client_id(self) -> str:
        """An id for a client that leaves it to us (3.1.3.1)."""
        return f"auto-{secrets.token_hex(8)}"

    async def take_over(self, connection: Connection) -> bool:
        """Make it the one holder of its client id; the old one is gone, with its amqtt task, on return.

        False if the newcomer itself has gone, or has been taken over while it waited.
        """
        if connection.closed:
            return False
        old = self._clients.get(connection.client_id)
        self._clients[connection.client_id] = connection
        if old is not None and old.task is not None:
            self.counters["takeovers"] += 1
            old.abort()
            await asyncio.wait({old.task})
        return not connection.closed

    def leave(self, connection: Connection, *, clean: bool) -> None:
        """Its session task ends."""
        if self._clients.get(connection.client_id) is connection:
            del self._clients[connection.client_id]
            if clean:
                self._qos2_ids.pop(connection.client_id, None)

    def serve(self, session: Coroutine[None, None, None], client_id: str) -> asyncio.Task[None]:
        """Run the session of an accepted CONNECT."""
        task = asyncio.get_running_loop().create_task(session, name=f"mqtt {client_id}")
        self._tasks.add(task)
        task.add_done_callback(self._served)
        return task

    def _served(self, task: asyncio.Task[None]) -> None:
        """Look at how it ended: a fault in amqtt or in access closes that client only."""
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self.counters["session_faults"] += 1
            _log.error("The session of %s failed", task.get_name(), exc_info=fault)

    def qos2_ids(self, client_id: str, *, fresh: bool) -> dict[int, Receipt]:
        """QoS 2 ids received and not yet released; a persistent session finds its own again."""
        ids = None if fresh else self._qos2_ids.pop(client_id, None)
        if len(self._qos2_ids) >= SESSIONS_MAX and client_id not in self._qos2_ids:
            absent = next((name for name in self._qos2_ids if name not in self._clients), None)
            if absent is not None:
                del self._qos2_ids[absent]
        kept: dict[int, Receipt] = {} if ids is None else ids
        self._qos2_ids[client_id] = kept
        return kept

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
            size_max=route.size_max if route is not None else self.limits.packet_size_max,
        )
        cache = self.rulings_for(roles)
        if len(cache) >= RULINGS_MAX:
            cache.clear()
        cache[name] = ruling
        return ruling

    def dispatch(
        self, message: RawMessage, ruling: Ruling, principal: Principal, receipt: ReceiptPort
    ) -> None:
        """Send a publish on its way: refused, or to subscribers and, on an ingest row, to the store."""
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
        if message.retain:
            self.exchange.retain(message.topic, message.payload, message.qos)
        self.exchange.distribute(message.topic, message.payload, message.qos)
        if ruling.ingest:
            self._ingest(message, receipt)
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
        for connection in self._connections:
            connection.stop_reading()

    async def close(self) -> None:
        """Close every connection: politely, then by force."""
        self.stop()
        for connection in tuple(self._connections):
            connection.close()
        await self._wait_closed(self.limits.close_timeout_s)
        for connection in tuple(self._connections):
            connection.abort()
        await self._wait_closed(self.limits.close_timeout_s)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _wait_closed(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)
