"""A backup in the store's place: refused while it runs or is bad, nothing deleted, safe at every step."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from gateway.core.alerts import Alert, State
from gateway.core.severity import Severity
from gateway.errors import ChecksFailedError, StoreError
from gateway.store import alerts, backup, outbox
from gateway.store.database import Database
from gateway.store.farm import FarmRegister
from gateway.store.migrations import migrations
from gateway.store.restore import Restored, restore
from tests.conftest import ROOT
from tests.store.test_store_backup import NIGHT, fill, reading, rows

MORNING = datetime.fromisoformat("2025-11-25T08:30:00")
STEPS = 7


class Barn:
    """A store with 10 readings saved and 5 more since, a register changed since, nobody running."""

    def __init__(self, home: Path) -> None:
        self.store = home / "data" / "alert_state.db"
        self.farm = home / "data" / "farm.json"
        db = Database.open(self.store)
        fill(db, 10)
        register = FarmRegister.open(self.farm)
        register.upsert_animal("COW_1", name="Berta")
        self.saved = backup.create(self.store, home / "backups", NIGHT, farm=self.farm).path
        self.gateway_id, self.epoch = db.gateway_id, db.epoch
        register.upsert_animal("COW_2", name="Cilla")
        register.close()
        fill(db, 5, first=10)
        db.close_now()

    def restore(self, **options: object) -> Restored:
        return restore(self.saved, self.store, self.farm, MORNING, **options)  # type: ignore[arg-type]

    def files(self) -> list[str]:
        return sorted(p.name for p in self.store.parent.iterdir())

    def names(self) -> list[str]:
        register = FarmRegister.open(self.farm)
        found = [animal["name"] for animal in register.animals()]
        register.close()
        return found


@pytest.fixture
def barn(tmp_path: Path) -> Barn:
    return Barn(tmp_path)


def unfold(store: Path) -> None:
    """Leave the log beside the store, as a kill does: the files as they are before the last close."""
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("INSERT INTO meta VALUES ('in_the_log', 1)")
        db.commit()
        kept = {name: store.with_name(name).read_bytes() for name in (store.name, store.name + "-wal")}
    for name, content in kept.items():
        store.with_name(name).write_bytes(content)
    assert store.with_name(store.name + "-wal").stat().st_size > 0


def in_the_log(store: Path) -> bool:
    with closing(sqlite3.connect(store)) as db:
        return db.execute("SELECT 1 FROM meta WHERE key = 'in_the_log'").fetchone() is not None


def test_the_backup_is_the_store_again_with_a_new_epoch_and_the_same_gateway_id(barn: Barn) -> None:
    unfold(barn.store)
    done = barn.restore()
    assert (done.readings_n, done.newest_ms) == (10, reading(9).timestamp_ms)
    db = Database.open(barn.store)
    assert (db.gateway_id, db.epoch) == (barn.gateway_id, done.epoch)
    assert done.epoch != barn.epoch
    assert db.read_now(lambda c: c.execute("SELECT count(*) FROM sensor_data").fetchone()[0]) == 10
    db.close_now()
    assert barn.names() == ["Berta"]


def test_nothing_is_deleted_store_and_register_lie_beside(barn: Barn) -> None:
    unfold(barn.store)
    done = barn.restore()
    assert done.aside == barn.store.with_name("alert_state.db.before-restore-20251125_083000")
    assert done.farm_aside == barn.farm.with_name("farm.json.before-restore-20251125_083000")
    assert rows(done.aside) == 15
    assert in_the_log(done.aside), "what stood in the log only was folded in"
    assert not in_the_log(barn.store)
    assert "Cilla" in done.farm_aside.read_text(encoding="utf-8")
    assert barn.files() == [
        "alert_state.db",
        "alert_state.db.before-restore-20251125_083000",
        "alert_state.db.lock",
        "farm.json",
        "farm.json.before-restore-20251125_083000",
        "farm.json.previous",
    ]


def test_a_second_restore_in_the_same_second_overwrites_no_kept_store(barn: Barn) -> None:
    first, second = barn.restore(), barn.restore()
    assert first.aside is not None
    assert second.aside == first.aside.with_name(first.aside.name + "-2")
    assert rows(first.aside) == 15
    assert rows(second.aside) == 10
    assert first.epoch != second.epoch


def test_a_new_card_without_a_store_is_filled(barn: Barn, tmp_path: Path) -> None:
    store = tmp_path / "new" / "data" / "alert_state.db"
    done = restore(barn.saved, store, store.with_name("farm.json"), MORNING)
    assert (done.aside, done.farm_aside) == (None, None)
    db = Database.open(store)
    assert db.gateway_id == barn.gateway_id
    db.close_now()
    assert rows(store) == 10


def test_without_a_saved_register_the_present_one_stays(barn: Barn) -> None:
    barn.saved.with_name("farm_20251125_020000.json").unlink()
    assert barn.restore().farm is None
    assert barn.names() == ["Berta", "Cilla"]


def test_while_a_gateway_runs_it_is_refused_with_the_remedy(barn: Barn) -> None:
    db = Database.open(barn.store)
    before = barn.store.read_bytes()
    with pytest.raises(StoreError, match="in use by another gateway") as caught:
        barn.restore()
    assert caught.value.exit_code == 2
    assert "systemctl stop" in caught.value.hint
    assert barn.store.read_bytes() == before
    assert not barn.store.with_name("alert_state.db.restoring").exists()
    db.close_now()


@pytest.mark.parametrize("damage", ["cut off", "flipped", "empty", "text", "zeroed"])
def test_a_bad_backup_changes_nothing_and_ends_with_4(barn: Barn, damage: str) -> None:
    whole = barn.saved.read_bytes()
    bad = {
        "cut off": whole[: len(whole) // 2 + 100],
        "flipped": whole[: 4096 * 5] + bytes(255 - b for b in whole[4096 * 5 : 4096 * 6]) + whole[4096 * 6 :],
        "empty": b"",
        "text": b"no database" * 500,
        "zeroed": bytes(len(whole)),
    }[damage]
    barn.saved.write_bytes(bad)
    before = {p.name: p.read_bytes() for p in barn.store.parent.iterdir()}
    with pytest.raises(ChecksFailedError, match="nothing was changed") as caught:
        barn.restore()
    assert caught.value.exit_code == 4
    assert {p.name: p.read_bytes() for p in barn.store.parent.iterdir()} == before


def test_a_damaged_register_in_the_backup_changes_nothing_either(barn: Barn) -> None:
    barn.saved.with_name("farm_20251125_020000.json").write_text('{"animals": [1]}', encoding="utf-8")
    with pytest.raises(ChecksFailedError, match=r"farm_20251125_020000\.json.*nothing was changed"):
        barn.restore()
    assert rows(barn.store) == 15


def test_a_file_that_is_not_there_and_the_store_itself_are_refused(barn: Barn) -> None:
    with pytest.raises(StoreError, match="there is no such file"):
        restore(barn.saved.with_name("no.db"), barn.store, barn.farm, MORNING)
    with pytest.raises(StoreError, match="is the store itself"):
        restore(barn.store, barn.store, barn.farm, MORNING)
    with pytest.raises(StoreError, match=r"no\.json: there is no such file"):
        barn.restore(farm_source=barn.saved.with_name("no.json"))
    assert rows(barn.store) == 15


def test_a_program_that_reads_an_unfinished_log_is_named_and_the_store_stays(
    barn: Barn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.restore.READERS_WAIT_S", 0.1)
    unfold(barn.store)
    with closing(sqlite3.connect(barn.store, isolation_level=None)) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT count(*) FROM meta").fetchone()
        writer = sqlite3.connect(barn.store)
        writer.execute("INSERT INTO meta VALUES ('later', 1)")
        writer.commit()
        with pytest.raises(StoreError, match=r"another program reads it|locked"):
            barn.restore()
        writer.close()
    assert rows(barn.store) == 15
    assert not barn.store.with_name("alert_state.db.restoring").exists()


def test_a_damaged_store_is_put_aside_with_its_log_as_it_is(barn: Barn) -> None:
    unfold(barn.store)
    log = barn.store.with_name("alert_state.db-wal")
    with barn.store.open("r+b") as file:
        file.write(b"\0" * 8192)
    damaged, log_bytes = barn.store.read_bytes(), log.read_bytes()
    done = barn.restore()
    assert done.aside is not None
    assert done.aside.read_bytes() == damaged
    assert done.aside.with_name(done.aside.name + "-wal").read_bytes() == log_bytes
    assert not log.exists()
    assert rows(barn.store) == 10


def test_no_old_log_is_ever_played_into_the_restored_store(barn: Barn) -> None:
    unfold(barn.store)
    barn.restore()
    assert not in_the_log(barn.store)
    assert rows(barn.store) == 10


def _whole(barn: Barn) -> int:
    """Readings in the store, after everything a starting gateway asks of it."""
    db = Database.open(barn.store)
    count = db.read_now(lambda c: c.execute("SELECT count(*) FROM sensor_data").fetchone()[0])
    new = db.epoch != barn.epoch
    db.close_now()
    assert count == (10 if new else 15)
    assert not new or not in_the_log(barn.store)
    assert new or in_the_log(barn.store)
    return count


def test_a_failure_at_any_step_leaves_the_old_or_the_new_store_and_a_second_try_works(tmp_path: Path) -> None:
    outcomes = []
    for fails_at in range(STEPS):
        barn = Barn(tmp_path / str(fails_at))
        unfold(barn.store)
        steps: list[str] = []

        def say(step: str, steps: list[str] = steps, fails_at: int = fails_at) -> None:
            steps.append(step)
            if len(steps) == fails_at + 1:
                raise StoreError(f"the card refuses at: {step}")

        with pytest.raises(StoreError, match="the card refuses"):
            barn.restore(say=say)
        outcomes.append(_whole(barn))
        barn.restore()
        assert rows(barn.store) == 10
        assert barn.names() == ["Berta"]
        assert not [name for name in barn.files() if name.endswith((".restoring", ".partial"))]
    assert outcomes == [15, 15, 15, 15, 15, 15, 10]


KILLED = """
import os, sys
from datetime import datetime
from pathlib import Path
from gateway.store import restore as module
steps = []
def say(step):
    steps.append(step)
    if len(steps) == int(sys.argv[4]):
        os._exit(9)
saved, store, farm = map(Path, sys.argv[1:4])
module.restore(saved, store, farm, datetime(2025, 11, 25, 8, 30), say=say)
"""


def test_a_kill_at_any_step_leaves_the_old_or_the_new_store_and_a_second_try_works(tmp_path: Path) -> None:
    outcomes = []
    for dies_at in (2, 3, 4, 5, 6, 7):
        barn = Barn(tmp_path / str(dies_at))
        unfold(barn.store)
        arguments = [str(barn.saved), str(barn.store), str(barn.farm), str(dies_at)]
        died = subprocess.run(
            [sys.executable, "-c", KILLED, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            timeout=60,
        )
        assert died.returncode == 9
        outcomes.append(_whole(barn))
        barn.restore()
        assert rows(barn.store) == 10
        assert not [name for name in barn.files() if name.endswith((".restoring", ".partial"))]
    assert outcomes == [15, 15, 15, 15, 15, 10]


def test_everything_of_the_store_comes_back_alerts_and_outbox_too(tmp_path: Path) -> None:
    store = tmp_path / "data" / "alert_state.db"
    db = Database.open(store)
    alert = Alert(
        id=0,
        subject="COW_1",
        kind="fever",
        episode=1,
        severity=Severity.CRITICAL,
        state=State.ACTIVE,
        onset_ms=1,
        last_seen_ms=2,
        raised_ms=3,
        changed_ms=4,
        confidence=0.5,
        sentence="hot",
    )
    alert = db.write_now(lambda c: alerts.save(c, alert, None))
    db.write_now(lambda c: outbox.append(c, "alert", b"{}", 5))
    saved = backup.create(store, tmp_path / "b", NIGHT).path
    db.close_now()
    restore(saved, store, tmp_path / "farm.json", MORNING)
    again = Database.open(store)
    assert again.read_now(alerts.open_alerts) == [alert]
    assert again.read_now(lambda c: [e.payload for e in outbox.after(c, 0, 10)]) == [b"{}"]
    again.close_now()
    with closing(sqlite3.connect(store)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
