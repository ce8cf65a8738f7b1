"""The gate: how many sockets are in, in all and from each address. Runs on the event loop.

A socket is counted from the TCP accept on, before a TLS or WebSocket handshake, so that silent
ones are bounded like any other. The lowest layer of a connection enters and leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections import Counter
from typing import cast

from gateway.drivers.broker.limits import (
    TURNED_AWAY_BYTES_MAX,
    TURNED_AWAY_LINGER_S,
    TURNED_AWAY_MAX,
    DoorLimits,
)

_log = logging.getLogger(__name__)

# A peer that breaks the rules in a loop must not fill the card: one line in this time.
COMPLAINT_INTERVAL_S = 10.0


class Ticket:
    """One socket that is in.

    Args:
        transport: the lowest one, of the socket itself.
        address: of the peer.
        connect_by_s: time of the event loop by which handshakes and CONNECT must be done.
    """

    __slots__ = ("address", "connect_by_s", "transport")

    def __init__(self, transport: asyncio.Transport, address: str, connect_by_s: float) -> None:
        self.transport = transport
        self.address = address
        self.connect_by_s = connect_by_s


class Gate:
    """Lets sockets in while there is room.

    Args:
        limits: how many, in all and from one address.
        counters: `connections_total`, `refused_connections`, and those of the layers.
    """

    def __init__(self, limits: DoorLimits, counters: Counter[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._counters = counters
        self._inside: set[Ticket] = set()
        self._per_address: Counter[str] = Counter()
        self._turned_away: set[_TurnedAway] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._shut = False
        self._complained_s = float("-inf")
        self._unsaid = 0

    def __len__(self) -> int:
        return len(self._inside)

    @property
    def lingering(self) -> int:
        """Refused sockets that still hear why."""
        return len(self._turned_away)

    def enter(self, transport: asyncio.BaseTransport) -> Ticket | None:
        """Count a socket in; None if there is no room for it, or the gate is shut.

        The transport of a layer gives the ticket with which that layer has entered.
        """
        held: Ticket | None = transport.get_extra_info("ticket")
        if held is not None:
            return held
        self._counters["connections_total"] += 1
        peer = transport.get_extra_info("peername") or ("", 0)
        address = str(peer[0])
        limits = self._limits
        crowded = self._counted(address) and self._per_address[address] >= limits.connections_per_address_max
        if self._shut or crowded or len(self._inside) >= limits.connections_max:
            self._counters["refused_connections"] += 1
            return None
        ticket = Ticket(
            cast("asyncio.Transport", transport), address, self._loop.time() + limits.connect_timeout_s
        )
        self._inside.add(ticket)
        self._per_address[address] += 1
        self._empty.clear()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Count out a socket that is closed. A second time changes nothing."""
        if ticket not in self._inside:
            return
        self._inside.discard(ticket)
        self._per_address[ticket.address] -= 1
        if not self._per_address[ticket.address]:
            del self._per_address[ticket.address]
        if not self._inside:
            self._empty.set()

    def turn_away(self, transport: asyncio.BaseTransport, answer: bytes) -> None:
        """Say why to a socket that may not enter, and see that it hears it.

        Closing at once would reset the connection when the peer's first packet is unread, and
        the answer could be lost with it. So only our half is closed, and what the peer still
        says is thrown away for a moment.

        Args:
            transport: of the refused socket; its protocol hears nothing more of it.
            answer: what is written to it; empty closes it at once.
        """
        refused = cast("asyncio.Transport", transport)  # a socket has both directions
        if not answer or self._shut or len(self._turned_away) >= TURNED_AWAY_MAX:
            refused.abort()
            return
        refused.set_protocol(_TurnedAway(refused, self._turned_away))
        refused.write(answer)
        refused.write_eof()

    def _counted(self, address: str) -> bool:
        if not self._limits.loopback_exempt:
            return True
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return True
        mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
        return not (mapped or peer).is_loopback

    def complain(self, counter: str, ticket: Ticket | None, why: str) -> None:
        """Count a peer that broke off or broke the rules, and say so unless it was said a moment ago."""
        self._counters[counter] += 1
        now_s = self._loop.time()
        if now_s - self._complained_s < COMPLAINT_INTERVAL_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        address = ticket.address if ticket is not None else "unknown"
        _log.warning("Closed the connection of %s: %s%s", address, why, more)
        self._complained_s, self._unsaid = now_s, 0

    def shut(self) -> None:
        """Let nobody in any more."""
        self._shut = True

    async def wait_empty(self, timeout_s: float) -> None:
        """Return when everyone has left, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()

    def clear(self) -> None:
        """Cut whoever is still in, whatever layer it has come to."""
        for ticket in tuple(self._inside):
            ticket.transport.abort()
        for refused in tuple(self._turned_away):
            refused.cut()


class _TurnedAway(asyncio.Protocol):
    """What is left of a refused socket: reads and forgets until the peer closes, not for long."""

    def __init__(self, transport: asyncio.Transport, others: set[_TurnedAway]) -> None:
        self._transport = transport
        self._others = others
        self._bytes_left = TURNED_AWAY_BYTES_MAX
        self._deadline = asyncio.get_running_loop().call_later(TURNED_AWAY_LINGER_S, self.cut)
        others.add(self)

    def data_received(self, data: bytes) -> None:
        """Throw it away; a peer that has this much to say is not waiting for an answer."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface
        """Both halves are closed."""
        self._deadline.cancel()
        self._others.discard(self)

    def cut(self) -> None:
        """Long enough."""
        self._transport.abort()
