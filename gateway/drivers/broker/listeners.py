"""Where the broker listens. Values; the event loop's servers are made of them in `embedded`."""

from __future__ import annotations

import ssl

import msgspec


class Listener(msgspec.Struct, frozen=True):
    """One address that clients connect to.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.
        tls: the server's certificate and what it asks of clients; None = in the clear.
        websocket: MQTT inside a WebSocket, for browsers.
        origins: pages besides this machine's own that may open one: `https://barn.example`.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    websocket: bool = False
    origins: frozenset[str] = frozenset()

    def __str__(self) -> str:
        scheme = ("wss" if self.tls else "ws") if self.websocket else ("mqtts" if self.tls else "mqtt")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"
