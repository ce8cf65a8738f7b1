"""Who gets a topic. Plain state on the event loop."""

from __future__ import annotations

from gateway.core.topics import has_wildcard, matches
from gateway.drivers.broker.limits import PLANS_MAX
from gateway.drivers.broker.session import Session

Plan = tuple[tuple[Session, int], ...]
"""Each subscriber once, with the highest QoS that its matching filters were granted (3.3.5)."""


class Subscriptions:
    """The filters of all sessions, and the answers worked out from them, cached per topic."""

    def __init__(self) -> None:
        self._holders: dict[str, dict[str, Session]] = {}  # filter → client id → session
        self._wildcards: dict[str, str] = {}  # filters with a wildcard → what a topic begins with
        self._plans: dict[str, Plan] = {}
        self.count = 0  # of all sessions

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def plans(self) -> int:
        """Answers that are cached."""
        return len(self._plans)

    def add(self, session: Session, topic_filter: str) -> None:
        """A filter, new or with another QoS; that is in `session.filters`."""
        holders = self._holders.setdefault(topic_filter, {})
        self.count += session.client_id not in holders
        holders[session.client_id] = session
        if has_wildcard(topic_filter):
            self._wildcards[topic_filter] = _literal_prefix(topic_filter)
        self._plans.clear()

    def remove(self, session: Session, topic_filter: str) -> None:
        """One filter less; nothing if it was not there."""
        holders = self._holders.get(topic_filter)
        if holders is None or holders.pop(session.client_id, None) is None:
            return
        self.count -= 1
        if not holders:
            del self._holders[topic_filter]
            self._wildcards.pop(topic_filter, None)
        self._plans.clear()

    def plan(self, topic: str) -> Plan:
        """Who gets messages on `topic`."""
        plan = self._plans.get(topic)
        if plan is None:
            plan = self._worked_out(topic)
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[topic] = plan
        return plan

    def _worked_out(self, topic: str) -> Plan:
        filters = [topic] if topic in self._holders else []
        filters += [
            topic_filter
            for topic_filter, prefix in self._wildcards.items()
            if topic.startswith(prefix) and matches(topic_filter, topic)
        ]
        best: dict[str, tuple[Session, int]] = {}
        for topic_filter in filters:
            for client_id, session in self._holders[topic_filter].items():
                qos = session.filters[topic_filter]
                known = best.get(client_id)
                if known is None or known[1] < qos:
                    best[client_id] = (session, qos)
        return tuple(best.values())


def _literal_prefix(topic_filter: str) -> str:
    """Return what a topic must begin with to match: `a/` for `a/+`, `a` for `a/#`."""
    plus = topic_filter.split("+", 1)[0]
    head = topic_filter.split("#", 1)[0]
    return plus if len(plus) < len(head) else head.removesuffix("/")
