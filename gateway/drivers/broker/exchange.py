"""amqtt as the exchange behind the front door: sessions, subscriptions, retained messages.

Runs on the event loop; one amqtt session task for each client, inside the connection's own.
Parts of amqtt 0.12.1 that a test shows wrong or unbounded are overridden here: fan-out (no
bound, no QoS downgrade, a copy for each overlapping filter), retained messages (sent to
clients that never asked), renewed subscriptions (old QoS kept), empty filter lists (kept).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from amqtt.adapters import StreamReaderAdapter
from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

from gateway.core.topics import has_wildcard, matches
from gateway.drivers.broker.delivery import Box, Delivery, Message
from gateway.drivers.broker.limits import (
    FILTERS_PER_CLIENT_MAX,
    PLANS_MAX,
    RETAINED_BYTES_MAX,
    RETAINED_MESSAGES_MAX,
    SESSIONS_MAX,
)
from gateway.drivers.broker.link import Link
from gateway.drivers.broker.packets import SUBSCRIPTION_REFUSED, connect_packet, publish_packet

LISTENER = "default"


class Exchange(Broker):
    """Everything about messages once they are let in. Make it inside the running loop.

    Args:
        counters: shared with the front door.
    """

    def __init__(self, counters: Counter[str]) -> None:
        for name in ("amqtt", "transitions"):
            # Every connect and disconnect is a line or two of theirs; ours are in the counters.
            logging.getLogger(name).setLevel(logging.ERROR)
        listener = ListenerConfig(type=ListenerType.EXTERNAL)
        super().__init__(BrokerConfig(listeners={LISTENER: listener}, plugins={}))
        self._counters = counters
        self._delivery = Delivery(counters)
        # Who gets a topic, and with which QoS: built when asked, forgotten when filters change.
        self._plans: dict[str, tuple[tuple[Box, int], ...]] = {}
        # Filters with a wildcard, and what a topic must begin with to match.
        self._wildcards: dict[str, str] = {}
        self._retained_bytes = 0

    # One client.

    async def serve(self, link: Link) -> None:
        """Run a client's session until its link ends. Its CONNACK comes over the link."""
        await self._make_room(link.client_id)
        link.feed(connect_packet(link.client_id, clean=link.clean))
        try:
            await self.external_connected(StreamReaderAdapter(link.reader), link, LISTENER)
        finally:
            link.end()
            box = self._delivery.boxes.get(link.client_id)
            if box is not None:
                await self._delivery.detach(box)
            if link.clean:
                # At once, not when amqtt's monitor comes round: the next CONNECT must not find it.
                await self._delete_session(link.client_id)

    def opened(self, link: Link) -> None:
        """The client has been told that it is in: deliveries may follow."""
        session, handler = self._sessions[link.client_id]
        self._delivery.attach(self._box(session), link, handler)

    def awaits(self, client_id: str, packet_id: int) -> bool:
        """Whether an acknowledgement from a client answers something; others are not passed on."""
        held = self._sessions.get(client_id)
        if held is None:
            return False
        handler = held[1]
        return (
            packet_id in handler._puback_waiters  # noqa: SLF001 - pinned release
            or packet_id in handler._pubrec_waiters  # noqa: SLF001
            or packet_id in handler._pubcomp_waiters  # noqa: SLF001
        )

    def writable(self, client_id: str) -> None:
        """The client takes its output again."""
        box = self._delivery.boxes.get(client_id)
        if box is not None:
            self._delivery.pump(box)

    async def _make_room(self, client_id: str) -> None:
        """Forget the session that has been idle longest when there are too many."""
        if len(self._sessions) < SESSIONS_MAX or client_id in self._sessions:
            return
        idle = [
            (session.last_disconnect_time or 0, name)
            for name, (session, _) in self._sessions.items()
            if session.transitions.state == "disconnected"
        ]
        if idle:
            self._counters["sessions_forgotten"] += 1
            await self._delete_session(min(idle)[1])

    def _box(self, session: Session) -> Box:
        client_id = str(session.client_id)
        box = self._delivery.boxes.get(client_id)
        if box is None:
            box = Box(client_id, keeps=not session.clean_session)
            self._delivery.boxes[client_id] = box
        return box

    # Messages.

    def distribute(self, topic: str, payload: bytes, qos: int) -> None:
        """Send to every subscriber of `topic`, each once, with the lower of the two QoS. Never waits."""
        if not self._subscriptions:
            return
        plan = self._plans.get(topic)
        if plan is None:
            plan = self._plan(topic)
        packet: bytes | None = None
        for box, granted in plan:
            level = min(qos, granted)
            if level == 0 and box.idle and box.link is not None and box.link.outlet.writable:
                if packet is None:
                    packet = publish_packet(topic, payload)
                box.link.outlet.send(packet)
            else:
                self._delivery.offer(box, Message(topic, payload, level, retain=False))

    def _plan(self, topic: str) -> tuple[tuple[Box, int], ...]:
        filters = [topic] if topic in self._subscriptions else []
        filters += [
            topic_filter
            for topic_filter, prefix in self._wildcards.items()
            if topic.startswith(prefix) and matches(topic_filter, topic)
        ]
        best: dict[str, tuple[Box, int]] = {}
        for topic_filter in filters:
            for session, qos in self._subscriptions[topic_filter]:
                client_id = str(session.client_id)
                known = best.get(client_id)
                if known is None or known[1] < qos:
                    best[client_id] = (self._box(session), qos)
        plan = tuple(best.values())
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        self._plans[topic] = plan
        return plan

    def retain(self, topic: str, payload: bytes, qos: int) -> None:
        """Keep the message for later subscribers; an empty one clears the topic (3.3.1.3)."""
        old = self._retained_messages.pop(topic, None)
        if old is not None:
            self._retained_bytes -= len(old.data)
        if not payload:
            return
        full = len(self._retained_messages) >= RETAINED_MESSAGES_MAX
        if full or self._retained_bytes + len(payload) > RETAINED_BYTES_MAX:
            self._counters["retained_dropped"] += 1
            return
        self._retained_bytes += len(payload)
        self._retained_messages[topic] = RetainedApplicationMessage(None, topic, payload, qos)

    def _send_retained(self, box: Box, topic_filter: str, qos: int) -> None:
        if not has_wildcard(topic_filter):
            exact = self._retained_messages.get(topic_filter)
            kept = [exact] if exact is not None else []
        else:
            kept = [held for topic, held in self._retained_messages.items() if matches(topic_filter, topic)]
        for held in kept:
            level = min(qos, held.qos or 0)
            self._delivery.offer(box, Message(held.topic, bytes(held.data), level, retain=True))

    # What amqtt asks for, answered our way.

    async def _authenticate(self, session: Session, _: ListenerConfig) -> bool:  # noqa: ARG002 - the interface
        """The front door has done it."""
        return True

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Add it, or give it its new QoS (3.8.4); 0x80 when the client has too many."""
        topic_filter, qos = subscription
        box = self._box(session)
        if topic_filter in box.filters:
            self._del_subscription(topic_filter, session)
        elif len(box.filters) >= FILTERS_PER_CLIENT_MAX:
            self._counters["refused_subscriptions"] += 1
            return SUBSCRIPTION_REFUSED
        box.filters.add(topic_filter)
        self._subscriptions.setdefault(topic_filter, []).append((session, qos))
        if has_wildcard(topic_filter):
            self._wildcards[topic_filter] = _literal_prefix(topic_filter)
        self._plans.clear()
        return qos

    async def _handle_subscription(
        self, client_session: Session, handler: BrokerProtocolHandler, subscribe_waiter: asyncio.Future[Any]
    ) -> None:
        wanted = subscribe_waiter.result()
        codes = [await self.add_subscription(one, client_session) for one in wanted.topics]
        await handler.mqtt_acknowledge_subscription(wanted.packet_id, codes)
        for (topic_filter, _), code in zip(wanted.topics, codes, strict=True):
            if code != SUBSCRIPTION_REFUSED:
                self._send_retained(self._box(client_session), topic_filter, code)

    async def _handle_unsubscription(
        self, client_session: Session, handler: BrokerProtocolHandler, unsubscribe_waiter: asyncio.Future[Any]
    ) -> None:
        unwanted = unsubscribe_waiter.result()
        for topic_filter in unwanted.topics:
            self._forget_filter(topic_filter, client_session)
        await handler.mqtt_acknowledge_unsubscription(unwanted.packet_id)

    def _forget_filter(self, topic_filter: str, session: Session) -> None:
        self._del_subscription(topic_filter, session)
        self._box(session).filters.discard(topic_filter)
        if not self._subscriptions.get(topic_filter, True):
            del self._subscriptions[topic_filter]
            self._wildcards.pop(topic_filter, None)
        self._plans.clear()

    async def _del_all_subscriptions(self, session: Session) -> None:
        for topic_filter in tuple(self._box(session).filters):
            self._forget_filter(topic_filter, session)

    async def _delete_session(self, client_id: str) -> None:
        await super()._delete_session(client_id)
        self._delivery.drop(client_id)
        self._plans.clear()

    async def _publish_session_retained_messages(self, session: Session) -> None:
        """Go on with what waited for this client."""
        self._delivery.pump(self._box(session))

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Nothing: amqtt calls this with the filters of all clients when one connects."""

    async def _broadcast_message(
        self,
        session: Session | None,  # noqa: ARG002 - the interface
        topic: str | None,
        data: bytes | bytearray | None,
        force_qos: int | None = None,
    ) -> None:
        """End amqtt's own way in at ours."""
        self.distribute(topic or "", bytes(data or b""), force_qos or 0)


def _literal_prefix(topic_filter: str) -> str:
    """Return what a topic must begin with to match: `a/` for `a/+`, `a` for `a/#`."""
    plus = topic_filter.split("+", 1)[0]
    head = topic_filter.split("#", 1)[0]
    return plus if len(plus) < len(head) else head.removesuffix("/")
