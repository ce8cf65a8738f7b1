"""The event loop everything runs on: uvloop where it is installed, asyncio's own elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

try:
    import uvloop
except ImportError:  # no wheel for this machine: everything works, with more CPU
    uvloop = None


def factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop."""
    return asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop


def name() -> str:
    """For people: `uvloop` or `asyncio`."""
    return "asyncio" if uvloop is None else "uvloop"
