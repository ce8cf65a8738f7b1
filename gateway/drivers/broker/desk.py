"""The desk: where each publish goes, and who may subscribe to what. Runs on the event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from gateway.core.messages import RawMessage
from gateway.core.rates import Meters
from gateway.core.topic_names import filter_fault, topic_fault
from gateway.core.topics import Family, RouteTable, Ruling
from gateway.drivers.broker.access import Access, Principal
from gateway.drivers.broker.exchange import Exchange
from gateway.drivers.broker.framing import MalformedError
from gateway.drivers.broker.limits import ROLE_SETS_MAX, RULINGS_MAX
from gateway.drivers.broker.receipts import Both
from gateway.ports import Receipt

_READINGS = Family.READINGS  # looked up for each reading otherwise, which takes 0.1 µs

Take = Callable[[RawMessage, Receipt], None]
Refused = Callable[[RawMessage, str, Receipt], None]


Rulings = dict[bytes, Ruling]
"""By the topic's bytes; for one set of roles."""


class Desk:
    """Sends publishes on their way.

    Args:
        routes: the route table.
        access: has a say beside it.
        take: who takes the publishes of each family of rows; every family of the route table has one.
        refused: takes publishes that are not allowed, with the reason.
        hurry: a connection has a backlog, or awaits an answer in which it may say nothing; commit soon.
        exchange: takes everything to its subscribers.
        counters: shared with the exchange.

    Attributes:
        meters: how much each client may still send.

    Raises:
        ValueError: nobody takes the publishes of a row.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        access: Access,
        take: Mapping[Family, Take],
        refused: Refused,
        hurry: Callable[[], None],
        exchange: Exchange,
        counters: Counter[str],
    ) -> None:
        for route in routes.routes:
            if route.family is not None and route.family not in take:
                raise ValueError(f"nobody takes what is published on {route.pattern} ({route.family})")
        self.exchange = exchange
        self.hurry = hurry
        self.counters = counters
        self._routes = routes
        self._access = access
        self._take = take
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
        """Send a publish on its way: refused, or to subscribers and to whoever takes its family.

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
        if why is None and ruling.empty_refusal and not message.payload:
            why = ruling.empty_refusal
        if why is not None:
            self.counters["refused_publishes"] += 1
            self._refused(message, why, receipt)
            return
        topic, payload, qos, family = message.topic, message.payload, message.qos, ruling.family
        retained = message.retain and ruling.client_retains
        if retained:
            durable |= self.exchange.retain(topic, payload, qos, keep=True)
        durable |= self.exchange.distribute(topic, payload, qos, state=retained or ruling.state)
        durable = durable and qos > 0
        if family is _READINGS:
            self._take[family](message, receipt)  # the same commit takes both
        elif family is None and not durable:
            receipt.settle()
        elif family is None:
            self.exchange.keeper.after_commit(receipt)
        else:
            both = Both(receipt) if durable else receipt
            self._take[family](message, both)
            if durable:
                self.exchange.keeper.after_commit(both)

    def may_subscribe(self, principal: Principal, topic_filter: str) -> bool:
        """Whether it is a filter, and route table and access both agree."""
        if filter_fault(topic_filter) is not None:
            return False
        if self._routes.subscribe_refusal(topic_filter, principal.roles, principal.speaks_for) is not None:
            return False
        return self._access.may_subscribe(principal, topic_filter)
