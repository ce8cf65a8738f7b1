"""Topic names and filters as MQTT 3.1.1 defines them (section 4.7), and how large they may be here.

Pure functions; the route table (`gateway.core.topics`) is built on them.
"""

from __future__ import annotations

import re

# A UTF-8 string on the wire carries a two-byte length (MQTT 3.1.1, 1.5.3).
TOPIC_BYTES_MAX = 65_535

# The gateway's own longest topic has about 150 bytes (a prefix, an id of 64, a kind); clouds commonly
# allow 256. What is decided about a topic is cached under its name: 8192 × (512 B as bytes and again as
# text + 300 B) = 11 MB at worst, where 65,535 bytes would make it 1 GB. A dead letter keeps as much.
NAME_BYTES_MAX = 512
# The deepest topic of ours has 6 levels. Matching costs about 0.05 µs a level and pattern, and a tree of
# subscriptions one node a level: 32 leave room for anybody's habits.
NAME_LEVELS_MAX = 32


_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNFIT = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NONCHARACTERS}]")


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


def character_fault(text: str) -> str | None:
    """Why no string of a packet may hold a character of `text`, or None (MQTT 3.1.1, 1.5.3).

    NUL must not be there. Control characters and what Unicode calls noncharacters should not, and
    a server may refuse them: they only ever come from broken or ill-meaning senders.
    """
    found = _UNFIT.search(text)
    return None if found is None else f"U+{ord(found[0]):04X} is not allowed"


def _string_fault(text: str) -> str | None:
    why = character_fault(text)
    if why is not None:
        return why
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return None if size <= TOPIC_BYTES_MAX else f"it is longer than {TOPIC_BYTES_MAX} bytes"


def size_fault(name: str) -> str | None:
    """Why a topic or filter that MQTT allows is too large here, or None.

    Not an error of the protocol: the publish is refused, the subscription gets 0x80.
    """
    size = len(name.encode("utf-8"))
    if size > NAME_BYTES_MAX:
        return f"the topic has {size} bytes; {NAME_BYTES_MAX} are allowed"
    levels = name.count("/") + 1
    if levels > NAME_LEVELS_MAX:
        return f"the topic has {levels} levels; {NAME_LEVELS_MAX} are allowed"
    return None


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
