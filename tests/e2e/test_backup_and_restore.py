"""Backup, restore and verify-store as an operator types them, beside and after a real gateway under load."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest

from gateway.cli.main import main
from gateway.store.database import Database
from tests.conftest import ROOT
from tests.e2e.gateway_process import running_gateway
from tests.e2e.publishers import FIRST_S, Acked, message, publish_until_cut
from tests.e2e.test_whole_barn import free_ports
from tests.store.damage import PAGE, leaves, root_of
from tests.store.test_store_backup import fill

PUBLISHERS = 90
WINDOW_MS = 100
"""90 publishers that each wait for their PUBACK, a commit in 100 ms: 500 to 800 readings a second."""
OLD_ROWS = 200_000
"""10 MB: a backup of ten steps, half a second beside the commits."""
LINE = re.compile(r"^Backup created: (backups/alert_state_\d{8}_\d{6}\.db)$", re.MULTILINE)


def keys_in(store: Path) -> set[tuple[str, int]]:
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT cow_id, timestamp_ms FROM sensor_data WHERE cow_id GLOB 'COW_0*'")
        return {(cow_id, (ms // 1000 - FIRST_S) // 60) for cow_id, ms in rows}


def identity(store: Path) -> tuple[str, str]:
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as db:
        kept = dict(db.execute("SELECT key, value FROM meta"))
    return kept["gateway_id"], kept["epoch"]


async def back_up_under_load(home: Path, port: int) -> tuple[set[tuple[str, int]], str, str]:
    """What was acknowledged before the backup began, figures, and what it printed."""
    acked = Acked()
    began_s = time.monotonic()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        load = [
            group.create_task(publish_until_cut(port, f"COW_{n:03d}", [0], acked)) for n in range(PUBLISHERS)
        ]
        await acked.more(500)
        before = set(acked.keys)
        backup = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "backup", "--config", "gateway.yaml"),
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await backup.communicate()
        assert backup.returncode == 0, said.decode()
        during = len(acked.keys) - len(before)
        assert during > 0, "readings were acknowledged while the backup ran"
        rate = len(acked.keys) / (time.monotonic() - began_s)
        for task in load:
            task.cancel()
    return before, f"{rate:.0f} readings/s, {during} of them beside the backup", said.decode()


async def publish_one(port: int) -> None:
    async with asyncio.timeout(30), aiomqtt.Client("127.0.0.1", port) as client:
        topic, payload = message("COW_AFTER", 0)
        await client.publish(topic, payload, qos=1)


class Shell:
    """Commands typed in the barn's folder; in this process, which saves a start each."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(home)
        self.home = home
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._monkeypatch.setattr(sys, "argv", ["barn-gateway", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "barn", monkeypatch, capsys)


@pytest.mark.rig
def test_a_backup_under_500_readings_a_second_is_restored_and_the_gateway_goes_on_with_it(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    home = shell.home
    store = home / "data" / "alert_state.db"
    db = Database.open(store)
    fill(db, OLD_ROWS)
    db.close_now()
    (home / "data" / "farm.json").write_text('{"animals": {"1": {"cow_id": "COW_1"}}}\n', encoding="utf-8")
    port, http_port = free_ports(2)
    fast = {"commit_window_ms": WINDOW_MS}
    config = ("--config", "gateway.yaml")
    with running_gateway(home, port, http_port, store=fast, backup={"enabled": False}) as gateway:
        before, figures, said = asyncio.run(back_up_under_load(home, port))
        found = LINE.search(said)
        assert found, said
        code, _, err = shell("restore", found[1], "--yes", *config)
        assert (code, "in use by another gateway" in err, "systemctl stop" in err) == (2, True, True)
        assert shell("verify-store", *config) == (0, "data/alert_state.db: ok\n", "")
        gateway.kill()
    at_the_end = keys_in(store)
    old_identity = identity(store)

    saved = home / found[1]
    assert not list(saved.parent.glob("*.partial*"))
    assert [p.name for p in saved.parent.glob(saved.name + "-*")] == []
    assert shell("verify-store", found[1], *config)[0] == 0
    code, out, err = shell("restore", found[1], "--yes", *config)
    assert code == 0, err
    with_old = OLD_ROWS + len(keys_in(store))
    assert f"restored data/alert_state.db: {with_old} readings, newest 20" in out
    assert "the store before: data/alert_state.db.before-restore-" in out
    assert "farm register: from backups/farm_" in out
    assert before <= keys_in(store) <= at_the_end, "acknowledged before the backup began, and restored"
    (aside,) = (p for p in store.parent.glob("alert_state.db.before-restore-*"))
    assert keys_in(aside) == at_the_end
    assert identity(aside) == old_identity
    gateway_id, epoch = identity(store)
    assert gateway_id == old_identity[0]
    assert epoch != old_identity[1]

    with running_gateway(home, port, http_port, store=fast, backup={"enabled": False}) as gateway:
        asyncio.run(publish_one(port))
        assert json.loads(gateway.get("/health"))["gateway_id"] == gateway_id
    _, out, _ = shell("readings", *config, "--cow", "COW_AFTER", "--json")
    assert json.loads(out)["cow_id"] == "COW_AFTER"
    assert before <= keys_in(store)
    assert identity(store) == (gateway_id, epoch)
    _, out, _ = shell("verify-store", "--json", *config)
    assert json.loads(out) == {"file": "data/alert_state.db", "ok": True, "faults": []}
    with capsys.disabled():
        print(figures)


def test_verify_store_names_where_a_page_is_broken_and_ends_with_4(shell: Shell) -> None:
    db = Database.open(shell.home / "data" / "alert_state.db")
    fill(db, 5000)
    db.close_now()
    assert shell("verify-store") == (0, "data/alert_state.db: ok\n", "")
    found = list(leaves(db.path.read_bytes(), root_of(db.path, "hot_readings")))
    with db.path.open("r+b") as file:
        file.seek(PAGE * (found[len(found) // 2] - 1))
        file.write(b"\xff\xff")
    code, out, err = shell("verify-store")
    assert code == 4
    assert re.search(
        r"^data/alert_state\.db, table hot_readings: .* behind its first \d{3,} rows \(restore a backup",
        out,
        re.MULTILINE,
    )
    assert "data/alert_state.db: 1 fault" in err
    code, out, _ = shell("verify-store", "--json")
    assert (code, json.loads(out)["ok"], len(json.loads(out)["faults"])) == (4, False, 1)
    code, _, err = shell("backup")
    assert (code, "verify-store" in err) == (2, True)


def test_a_backup_at_rest_goes_where_it_is_told_and_the_answer_to_restore_can_be_no(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database.open(shell.home / "data" / "alert_state.db")
    fill(db, 10)
    db.close_now()
    code, out, err = shell("backup", "--to", "stick/barn")
    assert code == 0, err
    found = re.fullmatch(r"Backup created: (stick/barn/alert_state_\d{8}_\d{6}\.db)\n", out)
    assert found, out
    stamp = datetime.strptime(found[1][-18:-3], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 3600, "site.timezone is UTC by default"
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert shell("restore", found[1])[0] == 1
    assert not list(db.path.parent.glob("*before-restore*"))
    assert shell("restore", found[1], "--yes")[0] == 0
    assert shell("restore", "stick/barn/none.db", "--yes")[0] == 2
    (shell.home / found[1]).write_bytes(b"torn")
    code, _, err = shell("restore", found[1], "--yes")
    assert (code, "nothing was changed" in err) == (4, True)


@pytest.mark.parametrize("arguments", [["backup"], ["verify-store"], ["restore", "none.db", "--yes"]])
def test_a_command_without_a_store_ends_with_2(shell: Shell, arguments: list[str]) -> None:
    code, _, err = shell(*arguments)
    assert code == 2, err
    assert not (shell.home / "backups").exists()
