from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.store import database as module
from gateway.store import migrations, opening, outbox
from gateway.store import readings as store
from gateway.store.database import Database
from gateway.store.faults import StoreDamagedError, store_error
from gateway.store.opening import open_readonly
from tests.store.test_store_readings import T0, reading


def append(db: Database, start: int, n: int) -> None:
    db.write_now(lambda con: store.append(con, [reading(ts=T0 + start + i) for i in range(n)]))


def count(con: sqlite3.Connection) -> int:
    return int(con.execute("SELECT count(*) FROM hot_readings").fetchone()[0])


# --- the writer thread ----------------------------------------------------------------------------


def test_durability_settings(db: Database) -> None:
    def settings(con: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "wal_autocheckpoint", "secure_delete", "user_version")
        return [con.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert db.write_now(settings) == [
        "wal",
        2,
        opening.WAL_AUTOCHECKPOINT_PAGES,
        0,
        len(migrations.migrations()),
    ]


def test_log_is_bounded_while_nobody_holds_it(db: Database) -> None:
    for start in range(0, 60_000, 2000):
        append(db, start, 2000)
    log = db.path.with_name(db.path.name + "-wal")
    assert log.stat().st_size < opening.WAL_AUTOCHECKPOINT_PAGES * 4200 + 2 * 2**20
    assert db.size_bytes() == log.stat().st_size + db.path.stat().st_size


def test_exception_of_the_work_rolls_back_and_reaches_the_caller(db: Database) -> None:
    def work(con: sqlite3.Connection) -> None:
        store.append(con, [reading()])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.write_now(work)
    assert db.read_now(count) == 0
    append(db, 0, 3)
    assert db.read_now(count) == 3
    assert (db.commits, db.failures) == (1, 0)


def test_reader_sees_commits_while_the_writer_is_in_its_next_transaction(db: Database) -> None:
    append(db, 0, 2)
    inside, go_on = threading.Event(), threading.Event()

    def slow(con: sqlite3.Connection) -> None:
        store.append(con, [reading(ts=T0 + 99)])
        inside.set()
        assert go_on.wait(10)

    async def main() -> None:
        async with asyncio.timeout(10):
            task = asyncio.create_task(db.write(slow))
            await asyncio.to_thread(inside.wait, 10)
            assert await db.read(count) == 2
            with open_readonly(db.path) as beside:
                assert count(beside) == 2
            go_on.set()
            await task
            assert await db.read(count) == 3

    asyncio.run(main())


def test_readers_cannot_write(db: Database) -> None:
    with pytest.raises(StoreError, match="attempt to write a readonly database"):
        db.read_now(lambda con: con.execute("DELETE FROM hot_readings"))
    with pytest.raises(StoreError, match="readonly"), open_readonly(db.path) as con:
        con.execute("DELETE FROM hot_readings")


def test_one_read_is_one_snapshot(db: Database) -> None:
    def twice(con: sqlite3.Connection) -> tuple[int, int]:
        before = count(con)
        append(db, 0, 5)
        return before, count(con)

    assert db.read_now(twice) == (0, 0)
    assert db.read_now(count) == 5


def test_heartbeat_waits_for_the_writer_thread(db: Database) -> None:
    go_on = threading.Event()

    async def main() -> None:
        async with asyncio.timeout(10):
            hung = asyncio.create_task(db.write(lambda _: go_on.wait(10)))
            beat = asyncio.create_task(db.heartbeat())
            await db.read(count)  # readers do not wait for the writer
            assert not beat.done()
            go_on.set()
            await beat
            assert await hung

    asyncio.run(main())


def test_cancelled_before_its_turn_leaves_no_trace(db: Database) -> None:
    go_on = threading.Event()

    async def main() -> None:
        async with asyncio.timeout(10):
            first = asyncio.create_task(db.write(lambda _: go_on.wait(10)))
            second = asyncio.create_task(db.write(lambda con: store.append(con, [reading()])))
            await db.read(count)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go_on.set()
            await first
            await db.heartbeat()

    asyncio.run(main())
    assert db.read_now(count) == 0


def test_waiting_writes_are_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, inside = threading.Event(), threading.Event()

    def hang(_: sqlite3.Connection) -> None:
        inside.set()
        assert go_on.wait(10)

    async def main() -> None:
        async with asyncio.timeout(10):
            tasks = [asyncio.create_task(db.write(hang))]
            await asyncio.to_thread(inside.wait, 10)
            tasks += [asyncio.create_task(db.heartbeat()) for _ in range(module.WRITES_WAITING_MAX)]
            await asyncio.sleep(0)
            assert db.writes_waiting == module.WRITES_WAITING_MAX
            with pytest.raises(StoreError, match="256 writes wait for the disk already"):
                await db.heartbeat()
            go_on.set()
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_closing_finishes_what_waits_and_refuses_the_rest(path: Path) -> None:
    db = Database.open(path)

    async def main() -> None:
        async with asyncio.timeout(10):
            tasks = [
                asyncio.create_task(db.write(lambda con, i=i: outbox.append(con, "a", b"", i)))
                for i in range(20)
            ]
            await asyncio.sleep(0)  # all are queued
            await db.close()
            assert await asyncio.gather(*tasks) == list(range(1, 21))
            await db.close()
            with pytest.raises(StoreError, match="closed"):
                await db.write(count)
            with pytest.raises(StoreError, match="closed"):
                await db.read(count)

    asyncio.run(main())
    with pytest.raises(StoreError, match="closed"):
        db.read_now(count)
    assert not path.with_name(path.name + "-wal").exists()


# --- the disk says no -----------------------------------------------------------------------------


def test_full_disk_is_a_store_error_and_passes(db: Database) -> None:
    append(db, 0, 10)
    db.write_now(lambda con: outbox.append(con, "alert", b"x", 1))
    db._writer.execute(f"PRAGMA max_page_count = {pages(db)}")
    with pytest.raises(StoreError) as caught:
        append(db, 1000, 5000)
    assert caught.value.message == "database or disk is full"
    assert str(db.path) in caught.value.hint
    assert "free space" in caught.value.hint
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert db.read_now(count) == 10
    asyncio.run(db.heartbeat())  # a full card is an answer, not silence (decision 41)
    db._writer.execute("PRAGMA max_page_count = 1000000")
    append(db, 1000, 5000)
    assert db.read_now(count) == 5010
    assert db.failures == 1


def pages(db: Database) -> int:
    return int(db._writer.execute("PRAGMA page_count").fetchone()[0])


def test_write_lock_of_another_program(path: Path) -> None:
    db = Database.open(path, timeout_s=0.05)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError) as caught:
                append(db, 0, 1)
            assert caught.value.message == "database is locked"
            other.execute("ROLLBACK")
        append(db, 0, 1)
        assert db.read_now(count) == 1
    finally:
        db.close_now()


def test_damage_met_while_running(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database.open(path)
    append(db, 0, 20_000)
    db.close_now()
    monkeypatch.setattr(opening, "CHECK_BYTES_MAX", 0)  # as if it were too big to be checked whole
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 8192] = os.urandom(8192)
    path.write_bytes(data)
    db = Database.open(path)
    try:
        with pytest.raises(StoreError, match="malformed") as caught:
            db.read_now(lambda con: con.execute("SELECT sum(fxa_milli) FROM hot_readings").fetchone())
        assert "the next start of the gateway sets it aside" in caught.value.hint
        with pytest.raises(StoreDamagedError):
            asyncio.run(asyncio.wait_for(db.watch(), 10))
    finally:
        db.close_now()


def test_reader_that_waits_when_the_store_closes_is_told(path: Path) -> None:
    db = Database.open(path)
    held = threading.Barrier(module.READERS + 1, timeout=10)
    go_on = threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        held.wait()
        assert go_on.wait(10)

    with ThreadPoolExecutor(4) as threads:
        holders = [threads.submit(db.read_now, hold) for _ in range(module.READERS)]
        held.wait()
        late = threads.submit(db.read_now, count)
        closing_ = threads.submit(db.close_now)
        while not db._closed:
            threading.Event().wait(0.001)
        go_on.set()
        with pytest.raises(StoreError, match="closed"):
            late.result(10)
        closing_.result(10)
        assert [h.result(10) for h in holders] == [None] * module.READERS


# --- opening --------------------------------------------------------------------------------------


def filled(path: Path) -> bytes:
    db = Database.open(path)
    append(db, 0, 2000)
    db.close_now()
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: os.urandom(len(data)), id="random"),
        pytest.param(lambda data: b"x", id="one byte"),
        pytest.param(lambda data: bytes(len(data)), id="zeroes"),
        pytest.param(lambda data: data[:50], id="50 bytes"),
        pytest.param(lambda data: data[:4096], id="one page"),
        pytest.param(lambda data: data[:6000], id="1.5 pages"),
        pytest.param(lambda data: data[:-1], id="last byte"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: data[:20000] + os.urandom(9000) + data[29000:], id="random inside"),
        pytest.param(lambda data: data[:8192] + bytes(4096) + data[12288:], id="zeroed page"),
    ],
)
@pytest.mark.parametrize("log", [None, b"", b"rubbish" * 99])
def test_whoever_only_reads_refuses_a_damaged_file_and_leaves_it_alone(
    path: Path, damage, log: bytes | None
) -> None:  # type: ignore[no-untyped-def]
    bad = damage(filled(path))
    path.write_bytes(bad)
    log_path = path.with_name(path.name + "-wal")
    if log is not None:
        log_path.write_bytes(log)
    with pytest.raises(StoreError) as caught, open_readonly(path):
        pass
    assert str(path) in str(caught.value)
    assert "the next start of the gateway sets it aside" in str(caught.value)
    assert caught.value.exit_code == 2
    assert path.read_bytes() == bad
    if log:
        assert log_path.read_bytes() == log


def test_intact_log_is_not_folded_into_a_damaged_file(path: Path, tmp_path: Path) -> None:
    db = Database.open(path)
    append(db, 0, 100)
    log = path.with_name(path.name + "-wal").read_bytes()
    db.close_now()
    path.write_bytes(os.urandom(8192))
    path.with_name(path.name + "-wal").write_bytes(log)
    before = path.read_bytes()
    db = Database.open(path)
    db.close_now()
    assert db.recovery is not None
    assert db.recovery.bad is not None
    assert db.recovery.bad.read_bytes() == before
    assert db.recovery.bad.with_name(db.recovery.bad.name + "-wal").read_bytes() == log


def test_empty_file_becomes_a_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StoreError, match="there is no store"), open_readonly(path):
        pass
    filled(path)
    with open_readonly(path) as con:
        assert count(con) == 2000


def test_every_store_file_has_its_own_identity(tmp_path: Path) -> None:
    seen = set()
    for name in ("a.db", "b.db"):
        db = Database.open(tmp_path / name)
        seen |= {db.gateway_id, db.epoch}
        db.close_now()
    assert len(seen) == 4


def test_odd_path(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=memory#ü" / "x%20.db"
    filled(path)
    with open_readonly(path) as con:
        assert count(con) == 2000


def test_missing_directory_in_the_way_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"), open_readonly(tmp_path / "none.db"):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be created"):
        Database.open(tmp_path / "file" / "x.db")
    (tmp_path / "dir.db").mkdir()
    with pytest.raises(StoreError, match=r"dir\.db"):
        Database.open(tmp_path / "dir.db")
    assert not (tmp_path / "dir.db.lock").exists()
    (tmp_path / "y.db.lock").mkdir()
    with pytest.raises(StoreError, match="must be able to write"):
        Database.open(tmp_path / "y.db")


def test_newer_store_is_refused_unless_it_says_otherwise(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as con:
        con.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer gateway") as caught, open_readonly(path):
        pass
    assert "install that version again" in caught.value.hint
    assert path.read_bytes() == before
    # an expanding migration left word that this code may go on (decision 42)
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        con.execute("INSERT INTO schema_versions VALUES (999, 1)")
    db = Database.open(path)
    try:
        append(db, 5000, 1)
        assert db.read_now(count) == 2001
    finally:
        db.close_now()


def test_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        con.execute("CREATE TABLE sensor_data (cow_id TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="of another program"):
        Database.open(path)
    assert path.read_bytes() == before


def test_failing_migration_leaves_the_old_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    good = migrations.migrations()
    bad = migrations.Migration(len(good) + 1, "CREATE TABLE extra (x); CREATE TABLE hot (x);")
    monkeypatch.setattr(module, "migrations", lambda: (*good, bad))
    with pytest.raises(StoreError, match="table hot already exists"):
        Database.open(path)
    monkeypatch.undo()
    db = Database.open(path)
    try:
        tables = db.read_now(lambda con: con.execute("SELECT name FROM sqlite_master").fetchall())
        assert ("extra",) not in tables
        assert db.read_now(count) == 2000
    finally:
        db.close_now()


def test_every_migration_says_which_code_may_run_on_it() -> None:
    known = migrations.migrations()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as con:
        for n in range(1, len(known) + 1):
            migrations.migrate(con, known[:n])
            assert migrations.version_of(con) == n
            assert con.execute("SELECT count(*) FROM schema_versions WHERE version = ?", (n,)).fetchone() == (
                1,
            )
        migrations.migrate(con, known)  # nothing left to do


# --- two processes and kill -9 --------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from gateway.store.database import Database
db = Database.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
db.close_now()
"""


def python(code: str, path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_second_gateway_is_refused(path: Path) -> None:
    with python(HOLDER, path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=rf"already in use by another gateway \(pid {other.pid}\)"):
            Database.open(path)
        with open_readonly(path) as con:
            assert count(con) == 0
        other.communicate(timeout=10)
    db = Database.open(path)
    with pytest.raises(StoreError, match=f"pid {os.getpid()}"):
        Database.open(path)
    db.close_now()


WRITER = """
import sys
from pathlib import Path
from gateway.core.readings import Reading
from gateway.store import readings
from gateway.store.database import Database
db = Database.open(Path(sys.argv[1]))
query = "SELECT coalesce(max(ts_ms), 1000000000000) FROM hot_readings"
start = db.read_now(lambda con: con.execute(query).fetchone()[0])
while True:
    batch = [Reading("C%d" % (i % 7), start + i, 38.5, 0, 0, 1.0) for i in range(1, 101)]
    db.write_now(lambda con: readings.append(con, batch))
    start += 100
    print(start, flush=True)
"""


def test_kill_9_loses_nothing_acknowledged(path: Path) -> None:
    for commits in (1, 40, 7, 90):
        with python(WRITER, path) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(commits)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
            acknowledged = int(lines[-1])
            process.communicate(timeout=10)
        db = Database.open(path)
        try:
            top, rows = db.read_now(
                lambda con: con.execute("SELECT max(ts_ms), count(*) FROM hot_readings").fetchone()
            )
            assert top >= acknowledged
            assert rows == top - 10**12  # each once, no hole, no half batch
            assert rows % 100 == 0
            assert db.read_now(lambda con: con.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
        finally:
            db.close_now()


def test_no_room_for_the_shm_file_is_called_a_full_disk(tmp_path: Path) -> None:
    fault = sqlite3.OperationalError("disk I/O error")
    fault.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert "free space" in str(store_error(tmp_path / "a.db", fault))
    fault.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    assert "replace the card" in str(store_error(tmp_path / "a.db", fault))


# --- one state for several pieces of work ---------------------------------------------------------


def test_a_held_store_stays_as_it_was_whatever_is_committed(db: Database) -> None:
    def animals(con: sqlite3.Connection) -> int:
        return int(con.execute("SELECT count(*) FROM animals").fetchone()[0])

    def one_more(con: sqlite3.Connection) -> None:
        con.execute("INSERT INTO animals (cow_id, first_hour, last_hour) VALUES (hex(randomblob(8)), 1, 1)")

    db.write_now(one_more)
    held = db.hold_now()
    db.write_now(one_more)
    assert held.read_now(animals) == 1
    assert db.read_now(animals) == 2  # another reader sees it
    assert not held.closed
    held.close()
    held.close()
    assert held.closed
    with pytest.raises(StoreError, match="snapshot is closed"):
        held.read_now(animals)
    assert [db.read_now(animals) for _ in range(3)] == [2] * 3  # its reader is of use again
    db.close_now()
    with pytest.raises(StoreError, match="store is closed"):
        db.hold_now()
