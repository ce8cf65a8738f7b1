"""Backups of a store that is being written: one pass, one instant, one file; and folders that refuse."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from gateway.core.backups import store_name
from gateway.core.readings import Reading
from gateway.errors import StoreError
from gateway.store import backup, readings
from gateway.store.database import Database
from gateway.store.farm import FarmRegister
from gateway.store.migrations import APPLICATION_ID
from gateway.store.snapshot import STEP_PAGES, Snapshot
from tests.conftest import ROOT

NIGHT = datetime.fromisoformat("2025-11-25T02:00:00")
FIRST_MS = 1_764_000_000_000


def reading(number: int, cow_id: str = "COW_1") -> Reading:
    return Reading(
        cow_id=cow_id,
        timestamp_ms=FIRST_MS + number * 1000,
        temperature_c=38.5,
        fxa_g=0.1,
        mya_g=0.2,
        rza_g=-0.9,
        received_ms=FIRST_MS + number * 1000,
    )


def fill(db: Database, count: int, first: int = 0) -> None:
    db.write_now(lambda c: readings.append(c, [reading(n) for n in range(first, first + count)]))


def rows(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM sensor_data").fetchone()[0])


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_a_backup_is_one_checked_file_under_document_0s_name(db: Database, tmp_path: Path) -> None:
    fill(db, 100)
    made = backup.create(db.path, tmp_path / "backups", NIGHT)
    assert made.path == tmp_path / "backups" / "alert_state_20251125_020000.db"
    assert (made.farm, made.size_bytes) == (None, made.path.stat().st_size)
    with closing(sqlite3.connect(made.path)) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert copy.execute("SELECT count(*) FROM sensor_data").fetchone() == (100,)
    assert files(tmp_path / "backups") == ["alert_state_20251125_020000.db"]


def test_under_constant_commits_a_backup_is_one_pass_over_one_instant(db: Database, tmp_path: Path) -> None:
    fill(db, 100_000)
    left: list[int] = []
    committed_at_step: list[int] = []
    written = [100_000]

    def look(pages_left: int, _total: int) -> None:
        # A commit between any two steps, on the writer's connection: what restarts a naive backup.
        assert pages_left < min(left, default=2**40), "it began anew"
        fill(db, 1, first=written[0])
        written[0] += 1
        left.append(pages_left)
        committed_at_step.append(db.commits)

    made = backup.create(db.path, tmp_path / "b", NIGHT, look=look)
    assert len(left) >= 3
    assert left[-1] == 0
    assert committed_at_step == sorted(set(committed_at_step)), "every commit went through between two steps"
    assert rows(made.path) == 100_000, "the copy is the store of the moment it began"
    assert rows(db.path) == written[0] == 100_000 + len(left)


def test_a_writer_in_its_own_thread_goes_on_while_the_backup_runs(db: Database, tmp_path: Path) -> None:
    fill(db, 30_000)
    done = threading.Event()
    turned = threading.Semaphore(0)

    def write() -> None:
        number = 30_000
        while not done.is_set():
            fill(db, 10, first=number)
            number += 10
            turned.release()
            done.wait(0.01)

    steps: list[int] = []

    def look(left: int, _total: int) -> None:
        assert left < min(steps, default=2**40), "it began anew"
        steps.append(left)
        assert turned.acquire(timeout=20), "no commit while the backup ran"

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = backup.create(db.path, tmp_path / "b", NIGHT, look=look)
    finally:
        done.set()
        writer.join()
    count = rows(made.path)
    assert 30_000 <= count < rows(db.path)
    assert (count - 30_000) % 10 == 0, "only whole commits"


def test_without_the_snapshot_the_same_commits_would_restart_it(db: Database, tmp_path: Path) -> None:
    """What the module's first paragraph says, measured: the reason for the open transaction."""
    fill(db, 30_000)
    left: list[int] = []

    def step(_status: int, pages_left: int, _total: int) -> None:
        left.append(pages_left)
        if len(left) == 30:
            raise InterruptedError
        fill(db, 1, first=30_000 + len(left))

    with (
        closing(sqlite3.connect(f"{db.path.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
        pytest.raises(InterruptedError),
    ):
        source.backup(copy, pages=STEP_PAGES, progress=step)
    assert left == left[:1] * 30, "thirty steps, and it stands where it began"


def test_the_farm_register_lies_beside_its_store(db: Database, tmp_path: Path) -> None:
    farm = FarmRegister.open(tmp_path / "farm.json")
    farm.upsert_animal("COW_1", name="Berta")
    made = backup.create(db.path, tmp_path / "b", NIGHT, farm=farm.path)
    assert made.farm == tmp_path / "b" / "farm_20251125_020000.json"
    assert made.farm.read_bytes() == farm.path.read_bytes()
    farm.close()


def test_a_damaged_farm_register_is_told_and_the_store_is_saved_all_the_same(
    db: Database, tmp_path: Path
) -> None:
    fill(db, 3)
    (tmp_path / "farm.json").write_text("{oops", encoding="utf-8")
    with pytest.raises(StoreError, match=r"was written, but without the farm register.*farm\.json"):
        backup.create(db.path, tmp_path / "b", NIGHT, farm=tmp_path / "farm.json")
    assert files(tmp_path / "b") == ["alert_state_20251125_020000.db"]
    assert rows(tmp_path / "b" / "alert_state_20251125_020000.db") == 3


def test_a_second_backup_in_the_same_second_replaces_nothing(db: Database, tmp_path: Path) -> None:
    backup.create(db.path, tmp_path, NIGHT)
    fill(db, 1)
    again = backup.create(db.path, tmp_path, NIGHT)
    assert again.path.name == "alert_state_20251125_020001.db"
    assert rows(tmp_path / "alert_state_20251125_020000.db") == 0


def test_leftovers_of_a_power_cut_are_removed_and_strangers_are_not(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    for name in (
        "alert_state_20251124_020000.db.partial",
        "alert_state_20251124_020000.db.partial-journal",
        "farm_20251124_020000.json.partial",
    ):
        (folder / name).write_bytes(b"half")
    (folder / "film.mp4.partial").write_bytes(b"mine")
    (folder / "other_20251124_020000.db.partial").write_bytes(b"another gateway's")
    backup.create(db.path, folder, NIGHT)
    assert files(folder) == [
        "alert_state_20251125_020000.db",
        "film.mp4.partial",
        "other_20251124_020000.db.partial",
    ]


def test_a_backup_that_fails_leaves_nothing(db: Database, tmp_path: Path) -> None:
    farm = tmp_path / "farm.json"
    farm.write_text("{}", encoding="utf-8")

    def pulled(_left: int, _total: int) -> None:
        raise StoreError("the stick is gone")

    with pytest.raises(StoreError, match="the stick is gone"):
        backup.create(db.path, tmp_path / "b", NIGHT, farm=farm, look=pulled)
    assert files(tmp_path / "b") == []
    fill(db, 1)  # the store goes on


def test_a_folder_so_slow_that_the_log_grows_is_given_up(db: Database, tmp_path: Path) -> None:
    fill(db, 30_000)
    with pytest.raises(StoreError, match="too slow") as caught:
        backup.create(db.path, tmp_path / "b", NIGHT, log_bytes_max=1024)
    assert "faster disk" in caught.value.hint
    assert files(tmp_path / "b") == []


def sparse(folder: Path, day: int, size_bytes: int) -> None:
    folder.mkdir(exist_ok=True)
    for name in (f"alert_state_202511{day}_020000.db", f"farm_202511{day}_020000.json"):
        (folder / name).touch()
    os.truncate(folder / f"alert_state_202511{day}_020000.db", size_bytes)


def test_without_room_the_oldest_backups_go_first_and_with_their_registers(
    db: Database, tmp_path: Path
) -> None:
    for day in (20, 21, 22, 23):
        sparse(tmp_path / "b", day, 2**42)
    statistics = os.statvfs(tmp_path)
    free_bytes = statistics.f_bavail * statistics.f_frsize
    made = backup.create(db.path, tmp_path / "b", NIGHT, reserve_bytes=free_bytes + 2**42 + 2**41)
    assert made.given_up == ("alert_state_20251120_020000.db", "alert_state_20251121_020000.db")
    assert files(tmp_path / "b") == [
        "alert_state_20251122_020000.db",
        "alert_state_20251123_020000.db",
        "alert_state_20251125_020000.db",
        "farm_20251122_020000.json",
        "farm_20251123_020000.json",
    ]


def test_where_no_deletion_would_help_nothing_is_deleted_and_the_bytes_are_named(
    db: Database, tmp_path: Path
) -> None:
    for day in (20, 21, 22):
        sparse(tmp_path / "b", day, 4096)
    before = files(tmp_path / "b")
    with pytest.raises(StoreError, match=r"needs \d{16,} bytes and \d+ are free") as caught:
        backup.create(db.path, tmp_path / "b", NIGHT, reserve_bytes=2**60)
    assert "backup.directory" in caught.value.hint
    assert files(tmp_path / "b") == before


FULL = """
import sys
from datetime import datetime
from pathlib import Path
from gateway.errors import StoreError
from gateway.store import backup
store, folder = Path(sys.argv[1]), Path(sys.argv[2])
try:
    backup.create(store, folder, datetime(2025, 11, 25, 2), reserve_bytes=-2**40)
except StoreError as error:
    print(error)
print(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")))
"""


def test_a_disk_that_fills_up_while_it_is_written_leaves_no_half_backup(db: Database, tmp_path: Path) -> None:
    fill(db, 60_000)  # 3 MB into a disk of 1 MB
    folder = tmp_path / "small"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=1m none "{folder}" && exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, sys.executable, "-c", FULL, str(db.path), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    said, left = done.stdout.splitlines()
    assert "the copy cannot be written: database or disk is full" in said
    assert left == "[]"
    fill(db, 1, first=60_000)


def test_a_folder_that_cannot_be_made_is_named(db: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match="file/backups"):
        backup.create(db.path, tmp_path / "file" / "backups", NIGHT)


def test_two_backups_into_one_folder_do_not_meet(db: Database, tmp_path: Path) -> None:
    def again(_left: int, _total: int) -> None:
        with pytest.raises(StoreError, match="another backup is being written"):
            backup.create(db.path, tmp_path / "b", NIGHT)

    backup.create(db.path, tmp_path / "b", NIGHT, look=again)
    assert files(tmp_path / "b") == ["alert_state_20251125_020000.db"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no store"),
        (b"", "is empty"),
        (b"\0" * 8192, "not a database"),
        (b"hello" * 999, "not a database"),
    ],
)
def test_what_is_no_store_is_not_backed_up(tmp_path: Path, content: bytes | None, said: str) -> None:
    store = tmp_path / "alert_state.db"
    if content is not None:
        store.write_bytes(content)
    with pytest.raises(StoreError, match=said):
        backup.create(store, tmp_path / "b", NIGHT)
    assert not (tmp_path / "b").exists()
    assert content is None or store.read_bytes() == content


def test_a_damaged_page_makes_no_good_backup(db: Database, tmp_path: Path) -> None:
    fill(db, 5000)
    db.close_now()
    with db.path.open("r+b") as file:
        file.seek(4096 * 40)
        file.write(b"\xff" * 4096)
    with pytest.raises(StoreError, match="quick_check") as caught:
        backup.create(db.path, tmp_path / "b", NIGHT)
    assert "verify-store" in caught.value.hint
    assert files(tmp_path / "b") == []


def test_the_writers_locks_survive_a_backup_in_the_same_process(db: Database, tmp_path: Path) -> None:
    """Closing any plain descriptor of the store would drop them; another program's last close would
    then delete the log under the writer."""
    fill(db, 10)
    backup.create(db.path, tmp_path / "b", NIGHT)
    other = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT 1 FROM meta'); d.close()"
    )
    subprocess.run([sys.executable, "-c", other, str(db.path)], check=True, timeout=60)
    assert db.path.with_name(db.path.name + "-wal").stat().st_size > 0
    fill(db, 10, first=10)
    assert rows(db.path) == 20


def test_a_snapshot_can_be_copied_anywhere_and_over_an_old_file(db: Database, tmp_path: Path) -> None:
    fill(db, 10)
    target = tmp_path / store_name(NIGHT)
    target.write_bytes(b"old")
    with Snapshot(db.path) as snapshot:
        fill(db, 10, first=10)
        snapshot.copy_to(target, pause_s=0.0)
    assert rows(target) == 10
