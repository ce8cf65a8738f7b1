"""The composition root: builds every object, wires them, owns every lifetime.

One reading's way: front door → Ingest → Database → Detect → Alarm → panel, web, Forward.
Everything but the writer thread, the readers and numpy's worker runs on one event loop.
"""

from __future__ import annotations
