"""Backup, restore and verify-store as an operator types them, beside and after a real gateway under load."""

from __future__ import annotations

import asyncio
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

from gateway.store.database import Database
from tests.conftest import ROOT
from tests.e2e.gateway_process import running_gateway
from tests.e2e.test_commands import gateway as command
from tests.e2e.test_power_cut import FIRST_S, Acked, _message, _publish_until_cut
from tests.e2e.test_whole_barn import free_ports
from tests.store.test_store_backup import fill

PUBLISHERS = 60
WINDOW_MS = 100
"""60 publishers that each wait for their PUBACK, one commit in 100 ms: about 500 readings a second."""
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


async def back_up_under_load(home: Path, port: int) -> tuple[set[tuple[str, int]], int, str]:
    """What was acknowledged before the backup began, how many while it ran, and what it printed."""
    acked = Acked()
    acked.target = 600
    began_s = time.monotonic()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        load = [
            group.create_task(_publish_until_cut(port, f"COW_{n:03d}", [0], acked)) for n in range(PUBLISHERS)
        ]
        await acked.enough.wait()
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
        print(f"{len(acked.keys) / (time.monotonic() - began_s):.0f} readings/s, {during} beside the backup")
        for task in load:
            task.cancel()
    return before, during, said.decode()


async def publish_one(port: int) -> None:
    async with asyncio.timeout(30), aiomqtt.Client("127.0.0.1", port) as client:
        topic, payload = _message("COW_AFTER", 0)
        await client.publish(topic, payload, qos=1)


def test_a_backup_under_500_readings_a_second_is_restored_and_the_gateway_goes_on_with_it(
    tmp_path: Path,
) -> None:
    home = tmp_path / "barn"
    store = home / "data" / "alert_state.db"
    db = Database.open(store)
    fill(db, OLD_ROWS)
    db.close_now()
    (home / "data" / "farm.json").write_text('{"animals": {"1": {"cow_id": "COW_1"}}}\n', encoding="utf-8")
    port, http_port = free_ports(2)
    fast = {"commit_window_ms": WINDOW_MS}
    with running_gateway(home, port, http_port, store=fast, backup={"enabled": False}) as gateway:
        before, during, said = asyncio.run(back_up_under_load(home, port))
        assert during > 0, "readings were acknowledged while the backup ran"
        found = LINE.search(said)
        assert found, said
        refused = command(home, "restore", found[1], "--yes", "--config", "gateway.yaml")
        assert refused.returncode == 2
        assert "in use by another gateway" in refused.stderr
        assert "systemctl stop" in refused.stderr
        running = command(home, "verify-store", "--config", "gateway.yaml")
        assert (running.returncode, running.stdout) == (0, "data/alert_state.db: ok\n"), running.stderr
        gateway.kill()
    at_the_end = keys_in(store)
    old_identity = identity(store)

    saved = home / found[1]
    assert not list(saved.parent.glob("*.partial*"))
    assert [p.name for p in saved.parent.glob(saved.name + "-*")] == []
    assert command(home, "verify-store", found[1], "--config", "gateway.yaml").returncode == 0
    restored = command(home, "restore", found[1], "--yes", "--config", "gateway.yaml")
    assert restored.returncode == 0, restored.stderr
    with_old = OLD_ROWS + len(keys_in(store))
    assert f"restored data/alert_state.db: {with_old} readings, newest 20" in restored.stdout
    assert "the store before: data/alert_state.db.before-restore-" in restored.stdout
    assert "farm register: from backups/farm_" in restored.stdout
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
    newest = command(home, "readings", "--config", "gateway.yaml", "--cow", "COW_AFTER", "--json")
    assert json.loads(newest.stdout)["cow_id"] == "COW_AFTER"
    assert before <= keys_in(store)
    assert identity(store) == (gateway_id, epoch)
    whole = command(home, "verify-store", "--json", "--config", "gateway.yaml")
    assert json.loads(whole.stdout) == {"file": "data/alert_state.db", "ok": True, "faults": []}


def test_verify_store_names_a_broken_page_and_ends_with_4(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "data" / "alert_state.db")
    fill(db, 5000)
    db.close_now()
    assert command(tmp_path, "verify-store").returncode == 0
    with db.path.open("r+b") as file:
        file.seek(4096 * 40 + 200)
        file.write(b"\xff" * 8)
        file.seek(4096 * 40)
        file.write(b"\xff\xff")
    found = command(tmp_path, "verify-store")
    assert found.returncode == 4
    assert re.search(r"^data/alert_state\.db: .*page 41.*\(restore a backup", found.stdout, re.MULTILINE)
    assert "data/alert_state.db: 1 fault" in found.stderr
    assert "Traceback" not in found.stderr
    as_json = command(tmp_path, "verify-store", "--json")
    assert as_json.returncode == 4
    assert not json.loads(as_json.stdout)["ok"]
    saved = command(tmp_path, "backup")
    assert saved.returncode == 2
    assert "verify-store" in saved.stderr


def test_a_backup_at_rest_goes_where_it_is_told_and_the_answer_to_restore_can_be_no(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "data" / "alert_state.db")
    fill(db, 10)
    db.close_now()
    done = command(tmp_path, "backup", "--to", "stick/barn")
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"Backup created: (stick/barn/alert_state_\d{8}_\d{6}\.db)\n", done.stdout)
    assert found, done.stdout
    stamp = datetime.strptime(found[1][-18:-3], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 3600, "site.timezone is UTC by default"
    asked = command(tmp_path, "restore", found[1])
    assert asked.returncode == 1
    assert not list(db.path.parent.glob("*before-restore*"))
    assert command(tmp_path, "restore", found[1], "--yes").returncode == 0
    assert command(tmp_path, "restore", "stick/barn/none.db", "--yes").returncode == 2
    (tmp_path / found[1]).write_bytes(b"torn")
    bad = command(tmp_path, "restore", found[1], "--yes")
    assert bad.returncode == 4
    assert "nothing was changed" in bad.stderr


def test_commands_without_a_store_end_with_2(tmp_path: Path) -> None:
    for arguments in (["backup"], ["verify-store"], ["restore", "none.db", "--yes"]):
        done = command(tmp_path, *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "backups").exists()
