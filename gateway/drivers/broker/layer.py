"""What lies between a socket and a client of the broker: TLS, WebSocket. Runs on the event loop.

A layer is a protocol to the transport below it and a transport to the protocol above it, so that
layers stack and the client above does not know how many there are. Back-pressure needs no buffer
of a layer's own: what is written goes to the transport below in the same call, and what is
read goes up in the same call.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

from gateway.drivers.broker.gate import Gate, Ticket
from gateway.drivers.broker.limits import READ_CHUNK_BYTES


class Layer(asyncio.Transport, asyncio.Protocol, ABC):
    """The part that all layers have in common.

    Args:
        above: makes the protocol above, when the handshake is done; until then it costs nothing.
        gate: lets the socket in, where no layer below has passed it.
    """

    refusal = b""
    """What a socket hears that the gate does not let in."""

    def __init__(self, above: Callable[[], asyncio.Protocol], gate: Gate) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._gate = gate
        self._above = above
        self._below: asyncio.Transport | None = None
        self._upper: asyncio.BaseProtocol = asyncio.Protocol()
        self._ticket: Ticket | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._opened = False
        self._closing = False
        self._rest = b""
        self._ended = False  # after `_rest`
        self._unheard = False  # the protocol above has paused reading

    # What a layer adds.

    @abstractmethod
    def begin(self) -> None:
        """The transport below is there; the handshake may begin."""

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Bytes from below: of the handshake until `open` is called, then for the protocol above."""

    @abstractmethod
    def wrap(self, data: bytes | bytearray | memoryview) -> bytes:
        """Bytes from above, as they go to the transport below."""

    @abstractmethod
    def farewell(self) -> bytes:
        """What this layer says at the end, after the protocol above has said all it wants."""

    # For the layer.

    def open(self) -> None:
        """The handshake is done: make the protocol above."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._opened = True
        self._upper = self._above()
        self._upper.connection_made(self)

    def deliver(self, data: bytes) -> None:
        """Pass bytes to the protocol above, if there are any."""
        if data and isinstance(self._upper, asyncio.Protocol) and not self._closing:
            self._upper.data_received(data)

    def later(self, rest: bytes) -> None:
        """Take the rest in the loop's next turn: others have theirs. The peer is not heard until then."""
        self._rest = rest
        if self._below is not None:
            self._below.pause_reading()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        rest, self._rest = self._rest, b""
        if self._closing:
            return
        self.receive(rest)
        if self._rest or self._closing:
            return
        if self._ended:
            self.end_of_input()
        if not self._unheard:
            self.resume_reading()

    def put(self, data: bytes) -> None:
        """Write to the transport below, past `wrap`: a word of this layer's own."""
        if data and self._below is not None and not self._below.is_closing():
            self._below.write(data)

    def fail(self, counter: str, why: str) -> None:
        """The peer has broken this layer's protocol: count it, say it, close without a farewell."""
        self._closing = True
        if self._below is None or self._below.is_closing():
            return
        self._gate.complain(counter, self._ticket, why)
        self._below.close()
        # Nothing above owes the peer an answer now; one that does not read is not waited for.
        if self._below.get_write_buffer_size():
            self._below.abort()

    def end_of_input(self) -> None:
        """The peer says no more. The protocol above may keep its own half open."""
        if self._opened and isinstance(self._upper, asyncio.Protocol) and self._upper.eof_received():
            return
        self.close()

    # A protocol, to what lies below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the gate, then begin the handshake; it must be done before the ticket's deadline."""
        below = cast("asyncio.Transport", transport)  # a socket has both directions
        self._below = below
        if hasattr(below, "max_size"):
            below.max_size = READ_CHUNK_BYTES  # asyncio's selector transport asks for 256 KiB at once
        self._ticket = self._gate.enter(below)
        if self._ticket is None:
            self._gate.turn_away(below, self.refusal)
            return
        self._deadline = self._loop.call_at(self._ticket.connect_by_s, self._too_slow)
        self.begin()

    def data_received(self, data: bytes) -> None:
        """Hear the peer, unless we have done with it."""
        if self._rest:
            self._rest += data
        elif not self._closing:
            self.receive(data)

    def eof_received(self) -> bool:
        """Keep the socket as long as the protocol above keeps its half; `close` ends it."""
        if self._rest:
            self._ended = True
        elif not self._closing:
            self.end_of_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone; so is everything above."""
        self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        upper, self._upper = self._upper, asyncio.Protocol()  # no cycle is left for the collector
        if self._ticket is not None:
            self._gate.leave(self._ticket)
        upper.connection_lost(exc)

    def pause_writing(self) -> None:
        """Output piles up below."""
        self._upper.pause_writing()

    def resume_writing(self) -> None:
        """The peer has taken its output."""
        self._upper.resume_writing()

    def _too_slow(self) -> None:
        self._deadline = None
        self._gate.complain("handshake_timeouts", self._ticket, "no handshake in time")
        self.abort()

    # A transport, to what lies above.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of this layer, or of the transport below."""
        if name == "ticket":
            return self._ticket
        return default if self._below is None else self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closing or self._below is None or self._below.is_closing()

    def close(self) -> None:
        """Say farewell, and close when all that was written has left."""
        if self._closing or self._below is None:
            return
        self._closing = True
        if self._opened:
            self.put(self.farewell())
        self._below.close()

    def abort(self) -> None:
        """Close at once; what was written and has not left is dropped."""
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write in this layer's form."""
        if not self._closing:
            self.put(self.wrap(data))

    def can_write_eof(self) -> bool:
        """TLS and WebSocket end both ways or not at all, as far as we are concerned."""
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol takes over above."""
        self._upper = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above."""
        return self._upper

    def is_reading(self) -> bool:
        """Whether the peer is heard."""
        return self._below is not None and self._below.is_reading()

    def pause_reading(self) -> None:
        """Hear nothing from the peer for now; what it has sent stays in the kernel."""
        self._unheard = True
        if self._below is not None:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Hear it again, when what has come is taken."""
        self._unheard = False
        if self._below is not None and not self._closing and not self._rest:
            self._below.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol above is told that output piles up."""
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the peer, in the form they are sent in."""
        return 0 if self._below is None else self._below.get_write_buffer_size()
