"""What verify finds, and that it finds nothing in a good store, also beside its writer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.store.database import Database
from gateway.store.integrity import verify
from tests.store.test_store_backup import fill


def test_a_good_store_has_no_fault_at_rest_and_beside_its_writer(db: Database) -> None:
    fill(db, 200)
    seen: list[str] = []
    assert verify(db.path, lambda what, _done, _total: seen.append(what)) == []
    assert seen
    db.close_now()
    assert verify(db.path) == []


def test_verifying_changes_no_byte(db: Database) -> None:
    fill(db, 200)
    db.close_now()
    before = db.path.read_bytes()
    verify(db.path)
    assert db.path.read_bytes() == before


@pytest.mark.parametrize("page", range(2, 12))
def test_a_flipped_page_is_found_and_named(db: Database, page: int) -> None:
    fill(db, 5000)
    db.close_now()
    with db.path.open("r+b") as file:
        file.seek(4096 * page)
        content = file.read(4096)
        file.seek(4096 * page)
        file.write(bytes(255 - byte for byte in content))
    faults = verify(db.path)
    if not any(content):
        pytest.skip("an empty page")
    assert faults
    assert all(str(db.path) in fault.place and fault.what and "restore" in fault.remedy for fault in faults)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"x" * 9000, "file is not a database"),
        (b"SQLite format 3\0" + b"\0" * 9000, "file is not a database"),
    ],
)
def test_what_is_no_store_is_one_fault(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "alert_state.db"
    path.write_bytes(content)
    (fault,) = verify(path)
    assert (fault.place, fault.what) == (str(path), what)


def test_a_file_cut_off_anywhere_is_found(db: Database) -> None:
    fill(db, 2000)
    db.close_now()
    whole = db.path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 100, len(whole) - 4096, len(whole) // 2, 4096, 100):
        db.path.write_bytes(whole[:size])
        assert verify(db.path), size


def test_a_missing_file_is_no_finding_but_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        verify(tmp_path / "alert_state.db")


def test_another_programs_database_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "films.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE films (title)")
    (fault,) = verify(path)
    assert "another program" in fault.what


@pytest.mark.parametrize(
    ("damage", "place", "what"),
    [
        (
            "UPDATE animals SET id = 77 WHERE cow_id = 'COW_1'",
            "table hot",
            "3 readings of animal number 1, which is not in animals",
        ),
        (
            "INSERT INTO dirty (hour, animal, rev) VALUES (490000, 9, 0)",
            "table dirty",
            "1 slices to be delivered of animal number 9, which is not in animals",
        ),
        (
            "INSERT INTO alert_history VALUES (1, 5, 1, '', 'active', 1, 'x', 'y', 'z')",
            "table alert_history",
            "1 steps of alert 5, which is not in alert_episodes",
        ),
    ],
)
def test_a_row_that_points_nowhere_is_named_with_its_table(
    db: Database, damage: str, place: str, what: str
) -> None:
    fill(db, 3)
    db.close_now()
    with closing(sqlite3.connect(db.path)) as other:
        other.execute(damage)
        other.commit()
    faults = verify(db.path)
    assert (f"{db.path}, {place}", what) in [(fault.place, fault.what) for fault in faults]
