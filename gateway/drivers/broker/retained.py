"""Retained messages: the last word on each topic. Plain state on the event loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from gateway.core.broker_state import Message
from gateway.core.topics import has_wildcard, matches
from gateway.drivers.broker.limits import RETAINED_BYTES_MAX, RETAINED_MESSAGES_MAX

_log = logging.getLogger(__name__)

COMPLAINT_INTERVAL_S: Final = 10.0
"""Between two lines about messages that found no room: a client that repeats its state would fill the log."""
SHOWN_CHARACTERS: Final = 100
"""Of a topic in such a line; it may have 64 KiB."""


class RetainedMessages:
    """Topic → message, those of clients bounded in number and bytes.

    The gateway's own always fit, however full clients have made it: an alert must reach the phone that
    subscribes next. There is one for each open alert, so what watches the herd bounds them. They take
    their part of the room, so clients get what they leave.

    Args:
        monotonic_s: time for the interval between log lines, in seconds.

    Attributes:
        by_topic: to look at; changed by `put` alone.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.by_topic: dict[str, Message] = {}
        self._bytes = 0
        self._monotonic_s = monotonic_s
        self._complained_s = float("-inf")
        self._unsaid = 0

    def put(self, message: Message, *, own: bool = False) -> bool:
        """Keep it as the topic's last word; an empty one clears the topic (3.3.1.3).

        Args:
            message: of any topic.
            own: the gateway itself says it; there is always room.

        Returns:
            False if there was no room; the topic has none then, for an old word may be wrong.
        """
        old = self.by_topic.pop(message.topic, None)
        if old is not None:
            self._bytes -= _size(old)
        if not message.payload:
            return True
        full = len(self.by_topic) >= RETAINED_MESSAGES_MAX
        if not own and (full or self._bytes + _size(message) > RETAINED_BYTES_MAX):
            self._complain(message)
            return False
        self._bytes += _size(message)
        self.by_topic[message.topic] = message
        return True

    def _complain(self, message: Message) -> None:
        now_s = self._monotonic_s()
        if now_s - self._complained_s < COMPLAINT_INTERVAL_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        _log.warning(
            "No room to retain the %d bytes of %r beside %d messages with %d bytes (at most %d with %d); "
            "an empty retained message clears a topic that nobody needs%s",
            len(message.payload),
            message.topic[:SHOWN_CHARACTERS],
            len(self.by_topic),
            self._bytes,
            RETAINED_MESSAGES_MAX,
            RETAINED_BYTES_MAX,
            more,
        )
        self._complained_s, self._unsaid = now_s, 0

    def matching(self, topic_filter: str) -> list[str]:
        """Topics of which a new subscription gets the message at once."""
        if not has_wildcard(topic_filter):
            return [topic_filter] if topic_filter in self.by_topic else []
        return [topic for topic in self.by_topic if matches(topic_filter, topic)]


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)
