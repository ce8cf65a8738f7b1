from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
from tinydb import TinyDB

from gateway.errors import StoreError
from gateway.store import farm as farm_module
from gateway.store.farm import FarmRegister
from gateway.store.faults import StoreUnavailableError

NOW = 1_764_081_000_000  # 2025-11-25T14:30:00Z


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "farm.json"


def test_enter_change_remove_and_reopen(path: Path) -> None:
    farm = FarmRegister.open(path)
    assert farm.animals() == []
    assert not path.exists()
    farm.upsert_animal("COW_001", name="Liesl", ear_tag="AT 123")
    farm.upsert_animal("COW_002", name="Bella")
    farm.upsert_animal("COW_001", name="Lisl")
    farm.close()
    again = FarmRegister.open(path)
    assert again.recovered_from is None
    assert again.animals() == [
        {"cow_id": "COW_001", "name": "Lisl", "ear_tag": "AT 123"},
        {"cow_id": "COW_002", "name": "Bella"},
    ]
    assert again.animal("COW_002") == {"cow_id": "COW_002", "name": "Bella"}
    assert again.remove_animal("COW_002")
    assert not again.remove_animal("COW_002")
    assert again.animal("COW_002") is None
    again.close()
    assert {p.name for p in path.parent.iterdir()} == {"farm.json", "farm.json.previous"}
    with TinyDB(path, encoding="utf-8") as plain:  # it is an ordinary TinyDB file
        assert [dict(d) for d in plain.table("animals")] == [
            {"cow_id": "COW_001", "name": "Lisl", "ear_tag": "AT 123"}
        ]


def test_every_truncation_falls_back_to_the_previous_version(path: Path) -> None:
    farm = FarmRegister.open(path)
    farm.upsert_animal("A", name="ä")
    farm.upsert_animal("B", name="ö")
    farm.close()
    whole, previous = path.read_bytes(), path.with_name("farm.json.previous").read_bytes()
    for offset in range(len(whole) - 1):  # the last byte is only the line end
        path.write_bytes(whole[:offset])
        farm = FarmRegister.open(path, now_ms=NOW)
        assert [a["cow_id"] for a in farm.animals()] == ["A"], offset
        bad = path.with_name("farm.json.bad-20251125T143000Z")
        assert bad.read_bytes() == whole[:offset]
        assert farm.recovered_from is not None
        assert bad.name in farm.recovered_from
        assert path.read_bytes() == previous
        farm.upsert_animal("C")
        assert len(farm.animals()) == 2
        farm.close()
        bad.unlink()
        path.with_name("farm.json.previous").write_bytes(previous)
    path.write_bytes(whole[:-1])
    farm = FarmRegister.open(path)
    assert farm.recovered_from is None
    assert len(farm.animals()) == 2
    farm.close()


def test_first_version_has_a_predecessor_too(path: Path) -> None:
    farm = FarmRegister.open(path)
    farm.upsert_animal("A")
    farm.close()
    path.unlink()
    farm = FarmRegister.open(path)
    assert farm.animals() == [{"cow_id": "A"}]
    assert farm.recovered_from is not None
    assert "is missing" in farm.recovered_from
    farm.close()


def test_two_bad_files_in_one_second_are_both_kept(path: Path) -> None:
    farm = FarmRegister.open(path)
    farm.upsert_animal("A")
    farm.close()
    for n in range(2):
        path.write_text(f"[{n}]")
        FarmRegister.open(path, now_ms=NOW).close()
    kept = sorted(p.name for p in path.parent.glob("*.bad-*"))
    assert kept == ["farm.json.bad-20251125T143000Z", "farm.json.bad-20251125T143000Z-2"]


@pytest.mark.parametrize(
    "rubbish", [b"", b"[]", b'{"animals": 3}', b'{"animals": {"x": {}}}', b"\xff\xfe", b"\0" * 50]
)
def test_without_a_readable_version_both_are_kept_and_the_register_is_empty(
    path: Path, rubbish: bytes
) -> None:
    for n, bad_previous in enumerate((None, rubbish)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rubbish)
        previous = path.with_name("farm.json.previous")
        if bad_previous is not None:
            previous.write_bytes(bad_previous)
        farm = FarmRegister.open(path, now_ms=NOW + n * 1000)
        assert farm.animals() == []
        assert farm.recovered_from is not None
        assert "the register is empty now" in farm.recovered_from
        kept = path.with_name(f"farm.json.bad-20251125T14300{n}Z")
        assert kept.name in farm.recovered_from
        assert kept.read_bytes() == rubbish
        if bad_previous is not None:
            assert path.with_name(f"farm.json.previous.bad-20251125T14300{n}Z").read_bytes() == rubbish
        farm.upsert_animal("A")
        farm.close()
        previous.unlink()


def test_without_a_readable_version_the_newest_readable_backup_is_used(path: Path) -> None:
    backups = path.parent / "backups"
    backups.mkdir(parents=True)
    for day, cow_id in ((23, "OLD"), (24, "NEW")):
        (backups / f"farm_202511{day}_020000.json").write_text(
            f'{{"animals": {{"1": {{"cow_id": "{cow_id}"}}}}}}', encoding="utf-8"
        )
    (backups / "farm_20251125_020000.json").write_text('{"anim', encoding="utf-8")
    (backups / "farm_by_hand.json").write_text("{}", encoding="utf-8")  # nobody knows of when
    path.write_text("{", encoding="utf-8")
    path.with_name("farm.json.previous").write_text("}", encoding="utf-8")
    farm = FarmRegister.open(path, now_ms=NOW)
    assert farm.animals() == [{"cow_id": "NEW"}]
    assert farm.recovered_from is not None
    assert "the backup farm_20251124_020000.json is used" in farm.recovered_from
    farm.close()
    again = FarmRegister.open(path)
    assert (again.animals(), again.recovered_from) == ([{"cow_id": "NEW"}], None)
    again.close()


def test_a_card_that_is_full_for_now_is_told_from_a_directory_that_may_not_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    path.write_text("{", encoding="utf-8")
    path.with_name("farm.json.previous").write_text("{}", encoding="utf-8")
    for code, passes in ((errno.ENOSPC, True), (errno.EROFS, True), (errno.EACCES, False)):

        def refuse(self: Path, target: Path, code: int = code) -> Path:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(StoreError) as caught:
            FarmRegister.open(path)
        assert isinstance(caught.value, StoreUnavailableError) == passes


def test_bound_on_documents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = msgspec.structs.replace(farm_module.FARM_FILE, documents_max=3)
    monkeypatch.setattr(farm_module, "FARM_FILE", small)
    farm = FarmRegister.open(path)
    for n in range(3):
        farm.upsert_animal(str(n))
    with pytest.raises(StoreError, match="4 documents, at most 3 fit"):
        farm.upsert_animal("3")
    assert len(farm.animals()) == 3
    farm.upsert_animal("2", name="still editable")
    farm.close()


def test_a_write_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = FarmRegister.open(path)
    farm.upsert_animal("A")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        farm.upsert_animal("B")
    monkeypatch.undo()
    assert [a["cow_id"] for a in farm.animals()] == ["A"]
    assert path.read_bytes() == before
    with pytest.raises(TypeError):
        farm.upsert_animal("B", bad=object())
    farm.upsert_animal("B")
    farm.close()
    assert len(FarmRegister.open(path).animals()) == 2


def test_synced_before_it_is_renamed_and_the_directory_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(fd: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        fsync(fd)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    farm = FarmRegister.open(path)
    farm.upsert_animal("A")
    farm.close()
    for name in ("farm.json.previous", "farm.json"):
        at = steps.index(f"rename to {name}")
        assert steps[at - 1 : at + 2] == [f"fsync {name}.tmp", f"rename to {name}", "fsync data"]
