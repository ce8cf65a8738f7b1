"""The desk: where each publish goes, and who may subscribe to what. Runs on the event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gateway.core.messages import RawMessage
from gateway.core.rates import Meters
from gateway.core.topic_names import filter_fault, topic_fault
from gateway.core.topics import RouteTable, Ruling
from gateway.drivers.broker.access import Access, Principal
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.framing import MalformedError
from gateway.drivers.broker.limits import ROLE_SETS_MAX, RULINGS_MAX
from gateway.ports import Receipt

Ingest = Callable[[RawMessage, Receipt], None]
Refused = Callable[[RawMessage, str, Receipt], None]


Rulings = dict[bytes, Ruling]
"""By the topic's bytes; for one set of roles."""


class Desk:
    """Sends publishes on their way.

    Args:
        routes: the route table.
        access: has a say beside it.
        ingest: takes publishes of ingest rows.
        refused: takes publishes that are not allowed, with the reason.
        hurry: a connection has a backlog, or awaits an answer in which it may say nothing; commit soon.
        exchange: takes everything to its subscribers.
        counters: shared with the exchange.

    Attributes:
        meters: how much each client may still send.
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
        counters: Counter[str],
    ) -> None:
        self.exchange = exchange
        self.hurry = hurry
        self.counters = counters
        self._routes = routes
        self._access = access
        self._ingest = ingest
        self._refused = refused
        self.meters = Meters()
        self._rulings: dict[frozenset[str], Rulings] = {}

    def rulings_for(self, roles: frozenset[str]) -> Rulings:
        """The cache for clients with these roles; the desk fills it."""
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
        ruling = self._routes.rule(topic, roles)
        if ruling.refusal is None:  # a refused one may be 64 KiB long, and would push out good ones
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
        why = ruling.refusal_for(principal.speaks_for)
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
        if self._routes.subscribe_refusal(topic_filter, principal.roles, principal.speaks_for) is not None:
            return False
        return self._access.may_subscribe(principal, topic_filter)
