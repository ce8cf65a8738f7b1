"""The pipe between one connection of the front door and amqtt. Runs on the event loop.

amqtt reads a byte stream that the front door has already judged, and writes whole packets.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol

from amqtt.adapters import WriterAdapter


class Outlet(Protocol):
    """The connection, as the exchange sees it."""

    @property
    def writable(self) -> bool:
        """Whether the peer takes its output."""
        ...

    def send(self, data: bytes) -> None:
        """Send a packet of the exchange's own."""
        ...

    def from_exchange(self, packet: bytes) -> None:
        """Take a packet that amqtt has written."""
        ...


class Link(WriterAdapter):
    """amqtt's writer for one client, and the reader it reads from.

    Args:
        outlet: the connection.
        client_id: as in the CONNECT that was accepted.
        clean: no session outlives the connection.
        peer: address and port.
    """

    def __init__(self, outlet: Outlet, client_id: str, *, clean: bool, peer: tuple[str, int]) -> None:
        self.outlet = outlet
        self.client_id = client_id
        self.clean = clean
        self.reader = asyncio.StreamReader()
        self._peer = peer
        self._ended = False

    def feed(self, packet: bytes) -> None:
        """Hand a packet of the client to amqtt."""
        if not self._ended:
            self.reader.feed_data(packet)

    def end(self) -> None:
        """The connection is over."""
        if not self._ended:
            self._ended = True
            self.reader.feed_eof()

    def write(self, data: bytes) -> None:
        """Take a whole packet from amqtt."""
        if not self._ended:
            self.outlet.from_exchange(bytes(data))

    async def drain(self) -> None:
        """Nothing to wait for: the exchange looks at `writable` before it sends."""

    def get_peer_info(self) -> tuple[str, int] | None:
        """Address and port of the client."""
        return self._peer

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """None: the front door ends TLS."""
        return None

    async def close(self) -> None:
        """Nothing: the front door closes the socket when the session has ended."""
