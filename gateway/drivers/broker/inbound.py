"""The inbound side of one session: publishes, from their arrival to their acknowledgement.

Plain state on the event loop. What is in flight has arrived and is not yet on disk.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from gateway.core.messages import RawMessage
from gateway.core.rates import Disconnect, Drop, Pass, Pause, Rate
from gateway.core.topics import Family, Ruling, animals_spoken_for
from gateway.drivers.broker import packets
from gateway.drivers.broker.access import Principal
from gateway.drivers.broker.desk import Desk
from gateway.drivers.broker.framing import PUBACK, PUBCOMP, PUBREC, MalformedError
from gateway.drivers.broker.limits import (
    IN_FLIGHT_HURRY,
    IN_FLIGHT_PAUSE,
    IN_FLIGHT_RESUME,
    QOS2_IDS_PER_CLIENT_MAX,
)
from gateway.drivers.broker.receipts import UNASKED, InFlight, Receipt
from gateway.drivers.broker.session import Session
from gateway.drivers.broker.wire import HOLD_IN_FLIGHT, HOLD_RATE

_log = logging.getLogger(__name__)

_PUBACK = bytes((PUBACK, 2))
_PUBREC = bytes((PUBREC, 2))
_PUBCOMP = bytes((PUBCOMP, 2))

_WITH_THE_ID = (None, Family.READINGS)
"""What is written by the commit that takes the id of a QoS 2 message."""

_PEER = "peer "  # before an address; no device has a blank in its id


class Source(Protocol):
    """The connection, as its publishes see it."""

    def send(self, data: bytes) -> None:
        """Send whole packets."""
        ...

    def hold(self, reason: int) -> None:
        """Read nothing for now."""
        ...

    def release(self, reason: int) -> None:
        """Read again."""
        ...

    def idle(self) -> None:
        """Nothing is in flight any more."""
        ...


class Inbound:
    """Publishes of one client.

    Args:
        source: its connection.
        session: holds the ids of its QoS 2 messages.
        principal: who it is.
        desk: takes the publishes.
        address: of the peer.
    """

    __slots__ = ("_desk", "_in_flight", "_meter", "_principal", "_rested", "_rulings", "_session", "_source")

    def __init__(
        self, source: Source, session: Session, principal: Principal, desk: Desk, address: str
    ) -> None:
        self._source = source
        self._session = session
        self._principal = principal
        self._desk = desk
        self._rulings = desk.rulings_for(principal.roles)
        # By what a client cannot choose: each new client id would bring a full bucket.
        whose = principal.name if principal.credential is not None else f"{_PEER}{address}"
        self._meter = desk.meters.of(whose, animals_spoken_for(principal.roles, principal.speaks_for))
        self._rested: asyncio.TimerHandle | None = None
        self._in_flight = InFlight(self._settled)

    def __len__(self) -> int:
        """Publishes in flight."""
        return len(self._in_flight)

    def publish(self, first: int, body: bytes, now_ms: int, now_s: float) -> None:
        """A PUBLISH has come.

        Args:
            first: first byte of the packet.
            body: what follows the fixed header.
            now_ms: UTC epoch milliseconds.
            now_s: monotonic seconds of the same moment.

        Raises:
            MalformedError: it breaks the standard.
        """
        qos = (first >> 1) & 3
        if len(body) < 2:
            raise MalformedError("PUBLISH without a topic")
        topic_end = 2 + ((body[0] << 8) | body[1])
        start = topic_end + 2 if qos else topic_end
        if start > len(body):
            raise MalformedError("PUBLISH is cut short")
        name = body[2:topic_end]
        ruling = self._rulings.get(name)
        if ruling is None:
            ruling = self._desk.rule(name, self._principal.roles)
        if ruling.rate is not None and not self._within_rate(ruling, ruling.rate, qos, now_s):
            return
        receipt: Receipt | None
        if qos == 0:
            receipt = self._in_flight.add(b"")
        elif qos == 1:
            packets.read_packet_id(body, topic_end)
            receipt = self._in_flight.add(_PUBACK + body[topic_end:start])
        else:
            acknowledgement = _PUBREC + body[topic_end:start]
            receipt = self._expect(packets.read_packet_id(body, topic_end), acknowledgement, ruling.family)
            if receipt is None:
                return
        client_id = self._session.client_id
        message = RawMessage(ruling.topic, body[start:], client_id, now_ms, now_s, qos, bool(first & 1))
        durable = qos == 2 and self._session.keeps
        self._desk.dispatch(message, ruling, self._principal, receipt, durable=durable)
        waiting = len(self._in_flight)
        if waiting >= IN_FLIGHT_HURRY:
            if waiting >= IN_FLIGHT_PAUSE:
                self._source.hold(HOLD_IN_FLIGHT)
            if waiting % IN_FLIGHT_HURRY == 0:  # sixteen that come behind a commit meet one of these
                self._desk.hurry()

    def _within_rate(self, ruling: Ruling, rate: Rate, qos: int, now_s: float) -> bool:
        """Whether the message passes. Over the limit it is the last for a while, or dropped (decision 24)."""
        decision = self._meter.take(ruling.row, rate, qos, now_s)
        if isinstance(decision, Pass):
            return True
        what = type(decision).__name__.lower()
        self._desk.counters[f"rate_{what}"] += 1
        if isinstance(decision, Disconnect):
            raise MalformedError(f"a flood of QoS 0 on {ruling.topic[:100]!r}")
        if decision.first:
            row = ruling.row or "refused publishes"
            _log.warning("Client %r is over the rate of %r: %s", self._session.client_id, row, what)
        if isinstance(decision, Pause) and self._rested is None:
            self._source.hold(HOLD_RATE)
            self._rested = asyncio.get_running_loop().call_later(decision.wait_s, self._rest_over)
        return isinstance(decision, Pause)

    def _rest_over(self) -> None:
        self._rested = None
        self._source.release(HOLD_RATE)

    def _expect(self, packet_id: int, acknowledgement: bytes, family: Family | None) -> Receipt | None:
        """Queue a PUBREC; None if this message is here already (4.3.3)."""
        ids = self._session.received_ids
        if packet_id in ids:
            self._desk.counters["qos2_repeats"] += 1
            known = ids[packet_id]
            if known is not None:
                known.follow(self._in_flight)
                return None
            # Of the last run. Its id is on disk, and so is what came with the same commit; a call for help
            # has a commit of its own, which a power cut may have prevented: better twice than never.
            if family in _WITH_THE_ID:
                self._in_flight.add(acknowledgement).settle()
                return None
        elif len(ids) >= QOS2_IDS_PER_CLIENT_MAX:
            raise MalformedError(f"{QOS2_IDS_PER_CLIENT_MAX} QoS 2 messages without a PUBREL")
        receipt = self._in_flight.add(acknowledgement)
        self._desk.exchange.take_id(self._session, packet_id, receipt)
        return receipt

    def release(self, body: bytes) -> None:
        """PUBREL: the id may be used anew, so what was noted of it must be gone before PUBCOMP."""
        exchange = self._desk.exchange
        if exchange.release_id(self._session, packets.read_packet_id(body)):
            exchange.keeper.after_commit(self._in_flight.add(_PUBCOMP + body))
        else:
            self._source.send(_PUBCOMP + body)

    def will(self, will: packets.Will, now_ms: int, now_s: float) -> None:
        """The connection has ended without a goodbye: a publish like any other, that nobody awaits."""
        message = RawMessage(
            will.topic, will.payload, self._session.client_id, now_ms, now_s, will.qos, will.retain
        )
        ruling = self._desk.rule(will.topic.encode(), self._principal.roles)
        if ruling.rate is not None and isinstance(
            self._meter.take(ruling.row, ruling.rate, will.qos, now_s), Drop | Disconnect
        ):
            self._desk.counters["rate_drop"] += 1
            return
        self._desk.counters["wills_published"] += 1
        self._desk.dispatch(message, ruling, self._principal, UNASKED, durable=False)

    def _settled(self, acknowledgements: bytes, count: int) -> None:
        if acknowledgements:
            self._desk.counters["acks_out"] += count
            self._source.send(acknowledgements)
        waiting = len(self._in_flight)
        if waiting < IN_FLIGHT_RESUME:
            self._source.release(HOLD_IN_FLIGHT)
        if waiting == 0:
            self._source.idle()
        elif waiting % IN_FLIGHT_HURRY == 0:
            self._desk.hurry()

    def abandon(self) -> None:
        """The connection is gone; later settlements go nowhere."""
        if self._rested is not None:
            self._rested.cancel()
            self._rested = None
        self._in_flight.abandon()
