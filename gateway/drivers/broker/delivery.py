"""What waits for one subscriber, and what is on its way. Runs on the event loop.

QoS 0 goes straight to the socket; QoS 1 and 2 through amqtt's message flow, one task each,
few at a time. Everything is bounded: a subscriber that falls behind loses messages
(`fanout_dropped`) and never slows down anyone else.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from functools import partial

import msgspec
from amqtt.errors import ProtocolHandlerError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import OutgoingApplicationMessage

from gateway.drivers.broker.limits import BACKLOG_BYTES_MAX, BACKLOG_MESSAGES_MAX, DELIVERY_IN_FLIGHT_MAX
from gateway.drivers.broker.link import Link
from gateway.drivers.broker.packets import publish_packet


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to one subscriber."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Box:
    """The outbound side of one session.

    Args:
        client_id: whose it is.
        keeps: QoS 1 and 2 wait here while the client is away (a persistent session).
    """

    __slots__ = ("backlog", "client_id", "filters", "handler", "in_flight", "keeps", "link", "returned")

    def __init__(self, client_id: str, *, keeps: bool) -> None:
        self.client_id = client_id
        self.keeps = keeps
        self.filters: set[str] = set()
        self.backlog: deque[Message] = deque()
        self.in_flight: dict[asyncio.Task[OutgoingApplicationMessage], Message] = {}
        self.returned: list[Message] = []
        self.link: Link | None = None
        self.handler: BrokerProtocolHandler | None = None

    @property
    def idle(self) -> bool:
        """Nothing waits, so a message can go at once without overtaking another."""
        return not self.backlog


class Delivery:
    """All boxes, and the bytes that wait in them."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._backlog_bytes = 0
        self.boxes: dict[str, Box] = {}

    def offer(self, box: Box, message: Message) -> None:
        """Send it in its turn, or drop it when too much waits already."""
        if box.link is None and (message.qos == 0 or not box.keeps):
            return
        full = len(box.backlog) >= BACKLOG_MESSAGES_MAX
        if full or self._backlog_bytes + len(message.payload) > BACKLOG_BYTES_MAX:
            self._counters["fanout_dropped"] += 1
            return
        box.backlog.append(message)
        self._backlog_bytes += len(message.payload)
        self.pump(box)

    def pump(self, box: Box) -> None:
        """Send what the peer can take."""
        link, handler = box.link, box.handler
        if link is None or handler is None:
            return
        while box.backlog and len(box.in_flight) < DELIVERY_IN_FLIGHT_MAX and link.outlet.writable:
            message = box.backlog.popleft()
            self._backlog_bytes -= len(message.payload)
            if message.qos == 0:
                link.outlet.send(publish_packet(message.topic, message.payload, retain=message.retain))
                continue
            flow = handler.mqtt_publish(message.topic, message.payload, message.qos, message.retain)
            task = asyncio.ensure_future(flow)
            box.in_flight[task] = message
            task.add_done_callback(partial(self._flow_ended, box))

    def _flow_ended(self, box: Box, task: asyncio.Task[OutgoingApplicationMessage]) -> None:
        message = box.in_flight.pop(task)
        fault = None if task.cancelled() else task.exception()
        if task.cancelled() or isinstance(fault, ProtocolHandlerError):
            # The connection ended first. A QoS 2 message may have arrived: it is not sent again.
            if box.keeps and message.qos == 1:
                box.returned.append(message)
        elif fault is not None:
            self._counters["fanout_unacknowledged"] += 1
        self.pump(box)

    def attach(self, box: Box, link: Link, handler: BrokerProtocolHandler) -> None:
        """The client is here; `pump` goes on with what waits."""
        box.link, box.handler, box.keeps = link, handler, not link.clean

    async def detach(self, box: Box) -> None:
        """The client has gone: what a persistent session keeps waits for its return."""
        box.link = box.handler = None
        flows = list(box.in_flight)
        for task in flows:
            task.cancel()
        if flows:
            await asyncio.wait(flows)
        kept = [*box.returned, *(message for message in box.backlog if message.qos and box.keeps)]
        self._backlog_bytes -= sum(len(message.payload) for message in box.backlog)
        self._backlog_bytes += sum(len(message.payload) for message in kept)
        box.returned.clear()
        box.backlog = deque(kept)

    def drop(self, client_id: str) -> None:
        """The session is over."""
        box = self.boxes.pop(client_id, None)
        if box is not None:
            self._backlog_bytes -= sum(len(message.payload) for message in box.backlog)
            box.backlog.clear()
