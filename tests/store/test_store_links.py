"""Store and register as links to files on another disk: their logs lie there, and the links stay."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.store import backup
from gateway.store.database import Database
from gateway.store.farm import FarmRegister
from gateway.store.integrity import verify
from gateway.store.newest import recent
from gateway.store.opening import open_readonly
from gateway.store.restore import restore
from tests.store.test_store_backup import NIGHT, fill
from tests.store.test_store_database import WRITER, python

MORNING = datetime.fromisoformat("2025-11-25T08:30:00")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Another disk, with names of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def link(tmp_path: Path, disk: Path) -> Path:
    """The store where the configuration has it; the file is made by the first opening."""
    path = tmp_path / "data" / "alert_state.db"
    path.parent.mkdir()
    path.symlink_to(Path("..") / "disk" / "barn.db")
    return path


def test_after_a_kill_9_a_linked_store_is_the_same_store_with_the_same_epoch(link: Path, disk: Path) -> None:
    db = Database.open(link)
    epoch = db.epoch
    db.close_now()
    with python(WRITER, link) as process:
        assert process.stdout is not None
        acknowledged = int([process.stdout.readline() for _ in range(3)][-1])
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    assert (disk / "barn.db-wal").stat().st_size
    with open_readonly(link) as con:
        assert recent(con, None, 1)[0].timestamp_ms >= acknowledged
    assert verify(link) == []
    db = Database.open(link)
    try:
        assert (db.epoch, db.recovery) == (epoch, None)
        assert db.read_now(lambda con: recent(con, None, 1))[0].timestamp_ms >= acknowledged
        assert db.size_bytes() >= (disk / "barn.db").stat().st_size + (disk / "barn.db-wal").stat().st_size
    finally:
        db.close_now()
    assert link.is_symlink()
    assert [p.name for p in link.parent.iterdir()] == ["alert_state.db"]


def test_link_and_file_are_one_store_with_one_lock(link: Path, disk: Path) -> None:
    db = Database.open(link)
    try:
        with pytest.raises(StoreError, match="already in use by another gateway"):
            Database.open(disk / "barn.db")
    finally:
        db.close_now()


def test_a_link_to_a_disk_that_is_not_there_is_told_and_makes_no_store(tmp_path: Path) -> None:
    link = tmp_path / "alert_state.db"
    link.symlink_to(tmp_path / "unplugged" / "barn.db")
    with pytest.raises(StoreError, match="unplugged"):
        Database.open(link)
    assert [p.name for p in tmp_path.iterdir()] == ["alert_state.db"]


def test_a_damaged_store_behind_a_link_is_set_aside_there_and_filled_from_its_backup(
    link: Path, disk: Path
) -> None:
    db = Database.open(link)
    gateway_id, epoch = db.gateway_id, db.epoch
    fill(db, 10)
    saved = backup.create(link, link.parent / "backups", NIGHT).path
    db.close_now()
    assert saved.name == "alert_state_20251125_020000.db"
    file = disk / "barn.db"
    file.write_bytes(file.read_bytes()[:18] + bytes(file.stat().st_size - 18))
    db = Database.open(link)
    try:
        assert link.is_symlink()
        assert db.recovery is not None
        assert (db.gateway_id, db.epoch != epoch) == (gateway_id, True)
        assert db.identity.from_backup == saved.name
        assert len(list(disk.glob("barn.db.bad-*"))) == 1
    finally:
        db.close_now()


def test_a_restore_through_links_keeps_them_and_writes_the_files_on_the_other_disk(
    link: Path, disk: Path
) -> None:
    farm = link.with_name("farm.json")
    farm.symlink_to(disk / "herd.json")
    db = Database.open(link)
    fill(db, 10)
    register = FarmRegister.open(farm)
    register.upsert_animal("COW_1", name="Berta")
    saved = backup.create(link, link.parent / "backups", NIGHT, farm=farm).path
    fill(db, 5, first=10)
    db.close_now()
    register.upsert_animal("COW_2", name="Cilla")
    register.close()
    done = restore(saved, link, farm, MORNING)
    assert done.readings_n == 10
    assert done.aside == disk / "barn.db.before-restore-20251125_083000"
    assert done.farm_aside == disk / "herd.json.before-restore-20251125_083000"
    assert link.is_symlink()
    assert farm.is_symlink()
    for store, n in ((disk / "barn.db", 10), (done.aside, 15)):
        with open_readonly(store) as con:
            assert len(recent(con, None, 100)) == n
    register = FarmRegister.open(farm)
    assert [animal["name"] for animal in register.animals()] == ["Berta"]
    register.close()


def test_a_linked_register_stays_a_link_and_keeps_its_previous_version_beside_the_file(
    link: Path, disk: Path
) -> None:
    farm = link.with_name("farm.json")
    farm.symlink_to(disk / "herd.json")
    for name in ("Berta", "Cilla"):
        register = FarmRegister.open(farm)
        register.upsert_animal("COW_1", name=name)
        register.close()
    assert farm.is_symlink()
    assert sorted(p.name for p in disk.iterdir()) == ["herd.json", "herd.json.previous"]
    (disk / "herd.json").write_text("{", encoding="utf-8")
    register = FarmRegister.open(farm, now_ms=0)
    assert [animal["name"] for animal in register.animals()] == ["Berta"]
    register.close()
    assert farm.is_symlink()
