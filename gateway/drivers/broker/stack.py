"""What a new socket of a listener gets: a client of the broker inside the listener's layers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from gateway.drivers.broker.gate import Gate
from gateway.drivers.broker.limits import DoorLimits
from gateway.drivers.broker.listeners import Listener
from gateway.drivers.broker.tls import Tls
from gateway.drivers.broker.websocket import WebSocket


def stack(
    listener: Listener, connect: Callable[[], asyncio.Protocol], gate: Gate, limits: DoorLimits
) -> Callable[[], asyncio.Protocol]:
    """What makes the lowest protocol; each layer makes the one above it when its handshake is done."""
    inside = connect
    if listener.websocket:
        inside = partial(
            WebSocket, inside, gate, origins=listener.origins, packet_size_max=limits.packet_size_max
        )
    if listener.tls is not None:
        inside = partial(Tls, inside, gate, listener.tls)
    return inside
