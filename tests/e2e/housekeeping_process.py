"""Housekeeping of a store as a process of its own, three days after its readings came, until it is stopped.

Run as `python -m tests.e2e.housekeeping_process STORE NOW_MS`; says "begins" when the store is open.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.core.findings import Finding
from gateway.drivers.clock import ManualClock
from gateway.services.housekeep import Housekeep, RetentionPolicy
from gateway.store.database import Database


async def report(findings: list[Finding]) -> None:
    raise AssertionError(f"the housekeeping has something to tell: {findings}")


def housekeeping(database: Database, now_ms: int) -> Housekeep:
    """The real one, at an instant, with nothing to let go."""
    return Housekeep(
        clock=ManualClock(now_ms),
        database=database,
        policy=RetentionPolicy(),
        budget_bytes=lambda: 2**62,
        destinations=(),
        readings_wanted=False,
        report=report,
    )


def main(store: Path, now_ms: int) -> None:
    database = Database.open(store)
    print("begins", flush=True)
    housekeep = housekeeping(database, now_ms)
    asyncio.run(housekeep.run())
    asyncio.run(housekeep.run())
    database.close_now()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
