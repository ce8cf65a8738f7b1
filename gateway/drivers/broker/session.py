"""What belongs to a client and outlives its connection: filters, messages on their way, QoS 2 ids.

Plain state on the event loop. `delivery` moves the messages, `keeper` writes down what a
persistent session must find again after a restart.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gateway.core.broker_state import KeptSession, Message
from gateway.drivers.broker.receipts import Receipt

# A packet id is the message's number, folded into 1..65535 (2.3.1): it needs no table of its own,
# and is the same again after a restart.
PACKET_IDS = 65_535


class Outlet(Protocol):
    """The connection, as a session sees it."""

    @property
    def writable(self) -> bool:
        """Whether the peer takes its output."""
        ...

    def send(self, data: bytes) -> None:
        """Send a whole packet."""
        ...

    def too_slow(self) -> None:
        """End the connection: more waits for this client than may."""
        ...


class Outgoing:
    """One message on its way to one subscriber.

    Args:
        number: of the session's messages, rising by one.
        message: with the QoS it goes out with.
        stored: the store holds it.
    """

    __slots__ = ("message", "number", "received", "releasing", "sent", "stored")

    def __init__(self, number: int, message: Message, *, stored: bool = False) -> None:
        self.number = number
        self.message = message
        self.stored = stored
        self.sent = False  # it may have been sent before: the next time it is a duplicate (3.3.1.1)
        self.received = False  # PUBREC has come; PUBREL is what is to be said
        self.releasing = False  # PUBREL waits for a commit

    @property
    def packet_id(self) -> int:
        """1 to 65535."""
        return self.number % PACKET_IDS + 1


class Unsaved:
    """What of a persistent session the store does not know yet.

    Each holds no more than the session itself does, or than the store held of it.
    """

    __slots__ = ("filters", "gone", "ids", "messages")

    def __init__(self) -> None:
        self.filters: set[str] = set()
        self.messages: dict[int, Outgoing] = {}
        self.gone: list[int] = []
        self.ids: set[int] = set()


class Session:
    """A client's session.

    Args:
        client_id: whose it is.
        keeps: it outlives the connection, and a restart.
    """

    __slots__ = (
        "backlog",
        "client_id",
        "filters",
        "in_flight",
        "latest",
        "next_number",
        "outlet",
        "received_ids",
        "retained_due",
        "seen_ms",
        "unsaved",
    )

    def __init__(self, client_id: str, *, keeps: bool) -> None:
        self.client_id = client_id
        self.filters: dict[str, int] = {}
        self.backlog: deque[Outgoing] = deque()
        self.in_flight: dict[int, Outgoing] = {}  # by packet id, in the order they were sent
        self.latest: dict[str, Outgoing] = {}  # of the backlog: the newest of each state topic
        self.received_ids: dict[int, Receipt | None] = {}  # QoS 2, from the client, not released
        self.retained_due: dict[str, int] = {}  # topics whose retained message it is to get, with the QoS
        self.next_number = 0
        self.outlet: Outlet | None = None
        self.seen_ms = 0
        self.unsaved: Unsaved | None = Unsaved() if keeps else None

    @property
    def keeps(self) -> bool:
        """Whether it outlives the connection."""
        return self.unsaved is not None

    @property
    def empty(self) -> bool:
        """It could be forgotten without loss."""
        return not (self.filters or self.backlog or self.in_flight or self.received_ids)

    @classmethod
    def restored(cls, kept: KeptSession, in_flight_max: int) -> Session:
        """As it was when the gateway last ran; what may have been sent then is a duplicate now."""
        session = cls(kept.client_id, keeps=True)
        session.filters = dict(kept.filters)
        session.seen_ms = kept.seen_ms
        session.received_ids = dict.fromkeys(kept.received_ids)
        for waiting in kept.waiting:
            outgoing = Outgoing(waiting.number, waiting.message, stored=True)
            outgoing.received = waiting.received
            full = len(session.in_flight) >= in_flight_max or outgoing.packet_id in session.in_flight
            if session.backlog or full:
                session.backlog.append(outgoing)
            else:
                outgoing.sent = True  # maybe
                session.in_flight[outgoing.packet_id] = outgoing
        if kept.waiting:
            session.next_number = kept.waiting[-1].number + 1
        # A client may still hold ids of messages that were on their way and not yet on disk.
        session.next_number += in_flight_max
        return session
