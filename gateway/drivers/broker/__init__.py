"""The MQTT broker inside the process: a front door that knows its clients, and the exchange behind it."""

from __future__ import annotations

from gateway.drivers.broker.access import Access, AnonymousAccess, Introduction, Principal
from gateway.drivers.broker.embedded import EmbeddedBroker
from gateway.drivers.broker.limits import DoorLimits
from gateway.drivers.broker.listeners import Listener

__all__ = [
    "Access",
    "AnonymousAccess",
    "DoorLimits",
    "EmbeddedBroker",
    "Introduction",
    "Listener",
    "Principal",
]
