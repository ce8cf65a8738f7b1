"""The broker as the gateway sees it: front door and exchange, started and stopped together.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gateway.core.broker_state import BrokerState, Change
from gateway.core.messages import RawMessage
from gateway.core.topics import Family, RouteTable, topic_fault
from gateway.drivers.broker.access import Access, AnonymousAccess
from gateway.drivers.broker.connection import Connection
from gateway.drivers.broker.desk import Desk
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.front_door import FrontDoor
from gateway.drivers.broker.keeper import Keep
from gateway.drivers.broker.limits import RETAINED_MESSAGES_MAX, DoorLimits
from gateway.drivers.broker.listeners import Listener
from gateway.drivers.broker.stack import stack
from gateway.errors import NetworkError
from gateway.ports import Clock, Receipt

_log = logging.getLogger(__name__)

# Beside MQTT connections: 128 of the pages, refused clients (64), the store, the log, libraries.
OTHER_FILES = 400
# Connections the kernel completes before we accept them: a whole herd after a power cut.
ACCEPT_BACKLOG = 1024


class EmbeddedBroker:
    """An MQTT 3.1.1 broker in this process.

    Args:
        routes: decides about every topic.
        clock: stamps what arrives.
        take: for each family of rows who is called on the loop with its publishes; whoever it is settles
            the receipt after the commit, on the loop's thread, and only then is the publish acknowledged.
            A QoS 2 message may come again after a restart, if it was not settled before.
        refused: called likewise for each publish that is not allowed, with the reason.
        hurry: commit soon: a connection holds 16 unacknowledged publishes or more, or a persistent
            session awaits its SUBACK or UNSUBACK.
        access: authentication and access control; everyone may speak by default.
        limits: bounds of the front door.
        keep: asks for a commit that takes `changes` along, see `keeper.Keep`; without it sessions and
            retained messages end with this process.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        clock: Clock,
        take: Mapping[Family, Callable[[RawMessage, Receipt], None]],
        refused: Callable[[RawMessage, str, Receipt], None],
        hurry: Callable[[], None],
        access: Access | None = None,
        limits: DoorLimits | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._routes = routes
        self._clock = clock
        self._take = take
        self._refused = refused
        self._hurry = hurry
        self._access: Access = access if access is not None else AnonymousAccess()
        self._limits = limits if limits is not None else DoorLimits()
        self._counters: Counter[str] = Counter()
        self._keep = keep
        self._state = BrokerState()
        self._left: Sequence[Change] = ()  # what `close` itself has changed
        # What the gateway publishes before `start`: open alerts, retained.
        self._early: deque[Callable[[], None]] = deque(maxlen=RETAINED_MESSAGES_MAX)
        self._exchange: Exchange | None = None
        self._door: FrontDoor | None = None
        self._servers: list[asyncio.Server] = []
        self.ports: tuple[int, ...] = ()

    @property
    def connections(self) -> int:
        """Sockets now, those that have not said who they are included."""
        return self._door.connections if self._door is not None else 0

    @property
    def port(self) -> int:
        """Of the first listener; 0 before `start`."""
        return self.ports[0] if self.ports else 0

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what happened; a name that never occurred reads 0."""
        return self._counters

    @property
    def gauges(self) -> Mapping[str, int]:
        """What the broker holds now; empty before `start`."""
        return self._exchange.gauges() if self._exchange is not None else {}

    async def start(self, *listeners: Listener) -> None:
        """Listen on all of them; `self.ports` tells their ports, in this order.

        Raises:
            NetworkError: one of the addresses cannot be listened on; then none is.
            ValueError: nobody takes the publishes of a row.
        """
        _allow_files(self._limits.connections_max)
        exchange = Exchange(self._counters, self._keep, self._hurry, self._limits.sessions_max)
        door = FrontDoor(
            clock=self._clock,
            access=self._access,
            limits=self._limits,
            exchange=exchange,
            counters=self._counters,
        )
        desk = Desk(
            routes=self._routes,
            access=self._access,
            take=self._take,
            refused=self._refused,
            hurry=self._hurry,
            exchange=exchange,
            counters=self._counters,
        )
        connect = partial(Connection, door, desk)
        servers: list[asyncio.Server] = []
        try:
            for listener in listeners:
                layers = stack(listener, connect, door.gate, self._limits)
                servers.append(await _server(listener, layers))
        except NetworkError:
            for server in servers:
                server.close()
            raise
        await exchange.start()
        exchange.restore(self._state)
        self._state = BrokerState()
        self._exchange, self._door, self._servers = exchange, door, servers
        while self._early:
            self._early.popleft()()
        self.ports = tuple(int(server.sockets[0].getsockname()[1]) for server in servers)
        for server in servers:
            await server.start_serving()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Publish from the gateway itself. Never blocks; before `start` it is kept for then.

        Args:
            topic: where; not subject to the route table.
            payload: what; empty and retained clears the topic.
            qos: the highest QoS a subscriber gets it with.
            retain: keep it for later subscribers, until this process ends.

        Raises:
            ValueError: `topic` is no topic name.
        """
        why = topic_fault(topic)
        if why is not None:
            raise ValueError(f"cannot publish on {topic!r}: {why}")
        if self._exchange is None:
            self._early.append(partial(self.publish, topic, payload, qos=qos, retain=retain))
            return
        if retain:
            self._exchange.retain(topic, payload, qos, keep=False)
        self._exchange.distribute(topic, payload, qos, state=retain)

    def retain(self, topic: str, payload: bytes, *, qos: int = 0) -> None:
        """What the gateway has published before this run began: only for those who subscribe from now on."""
        if self._exchange is None:
            self._early.append(partial(self.retain, topic, payload, qos=qos))
        else:
            self._exchange.retain(topic, payload, qos, keep=False)

    def restore(self, state: BrokerState) -> None:
        """Sessions and retained messages of the last run; before `start`."""
        self._state = state

    def changes(self) -> Sequence[Change]:
        """What of sessions and retained messages is to be written down since the last call."""
        if self._exchange is None:
            left, self._left = self._left, ()
            return left
        return self._exchange.changes()

    def recheck(self) -> None:
        """What `access` answers has changed: end the connections it would not let in any more."""
        if self._door is not None:
            self._door.recheck()

    async def stop(self) -> None:
        """Stop accepting and reading. Connections stay, so that `settle` still acknowledges."""
        for server in self._servers:
            server.close()
        if self._door is not None:
            self._door.stop()

    async def close(self) -> None:
        """Close every connection and release the socket. Nothing is left behind."""
        await self.stop()
        servers, self._servers = self._servers, []
        if self._door is not None:
            await self._door.close()
        for server in servers:
            await server.wait_closed()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._left = exchange.changes()
            await exchange.shutdown()


def _allow_files(connections_max: int) -> None:
    """Let this process open a file for each connection, where the system lets it."""
    wanted = connections_max + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    given = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
    if given < wanted:
        _log.warning(
            "The system allows %d open files, so fewer than %d MQTT connections: raise LimitNOFILE (systemd) "
            "or `ulimit -n`, or lower broker.limits.connections_max",
            given,
            connections_max,
        )


async def _server(listener: Listener, connect: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Bind, without accepting anyone yet."""
    host, port = listener.host, listener.port
    try:
        return await asyncio.get_running_loop().create_server(
            connect, host, port, backlog=ACCEPT_BACKLOG, start_serving=False
        )
    except OSError as fault:
        raise _listen_error(host, port, fault) from fault


def _listen_error(host: str, port: int, fault: OSError) -> NetworkError:
    where = f"{host}:{port}"
    if fault.errno == errno.EADDRINUSE:
        return NetworkError(
            f"MQTT port in use: cannot listen on {where}",
            f"another broker runs there; find it with `ss -ltnp 'sport = :{port}'`, stop it, "
            "or choose another port",
        )
    if fault.errno == errno.EACCES:
        return NetworkError(f"not allowed to listen on {where}", "ports below 1024 need a capability")
    return NetworkError(
        f"cannot listen on {where}: {fault.strerror or fault}", "is this an address of this machine?"
    )
