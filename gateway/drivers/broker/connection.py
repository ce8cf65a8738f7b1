"""One MQTT 3.1.1 client at the front door.

Runs on the event loop, in the transport's callbacks; a task of its own only while somebody slow
decides who it is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from enum import IntEnum
from functools import partial

from gateway.drivers.broker import packets
from gateway.drivers.broker.access import Introduction, Principal, Refusal
from gateway.drivers.broker.desk import Desk
from gateway.drivers.broker.framing import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    MalformedError,
)
from gateway.drivers.broker.front_door import FrontDoor
from gateway.drivers.broker.inbound import Inbound
from gateway.drivers.broker.limits import CLIENT_ID_BYTES_MAX, FILTERS_PER_CLIENT_MAX
from gateway.drivers.broker.session import Session
from gateway.drivers.broker.wire import HOLD_CONTROL, HOLD_GREETING, HOLD_STOPPING, Wire


class _Phase(IntEnum):
    AWAITING = 0  # nothing but CONNECT may come
    GREETING = 1  # CONNECT is being answered
    OPEN = 2
    LEAVING = 3  # DISCONNECT has come; acknowledgements are still owed


class _AfterCommit:
    """Something to say once what the client asked for is on disk."""

    __slots__ = ("settle",)

    def __init__(self, settle: Callable[[], None]) -> None:
        self.settle = settle


class Connection(Wire):
    """A client: its packets, its publishes in flight, its will."""

    __slots__ = (
        "_deadline",
        "_desk",
        "_door",
        "_inbound",
        "_keepalive_s",
        "_now_ms",
        "_now_s",
        "_phase",
        "_proven",
        "_session",
        "_will",
        "address",
        "client_id",
        "principal",
    )

    def __init__(self, door: FrontDoor, desk: Desk) -> None:
        super().__init__(door.limits)
        self._door = door
        self._desk = desk
        self._phase = _Phase.AWAITING
        self._inbound: Inbound | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._keepalive_s = 0.0
        self._will: packets.Will | None = None
        self._session: Session | None = None
        self.principal: Principal | None = None
        self._now_ms = 0
        self._now_s = 0.0
        self.client_id = ""
        self.address = ""
        self._proven: str | None = None

    # The socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the newcomer in, if there is room."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.address = str(peer[0])
        ticket = self._door.admit(self, transport)
        if ticket is None:
            return
        self._proven = transport.get_extra_info("certificate_name")
        self._deadline = self._loop.call_at(ticket.connect_by_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Refuse at the first byte what is not MQTT."""
        if (
            self._phase is _Phase.AWAITING
            and data
            and not len(self._framer)
            and data[0] != CONNECT
            and not self.closed
        ):
            self.on_fault(f"first byte 0x{data[0]:02x} is no CONNECT")
            return
        super().data_received(data)

    def on_end(self) -> bool:
        """Keep our half open while acknowledgements are owed to a client that said goodbye."""
        if self._phase is _Phase.LEAVING and self._inbound:
            return True
        self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        super().connection_lost(exc)
        self._over()
        self._door.gone(self)

    def evict(self, *, will_due: bool = True) -> None:
        """Another connection has taken over its client id, or it may not speak any more."""
        self._over(will_due=will_due)
        self.abort()

    def _over(self, *, will_due: bool = True) -> None:
        """The session goes on without this connection. The will is due, unless the client said goodbye."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        will, self._will = self._will, None
        if will_due and will is not None and self._inbound is not None and not self._door.stopping:
            self.on_batch()
            self._inbound.will(will, self._now_ms, self._now_s)
        if self._inbound is not None:
            self._inbound.abandon()
        self._leave_session()

    def _leave_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._door.leave(self, session)

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
        session, inbound = self._session, self._inbound
        if session is None or inbound is None:
            if self._phase is _Phase.AWAITING:
                self._on_connect(first, body)
            return  # what follows a DISCONNECT is not looked at
        kind = first & 0xF0
        if kind == PUBLISH:
            inbound.publish(first, body, self._now_ms, self._now_s)
        elif first == PUBREL:
            inbound.release(body)
        elif first == PUBACK:
            self._door.exchange.delivery.acknowledged(session, packets.read_packet_id(body))
        elif first == PUBREC:
            self._door.exchange.delivery.received(session, packets.read_packet_id(body))
        elif first == PUBCOMP:
            self._door.exchange.delivery.completed(session, packets.read_packet_id(body))
        elif first == PINGREQ:
            self.send(packets.PINGRESP_PACKET)
        elif first == SUBSCRIBE:
            self._on_subscribe(session, body)
        elif first == UNSUBSCRIBE:
            self._on_unsubscribe(session, body)
        elif first == DISCONNECT:
            self._on_disconnect()
        else:
            raise MalformedError("a second CONNECT")

    def idle(self) -> None:
        """Nothing is in flight any more."""
        if self._phase is _Phase.LEAVING:
            self.close()

    def _on_subscribe(self, session: Session, body: bytes) -> None:
        packet_id, wanted = packets.read_subscribe(body)
        codes = [
            self._subscribe(session, topic_filter, qos)
            if number < FILTERS_PER_CLIENT_MAX
            else packets.SUBSCRIPTION_REFUSED  # not even judged: a packet has room for 16,000
            for number, (topic_filter, qos) in enumerate(wanted)
        ]
        granted = [
            (topic_filter, code)
            for (topic_filter, _), code in zip(wanted, codes, strict=True)
            if code != packets.SUBSCRIPTION_REFUSED
        ]
        answer = packets.suback_packet(packet_id, codes)
        self._after_commit(session, partial(self._subscribed, answer, granted))

    def _subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        if self.principal is not None and self._desk.may_subscribe(self.principal, topic_filter):
            return self._door.exchange.subscribe(session, topic_filter, qos)
        self._door.counters["refused_subscriptions"] += 1
        return packets.SUBSCRIPTION_REFUSED

    def _on_unsubscribe(self, session: Session, body: bytes) -> None:
        packet_id, filters = packets.read_unsubscribe(body)
        for topic_filter in filters:
            self._door.exchange.unsubscribe(session, topic_filter)
        self._after_commit(session, partial(self._subscribed, packets.unsuback_packet(packet_id), []))

    def _after_commit(self, session: Session, say: Callable[[], None]) -> None:
        """Answer when it is on disk, and look at no other packet before: they keep their order."""
        self.hold(HOLD_CONTROL)
        if session.keeps:
            self._door.exchange.keeper.after_commit(_AfterCommit(say))
        else:
            say()

    def _subscribed(self, answer: bytes, granted: list[tuple[str, int]]) -> None:
        self.send(answer)
        if self._session is None:
            self.release(HOLD_CONTROL)
        else:
            self._door.exchange.catch_up(self._session, granted, partial(self.release, HOLD_CONTROL))

    def _on_disconnect(self) -> None:
        self._will = None
        self._phase = _Phase.LEAVING
        self._leave_session()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self._inbound:
            self.close()

    # Coming in.

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
        who = Introduction(connect.client_id, connect.username, connect.password, self.address, self._proven)
        answer = self._door.access.authenticate(who)
        if inspect.isawaitable(answer):
            self.hold(HOLD_GREETING)
            self._door.serve(self._identify(connect, answer), self.client_id)
        else:
            self._welcome(connect, answer)

    async def _identify(
        self, connect: packets.Connect, answer: Awaitable[Principal | Refusal | None]
    ) -> None:
        try:
            self._welcome(connect, await answer)
        finally:
            if self._phase is _Phase.GREETING:
                self.close()  # refused already, or the question failed
        self.release(HOLD_GREETING)

    def _refuse(self, code: int) -> None:
        self._door.counters["refused_connects"] += 1
        self.send(packets.connack_packet(code))
        self.close()

    def _welcome(self, connect: packets.Connect, answer: Principal | Refusal | None) -> None:
        """Answer the CONNECT of a client that is known now."""
        door = self._door
        if self.closed:
            return
        if not isinstance(answer, Principal):
            unsaid = packets.BAD_CREDENTIALS if connect.username else packets.NOT_AUTHORIZED
            self._refuse(unsaid if answer is None else answer)
            return
        if not door.access.still_valid(answer, self.client_id):  # while it was asked for, it was put out
            self._refuse(packets.NOT_AUTHORIZED)
            return
        opened = door.enter(self, clean=connect.clean)
        if opened is None:
            door.no_room(self)
            self._refuse(packets.UNAVAILABLE)
            return
        self._session, present = opened
        if present:
            door.exchange.rejudge(self._session, partial(self._desk.may_subscribe, answer))
        self.principal = answer
        self._inbound = Inbound(self, self._session, answer, self._desk, self.address)
        self._will = connect.will
        self._phase = _Phase.OPEN
        self.send(packets.connack_packet(packets.ACCEPTED, session_present=present))
        door.exchange.delivery.resume(self._session)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._keepalive_s = connect.keepalive_s * self._limits.keepalive_factor
        if self._keepalive_s:
            self._deadline = self._loop.call_later(self._keepalive_s, self._check_keepalive)

    def on_writable(self) -> None:
        """Go on with what waited for the peer."""
        if self._session is not None:
            self._door.exchange.delivery.pump(self._session)

    def too_slow(self) -> None:
        """More waits for this client than may."""
        self.abort()
