"""The event loop everything runs on: uvloop where it is installed, asyncio's own elsewhere."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable


def factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop. Without uvloop (no wheel for this machine) everything works, with more CPU."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415 - it may not be there

    return uvloop.new_event_loop
