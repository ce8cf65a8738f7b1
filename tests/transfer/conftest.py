"""A store in a folder of its own, and one call that imports files into it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.config import Config
from gateway.config import schema as sections
from gateway.core.readings import Reading
from gateway.store import history
from gateway.store.database import Database
from gateway.transfer.exporting import BEGINNING_MS, END_MS
from gateway.transfer.importing import Imported, Onlooker, import_files
from gateway.transfer.sources import Options


class Barn:
    """A configuration with its own store, on which no gateway runs."""

    def __init__(self, folder: Path, timezone: str = "UTC") -> None:
        self.folder = folder
        self.config = Config(
            site=sections.Site(timezone=timezone),
            database=sections.Database(path=str(folder / "data" / "alert_state.db")),
        )
        self.said: list[str] = []

    def load(self, *files: Path, restart: bool = False, options: Options | None = None) -> list[Imported]:
        self.said.clear()
        onlooker = Onlooker(say=self.said.append, moved=lambda _name, _done, _total: None)
        names = [str(file) for file in files]
        work = import_files(self.config, names, options or Options(), restart=restart, onlooker=onlooker)
        return asyncio.run(work)

    def readings(self) -> list[Reading]:
        """All that is stored, without its arrival."""
        database = Database.open(Path(self.config.database.path))
        try:
            hours = database.read_now(lambda db: list(history.raw(db, BEGINNING_MS, END_MS, None)))
        finally:
            database.close_now()
        return [sent_part(reading) for hour in hours for reading in hour]


def sent_part(reading: Reading) -> Reading:
    return msgspec.structs.replace(reading, received_ms=0, received_s=0.0, flags=0)


@pytest.fixture
def barn(tmp_path: Path) -> Iterator[Barn]:
    return Barn(tmp_path / "barn")
