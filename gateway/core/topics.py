"""The route table: everything that is decided about a topic, in one place (decision 23).

Pure functions for the topic rules of MQTT 3.1.1 (section 4.7), and the table itself. The
broker asks it for every publish and subscription, so its answers are cached, bounded.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

# Who speaks. "gateway" is this process alone; no client ever holds it.
ROLE_GATEWAY = "gateway"
ROLE_SENSOR = "sensor"
ROLE_OPERATOR = "operator"
CLIENT_ROLES = frozenset({ROLE_SENSOR, ROLE_OPERATOR})

# A UTF-8 string on the wire carries a two-byte length (MQTT 3.1.1, 1.5.3).
TOPIC_BYTES_MAX = 65_535
# 64 KiB a packet from sensors (decision 24).
SENSOR_PAYLOAD_BYTES_MAX = 64 * 1024
# Cached answers: 5000 animals (decision 9) and some; about 200 bytes each, 1.6 MB in all.
MATCH_CACHE_MAX = 8192


class Route(msgspec.Struct, frozen=True):
    """One row: what is true of every topic that matches `pattern`.

    Args:
        name: key in configuration, metrics and documentation.
        pattern: an MQTT topic filter, e.g. `artemis/sensors/+`.
        qos: the quality of service its publishers should use.
        retain: whether its messages are meant to be retained.
        size_max: largest payload in bytes; a larger one is refused.
        ingest: publishes go to the store and are acknowledged after their commit.
        publishers: roles that may publish here.
        subscribers: roles that may subscribe here.
        summary: one sentence for the documentation.
    """

    name: str
    pattern: str
    qos: int
    retain: bool
    size_max: int
    ingest: bool
    publishers: frozenset[str]
    subscribers: frozenset[str]
    summary: str


def topic_fault(topic: str) -> str | None:
    """Why `topic` may not be the name of a message, or None (MQTT 3.1.1, 4.7)."""
    if not topic:
        return "the topic is empty"
    if "+" in topic or "#" in topic:
        return "the topic holds a wildcard"
    return _string_fault(topic)


def filter_fault(topic_filter: str) -> str | None:
    """Why `topic_filter` may not be subscribed to, or None (MQTT 3.1.1, 4.7.1)."""
    if not topic_filter:
        return "the filter is empty"
    levels = topic_filter.split("/")
    for number, level in enumerate(levels, start=1):
        if "#" in level and (level != "#" or number != len(levels)):
            return "'#' must be the whole last level"
        if "+" in level and level != "+":
            return "'+' must be a whole level"
    return _string_fault(topic_filter)


def _string_fault(text: str) -> str | None:
    if "\x00" in text:
        return "NUL is not allowed"
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return None if size <= TOPIC_BYTES_MAX else f"it is longer than {TOPIC_BYTES_MAX} bytes"


def has_wildcard(topic_filter: str) -> bool:
    """Whether the filter can match more than one topic."""
    return "+" in topic_filter or "#" in topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a message on `topic` goes to a subscription on `topic_filter`.

    A leading wildcard never matches a topic that starts with `$` (4.7.2); `a/#` also
    matches `a`.
    """
    if topic_filter == topic:
        return True
    if topic[:1] == "$" and topic_filter[:1] in ("+", "#"):
        return False
    names = topic.split("/")
    levels = topic_filter.split("/")
    for position, level in enumerate(levels):
        if level == "#":
            return True
        if position >= len(names) or (level != "+" and level != names[position]):
            return False
    return len(levels) == len(names)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that filter `narrow` matches is matched by filter `wide` too."""
    if narrow[:1] == "$" and wide[:1] in ("+", "#"):
        return False
    outer, inner = wide.split("/"), narrow.split("/")
    for position, level in enumerate(outer):
        if level == "#":
            return True
        if position >= len(inner) or inner[position] == "#":
            return False
        if level != "+" and level != inner[position]:
            return False
    return len(outer) == len(inner)


def overlaps(one: str, other: str) -> bool:
    """Whether some topic is matched by both filters."""
    for first, second in ((one, other), (other, one)):
        if first[:1] == "$" and second[:1] in ("+", "#"):
            return False
    left, right = one.split("/"), other.split("/")
    for a, b in zip(left, right, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    shorter, longer = sorted((left, right), key=len)
    return len(left) == len(right) or longer[len(shorter)] == "#"


class RouteTable:
    """The rows, in order of precedence, and what is decided for topics in none of them.

    Args:
        routes: the first row that matches a topic decides.
        open_topics: filters of topics that pass as plain broker traffic without a row.
        denied_topics: filters of topics that are always refused.

    Raises:
        ValueError: a pattern is not a valid filter.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        open_topics: Iterable[str] = ("#",),
        denied_topics: Iterable[str] = (),
    ) -> None:
        self.routes = tuple(routes)
        self.open_topics = tuple(open_topics)
        self.denied_topics = tuple(denied_topics)
        for pattern in (*(route.pattern for route in self.routes), *self.open_topics, *self.denied_topics):
            fault = filter_fault(pattern)
            if fault is not None:
                raise ValueError(f"{pattern!r} is no topic filter: {fault}")
        self._cache: dict[str, Route | None] = {}

    def match(self, topic: str) -> Route | None:
        """The row that decides about `topic`."""
        try:
            return self._cache[topic]
        except KeyError:
            pass
        found = next((route for route in self.routes if matches(route.pattern, topic)), None)
        if len(self._cache) >= MATCH_CACHE_MAX:
            self._cache.clear()
        self._cache[topic] = found
        return found

    def publish_refusal(self, topic: str, roles: frozenset[str]) -> str | None:
        """Why a client with `roles` may not publish on `topic`, or None."""
        if topic.startswith("$"):
            return "topics that start with $ belong to the broker"
        if any(matches(denied, topic) for denied in self.denied_topics):
            return "the topic is denied"
        route = self.match(topic)
        if route is not None:
            return None if route.publishers & roles else f"only {_names(route.publishers)} may publish here"
        if any(matches(opened, topic) for opened in self.open_topics):
            return None
        return "the topic is in no row of the route table"

    def subscribe_refusal(self, topic_filter: str, roles: frozenset[str]) -> str | None:
        """Why a client with `roles` may not subscribe to `topic_filter`, or None.

        A filter must lie within one row or one open topic, and must not reach into a row
        that is closed to the client: `artemis/#` is more than `artemis/+`.
        """
        if any(covers(denied, topic_filter) for denied in self.denied_topics):
            return "the topic is denied"
        touched = [route for route in self.routes if overlaps(route.pattern, topic_filter)]
        closed = next((route for route in touched if not route.subscribers & roles), None)
        if closed is not None:
            return f"only {_names(closed.subscribers)} may subscribe to {closed.pattern}"
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


def _names(roles: frozenset[str]) -> str:
    return " or ".join(sorted(roles)) or "nobody"


def default_routes(sensor_pattern: str = "artemis/sensors/+") -> tuple[Route, ...]:
    """The rows of document 0: neck sensors in, alerts out."""
    return (
        Route(
            name="sensors",
            pattern=sensor_pattern,
            qos=1,
            retain=False,
            size_max=SENSOR_PAYLOAD_BYTES_MAX,
            ingest=True,
            publishers=frozenset({ROLE_SENSOR}),
            subscribers=CLIENT_ROLES,
            summary="Neck sensor readings, one JSON object each; the last level is the cow_id.",
        ),
        Route(
            name="alerts",
            pattern="artemis/alerts/+/+",
            qos=1,
            retain=True,
            size_max=SENSOR_PAYLOAD_BYTES_MAX,
            ingest=False,
            publishers=frozenset({ROLE_GATEWAY}),
            subscribers=CLIENT_ROLES,
            summary="Open alerts, retained: artemis/alerts/{subject}/{kind}; empty when the alert has ended.",
        ),
    )
