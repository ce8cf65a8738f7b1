"""The route table: everything that is decided about a topic, in one place (decision 23).

Pure. The broker asks it once for each topic and set of roles and keeps the answer; what depends
on the client itself (whom it speaks for, how much it has sent) is then a look into a set.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from gateway.core.rates import Rate
from gateway.core.topic_names import (
    covers,
    filter_fault,
    has_wildcard,
    matches,
    overlaps,
    size_fault,
    topic_fault,
)

# The rules for names belong to what is decided about topics; users of the table find them here.
__all__ = [
    "ANONYMOUS_ROLES",
    "CLIENT_ROLES",
    "ROLE_CONCENTRATOR",
    "ROLE_GATEWAY",
    "ROLE_OPERATOR",
    "ROLE_SENSOR",
    "Family",
    "Route",
    "RouteTable",
    "Ruling",
    "animals_spoken_for",
    "covers",
    "filter_fault",
    "has_wildcard",
    "matches",
    "overlaps",
    "size_fault",
    "topic_fault",
]

# Who speaks. "gateway" is this process alone; no client ever holds it. A concentrator is a base
# station that speaks for many collars.
ROLE_GATEWAY = "gateway"
ROLE_SENSOR = "sensor"
ROLE_CONCENTRATOR = "concentrator"
ROLE_OPERATOR = "operator"
CLIENT_ROLES = frozenset({ROLE_SENSOR, ROLE_CONCENTRATOR, ROLE_OPERATOR})
# Whoever needs no credential: a concentrator's limits are for those who are known.
ANONYMOUS_ROLES = frozenset({ROLE_SENSOR, ROLE_OPERATOR})

# The largest packet of MQTT (2.2.3): in no row only the front door's own bound holds.
PACKET_BYTES_MAX = 268_435_455

SENSOR_RATE: Final = Rate(per_min=100, burst=2000)
"""A collar's day of backlog, 1440 readings, at once and with room to spare (decision 24)."""
REFUSED_RATE: Final = SENSOR_RATE
"""Refused publishes become dead letters, on disk and at most 10,000 of them: a collar that was given a wrong
topic may leave a whole day there, and nobody pushes the others' out in a minute."""
ANIMALS_UNLISTED: Final = 200
"""Animals of a concentrator that may speak for any: 200 × 100/min = 333 messages a second, which is one a
minute for 20,000 animals, four times what a gateway keeps (decision 9)."""


def animals_spoken_for(roles: frozenset[str], names: frozenset[str] | None) -> int:
    """How many animals' limits a client has: its own, or as a concentrator those of all its animals.

    Args:
        roles: of the client.
        names: ids it may use; None = any.
    """
    if ROLE_CONCENTRATOR not in roles:
        return 1
    return ANIMALS_UNLISTED if names is None else max(1, len(names))


class Family(StrEnum):
    """What the gateway itself does with a publish, beside passing it on to subscribers.

    READINGS: stored; acknowledged after the commit that holds them.
    CALLS: somebody asks for help: light and sound at once, acknowledged when the alert is on disk.
    EMERGENCY_STOP: likewise, for the stop of the whole barn.
    COMMANDS: carried out, and answered.
    """

    READINGS = "readings"
    CALLS = "calls"
    EMERGENCY_STOP = "emergency_stop"
    COMMANDS = "commands"


class Route(msgspec.Struct, frozen=True):
    """One row: what is true of every topic that matches `pattern`.

    Args:
        name: key in configuration, metrics and documentation.
        pattern: an MQTT topic filter, e.g. `artemis/sensors/+`.
        qos: the quality of service its publishers should use.
        retain: whether its messages are meant to be retained.
        size_max: largest payload in bytes; a larger one is refused.
        family: what the gateway itself does with a publish; None = plain broker traffic.
        publishers: roles that may publish here.
        subscribers: roles that may subscribe here.
        summary: one sentence for the documentation.
        owner_level: index of the topic level, from 0, that names the animal or device spoken for;
            a client that speaks for some only may not use it for others. None = no such level.
        rate: messages each client may send here; None = any number.
        client_retains: whether a client's retain flag is honoured. Not where an old message would be
            taken for news, nor where what is retained is the gateway's own word.
        empty_refusal: why an empty payload is refused here; "" = it is not.
    """

    name: str
    pattern: str
    qos: int
    retain: bool
    size_max: int
    family: Family | None
    publishers: frozenset[str]
    subscribers: frozenset[str]
    summary: str
    owner_level: int | None = None
    rate: Rate | None = None
    client_retains: bool = True
    empty_refusal: str = ""

    def owner(self, topic: str) -> str | None:
        """Whom a topic or filter of this row speaks for; empty if it ends before that level."""
        if self.owner_level is None:
            return None
        levels = topic.split("/")
        return levels[self.owner_level] if self.owner_level < len(levels) else ""


class Ruling(msgspec.Struct, frozen=True):
    """What the table says about publishes on one topic by clients with the same roles.

    Args:
        topic: it is about.
        refusal: why nobody with these roles may publish here; see `refusal_for`.
        family: as in the row.
        state: of the topic only the newest message matters: the row's are retained.
        size_max: largest payload in bytes.
        row: key of the bucket that `rate` fills.
        rate: messages each client may send; None = any number.
        owner: whom the topic speaks for; None where rows name nobody.
        client_retains: as in the row.
        empty_refusal: as in the row.
    """

    topic: str
    refusal: str | None
    family: Family | None = None
    state: bool = False
    size_max: int = PACKET_BYTES_MAX
    row: str = ""
    rate: Rate | None = None
    owner: str | None = None
    client_retains: bool = True
    empty_refusal: str = ""

    def refusal_for(self, names: frozenset[str] | None) -> str | None:
        """Why a client that speaks for `names` (None = any) may not publish here, or None."""
        if self.refusal is not None or names is None or self.owner is None or self.owner in names:
            return self.refusal
        return _stranger(self.owner, names)


class RouteTable:
    """The rows, in order of precedence, and what is decided for topics in none of them.

    Args:
        routes: the first row that matches a topic decides.
        open_topics: filters of topics that pass as plain broker traffic without a row.
        denied_topics: filters of topics that are always refused.
        limited: whether rates hold; off while the broker listens on loopback only (decision 24).

    Raises:
        ValueError: a pattern is not a valid filter, or a row's levels do not fit it.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        open_topics: Iterable[str] = ("#",),
        denied_topics: Iterable[str] = (),
        *,
        limited: bool = True,
    ) -> None:
        self.routes = tuple(routes)
        self.open_topics = tuple(open_topics)
        self.denied_topics = tuple(denied_topics)
        self.limited = limited
        for pattern in (*(route.pattern for route in self.routes), *self.open_topics, *self.denied_topics):
            fault = filter_fault(pattern) or size_fault(pattern)
            if fault is not None:
                raise ValueError(f"{pattern!r} is no topic filter: {fault}")
        for route in self.routes:
            if route.owner_level is not None and route.owner(route.pattern) not in ("+", "#"):
                raise ValueError(
                    f"level {route.owner_level} of {route.pattern!r} names nobody: it is no wildcard"
                )

    def match(self, topic: str) -> Route | None:
        """The row that decides about `topic`."""
        return next((route for route in self.routes if matches(route.pattern, topic)), None)

    def rule(self, topic: str, roles: frozenset[str]) -> Ruling:
        """Decide about publishes on a valid topic by clients with `roles`.

        A topic that is too large is refused before anything is compared with it. Such rulings hold
        the topic: only those without a refusal are worth keeping.
        """
        why = size_fault(topic)
        if why is not None:
            return self._refused(topic, why, None)
        route = self.match(topic)
        why = self._refusal(topic, roles, route)
        if why is not None:
            return self._refused(topic, why, route)
        if route is None:
            return Ruling(topic, None)
        return Ruling(
            topic,
            None,
            family=route.family,
            state=route.retain,
            size_max=route.size_max,
            row=route.name,
            rate=route.rate if self.limited else None,
            owner=route.owner(topic),
            client_retains=route.client_retains,
            empty_refusal=route.empty_refusal,
        )

    def _refused(self, topic: str, why: str, route: Route | None) -> Ruling:
        """Counted against the row, if that has a rate, or together with everything else that is refused."""
        if not self.limited:
            return Ruling(topic, why)
        if route is None or route.rate is None:
            return Ruling(topic, why, rate=REFUSED_RATE)
        return Ruling(topic, why, row=route.name, rate=route.rate)

    def _refusal(self, topic: str, roles: frozenset[str], route: Route | None) -> str | None:
        if topic.startswith("$"):
            return "topics that start with $ belong to the broker"
        if any(matches(denied, topic) for denied in self.denied_topics):
            return "the topic is denied"
        if route is not None:
            return None if route.publishers & roles else f"only {_listed(route.publishers)} may publish here"
        if any(matches(opened, topic) for opened in self.open_topics):
            return None
        return "the topic is in no row of the route table"

    def publish_refusal(
        self, topic: str, roles: frozenset[str], names: frozenset[str] | None = None
    ) -> str | None:
        """Why a client with `roles` that speaks for `names` (None = any) may not publish, or None."""
        return self.rule(topic, roles).refusal_for(names)

    def subscribe_refusal(
        self, topic_filter: str, roles: frozenset[str], names: frozenset[str] | None = None
    ) -> str | None:
        """Why a client with `roles` that speaks for `names` (None = any) may not subscribe, or None.

        A filter must lie within one row or one open topic, and must not reach into a row that
        is closed to the client: `artemis/#` is more than `artemis/+`. Where a row names whom a
        topic speaks for, a client with names must write one of them at that level.
        """
        why = size_fault(topic_filter)
        if why is not None:
            return why
        if any(covers(denied, topic_filter) for denied in self.denied_topics):
            return "the topic is denied"
        touched = [route for route in self.routes if overlaps(route.pattern, topic_filter)]
        for route in touched:
            if not route.subscribers & roles:
                return f"only {_listed(route.subscribers)} may subscribe to {route.pattern}"
            owner = route.owner(topic_filter)
            if names is not None and owner is not None and (owner not in names or has_wildcard(owner)):
                return _stranger(owner, names)
        allowed = (*(route.pattern for route in touched), *self.open_topics)
        if any(covers(pattern, topic_filter) for pattern in allowed):
            return None
        return "the filter reaches beyond the route table"

    def publish_allowed(self, topic: str) -> bool:
        """Whether some client may publish on `topic`."""
        return self.publish_refusal(topic, CLIENT_ROLES) is None

    def subscribe_allowed(self, topic_filter: str) -> bool:
        """Whether some client may subscribe to `topic_filter`."""
        return self.subscribe_refusal(topic_filter, CLIENT_ROLES) is None


def _listed(roles: frozenset[str]) -> str:
    return " or ".join(sorted(roles)) or "nobody"


def _stranger(owner: str, names: frozenset[str]) -> str:
    """Said for each such message, so it does not list the animals of a whole concentrator."""
    own = next(iter(names)) if len(names) == 1 else f"{len(names)} others"
    return f"the client speaks for {own} and may not speak for {owner!r}"
