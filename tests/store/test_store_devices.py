"""The device register: changed by commands, looked at by the gateway, never half of anything."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import msgspec
import pytest
from tinydb import TinyDB

from gateway.core.credentials import DEVICES_MAX, SPOKEN_FOR_MAX, Device, token_digest
from gateway.errors import StoreError
from gateway.store.devices import REGISTER_BYTES_MAX, DeviceFile, DeviceRegister


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "devices.json"


def enter(path: Path, *ids: str, token: str = "secret", **fields: object) -> None:
    with DeviceRegister.changing(path) as register:
        key = register.key()
        register.add(
            [
                Device(id=one, role="sensor", digest=token_digest(key, one, token.encode()).hex(), **fields)  # type: ignore[arg-type]
                for one in ids
            ]
        )


def known(file: DeviceFile, *ids: str, token: str = "secret") -> list[bool]:
    roster = file.look().content
    assert roster is not None
    return [roster.check(one, token.encode()) is not None for one in ids]


def test_what_a_command_enters_the_gateway_sees_at_its_next_look(path: Path) -> None:
    file = DeviceFile(path)
    empty = file.look()
    assert empty.content is not None
    assert (len(empty.content), empty.fault) == (0, None)
    enter(path, "A", "B")
    assert known(file, "A", "B", "C") == [True, True, False]
    assert file.look().content is None  # nothing new
    with DeviceRegister.changing(path) as register:
        register.remove(["A", "never there"])
    assert known(file, "A", "B") == [False, True]
    with DeviceRegister.changing(path) as register:
        (device,) = register.devices()
        digest = token_digest(register.key(), "B", b"new").hex()
        register.change([msgspec.structs.replace(device, digest=digest, rotated_ms=5)])
    roster = file.look().content
    assert roster is not None
    assert (roster.check("B", b"secret"), roster.check("B", b"new")) == (
        None,
        msgspec.structs.replace(device, digest=digest, rotated_ms=5),
    )


def test_a_file_that_has_not_changed_is_not_read_again(path: Path) -> None:
    enter(path, "A")
    file = DeviceFile(path)
    assert file.look().content is not None
    for _ in range(5):
        assert file.look().content is None
    path.chmod(0o640)  # nothing but a new time of change
    assert file.look().content is not None
    assert file.look().content is None


def test_only_its_owner_may_read_it_and_no_token_is_in_it(path: Path) -> None:
    mask = os.umask(0)
    try:
        enter(path, "A", token="a-token-nobody-else-has")
        enter(path, "B", token="a-token-nobody-else-has")
    finally:
        os.umask(mask)
    assert sorted(p.name for p in path.parent.iterdir()) == ["devices.json", "devices.json.previous"]
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
        assert "a-token-nobody-else-has" not in file.read_text(encoding="utf-8")
    with TinyDB(path, encoding="utf-8") as plain:  # an ordinary TinyDB file
        assert [document["id"] for document in plain.table("devices")] == ["A", "B"]


def test_a_temp_file_that_a_power_cut_left_open_to_all_does_not_pass_its_mode_on(path: Path) -> None:
    path.parent.mkdir()
    left = path.with_name("devices.json.tmp")
    left.write_text("half", encoding="utf-8")
    left.chmod(0o666)
    enter(path, "A")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_what_root_writes_belongs_to_the_gateways_account(path: Path) -> None:
    """`sudo barn-gateway device add`, before and after the folder is there."""
    os.chown(path.parent.parent, 1234, 1235)
    enter(path, "A")
    os.chown(path, 1236, 1237)
    enter(path, "B")
    owners = [(p.stat().st_uid, p.stat().st_gid) for p in (path.parent, path)]
    assert owners == [(1234, 1235), (1236, 1237)]


def test_every_truncation_leaves_the_version_before_in_force(path: Path) -> None:
    """A start on a file that a card has cut short, at any byte; the gateway itself repairs nothing."""
    enter(path, "A")
    enter(path, "B")
    whole, previous = path.read_bytes(), path.with_name("devices.json.previous").read_bytes()
    for offset in range(len(whole) - 1):
        path.write_bytes(whole[:offset])
        look = DeviceFile(path).look()
        assert look.content is not None, offset
        assert (look.content.get("A") is not None, look.content.get("B")) == (True, None)
        assert "the version before it is in force" in str(look.fault)
        assert path.read_bytes() == whole[:offset]
    with DeviceRegister.changing(path) as register:  # a command does repair it, and keeps the bad one
        assert [device.id for device in register.devices()] == ["A"]
        assert "the previous version is used" in str(register.recovered_from)
    assert path.read_bytes() == previous
    assert len(list(path.parent.glob("devices.json.bad-*"))) == 1


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: b"{", "is damaged: Input data was truncated"),
        (lambda text: text.replace(b'"sensor"', b'"bull"'), "Invalid enum value 'bull'"),
        (lambda text: text.replace(b'"id": "B"', b'"id": "A"'), "A is there twice"),
        (lambda text: text.replace(b'"id": "B"', b'"id": "B/C"'), "'B/C' is no device id"),
        (lambda text: text.replace(b'"key"', b'"kee"'), "missing required field `key`"),
        (lambda text: b" " * (REGISTER_BYTES_MAX + 1), f"is larger than {REGISTER_BYTES_MAX} bytes"),
        (lambda text: b"\xff\xfe", "is damaged: "),
    ],
)
def test_a_slip_of_a_persons_hand_changes_nothing_and_is_told_once(path: Path, damage, what: str) -> None:  # type: ignore[no-untyped-def]
    enter(path, "A", "B")
    file = DeviceFile(path)
    assert known(file, "A", "B") == [True, True]
    good = path.read_bytes()
    path.write_bytes(damage(good))
    look = file.look()
    assert look.content is None
    assert what in str(look.fault)
    assert str(look.fault).startswith(f"{path}: ")
    assert str(look.fault).endswith("the devices known so far stay in force")
    assert (file.look().fault, file.look().content) == (None, None)
    path.write_bytes(good)
    assert known(file, "A", "B") == [True, True]


def test_a_register_that_vanishes_while_the_gateway_runs_puts_nobody_out(path: Path) -> None:
    enter(path, "A")
    file = DeviceFile(path)
    assert known(file, "A") == [True]
    for one in path.parent.iterdir():
        one.unlink()
    assert "is missing; the devices known so far stay in force" in str(file.look().fault)
    assert file.look().fault is None
    enter(path, "B")
    assert known(file, "A", "B") == [False, True]


def test_no_register_is_no_fault_where_there_never_was_one(path: Path) -> None:
    file = DeviceFile(path)
    roster = file.look().content
    assert roster is not None
    assert len(roster) == 0
    for _ in range(3):
        look = file.look()
        assert (look.content, look.fault) == (None, None)
    enter(path, "A")
    assert known(file, "A") == [True]
    for one in path.parent.iterdir():
        one.unlink()
    assert "is missing; the devices known so far stay in force" in str(file.look().fault)


def test_without_any_readable_version_nobody_can_log_in_until_there_is_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{", encoding="utf-8")
    file = DeviceFile(path)
    look = file.look()
    assert look.content is None
    assert "no device can log in until it is put right" in str(look.fault)
    path.unlink()
    enter(path, "A")
    assert known(file, "A") == [True]


def test_a_register_may_be_a_link_to_another_disk(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "stick" / "devices.json"
    path.parent.mkdir()
    path.symlink_to(real)
    real.parent.mkdir()
    enter(path, "A")
    assert path.is_symlink()
    assert real.is_file()
    file = DeviceFile(path)
    assert known(file, "A") == [True]
    enter(path, "B")
    assert known(file, "B") == [True]


def test_two_commands_at_once_lose_nothing(path: Path) -> None:
    ids = [[f"{worker}_{n}" for n in range(5)] for worker in "ABCD"]
    threads = [threading.Thread(target=lambda own=own: [enter(path, one) for one in own]) for own in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with DeviceRegister.changing(path) as register:
        assert {device.id for device in register.devices()} == {one for own in ids for one in own}


def test_one_too_many_is_refused_whole(path: Path) -> None:
    with DeviceRegister.changing(path) as register:
        digest = "0" * 64
        register.key()
        register.add([Device(id=f"D{n}", role="sensor", digest=digest) for n in range(DEVICES_MAX)])
        with pytest.raises(StoreError, match=rf"{DEVICES_MAX + 1} devices; .*device remove"):
            register.add([Device(id="X", role="sensor", digest=digest)])
        assert len(register.devices()) == DEVICES_MAX
    roster = DeviceFile(path).look().content
    assert roster is not None
    assert len(roster) == DEVICES_MAX


def test_the_fullest_register_is_well_below_the_bound_on_its_size(path: Path) -> None:
    digest, stamp = "0" * 64, 1_795_257_221_793
    names = tuple(f"{n:064d}" for n in range(SPOKEN_FOR_MAX))
    with DeviceRegister.changing(path) as register:
        register.key()
        devices = [
            Device(
                id=f"{n:064d}",
                role="sensor",
                digest=digest,
                created_ms=stamp,
                rotated_ms=stamp,
                label="🐄" * 100,
            )
            for n in range(DEVICES_MAX - 1)
        ]
        base = Device(id="B", role="concentrator", digest=digest, speaks_for=names)
        register.add([*devices, base])
    assert path.stat().st_size < REGISTER_BYTES_MAX
    look = DeviceFile(path).look()
    assert (look.fault, look.content is not None) == (None, True)


def test_keys_of_a_later_version_survive_a_command_of_this_one(path: Path) -> None:
    """Decision 42: the version before runs on the same file."""
    enter(path, "A", "B")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["devices"]["1"]["colour"] = "brown"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert known(DeviceFile(path), "A") == [True]
    with DeviceRegister.changing(path) as register:
        register.change(register.devices()[:1])
        register.remove(["B"])
    assert json.loads(path.read_text(encoding="utf-8"))["devices"]["1"]["colour"] == "brown"


def test_a_wrong_entry_stops_a_command_with_its_name(path: Path) -> None:
    enter(path, "A")
    path.write_text(path.read_text(encoding="utf-8").replace('"sensor"', '"bull"'), encoding="utf-8")
    with (
        DeviceRegister.changing(path) as register,
        pytest.raises(StoreError, match=r"the device 'A': Invalid enum value 'bull'.*correct it there"),
    ):
        register.devices()


def test_a_card_that_refuses_leaves_the_register_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(path, "A")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        enter(path, "B")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert known(DeviceFile(path), "A", "B") == [True, False]
