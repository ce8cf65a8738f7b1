"""What of the broker outlives a restart: persistent sessions and retained messages.

The broker tells what has changed as a list of changes; the store writes them beside the readings
of the same commit, and gives the whole state back at the next start. Pure values.
"""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to subscribers. `qos` is the highest it may be delivered with."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Waiting(msgspec.Struct, frozen=True):
    """A message that a persistent session has not taken over yet.

    Args:
        number: rises by one with each message of the session; the packet id follows from it.
        message: with the QoS it was granted, 1 or 2.
        received: the client has said PUBREC: only PUBREL is still to be said.
    """

    number: int
    message: Message
    received: bool = False


class KeptSession(msgspec.Struct, frozen=True):
    """A persistent session.

    Args:
        client_id: whose it is.
        filters: what it subscribes to, with the granted QoS.
        waiting: in order of their numbers.
        received_ids: packet ids of QoS 2 publishes from the client that it has not released yet.
        seen_ms: UTC epoch milliseconds of the last connect or disconnect; what comes back from the
            store may be up to an hour away from it (store/broker_state.py).
    """

    client_id: str
    filters: dict[str, int]
    waiting: tuple[Waiting, ...]
    received_ids: frozenset[int]
    seen_ms: int


class BrokerState(msgspec.Struct, frozen=True):
    """Everything that is kept.

    Args:
        sessions: in order of `seen_ms`, oldest first.
        retained: one for each topic.
        left_out: rows of the store that could not be what they should be, or went beyond the bounds.
    """

    sessions: tuple[KeptSession, ...] = ()
    retained: tuple[Message, ...] = ()
    left_out: int = 0


class StateBounds(msgspec.Struct, frozen=True):
    """How much the broker keeps at most; a store that holds more was made by someone else.

    Args:
        sessions: persistent ones; the last seen go first.
        filters: of one session.
        waiting: messages of one session.
        waiting_bytes: payloads of all sessions together.
        ids: packet ids of one session that are not released.
        retained: messages.
        retained_bytes: payloads of these.
    """

    sessions: int
    filters: int
    waiting: int
    waiting_bytes: int
    ids: int
    retained: int
    retained_bytes: int


class SessionSeen(msgspec.Struct, frozen=True, tag=True):
    """A persistent session begins, goes on or is left by its client."""

    client_id: str
    seen_ms: int


class SessionForgotten(msgspec.Struct, frozen=True, tag=True):
    """The session ends with all that belongs to it. Unknown ones are nothing."""

    client_id: str


class Subscribed(msgspec.Struct, frozen=True, tag=True):
    """The session gets a filter, or another QoS for it."""

    client_id: str
    topic_filter: str
    qos: int


class Unsubscribed(msgspec.Struct, frozen=True, tag=True):
    """The session loses a filter."""

    client_id: str
    topic_filter: str


class Queued(msgspec.Struct, frozen=True, tag=True):
    """A message waits for the session, or is on its way to it."""

    client_id: str
    number: int
    message: Message


class Received(msgspec.Struct, frozen=True, tag=True):
    """The session's client has said PUBREC for a queued message."""

    client_id: str
    number: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The client has taken a queued message over, or it had to go."""

    client_id: str
    number: int


class IdTaken(msgspec.Struct, frozen=True, tag=True):
    """A QoS 2 publish came from the session's client with this packet id."""

    client_id: str
    packet_id: int


class IdReleased(msgspec.Struct, frozen=True, tag=True):
    """The client has released the packet id (PUBREL)."""

    client_id: str
    packet_id: int


class Retained(msgspec.Struct, frozen=True, tag=True):
    """The topic has a new retained message; an empty payload clears it."""

    message: Message


Change = (
    SessionSeen
    | SessionForgotten
    | Subscribed
    | Unsubscribed
    | Queued
    | Received
    | Done
    | IdTaken
    | IdReleased
    | Retained
)
"""Applied in the order they were made; each session's begin with a SessionSeen."""
