"""The MQTT broker inside the process: our front door, and amqtt behind it."""

from __future__ import annotations

from gateway.drivers.broker.access import Access, AnonymousAccess, Principal
from gateway.drivers.broker.embedded import EmbeddedBroker
from gateway.drivers.broker.limits import DoorLimits

__all__ = ["Access", "AnonymousAccess", "DoorLimits", "EmbeddedBroker", "Principal"]
