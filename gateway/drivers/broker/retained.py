"""Retained messages: the last word on each topic. Plain state on the event loop."""

from __future__ import annotations

from gateway.core.broker_state import Message
from gateway.core.topics import has_wildcard, matches
from gateway.drivers.broker.limits import RETAINED_BYTES_MAX, RETAINED_MESSAGES_MAX


class RetainedMessages:
    """Topic → message, bounded in number and bytes.

    Attributes:
        by_topic: to look at; changed by `put` alone.
    """

    def __init__(self) -> None:
        self.by_topic: dict[str, Message] = {}
        self._bytes = 0

    def put(self, message: Message) -> bool:
        """Keep it as the topic's last word; an empty one clears the topic (3.3.1.3).

        Returns:
            False if there was no room; the topic has none then, for an old word may be wrong.
        """
        old = self.by_topic.pop(message.topic, None)
        if old is not None:
            self._bytes -= _size(old)
        if not message.payload:
            return True
        full = len(self.by_topic) >= RETAINED_MESSAGES_MAX
        if full or self._bytes + _size(message) > RETAINED_BYTES_MAX:
            return False
        self._bytes += _size(message)
        self.by_topic[message.topic] = message
        return True

    def matching(self, topic_filter: str) -> list[str]:
        """Topics of which a new subscription gets the message at once."""
        if not has_wildcard(topic_filter):
            return [topic_filter] if topic_filter in self.by_topic else []
        return [topic for topic in self.by_topic if matches(topic_filter, topic)]


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)
