"""The exchange behind the front door: sessions, subscriptions, retained messages.

It is an amqtt `Broker` to whoever holds one: amqtt keeps the life cycle, the plugins and the
internal broadcast. What amqtt 0.12.1 does with messages was wrong, unbounded, lost at a restart or
100 KB a client where tests looked (docs/decisions.md), so that part is done here. Runs on the
event loop; no task of its own for a client.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.session import Session as AmqttSession

from gateway.core.broker_state import BrokerState, Change, Message
from gateway.core.topic_names import has_wildcard
from gateway.drivers.broker.delivery import Delivery
from gateway.drivers.broker.keeper import Keep, Keeper
from gateway.drivers.broker.limits import (
    DELIVERY_IN_FLIGHT_MAX,
    FILTERS_MAX,
    FILTERS_PER_CLIENT_MAX,
    SESSION_IDLE_MS,
    SESSIONS_PER_DEVICE_MAX,
)
from gateway.drivers.broker.packets import SUBSCRIPTION_REFUSED, publish_packet
from gateway.drivers.broker.receipts import Receipt
from gateway.drivers.broker.retained import RetainedMessages
from gateway.drivers.broker.session import Outlet, Session
from gateway.drivers.broker.subscriptions import Subscriptions


class Exchange(Broker):
    """Everything about messages once they are let in. Make it inside the running loop.

    Args:
        counters: shared with the front door.
        keep: see `keeper.Keep`; None = nothing outlives this process.
        hurry: many wait for a commit.
        sessions_max: sessions held, of clients that are here and of those that may come back.

    Attributes:
        delivery: takes the clients' acknowledgements.
        keeper: what is to be written down.
    """

    def __init__(
        self, counters: Counter[str], keep: Keep | None, hurry: Callable[[], None], sessions_max: int
    ) -> None:
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.ERROR)
        listener = ListenerConfig(type=ListenerType.EXTERNAL)
        super().__init__(BrokerConfig(listeners={"default": listener}, plugins={}))
        self._counters = counters
        self._sessions_max = sessions_max
        self._clients: dict[str, Session] = {}
        self._filters = Subscriptions()
        self._retained = RetainedMessages()
        self.keeper = Keeper(keep)
        self.delivery = Delivery(self.keeper, self._retained.by_topic, hurry, counters)
        self._catching_up: deque[_CatchUp] = deque()

    # What outlives a restart.

    def restore(self, state: BrokerState) -> None:
        """Take over what the last run left, before the first client is let in."""
        for kept in state.sessions[-self._sessions_max :]:
            session = Session.restored(kept, DELIVERY_IN_FLIGHT_MAX)
            self._clients[kept.client_id] = session
            for topic_filter in session.filters:
                self._filters.add(session, topic_filter)
            self.delivery.restored(session)
        for message in state.retained:
            self._retained.put(message)

    def changes(self) -> list[Change]:
        """What is to be written down since the last call."""
        return self.keeper.changes(self._retained.by_topic)

    # Sessions.

    def gauges(self) -> dict[str, int]:
        """What is held now, each within its bound in `limits`."""
        return {
            "sessions": len(self._clients),
            "subscriptions": self._filters.count,
            "plans": self._filters.plans,
            "retained": len(self._retained.by_topic),
            "waiting_bytes": self.delivery.waiting_bytes,
        }

    def open(
        self, client_id: str, *, clean: bool, outlet: Outlet, now_ms: int
    ) -> tuple[Session, bool] | None:
        """The session of a client that comes in, and whether it was there before; None without room.

        Nothing is sent before `delivery.resume`: CONNACK goes first.
        """
        session = self._clients.get(client_id)
        if session is not None and (clean or not session.keeps):
            self._forget(session)
            session = None
        present = session is not None
        if session is None:
            if len(self._clients) >= self._sessions_max and not self._make_room(now_ms):
                return None
            session = Session(client_id, keeps=not clean)
            self._clients[client_id] = session
        session.seen_ms, session.outlet = now_ms, outlet
        self.keeper.seen(session)
        return session, present

    def leave(self, session: Session, now_ms: int) -> None:
        """The client has gone."""
        session.seen_ms = now_ms
        if session.keeps:
            self.delivery.detach(session)
            self.keeper.seen(session)
        else:
            self._forget(session)

    def _make_room(self, now_ms: int) -> bool:
        """Forget one absent session, if there is one to forget.

        An empty one, one that nobody has asked for in 30 days, or one of the device that keeps too many.
        """
        absent = [session for session in self._clients.values() if session.outlet is None]
        oldest = min(absent, key=lambda session: (not session.empty, session.seen_ms), default=None)
        if oldest is None:
            return False
        if not (oldest.empty or now_ms - oldest.seen_ms > SESSION_IDLE_MS):
            ((greedy, count),) = Counter(session.device for session in absent).most_common(1)
            if count <= SESSIONS_PER_DEVICE_MAX:
                return False
            oldest = min((one for one in absent if one.device == greedy), key=lambda one: one.seen_ms)
        self._counters["sessions_forgotten"] += 1
        self._forget(oldest)
        return True

    def _forget(self, session: Session) -> None:
        for topic_filter in session.filters:
            self._filters.remove(session, topic_filter)
        session.filters.clear()
        session.outlet = None
        self.delivery.drop(session)
        del self._clients[session.client_id]
        if session.keeps:
            self.keeper.forgotten(session.client_id)

    # Subscriptions.

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """Add the filter, or give it its new QoS (3.8.4); 0x80 when the client has too many."""
        known = session.filters.get(topic_filter)
        if known == qos:
            return qos  # said again at every connect; nothing changes
        full = len(session.filters) >= FILTERS_PER_CLIENT_MAX or self._filters.count >= FILTERS_MAX
        if known is None and full:
            self._counters["refused_subscriptions"] += 1
            return SUBSCRIPTION_REFUSED
        session.filters[topic_filter] = qos
        self._filters.add(session, topic_filter)
        self._note_filter(session, topic_filter)
        return qos

    def rejudge(self, session: Session, allowed: Callable[[str], bool]) -> None:
        """A client is back that may hear less than when it left: take away what is not for it any more."""
        lost = [topic_filter for topic_filter in session.filters if not allowed(topic_filter)]
        for topic_filter in lost:
            self.unsubscribe(session, topic_filter)
        if lost:
            self._counters["subscriptions_revoked"] += len(lost)
            self.delivery.forbid(session)

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """Take the filter away; nothing if it was not there."""
        self._filters.remove(session, topic_filter)
        if session.filters.pop(topic_filter, None) is not None:
            self._note_filter(session, topic_filter)
            self.delivery.withdraw(session, topic_filter)

    def catch_up(self, session: Session, granted: list[tuple[str, int]], done: Callable[[], None]) -> None:
        """Retained messages for subscriptions, new or renewed (3.8.4); then `done` is called.

        A filter with a wildcard is compared with up to 10,000 topics, about 5 ms of the loop's time: one
        in each turn of the loop, of one client after the other, however many ask.
        """
        wild: deque[tuple[str, int]] = deque()
        for topic_filter, qos in granted:
            if has_wildcard(topic_filter):
                wild.append((topic_filter, qos))
            else:
                self.delivery.offer_retained(session, self._retained.matching(topic_filter), qos)
        if not wild:
            done()
            return
        self._catching_up.append(_CatchUp(session, wild, done))
        if len(self._catching_up) == 1:
            asyncio.get_running_loop().call_soon(self._catch_up_one)

    def _catch_up_one(self) -> None:
        asking = self._catching_up.popleft()
        topic_filter, qos = asking.filters.popleft()
        if asking.session.outlet is not None:
            self.delivery.offer_retained(asking.session, self._retained.matching(topic_filter), qos)
        if asking.filters and asking.session.outlet is not None:
            self._catching_up.append(asking)
        else:
            asking.done()
        if self._catching_up:
            asyncio.get_running_loop().call_soon(self._catch_up_one)

    def _note_filter(self, session: Session, topic_filter: str) -> None:
        if session.unsaved is not None:
            session.unsaved.filters.add(topic_filter)
            self.keeper.changed(session)

    # Messages.

    def distribute(self, topic: str, payload: bytes, qos: int, *, state: bool = False) -> bool:
        """Send to every subscriber of `topic`, each once, with the lower of the two QoS. Never waits.

        Args:
            topic: where.
            payload: what.
            qos: of the publisher.
            state: only the newest message of the topic matters to one who is behind.

        Returns:
            Whether some of it is to outlive a restart and is not on disk yet.
        """
        if not len(self._filters):
            return False
        packet: bytes | None = None
        kept = False
        for session, granted in self._filters.plan(topic):
            level = min(qos, granted)
            outlet = session.outlet
            if level == 0 and not session.backlog and outlet is not None and outlet.writable:
                if packet is None:
                    packet = publish_packet(topic, payload)
                outlet.send(packet)
            else:
                message = Message(topic, payload, level, retain=False)
                kept |= self.delivery.offer(session, message, state=state)
        return kept

    def retain(self, topic: str, payload: bytes, qos: int, *, keep: bool) -> bool:
        """Keep the message for later subscribers; an empty one clears the topic.

        Args:
            topic: where.
            payload: what.
            qos: the highest a subscriber gets it with.
            keep: it outlives a restart; not what the gateway publishes anew at every start.

        Returns:
            Whether it is to outlive a restart and is not on disk yet.
        """
        if not payload and topic not in self._retained.by_topic:
            return False
        if not self._retained.put(Message(topic, payload, qos, retain=True), own=not keep):
            self._counters["retained_dropped"] += 1
        if keep:
            self.keeper.retained(topic)
        return keep

    # QoS 2 from a client.

    def take_id(self, session: Session, packet_id: int, receipt: Receipt) -> None:
        """A QoS 2 message has come; until it is released, the same id is the same message."""
        session.received_ids[packet_id] = receipt
        self._note_id(session, packet_id)

    def release_id(self, session: Session, packet_id: int) -> bool:
        """PUBREL. Returns whether a commit must come before PUBCOMP: the id means a new message then."""
        if packet_id not in session.received_ids:
            return False
        del session.received_ids[packet_id]
        self._note_id(session, packet_id)
        return session.keeps

    def _note_id(self, session: Session, packet_id: int) -> None:
        if session.unsaved is not None:
            session.unsaved.ids.add(packet_id)
            self.keeper.changed(session)

    # amqtt's own way in.

    async def _broadcast_message(
        self,
        session: AmqttSession | None,  # noqa: ARG002 - the interface
        topic: str | None,
        data: bytes | bytearray | None,
        force_qos: int | None = None,
    ) -> None:
        """End `internal_message_broadcast`, which plugins call, where all messages go."""
        self.distribute(topic or "", bytes(data or b""), force_qos or 0)


class _CatchUp(NamedTuple):
    """A client that is to get retained messages."""

    session: Session
    filters: deque[tuple[str, int]]
    done: Callable[[], None]
