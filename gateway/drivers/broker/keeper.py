"""What of sessions and retained messages the store does not know yet. Runs on the event loop.

Not a log of events but a set of what differs: a message that was queued and taken over within one
commit window leaves no trace, and a store that cannot write makes nothing grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.broker_state import (
    Change,
    Done,
    IdReleased,
    IdTaken,
    Message,
    Queued,
    Received,
    Retained,
    SessionForgotten,
    SessionSeen,
    Subscribed,
    Unsubscribed,
)
from gateway.drivers.broker.session import Outgoing, Session, Unsaved
from gateway.ports import Receipt

Keep = Callable[[Receipt | None], None]
"""Asks for a commit in the usual window; settles a receipt after it. The changes are fetched for it."""


class Keeper:
    """Notes what has changed, asks for a commit, and gives the changes out when it begins.

    Args:
        keep: None = nothing outlives this process: nothing is noted, and what waits is settled at once.
    """

    def __init__(self, keep: Keep | None) -> None:
        self._keep = keep
        self._asked = False
        self._forgotten: dict[str, None] = {}
        self._sessions: dict[str, Session] = {}
        self._topics: dict[str, None] = {}

    def after_commit(self, receipt: Receipt) -> None:
        """Settle it when all that was noted so far is on disk."""
        if self._keep is None:
            receipt.settle()
        else:
            self._asked = True
            self._keep(receipt)

    def changed(self, session: Session) -> None:
        """Something of a persistent session is to be written."""
        if self._keep is not None:
            self._sessions[session.client_id] = session
            self._ask()

    def seen(self, session: Session) -> None:
        """Its client came or went: worth a line in the next commit, but no commit of its own."""
        if self._keep is not None and not session.empty:
            self._sessions[session.client_id] = session

    def forgotten(self, client_id: str) -> None:
        """A persistent session is over."""
        self._sessions.pop(client_id, None)
        if self._keep is not None:
            self._forgotten[client_id] = None
            self._ask()

    def retained(self, topic: str) -> None:
        """A topic has another retained message, or none."""
        if self._keep is not None:
            self._topics[topic] = None
            self._ask()

    def _ask(self) -> None:
        if not self._asked and self._keep is not None:
            self._asked = True
            self._keep(None)

    def changes(self, retained: Mapping[str, Message]) -> list[Change]:
        """Everything noted since the last call; whoever calls sees to it that it reaches the disk."""
        self._asked = False
        changes: list[Change] = [SessionForgotten(client_id) for client_id in self._forgotten]
        for session in self._sessions.values():
            changes.append(SessionSeen(session.client_id, session.seen_ms))
            if session.unsaved is not None:
                changes += _of_session(session, session.unsaved)
                session.unsaved = Unsaved()
        changes += [
            Retained(retained.get(topic) or Message(topic, b"", 0, retain=True)) for topic in self._topics
        ]
        self._forgotten.clear()
        self._sessions.clear()
        self._topics.clear()
        return changes


def _of_session(session: Session, unsaved: Unsaved) -> list[Change]:
    name = session.client_id
    changes: list[Change] = []
    for topic_filter in unsaved.filters:
        qos = session.filters.get(topic_filter)
        changes.append(
            Unsubscribed(name, topic_filter) if qos is None else Subscribed(name, topic_filter, qos)
        )
    changes += [Done(name, number) for number in unsaved.gone]
    for outgoing in unsaved.messages.values():
        if not outgoing.stored:
            changes.append(Queued(name, outgoing.number, outgoing.message))
            outgoing.stored = True
        if outgoing.received:
            changes.append(Received(name, outgoing.number))
    changes += [
        IdTaken(name, packet_id) if packet_id in session.received_ids else IdReleased(name, packet_id)
        for packet_id in unsaved.ids
    ]
    return changes


def note_queued(session: Session, outgoing: Outgoing) -> None:
    """A message waits for a persistent session, or its client has said PUBREC."""
    if session.unsaved is not None:
        session.unsaved.messages[outgoing.number] = outgoing


def note_gone(session: Session, outgoing: Outgoing) -> None:
    """The message needs no place in the store any more; maybe it never got one."""
    if session.unsaved is not None and outgoing.message.qos:  # QoS 0 has no number of its own
        session.unsaved.messages.pop(outgoing.number, None)
        if outgoing.stored:
            session.unsaved.gone.append(outgoing.number)
