"""How moments are written in the sentences of findings."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(at_ms: int) -> str:
    """`2025-11-25 14:35 UTC`: with the date, because a backlog speaks of other days."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def lasting(minutes: float) -> str:
    """`11 min`, `2 h 5 min`, `3 h`."""
    whole = round(minutes)
    if whole < 60:
        return f"{whole} min"
    return f"{whole // 60} h" + (f" {whole % 60} min" if whole % 60 else "")
