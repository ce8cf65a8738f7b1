"""The outbound side: what waits for each subscriber, and what is on its way. Runs on the event loop.

QoS 0 goes straight to the socket. QoS 1 and 2 wait for their acknowledgements, few at a time, and
are sent again when the client returns. QoS 2 for a persistent session goes out once it is on disk:
its packet id must never mean another message, not even after a power cut. Everything is bounded: a
subscriber that falls behind keeps the newest state of each state topic, then is disconnected, and
never slows down anyone else.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping

from gateway.core.broker_state import Message
from gateway.core.topic_names import matches
from gateway.drivers.broker.framing import PUBREL, MalformedError
from gateway.drivers.broker.keeper import Keeper, note_gone, note_queued
from gateway.drivers.broker.limits import (
    BACKLOG_BYTES_MAX,
    BACKLOG_MESSAGES_MAX,
    BACKLOG_OFFLINE_BYTES_MAX,
    BACKLOG_SESSION_BYTES_MAX,
    CONFLATE_FROM,
    DELIVERY_IN_FLIGHT_MAX,
    IN_FLIGHT_HURRY,
    MESSAGE_OVERHEAD_BYTES,
    RETAINED_DUE_BYTES,
)
from gateway.drivers.broker.packets import publish_packet
from gateway.drivers.broker.session import Outgoing, Session

_log = logging.getLogger(__name__)


class Delivery:
    """Moves messages of all sessions, and knows how much waits in them together.

    Args:
        keeper: told what a persistent session must find again.
        retained: looked up when a client is ready to take them.
        hurry: many wait for a commit.
        counters: shared with the front door.
    """

    def __init__(
        self,
        keeper: Keeper,
        retained: Mapping[str, Message],
        hurry: Callable[[], None],
        counters: Counter[str],
    ) -> None:
        self._keeper = keeper
        self._hurry = hurry
        self._holders: set[Session] = set()  # those for whom something waits
        self._retained = retained
        self._counters = counters
        self._waiting_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Of all messages that wait or are unacknowledged, with what a message costs beside its payload."""
        return self._waiting_bytes

    # In.

    def offer(self, session: Session, message: Message, *, state: bool) -> bool:
        """Send it in its turn, or refuse it when too much waits already.

        Args:
            session: the subscriber.
            message: with the QoS it was granted.
            state: of its topic only the newest message matters.

        Returns:
            Whether the message is to outlive a restart and is not on disk yet.
        """
        if session.outlet is None and (message.qos == 0 or not session.keeps):
            return False
        if state and len(session.backlog) >= CONFLATE_FROM:
            self._replace(session, message.topic)
        if not self._has_room(session, message):
            self._overflow(session, message)
            return False
        outgoing = self._append(session, message)
        if state:
            session.latest[message.topic] = outgoing
        self.pump(session)
        return message.qos > 0 and session.keeps

    def offer_retained(self, session: Session, topics: list[str], qos: int) -> None:
        """Send the retained messages of these topics as the client takes them, with the lower of two QoS."""
        due = session.retained_due
        for topic in topics:
            if topic in due:
                due[topic] = max(qos, due[topic])
            elif self._waiting_bytes + RETAINED_DUE_BYTES <= BACKLOG_BYTES_MAX:
                due[topic] = qos
                self._weigh(session, RETAINED_DUE_BYTES)
            elif session.outlet is not None:
                self._counters["slow_subscribers"] += 1
                session.outlet.too_slow()
                return
        self.pump(session)

    def _append(self, session: Session, message: Message) -> Outgoing:
        outgoing = Outgoing(session.next_number, message)
        session.backlog.append(outgoing)
        self._weigh(session, _size(message))
        if message.qos:
            session.next_number += 1
            if session.keeps:
                note_queued(session, outgoing)
                self._keeper.changed(session)
        if message.qos == 2 and session.keeps:
            outgoing.unsafe = True
            self._keeper.after_commit(_Safe(self, session, outgoing))
            self._hurry_for(session)
        return outgoing

    def _hurry_for(self, session: Session) -> None:
        """Many of its messages wait for a commit before they can go on."""
        if len(session.in_flight) >= IN_FLIGHT_HURRY or len(session.backlog) >= IN_FLIGHT_HURRY:
            self._hurry()

    def _has_room(self, session: Session, message: Message) -> bool:
        """Of its own room there must be enough; of everybody's, whoever holds most makes some."""
        if len(session.backlog) >= BACKLOG_MESSAGES_MAX:
            return False
        size = _size(message)
        if session.waiting_bytes and session.waiting_bytes + size > BACKLOG_SESSION_BYTES_MAX:
            return False
        limit = BACKLOG_BYTES_MAX if session.outlet is not None else BACKLOG_OFFLINE_BYTES_MAX
        return self._waiting_bytes + size <= limit or self._make_room(session)

    def _make_room(self, session: Session) -> bool:
        """Take from the one who holds most, unless that is `session` itself."""
        largest = max(self._holders, key=lambda holder: holder.waiting_bytes, default=session)
        if largest.waiting_bytes <= session.waiting_bytes:
            return False
        if largest.outlet is not None:
            self._counters["slow_subscribers"] += 1
            largest.outlet.too_slow()
        dropped = list(largest.backlog)[: (len(largest.backlog) + 1) // 2]
        for outgoing in dropped:  # the oldest half: one does not come back for the next message
            largest.backlog.popleft()
            if largest.latest.get(outgoing.message.topic) is outgoing:
                del largest.latest[outgoing.message.topic]
            self._done(largest, outgoing)
        self._counters["fanout_dropped"] += len(dropped)
        _log.warning(
            "Too much waits for MQTT subscribers: %d messages for %r are dropped, %d bytes still wait for it",
            len(dropped),
            largest.client_id,
            largest.waiting_bytes,
        )
        return bool(dropped)

    def _overflow(self, session: Session, message: Message) -> None:
        self._counters["fanout_dropped"] += 1
        if session.outlet is not None and message.qos:
            # It was promised; a client that sees its connection end knows that something is amiss.
            self._counters["slow_subscribers"] += 1
            session.outlet.too_slow()

    def _weigh(self, session: Session, more_bytes: int) -> None:
        """So much more, or less, waits for it."""
        self._waiting_bytes += more_bytes
        session.waiting_bytes += more_bytes
        if session.waiting_bytes:
            self._holders.add(session)
        else:
            self._holders.discard(session)

    def _replace(self, session: Session, topic: str) -> None:
        """An older state of the topic that still waits has become worthless."""
        older = session.latest.pop(topic, None)
        if older is not None:
            self._counters["fanout_conflated"] += 1
            session.backlog.remove(older)
            self._done(session, older)

    # Out.

    def pump(self, session: Session) -> None:
        """Send what the peer can take: what waits, then retained messages it has asked for."""
        outlet, backlog, in_flight = session.outlet, session.backlog, session.in_flight
        while outlet is not None and outlet.writable:
            if not backlog and not self._next_retained(session):
                return
            outgoing = backlog[0]
            message = outgoing.message
            if message.qos and (
                outgoing.unsafe or len(in_flight) >= DELIVERY_IN_FLIGHT_MAX or outgoing.packet_id in in_flight
            ):
                return
            backlog.popleft()
            if session.latest.get(message.topic) is outgoing:
                del session.latest[message.topic]
            if message.qos:
                in_flight[outgoing.packet_id] = outgoing
            else:
                self._weigh(session, -_size(message))
            self._send(session, outgoing)

    def _next_retained(self, session: Session) -> bool:
        """Put one more at the end of what waits; looked up only now, so that it is the topic's last word."""
        while session.retained_due:
            topic = next(iter(session.retained_due))
            granted = session.retained_due.pop(topic)
            self._weigh(session, -RETAINED_DUE_BYTES)
            held = self._retained.get(topic)
            if held is not None:
                self._append(session, Message(topic, held.payload, min(granted, held.qos), retain=True))
                return True
        return False

    def _send(self, session: Session, outgoing: Outgoing) -> None:
        message = outgoing.message
        if session.outlet is None:
            return
        if outgoing.received:
            session.outlet.send(_pubrel(outgoing.packet_id))
            return
        packet = publish_packet(
            message.topic,
            message.payload,
            qos=message.qos,
            packet_id=outgoing.packet_id,
            retain=message.retain,
            dup=outgoing.sent and message.qos > 0,
        )
        outgoing.sent = True
        session.outlet.send(packet)

    def resume(self, session: Session) -> None:
        """The client is back: send again what it has not acknowledged, then what waits (4.4)."""
        for outgoing in tuple(session.in_flight.values()):
            if not outgoing.releasing:  # PUBREL comes with the commit
                self._send(session, outgoing)
        self.pump(session)

    # Acknowledgements.

    def acknowledged(self, session: Session, packet_id: int) -> None:
        """PUBACK.

        Raises:
            MalformedError: that message was sent with QoS 2.
        """
        outgoing = session.in_flight.get(packet_id)
        if outgoing is None:
            self._counters["acks_unexpected"] += 1
            return
        if outgoing.message.qos != 1:
            raise MalformedError(f"PUBACK for message {packet_id}, which has QoS 2")
        self._taken(session, outgoing)

    def received(self, session: Session, packet_id: int) -> None:
        """PUBREC: answer PUBREL, for a persistent session once that is on disk.

        Raises:
            MalformedError: that message was sent with QoS 1.
        """
        outgoing = session.in_flight.get(packet_id)
        if outgoing is None:
            self._counters["acks_unexpected"] += 1
        elif outgoing.message.qos != 2:
            raise MalformedError(f"PUBREC for message {packet_id}, which has QoS 1")
        elif not outgoing.received:
            outgoing.received = True
            if session.keeps:
                outgoing.releasing = True
                note_queued(session, outgoing)
                self._keeper.changed(session)
                self._keeper.after_commit(_Release(session, outgoing))
                self._hurry_for(session)
                return
        if outgoing is not None and outgoing.releasing:
            return  # it comes with the commit
        if session.outlet is not None:
            # An unknown one as well: the client may have missed our PUBREL (4.3.3).
            session.outlet.send(_pubrel(packet_id))

    def completed(self, session: Session, packet_id: int) -> None:
        """PUBCOMP.

        Raises:
            MalformedError: it was not its turn.
        """
        outgoing = session.in_flight.get(packet_id)
        if outgoing is None:
            self._counters["acks_unexpected"] += 1
            return
        if not outgoing.received:
            raise MalformedError(f"PUBCOMP for message {packet_id}, which was not released")
        self._taken(session, outgoing)

    def _taken(self, session: Session, outgoing: Outgoing) -> None:
        del session.in_flight[outgoing.packet_id]
        self._done(session, outgoing)
        self.pump(session)

    def _done(self, session: Session, outgoing: Outgoing) -> None:
        self._weigh(session, -_size(outgoing.message))
        if session.keeps:
            note_gone(session, outgoing)
            if outgoing.stored:
                self._keeper.changed(session)

    # The end.

    def detach(self, session: Session) -> None:
        """The client of a persistent session has gone: QoS 1 and 2 wait for its return."""
        session.outlet = None
        lost = [outgoing for outgoing in session.backlog if outgoing.message.qos == 0]
        for outgoing in lost:
            self._weigh(session, -_size(outgoing.message))
            if session.latest.get(outgoing.message.topic) is outgoing:
                del session.latest[outgoing.message.topic]
        if lost:
            session.backlog = deque(one for one in session.backlog if one.message.qos)

    def withdraw(self, session: Session, topic_filter: str) -> None:
        """It is no longer subscribed to: what it has not been sent of it does not come any more."""
        for topic in [topic for topic in session.retained_due if matches(topic_filter, topic)]:
            del session.retained_due[topic]
            self._weigh(session, -RETAINED_DUE_BYTES)

    def forbid(self, session: Session) -> None:
        """Its client may hear less than before: what waits and no filter of it matches is not for it."""
        unheard = [
            outgoing
            for outgoing in (*session.in_flight.values(), *session.backlog)
            if not outgoing.received
            and not any(matches(topic_filter, outgoing.message.topic) for topic_filter in session.filters)
        ]
        for outgoing in unheard:
            if session.in_flight.get(outgoing.packet_id) is outgoing:
                del session.in_flight[outgoing.packet_id]
            else:
                session.backlog.remove(outgoing)
            self._done(session, outgoing)

    def restored(self, session: Session) -> None:
        """A session of the last run: what waits in it counts."""
        for outgoing in (*session.in_flight.values(), *session.backlog):
            self._weigh(session, _size(outgoing.message))

    def drop(self, session: Session) -> None:
        """The session is over."""
        self._weigh(session, -session.waiting_bytes)
        session.in_flight.clear()
        session.backlog.clear()
        session.latest.clear()
        session.retained_due.clear()


class _Safe:
    """A QoS 2 message is on disk and may be sent."""

    def __init__(self, delivery: Delivery, session: Session, outgoing: Outgoing) -> None:
        self._delivery = delivery
        self._session = session
        self._outgoing = outgoing

    def settle(self) -> None:
        """Go on with what waited behind it."""
        self._outgoing.unsafe = False
        self._delivery.pump(self._session)


class _Release:
    """PUBREL, once it is on disk that the client has the message; else a restart would send it again."""

    def __init__(self, session: Session, outgoing: Outgoing) -> None:
        self._session = session
        self._outgoing = outgoing

    def settle(self) -> None:
        """Say it, if the client is still there and has not completed it otherwise."""
        session, outgoing = self._session, self._outgoing
        outgoing.releasing = False
        if session.outlet is not None and session.in_flight.get(outgoing.packet_id) is outgoing:
            session.outlet.send(_pubrel(outgoing.packet_id))


def _size(message: Message) -> int:
    return len(message.payload) + len(message.topic) + MESSAGE_OVERHEAD_BYTES


def _pubrel(packet_id: int) -> bytes:
    return bytes((PUBREL, 2)) + packet_id.to_bytes(2, "big")
