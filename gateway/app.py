"""The composition root: builds every object, wires them, owns every lifetime.

One reading's way: front door → Ingest → Database → Detect → Alarm → panel, web, Forward.
Everything but the store's threads and numpy's worker runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from gateway.config import Config

log = logging.getLogger(__name__)

STOP_S_MAX: Final = 30.0
"""Shutdown takes at most this long, whatever still runs (decision 32, S0-074)."""
HEALTH_EVERY_S: Final = 5.0
"""How often clock, uplink and watchdog are looked at."""
