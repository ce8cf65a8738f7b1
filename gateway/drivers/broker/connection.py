"""One MQTT 3.1.1 client at the front door.

Runs on the event loop: packets are handled in the transport's callback, and one task for each
accepted CONNECT authenticates it, waits for a takeover and carries amqtt's session.
"""

from __future__ import annotations

import asyncio
import inspect
from enum import IntEnum
from typing import TYPE_CHECKING

from gateway.core.messages import RawMessage
from gateway.core.topics import filter_fault
from gateway.drivers.broker import packets
from gateway.drivers.broker.access import Introduction, Principal
from gateway.drivers.broker.framing import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    MalformedError,
)
from gateway.drivers.broker.limits import (
    CLIENT_ID_BYTES_MAX,
    IN_FLIGHT_HURRY,
    IN_FLIGHT_PAUSE,
    IN_FLIGHT_RESUME,
    QOS2_IDS_PER_CLIENT_MAX,
)
from gateway.drivers.broker.link import Link
from gateway.drivers.broker.receipts import UNASKED, InFlight, Receipt
from gateway.drivers.broker.wire import (
    HOLD_CONTROL,
    HOLD_GREETING,
    HOLD_IN_FLIGHT,
    HOLD_STOPPING,
    Wire,
)

if TYPE_CHECKING:
    from gateway.drivers.broker.front_door import FrontDoor, Ruling

_ACK = {1: bytes((PUBACK, 2)), 2: bytes((PUBREC, 2))}
_PUBCOMP = bytes((PUBCOMP, 2))


class _Phase(IntEnum):
    AWAITING = 0  # nothing but CONNECT may come
    GREETING = 1  # CONNECT is being answered
    OPEN = 2
    LEAVING = 3  # DISCONNECT has come; acknowledgements are still owed


class Connection(Wire):
    """A client: its packets, its publishes in flight, its will."""

    def __init__(self, door: FrontDoor) -> None:
        super().__init__(door.limits)
        self._door = door
        self._phase = _Phase.AWAITING
        self._in_flight = InFlight(self._settled)
        self._deadline: asyncio.TimerHandle | None = None
        self._keepalive_s = 0.0
        self._will: packets.Will | None = None
        self._link: Link | None = None
        self._refused_codes: tuple[int, ...] | None = None
        self._qos2_ids: dict[int, Receipt] = {}
        self._rulings: dict[bytes, Ruling] = {}
        self._now_ms = 0
        self._now_s = 0.0
        self.client_id = ""
        self.address = ""
        self.principal: Principal | None = None
        self._port = 0
        self.task: asyncio.Task[None] | None = None

    # The socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the newcomer in, if there is room."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.address, self._port = str(peer[0]), int(peer[1])
        if not self._door.admit(self):
            self.send(packets.connack_packet(packets.UNAVAILABLE))
            self.close()
            return
        self._deadline = self._loop.call_later(self._limits.connect_timeout_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Refuse at the first byte what is not MQTT."""
        if (
            self._phase is _Phase.AWAITING
            and not len(self._framer)
            and data[0] != CONNECT
            and not self.closed
        ):
            self.on_fault(f"first byte 0x{data[0]:02x} is no CONNECT")
            return
        super().data_received(data)

    def eof_received(self) -> bool:
        """Keep our half open while acknowledgements are owed to a client that said goodbye."""
        if self._phase is _Phase.LEAVING and len(self._in_flight):
            return True
        self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: the will is due, unless the client said goodbye."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        will, self._will = self._will, None
        if will is not None and self._phase is _Phase.OPEN and not self._door.stopping:
            self._publish_will(will)
        self._in_flight.abandon()
        if self._link is not None:
            self._link.end()
        self._door.gone(self)

    def stop_reading(self) -> None:
        """Take nothing more; acknowledgements still go out."""
        self.hold(HOLD_STOPPING)

    # Deadlines.

    def _too_slow(self) -> None:
        self._deadline = None
        self._door.counters["connect_timeouts"] += 1
        self.abort()

    def _check_keepalive(self) -> None:
        silent_s = self._loop.time() - self._heard_s
        if self._holds:
            silent_s = 0.0  # it may not speak: we do not listen
        if silent_s >= self._keepalive_s:
            self._deadline = None
            self._door.counters["keepalive_evicted"] += 1
            self.abort()
            return
        self._deadline = self._loop.call_later(self._keepalive_s - silent_s, self._check_keepalive)

    def on_stalled(self) -> None:
        """Count a peer that did not read."""
        self._door.counters["write_deadlines"] += 1

    def on_fault(self, why: str) -> None:
        """Close: after a protocol error nothing on this connection can be trusted."""
        self._door.protocol_error(self, why)
        self.abort()

    # Packets.

    def on_batch(self) -> None:
        """One time stamp for all that came together."""
        self._now_ms = self._door.clock.now_ms()
        self._now_s = self._door.clock.monotonic_s()

    def on_packet(self, first: int, body: bytes) -> None:
        """Handle a packet of an open session; before that, a CONNECT."""
        if self._phase is not _Phase.OPEN:
            if self._phase is _Phase.AWAITING:
                self._on_connect(first, body)
            return  # what follows a DISCONNECT is not looked at
        kind = first & 0xF0
        if kind == PUBLISH:
            self._on_publish(first, body)
        elif first == PUBREL:
            self._qos2_ids.pop(packets.read_packet_id(body), None)
            self.send(_PUBCOMP + body)
        elif first in (PUBACK, PUBREC, PUBCOMP):
            self._on_acknowledgement(first, body)
        elif first == PINGREQ:
            self.send(packets.PINGRESP_PACKET)
        elif first == SUBSCRIBE:
            self._on_subscribe(body)
        elif first == UNSUBSCRIBE:
            packets.read_unsubscribe(body)
            self._forward(first, body, answered=True)
        elif first == DISCONNECT:
            self._on_disconnect()
        else:
            raise MalformedError("a second CONNECT")

    def _on_publish(self, first: int, body: bytes) -> None:
        qos = (first >> 1) & 3
        if len(body) < 2:
            raise MalformedError("PUBLISH without a topic")
        topic_end = 2 + ((body[0] << 8) | body[1])
        start = topic_end + 2 if qos else topic_end
        if start > len(body):
            raise MalformedError("PUBLISH is cut short")
        assert self.principal is not None  # noqa: S101 - narrows the type; set before OPEN
        name = body[2:topic_end]
        ruling = self._rulings.get(name) or self._door.rule(name, self.principal.roles)
        receipt: Receipt | None
        if qos == 0:
            receipt = self._in_flight.add(b"")
        else:
            receipt = self._expect(qos, body[topic_end:start])
            if receipt is None:
                return
        message = RawMessage(
            ruling.topic, body[start:], self.client_id, self._now_ms, self._now_s, qos, bool(first & 1)
        )
        self._door.dispatch(message, ruling, self.principal, receipt)
        waiting = len(self._in_flight)
        if waiting >= IN_FLIGHT_HURRY:
            if waiting >= IN_FLIGHT_PAUSE:
                self.hold(HOLD_IN_FLIGHT)
            self._door.hurry()

    def _expect(self, qos: int, packet_id: bytes) -> Receipt | None:
        """Queue the acknowledgement; None if this QoS 2 message is here already (4.3.3)."""
        number = packets.read_packet_id(packet_id)
        if qos == 1:
            return self._in_flight.add(_ACK[1] + packet_id)
        known = self._qos2_ids.get(number)
        if known is not None:
            self._door.counters["qos2_repeats"] += 1
            known.follow(self._in_flight)
            return None
        if len(self._qos2_ids) >= QOS2_IDS_PER_CLIENT_MAX:
            raise MalformedError(f"{QOS2_IDS_PER_CLIENT_MAX} QoS 2 messages without a PUBREL")
        receipt = self._in_flight.add(_ACK[2] + packet_id)
        self._qos2_ids[number] = receipt
        return receipt

    def _settled(self, acknowledgements: bytes, count: int) -> None:
        if acknowledgements:
            self._door.counters["acks_out"] += count
            self.send(acknowledgements)
        waiting = len(self._in_flight)
        if waiting < IN_FLIGHT_RESUME:
            self.release(HOLD_IN_FLIGHT)
        if waiting >= IN_FLIGHT_HURRY:
            self._door.hurry()
        elif waiting == 0 and self._phase is _Phase.LEAVING:
            self.close()

    def _on_acknowledgement(self, first: int, body: bytes) -> None:
        packet_id = packets.read_packet_id(body)
        if self._door.exchange.awaits(self.client_id, packet_id):
            self._forward(first, body, answered=False)
        else:
            self._door.counters["acks_unexpected"] += 1

    def _forward(self, first: int, body: bytes, *, answered: bool) -> None:
        """Hand the packet to amqtt; where it answers, wait for that before the next packet."""
        if self._link is None:
            return
        if answered:
            self.hold(HOLD_CONTROL)
        self._link.feed(packets.frame(first, body))

    def _on_subscribe(self, body: bytes) -> None:
        packet_id, wanted = packets.read_subscribe(body)
        allowed = [(name, qos) for name, qos in wanted if self._may_subscribe(name)]
        codes = tuple(
            -1 if pair in allowed else packets.SUBSCRIPTION_REFUSED  # -1: amqtt will say
            for pair in wanted
        )
        self._door.counters["refused_subscriptions"] += len(wanted) - len(allowed)
        if not allowed:
            self.send(packets.suback_packet(packet_id, list(codes)))
            return
        self._refused_codes = codes
        packet = packets.subscribe_packet(packet_id, allowed)
        if self._link is not None:
            self.hold(HOLD_CONTROL)
            self._link.feed(packet)

    def _may_subscribe(self, topic_filter: str) -> bool:
        if filter_fault(topic_filter) is not None or self.principal is None:
            return False
        return self._door.may_subscribe(self.principal, topic_filter)

    def _on_disconnect(self) -> None:
        self._will = None
        self._phase = _Phase.LEAVING
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not len(self._in_flight):
            self.close()

    # The session.

    def _on_connect(self, first: int, body: bytes) -> None:
        if first != CONNECT:
            raise MalformedError("a packet before CONNECT")
        try:
            connect = packets.read_connect(body)
        except packets.WrongProtocolError as wrong:
            self._door.protocol_error(self, str(wrong))
            self._refuse(packets.BAD_PROTOCOL)
            return
        too_long = len(connect.client_id.encode()) > CLIENT_ID_BYTES_MAX
        if too_long or (not connect.client_id and not connect.clean):
            self._refuse(packets.BAD_CLIENT_ID)
            return
        self._phase = _Phase.GREETING
        self.client_id = connect.client_id or self._door.new_client_id()
        self.hold(HOLD_GREETING)
        self.task = self._door.serve(self._serve(connect), self.client_id)

    def _refuse(self, code: int) -> None:
        self._door.counters["refused_connects"] += 1
        self.send(packets.connack_packet(code))
        self.close()

    async def _serve(self, connect: packets.Connect) -> None:
        """From an accepted CONNECT to the end of amqtt's session."""
        door = self._door
        try:
            who = Introduction(connect.client_id, connect.username, connect.password, self.address)
            answer = door.access.authenticate(who)
            principal = await answer if inspect.isawaitable(answer) else answer
            if not isinstance(principal, Principal):
                unsaid = packets.BAD_CREDENTIALS if connect.username else packets.NOT_AUTHORIZED
                self._refuse(unsaid if principal is None else principal)
                return
            if not (await door.take_over(self) and door.access.still_valid(principal)):
                return
            self.principal = principal
            self._rulings = door.rulings_for(principal.roles)
            self._will = connect.will
            self._keepalive_s = connect.keepalive_s * self._limits.keepalive_factor
            self._link = Link(self, self.client_id, clean=connect.clean, peer=(self.address, self._port))
            await door.exchange.serve(self._link)
        finally:
            door.leave(self, clean=connect.clean)
            self.close()

    def from_exchange(self, packet: bytes) -> None:
        """Pass on what amqtt says, with our part of it filled in."""
        kind = packet[0] & 0xF0
        if kind == CONNACK:
            self._accepted(session_present=bool(packet[2] & 1))
        elif kind == SUBACK:
            self.send(self._merged(packet))
            self.release(HOLD_CONTROL)
        else:
            self.send(packet)
            if kind == UNSUBACK:
                self.release(HOLD_CONTROL)

    def _accepted(self, *, session_present: bool) -> None:
        if self.closed or self._link is None:
            return
        self._phase = _Phase.OPEN
        self._qos2_ids = self._door.qos2_ids(self.client_id, fresh=not session_present)
        self.send(packets.connack_packet(packets.ACCEPTED, session_present=session_present))
        self._door.counters["sessions_opened"] += 1
        self._door.exchange.opened(self._link)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._keepalive_s:
            self._heard_s = self._loop.time()
            self._deadline = self._loop.call_later(self._keepalive_s, self._check_keepalive)
        self.release(HOLD_GREETING)

    def _merged(self, suback: bytes) -> bytes:
        """Put the filters that we refused back among those that amqtt has answered (3.9.3)."""
        start = 2
        while suback[start - 1] & 0x80:
            start += 1
        granted = iter(suback[start + 2 :])
        codes = [next(granted) if code < 0 else code for code in self._refused_codes or ()]
        self._refused_codes = None
        return packets.suback_packet((suback[start] << 8) | suback[start + 1], codes)

    def on_writable(self) -> None:
        """Go on with what waited for the peer."""
        if self._link is not None and not self.closed:
            self._door.exchange.writable(self.client_id)

    def _publish_will(self, will: packets.Will) -> None:
        assert self.principal is not None  # noqa: S101 - narrows the type; set before OPEN
        self.on_batch()
        message = RawMessage(
            will.topic, will.payload, self.client_id, self._now_ms, self._now_s, will.qos, will.retain
        )
        ruling = self._door.rule(will.topic.encode(), self.principal.roles)
        self._door.counters["wills_published"] += 1
        self._door.dispatch(message, ruling, self.principal, UNASKED)
