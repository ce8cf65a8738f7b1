"""A chart's SVG as PNG, drawn in a child process with limits of time, memory and priority.

Runs in the task of whoever calls `png`. No picture is no fault: the letter goes without.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import msgspec

from gateway.drivers import rasterise_child

log = logging.getLogger(__name__)

TIME_S_MAX = 10.0
"""0.1 s on a laptop, about 1 s on a Pi 3; a child that takes longer hangs."""
SVG_CHARS_MAX = 256 * 1024
"""A chart of 288 points has 10 KB."""
PNG_BYTES_MAX = 2 * 1024 * 1024
"""A chart has 30 KB; more than this no mail box wants."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class RasterCounts(msgspec.Struct):
    """Since start."""

    drawn: int = 0
    failed: int = 0


class Rasteriser:
    """Draws one picture at a time and remembers the last: one alert goes to several people.

    Args:
        command: what draws; takes SVG on stdin and gives PNG on stdout.
        time_s_max: after that the child is killed.
    """

    def __init__(self, command: tuple[str, ...] | None = None, time_s_max: float = TIME_S_MAX) -> None:
        # -I: neither the environment nor the current directory decides what it imports.
        self._command = command or (sys.executable, "-I", str(Path(rasterise_child.__file__)))
        self._time_s_max = time_s_max
        self._turn = asyncio.Lock()
        self._last: tuple[str, bytes | None] = ("", None)
        self._told = False
        self.counts = RasterCounts()

    async def png(self, svg: str) -> bytes | None:
        """The picture; None where it cannot be drawn, which is said in the log once."""
        async with self._turn:
            if self._last[0] != svg:
                found, why = await self._draw(svg)
                self._last = (svg, found)
                self._count(found, why)
            return self._last[1]

    def _count(self, found: bytes | None, why: str) -> None:
        if found is not None:
            self.counts.drawn += 1
            return
        self.counts.failed += 1
        if not self._told:
            self._told = True
            log.warning("Notifications go without pictures where the chart cannot be drawn: %s", why)

    async def _draw(self, svg: str) -> tuple[bytes | None, str]:
        if len(svg) > SVG_CHARS_MAX:
            return None, f"the chart has {len(svg)} characters"
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={},  # it needs none, and the gateway's own holds passwords
            )
        except OSError as error:
            return None, str(error)
        try:
            async with asyncio.timeout(self._time_s_max):
                out, err = await child.communicate(svg.encode())
        except TimeoutError:
            return None, f"the child took more than {self._time_s_max:g} s"
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0 or not out.startswith(_SIGNATURE) or len(out) > PNG_BYTES_MAX:
            return None, err.decode("utf-8", "replace")[-200:].strip() or f"exit code {child.returncode}"
        return out, ""
