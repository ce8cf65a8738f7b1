"""An Ingest over a real store, and receipts that note when they were settled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from gateway.core.broker_state import Change
from gateway.core.messages import RawMessage, Rejection
from gateway.core.readings import Reading
from gateway.core.validation import Rules
from gateway.drivers.clock import ManualClock
from gateway.services.ingest import Ingest, IngestLimits
from gateway.store.database import Database

NOW_MS = 1_764_081_005_000


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds; the caller's timeout bounds it."""
    turn = asyncio.Event()
    while not condition():
        asyncio.get_running_loop().call_later(0.002, turn.set)
        await turn.wait()
        turn.clear()


class Receipts:
    """Numbers receipts and notes in which order they were settled."""

    def __init__(self) -> None:
        self.settled: list[int] = []
        self._next = 0

    def new(self) -> Receipt:
        self._next += 1
        return Receipt(self, self._next)


class Receipt:
    def __init__(self, book: Receipts, number: int) -> None:
        self._book = book
        self._number = number

    def settle(self) -> None:
        self._book.settled.append(self._number)


class Rig:
    """An Ingest over a real store."""

    def __init__(self, path: Path, *, changes: Callable[[], Sequence[Change]] = tuple, **limits: Any) -> None:
        self.database = Database.open(path)
        self.receipts = Receipts()
        self.committed: list[Reading] = []
        self.rejected: list[Rejection] = []
        self.store_states: list[str | None] = []
        self.clock = ManualClock(NOW_MS)
        self.ingest = Ingest(
            clock=self.clock,
            database=self.database,
            rules=Rules(),
            limits=IngestLimits(**{"commit_window_s": 0.01, **limits}),
            committed=self.committed.extend,
            rejected=lambda rejection, _: self.rejected.append(rejection),
            store_state=self.store_states.append,
            changes=changes,
        )

    def publish(self, cow_id: str = "COW_1", minute: int = 0, qos: int = 1, **fields: Any) -> None:
        message = {
            "cow_id": cow_id,
            "timestamp": f"2025-11-25T14:{minute:02d}:00Z",
            "temperature": 38.5,
            "fxa": 0.1,
            "mya": 0.2,
            "rza": -0.9,
            **fields,
        }
        payload = json.dumps({name: value for name, value in message.items() if value is not None}).encode()
        raw = RawMessage(f"artemis/sensors/{cow_id}", payload, "client", NOW_MS, 1.0, qos)
        self.ingest.accept(raw, self.receipts.new())

    def stored(self) -> list[tuple[Any, ...]]:
        return self.database.read_now(
            lambda db: db.execute(
                "SELECT cow_id, timestamp, temperature FROM sensor_data ORDER BY 1, 2"
            ).fetchall()
        )


def with_rig(
    path: Path, work: Callable[[Any], Coroutine[Any, Any, None]], make: type[Rig] = Rig, **limits: Any
) -> Rig:
    """Run `work` while the commit loop runs; everything is drained before it ends."""

    async def main() -> Rig:
        rig = make(path, **limits)
        try:
            await rig.ingest.restore()
            loop = asyncio.create_task(rig.ingest.run())
            try:
                async with asyncio.timeout(20):
                    await work(rig)
                    await rig.ingest.drain()
            finally:
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)
                rig.ingest.log_stats()
            return rig
        finally:
            await rig.database.close()

    return asyncio.run(main())
