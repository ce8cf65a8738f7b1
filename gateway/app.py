"""The composition root: builds every object, wires them, owns every lifetime.

One reading's way: front door → Ingest → Database → Detect → Alarm → panel, web, Forward.
Everything but the store's threads and numpy's worker runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from gateway import __version__
from gateway.config import Config
from gateway.core.alert_event import event_json
from gateway.core.alerts import Alert
from gateway.core.delivery import BackoffPolicy
from gateway.core.detection import JOBS_WITHOUT_DETECTORS
from gateway.core.findings import Finding
from gateway.core.signals import Signal
from gateway.core.topics import RouteTable, default_routes
from gateway.core.validation import Rules
from gateway.core.windows import Windows
from gateway.drivers import panel as panel_driver
from gateway.drivers.broker.embedded import EmbeddedBroker
from gateway.drivers.broker.limits import DoorLimits
from gateway.drivers.clock import SystemClock
from gateway.drivers.systemd import Systemd
from gateway.drivers.uplink_mqtt import MqttUplink, UplinkTarget
from gateway.errors import GatewayError, StoreError
from gateway.ports import Clock
from gateway.services.alarm import Alarm
from gateway.services.detect import Detect
from gateway.services.forward import Forward
from gateway.services.ingest import Ingest, IngestLimits
from gateway.services.jobs import Jobs
from gateway.store.database import Database
from gateway.store.farm import FarmRegister
from gateway.supervisor import Supervisor
from gateway.web.server import WebServer
from gateway.web.status import GatewayStatus

log = logging.getLogger(__name__)

STOP_S_MAX: Final = 30.0
"""Shutdown takes at most this long, whatever still runs (decision 32, S0-074)."""
DRAIN_S_MAX: Final = 10.0
"""Of that, the time readings that are already here may take to reach the disk."""
LOOK_EVERY_S: Final = 2.0
"""How often clock, uplink and watchdog are looked at."""
