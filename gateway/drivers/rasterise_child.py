"""The program that draws one SVG: text on stdin, PNG on stdout. Started by `drivers/rasteriser`, alone.

It runs as a process of its own and imports nothing of the gateway: a picture that makes the library
crash, hang or eat memory takes only this process with it.
"""

from __future__ import annotations

import os
import resource
import sys

MEMORY_BYTES_MAX = 512 * 1024 * 1024
"""Address space. Measured: 18 MB peak for a chart; fonts of a whole desktop are mapped into it too."""
CPU_S_MAX = 10
NICE = 10


def main() -> int:
    """Draw it; 1 where the library is missing or refuses the picture."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICE)
    try:
        import resvg_py  # noqa: PLC0415 - after the limits, so that they hold for it too
    except ImportError:
        sys.stderr.write("resvg-py is not installed")
        return 1
    svg = sys.stdin.buffer.read().decode("utf-8")
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, background="white")
    except (ValueError, MemoryError) as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.buffer.write(png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
