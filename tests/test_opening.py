"""A store that cannot be opened for now keeps the gateway up; one that never can ends it at once."""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from gateway import opening
from gateway.config import Config
from gateway.config import schema as sections
from gateway.drivers.clock import SystemClock
from gateway.drivers.panel import RecorderPanel
from gateway.drivers.systemd import Systemd
from gateway.errors import StoreError
from gateway.opening import Opening, StopAskedError
from gateway.store.database import Database
from gateway.supervisor import Supervisor
from gateway.web.status import Health, judge


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(opening, "RETRY_S", 0.05)
    return Config(
        database=sections.Database(path=str(tmp_path / "alert_state.db"), timeout_s=0.05),
        store=sections.Store(farm_register=str(tmp_path / "farm.json")),
        backup=sections.Backup(directory=str(tmp_path / "backups")),
        service=sections.Service(enable_health_check=False),
    )


class Rig:
    """An opening with real parts, and what the panel was told."""

    def __init__(self, config: Config, environ: dict[str, str] | None = None) -> None:
        self.panel_lines: list[str] = []
        self.shown = asyncio.Event()
        self.panel = RecorderPanel(self._show)
        self.systemd = Systemd(environ or {})
        self.supervisor = Supervisor(SystemClock())
        self.opening = Opening(
            config, SystemClock(), panel=self.panel, systemd=self.systemd, supervisor=self.supervisor
        )

    def _show(self, line: str) -> None:
        self.panel_lines.append(line)
        self.shown.set()


def test_a_store_that_a_shell_has_locked_is_waited_for(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(config.database.path)
    Database.open(path).close_now()
    caplog.set_level(logging.INFO)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)

        async def main() -> None:
            rig = Rig(config, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
            with closing(sqlite3.connect(path, isolation_level=None)) as shell:
                shell.execute("BEGIN IMMEDIATE")
                work = asyncio.create_task(rig.opening.run())
                told = [await asyncio.to_thread(manager.recv, 300) for _ in range(6)]
                assert told.count(b"READY=1") == 2  # each attempt says that we live
                assert told.count(b"WATCHDOG=1") == 2
                assert not work.done()
                verdict = judge(rig.opening.status())
                assert verdict.health is Health.DEGRADED
                assert "cannot be opened" in verdict.reasons[0]
                assert "locked" in verdict.reasons[0]
                assert "gateway cannot store" in rig.panel_lines[-1]
                assert "buzzer" in rig.panel_lines[-1]
                rig.opening.hush()
                assert "buzzer" not in rig.panel_lines[-1]
                shell.execute("ROLLBACK")
            async with asyncio.timeout(10):
                database, farm = await work
            farm.close()
            await database.close()
            rig.systemd.close()

        asyncio.run(main())
    said = [record.message for record in caplog.records if record.name == "gateway.opening"]
    assert len(said) == 2
    assert said[0].startswith("The store cannot be opened for now")
    assert said[1].startswith("The store can be used")


def test_a_stop_ends_the_waiting(config: Config) -> None:
    path = Path(config.database.path)
    Database.open(path).close_now()

    async def main() -> None:
        rig = Rig(config)
        with closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            work = asyncio.create_task(rig.opening.run())
            async with asyncio.timeout(10):
                await rig.shown.wait()
                rig.supervisor.request_stop()
                with pytest.raises(StopAskedError):
                    await work

    asyncio.run(main())
    Database.open(path).close_now()  # nothing holds it


def test_another_gateway_and_a_foreign_file_end_it_at_once(config: Config, tmp_path: Path) -> None:
    other = Database.open(Path(config.database.path))
    with pytest.raises(StoreError, match="already in use by another gateway"):
        asyncio.run(Rig(config).opening.run())
    other.close_now()
    (tmp_path / "notes.txt").write_text("not a store\n" * 99, encoding="utf-8")
    foreign = msgspec.structs.replace(config, database=sections.Database(path=str(tmp_path / "notes.txt")))
    with pytest.raises(StoreError, match="not a database"):
        asyncio.run(Rig(foreign).opening.run())
