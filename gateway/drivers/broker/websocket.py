"""MQTT inside WebSocket (6.0 of the standard), for browsers. Runs on the event loop.

A browser lets any page open a WebSocket to any address, the barn's included, and sends along
where the page came from. Only pages of this machine itself are let in, and those listed.
"""

from __future__ import annotations

import asyncio
import http
import logging
import socket
from collections.abc import Callable

from websockets.datastructures import MultipleValuesError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway.core.origins import same_host
from gateway.drivers.broker.gate import Gate
from gateway.drivers.broker.layer import Layer
from gateway.drivers.broker.limits import FRAME_BYTES_MIN, FRAMES_PER_TURN, HANDSHAKE_BYTES_MAX

PATHS = frozenset({"/", "/mqtt"})
SUBPROTOCOL = Subprotocol("mqtt")  # the client must offer it, the server must select it (6.0.0-3, -4)

PIECE_BYTES = FRAMES_PER_TURN * FRAME_BYTES_MIN
FIXED_HEADER_BYTES_MAX = 5  # of an MQTT packet: first byte and up to four of length

_log = logging.getLogger(__name__)
_log.setLevel(logging.ERROR)  # the library's own word for each connection that comes and goes


class WebSocket(Layer):
    """The server's side of one WebSocket.

    Args:
        above: makes the protocol inside.
        gate: counts the socket before the handshake.
        origins: pages that may connect, as browsers name them: `https://barn.example`.
        packet_size_max: bytes of an MQTT packet after its fixed header; bounds a message likewise.
    """

    refusal = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    def __init__(
        self,
        above: Callable[[], asyncio.Protocol],
        gate: Gate,
        *,
        origins: frozenset[str],
        packet_size_max: int,
    ) -> None:
        super().__init__(above, gate)
        self._origins = origins
        self._request_bytes = 0
        self._protocol = ServerProtocol(
            subprotocols=[SUBPROTOCOL], max_size=packet_size_max + FIXED_HEADER_BYTES_MAX, logger=_log
        )

    def begin(self) -> None:
        """Wait for the client's request."""

    def receive(self, data: bytes) -> None:
        """Take the request, then frames; after many, the rest in the loop's next turn."""
        if not self._opened:
            self._request_bytes += len(data)
            if self._request_bytes > HANDSHAKE_BYTES_MAX:
                self.fail("websocket_refused", f"a request of more than {HANDSHAKE_BYTES_MAX} bytes")
                return
        events: list[Event] = []
        taken = 0
        while taken < len(data) and len(events) < FRAMES_PER_TURN:
            self._protocol.receive_data(data[taken : taken + PIECE_BYTES])
            events += self._protocol.events_received()
            taken += PIECE_BYTES
        self._handle(events)
        if taken < len(data) and not self._closing and self._protocol.close_rcvd is None:
            self.later(data[taken:])

    def _handle(self, events: list[Event]) -> None:
        payloads: list[bytes] = []
        for event in events:
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Frame):
                if event.opcode is Opcode.TEXT:
                    self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "MQTT needs binary frames")
                    self._broken("a text frame")  # 6.0.0-1
                    return
                if event.opcode in {Opcode.BINARY, Opcode.CONT} and event.data:
                    payloads.append(bytes(event.data))
        if payloads:
            self.deliver(b"".join(payloads))  # packets may span frames (6.0.0-2)
        if self._protocol.parser_exc is not None or self._protocol.handshake_exc is not None:
            self._broken(str(self._protocol.parser_exc or self._protocol.handshake_exc))
        elif self._protocol.close_rcvd is not None and not self._closing:
            self._send()
            self.end_of_input()
        else:
            self._send()

    def _answer(self, request: Request) -> None:
        """Accept the handshake, or say why not."""
        protocol = self._protocol
        why = None
        if request.path.partition("?")[0] not in PATHS:
            why = f"no such path {request.path[:64]!r}"
            response = protocol.reject(http.HTTPStatus.NOT_FOUND, "MQTT is at /mqtt.\n")
        elif (stranger := self._stranger(request)) is not None:
            why = f"a page of {stranger!r} may not connect; broker.websocket.origins lists those that may"
            response = protocol.reject(http.HTTPStatus.FORBIDDEN, "This page may not connect to the barn.\n")
        else:
            response = protocol.accept(request)
            if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
                why = f"no WebSocket for MQTT: {protocol.handshake_exc}"
        protocol.send_response(response)
        self._send()
        if why is None:
            self.open()
        else:
            self.fail("websocket_refused", why)

    def _stranger(self, request: Request) -> str | None:
        """The origin of a page that may not connect; None without a page, and for one of ours."""
        try:
            origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
        except MultipleValuesError:
            return "several origins"
        if origin is None or origin in self._origins or same_host(origin, host, socket.gethostname()):
            return None
        return origin[:128]

    def _send(self) -> None:
        """Pass on what the protocol has to say; an empty piece would mean the end, which `close` is."""
        self.put(b"".join(self._protocol.data_to_send()))

    def _broken(self, why: str) -> None:
        self._send()
        self.fail("websocket_errors" if self._opened else "websocket_refused", f"WebSocket: {why}")

    def wrap(self, data: bytes | bytearray | memoryview) -> bytes:
        """One binary frame."""
        if self._protocol.state is not State.OPEN:
            return b""
        self._protocol.send_binary(bytes(data))
        return b"".join(self._protocol.data_to_send())

    def farewell(self) -> bytes:
        """A close frame; the client's own is not waited for."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        return b"".join(self._protocol.data_to_send())
