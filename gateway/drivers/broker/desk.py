"""The desk: where each publish goes, and who may subscribe to what. Runs on the event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from gateway.core.messages import RawMessage
from gateway.core.topics import RouteTable, filter_fault, topic_fault
from gateway.drivers.broker.access import Access, Principal
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.framing import MalformedError
from gateway.drivers.broker.limits import OWN_RULINGS_MAX, ROLE_SETS_MAX, RULINGS_MAX
from gateway.ports import Receipt

Ingest = Callable[[RawMessage, Receipt], None]
Refused = Callable[[RawMessage, str, Receipt], None]


class Ruling(msgspec.Struct, frozen=True):
    """What the route table says about one topic for one principal.

    Args:
        topic: decoded.
        refusal: why not to publish here; None = it may.
        ingest: the store takes it.
        state: only the newest message of the topic matters.
        size_max: bytes of payload.
    """

    topic: str
    refusal: str | None
    ingest: bool
    state: bool
    size_max: int


class Rulings(dict[bytes, Ruling]):
    """A cache of rulings by the topic's bytes; it starts afresh when it is full."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def keep(self, name: bytes, ruling: Ruling) -> None:
        """Add one."""
        if len(self) >= self.limit:
            self.clear()
        self[name] = ruling


class Desk:
    """Sends publishes on their way.

    Args:
        routes: the route table.
        access: has a say beside it.
        ingest: takes publishes of ingest rows.
        refused: takes publishes that are not allowed, with the reason.
        hurry: a connection has a backlog; commit soon.
        exchange: takes everything to its subscribers.
        size_max: bytes of payload where no row says otherwise.
        counters: shared with the exchange.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        access: Access,
        ingest: Ingest,
        refused: Refused,
        hurry: Callable[[], None],
        exchange: Exchange,
        size_max: int,
        counters: Counter[str],
    ) -> None:
        self.exchange = exchange
        self.hurry = hurry
        self.counters = counters
        self._routes = routes
        self._access = access
        self._ingest = ingest
        self._refused = refused
        self._size_max = size_max
        self._shared: dict[frozenset[str], Rulings] = {}

    def rulings_for(self, principal: Principal) -> Rulings:
        """A cache for what this principal publishes; those that may speak for anyone share one."""
        if principal.speaks_for is not None:
            return Rulings(OWN_RULINGS_MAX)
        if principal.roles not in self._shared and len(self._shared) >= ROLE_SETS_MAX:
            self._shared.clear()
        return self._shared.setdefault(principal.roles, Rulings(RULINGS_MAX))

    def rule(self, name: bytes, principal: Principal) -> Ruling:
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
        return Ruling(
            topic=topic,
            refusal=self._routes.publish_refusal(topic, principal.roles),
            ingest=route is not None and route.ingest,
            state=route is not None and route.retain,
            size_max=route.size_max if route is not None else self._size_max,
        )

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
        if why is None and not self._access.may_publish(principal, message.topic):
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
        """Whether it is a filter, and route table and access both agree."""
        if filter_fault(topic_filter) is not None:
            return False
        if self._routes.subscribe_refusal(topic_filter, principal.roles) is not None:
            return False
        return self._access.may_subscribe(principal, topic_filter)
