"""One TCP connection below MQTT: packets in, batched output, back-pressure, deadlines.

Runs on the event loop, in the transport's callbacks; no task of its own.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import cast

from gateway.drivers.broker.framing import Framer, MalformedError
from gateway.drivers.broker.limits import (
    PACKETS_PER_TURN,
    READ_CHUNK_BYTES,
    WRITE_BATCH_BYTES,
    WRITE_HIGH_WATER_BYTES,
    DoorLimits,
)

# Reasons not to read; reading goes on when none is left.
HOLD_GREETING = 1  # CONNECT is being answered
HOLD_IN_FLIGHT = 2  # too many unacknowledged publishes
HOLD_CONTROL = 4  # a SUBSCRIBE or UNSUBSCRIBE is being answered; they keep their order
HOLD_OUTPUT = 8  # the peer does not read
HOLD_STOPPING = 16  # the gateway is shutting down
HOLD_RATE = 32  # it has sent more than its rate
HOLD_TURN = 64  # it has had its share of this turn of the loop


class Wire(asyncio.Protocol, ABC):
    """What every connection has; `Connection` says what packets mean."""

    __slots__ = (
        "_ended",
        "_flush_due",
        "_framer",
        "_heard_s",
        "_holds",
        "_limits",
        "_loop",
        "_output",
        "_output_bytes",
        "_output_deadline",
        "_parsing",
        "_resume_due",
        "_transport",
        "closed",
    )

    def __init__(self, limits: DoorLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._framer = Framer(limits.packet_size_max)
        self._transport: asyncio.Transport | None = None
        self._holds = 0
        self._parsing = False
        self._resume_due = False
        self._ended = False
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._flush_due = False
        self._output_deadline: asyncio.TimerHandle | None = None
        self._heard_s = self._loop.time()
        self.closed = False

    # What the subclass answers.

    def on_batch(self) -> None:
        """Packets are about to be handled; time stamps can be taken once for all."""

    @abstractmethod
    def on_packet(self, first: int, body: bytes) -> None:
        """Handle one whole packet. May raise MalformedError."""

    @abstractmethod
    def on_fault(self, why: str) -> None:
        """The peer broke the protocol."""

    @abstractmethod
    def on_end(self) -> bool:
        """The peer says no more, and all it has said is handled. Whether our half stays open."""

    @abstractmethod
    def on_stalled(self) -> None:
        """The peer has left its output unread for too long."""

    def on_writable(self) -> None:
        """The peer reads again."""

    # Transport callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set up the socket: small reads, a low write mark, dead peers are noticed."""
        transport = cast("asyncio.Transport", transport)  # a socket has both directions
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        if hasattr(transport, "max_size"):
            # Asyncio's selector transport asks for 256 KiB at once; 2000 paused connections
            # would keep half a gigabyte.
            transport.max_size = READ_CHUNK_BYTES
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Handle what has become whole."""
        if self.closed:
            return
        self._heard_s = self._loop.time()
        self._framer.feed(data)
        if not self._resume_due:
            self._parse()

    def eof_received(self) -> bool:
        """The peer has closed its half; what it said before counts, and may still wait behind a hold.

        A layer below tells of the end as soon as it has passed on what came before it. What holds
        this connection has its own end: a commit, the rate's pause, the deadline for output.
        """
        if self._holds or self._resume_due:
            self._ended = True
            return True
        return self.on_end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface
        """Stop the timers; the socket is gone."""
        self.closed = True
        self._output.clear()
        if self._output_deadline is not None:
            self._output_deadline.cancel()
            self._output_deadline = None

    def pause_writing(self) -> None:
        """Output piles up: read no more from this peer, and give it a deadline."""
        self.hold(HOLD_OUTPUT)
        self._await_output()

    def resume_writing(self) -> None:
        """The peer has taken its output."""
        if self._output_deadline is not None and not self.closed:
            self._output_deadline.cancel()
            self._output_deadline = None
        self.release(HOLD_OUTPUT)
        self.on_writable()

    # Input.

    def _parse(self) -> None:
        if self._parsing:
            return
        self._parsing = True
        try:
            self.on_batch()
            left = PACKETS_PER_TURN
            while not self._holds and not self.closed:
                if not left:
                    self.hold(HOLD_TURN)
                    self.release(HOLD_TURN)  # which goes on in the next turn
                    break
                left -= 1
                packet = self._framer.take()
                if packet is None:
                    break
                self.on_packet(*packet)
        except MalformedError as fault:
            self.on_fault(str(fault))
        finally:
            self._parsing = False

    def hold(self, reason: int) -> None:
        """Stop reading and handling packets, for one reason of possibly several."""
        if not self._holds and self._transport is not None:
            self._transport.pause_reading()
        self._holds |= reason

    def release(self, reason: int) -> None:
        """One reason has gone; go on, in the loop's next turn, if it was the last."""
        if not self._holds & reason:
            return
        self._holds &= ~reason
        if not self._holds and not self._resume_due:
            # Not at once: this runs inside settle(), that is inside somebody's commit.
            self._resume_due = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resume_due = False
        if self._holds or self.closed or self._transport is None:
            return
        self._heard_s = self._loop.time()  # it could not be heard while it was held
        self._parse()
        if self._holds or self._resume_due or self.closed:
            return
        if self._ended and not self.on_end():
            return
        self._transport.resume_reading()

    # Output.

    @property
    def writable(self) -> bool:
        """Whether the peer takes its output."""
        return not self.closed and not self._holds & HOLD_OUTPUT

    def send(self, data: bytes) -> None:
        """Send in this turn of the loop, together with whatever else there is."""
        if self.closed:
            return
        self._output.append(data)
        self._output_bytes += len(data)
        if self._output_bytes >= WRITE_BATCH_BYTES:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        """Hand the output to the socket now."""
        if not self._output or self._transport is None:
            return
        data = b"".join(self._output)
        self._output.clear()
        self._output_bytes = 0
        if not self._transport.is_closing():
            self._transport.write(data)

    def _await_output(self) -> None:
        if self._output_deadline is None:
            self._output_deadline = self._loop.call_later(self._limits.write_deadline_s, self._stalled)

    def _stalled(self) -> None:
        self._output_deadline = None
        self.on_stalled()
        self.abort()

    def close(self) -> None:
        """Say what is still to be said, then close; a peer that does not read is cut off."""
        if self.closed or self._transport is None:
            return
        self.flush()
        self.closed = True
        if self._transport.get_write_buffer_size():
            self._await_output()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
