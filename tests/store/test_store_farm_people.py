"""Contacts and groups of the farm register: changed by commands, looked at by the gateway."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.contacts import Address, Contact
from gateway.errors import StoreError
from gateway.farming import Farm
from gateway.store.farm import FarmRegister
from gateway.store.farm_file import (
    CONTACTS_MAX,
    FARM_BYTES_MAX,
    FAULTS_TOLD_MAX,
    FarmFile,
    People,
)

LANGUAGES = frozenset({"en", "de"})
ANNA = Contact("Anna", (Address("sms", "+4915112345678"), Address("push", "ntfy://t", "critical")), rung=2)
BERT = Contact("Bert", (Address("email", "bert@example.org"),), groups=("dry",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "farm.json"


def enter(path: Path, *contacts: Contact) -> None:
    with FarmRegister.changing(path) as farm:
        for contact in contacts:
            farm.put_contact(contact)


def group(path: Path, cow_id: str, of: object) -> None:
    with FarmRegister.changing(path) as farm:
        farm.upsert_animal(cow_id, group=of)


def by_hand(path: Path, change: Callable[[Any], None]) -> None:
    tables = json.loads(path.read_text(encoding="utf-8"))
    change(tables)
    path.write_text(json.dumps(tables), encoding="utf-8")


def seen(file: FarmFile) -> People:
    look = file.look()
    assert look.people is not None
    assert look.faults == ()
    return look.people


def test_what_a_command_enters_the_gateway_sees_at_its_next_look(path: Path) -> None:
    file = FarmFile(path, LANGUAGES)
    assert seen(file) == People()
    enter(path, ANNA, BERT)
    assert seen(file).contacts == (ANNA, BERT)
    assert file.look() == type(file.look())()  # nothing new
    enter(path, msgspec.structs.replace(ANNA, rung=1))
    with FarmRegister.changing(path) as farm:
        assert farm.remove_contact("Bert")
        assert not farm.remove_contact("Bert")
    assert seen(file).contacts == (msgspec.structs.replace(ANNA, rung=1),)


def test_an_animal_is_in_the_groups_its_entry_names(path: Path) -> None:
    group(path, "COW_001", "dry")
    group(path, "COW_002", ["dry", "heifers"])
    group(path, "COW_003", "")
    group(path, "COW_004", None)
    assert seen(FarmFile(path, LANGUAGES)).groups == {"COW_001": ("dry",), "COW_002": ("dry", "heifers")}


def test_animals_and_contacts_do_not_disturb_each_other(path: Path) -> None:
    group(path, "COW_001", "dry")
    enter(path, ANNA)
    group(path, "COW_002", "dry")
    with FarmRegister.changing(path) as farm:
        assert [animal["cow_id"] for animal in farm.animals()] == ["COW_001", "COW_002"]
        assert farm.contacts() == ([ANNA], [])


def spoil_anna(field: str, value: object) -> Callable[[Any], None]:
    return lambda tables: tables["contacts"]["1"].__setitem__(field, value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (spoil_anna("rung", "two"), "Expected `int`, got `str` - at `$.rung`"),
        (spoil_anna("hours", "late"), 'hours: "late" is no range of hours'),
        (spoil_anna("adresses", []), "adresses: is no field; there are name, addresses, rung"),
        (
            lambda tables: tables["contacts"]["1"]["addresses"][1].__setitem__("severty", "info"),
            "addresses[1].severty: is no field; there are channel, to, severity",
        ),
        (lambda tables: tables["contacts"]["1"].__setitem__("addresses", ["+49151"]), "$.addresses[0]"),
    ],
)
def test_a_slip_of_the_hand_in_one_contact_leaves_her_as_she_was_and_the_others_new(
    path: Path, change: Callable[[Any], None], what: str
) -> None:
    enter(path, ANNA, BERT)
    file = FarmFile(path, LANGUAGES)
    seen(file)

    def both(tables: Any) -> None:
        change(tables)
        tables["contacts"]["2"]["rung"] = 3

    by_hand(path, both)
    look = file.look()
    assert look.people is not None
    assert set(look.people.contacts) == {ANNA, msgspec.structs.replace(BERT, rung=3)}
    (fault,) = look.faults
    assert fault.startswith(f'{path}: contacts.1 ("Anna"): ')
    assert what in fault
    assert fault.endswith("what was known so far stays in force")
    by_hand(path, lambda tables: tables["contacts"]["2"].__setitem__("rung", 4))
    again = file.look()
    assert again.faults == ()  # told once
    assert again.people is not None
    assert ANNA in again.people.contacts
    enter(path, ANNA)  # a command puts it right
    assert set(seen(file).contacts) == {ANNA, msgspec.structs.replace(BERT, rung=4)}


def test_a_spoilt_contact_at_the_start_is_passed_over_and_told(path: Path) -> None:
    enter(path, ANNA, BERT)
    by_hand(path, spoil_anna("rung", 77))
    look = FarmFile(path, LANGUAGES).look()
    assert look.people is not None
    assert look.people.contacts == (BERT,)
    assert "rung: 77" in look.faults[0]
    assert look.faults[0].endswith("the entry is passed over")


def test_a_name_that_is_there_twice_is_one_contact_and_a_fault(path: Path) -> None:
    enter(path, ANNA, BERT)
    by_hand(path, lambda tables: tables["contacts"]["2"].__setitem__("name", "Anna"))
    look = FarmFile(path, LANGUAGES).look()
    assert look.people is not None
    assert look.people.contacts == (ANNA,)
    assert 'contacts.2 ("Anna"): name: is there twice' in look.faults[0]


def test_a_language_there_is_none_of_is_told_and_the_message_comes_in_english(path: Path) -> None:
    enter(path, msgspec.structs.replace(ANNA, language="tlh"), msgspec.structs.replace(BERT, language="de"))
    look = FarmFile(path, LANGUAGES).look()
    assert look.people is not None
    assert [contact.language for contact in look.people.contacts] == ["en", "de"]
    (fault,) = look.faults
    assert fault == f'{path}: contact "Anna": language: "tlh" is none of de, en; messages are in "en"'


@pytest.mark.parametrize("of", [3, {"dry": 1}, ["dry", 3], "  "])
def test_a_group_that_is_no_word_is_told_and_the_other_animals_keep_theirs(path: Path, of: object) -> None:
    group(path, "COW_001", of)
    group(path, "COW_002", "dry")
    look = FarmFile(path, LANGUAGES).look()
    assert look.people is not None
    assert look.people.groups == {"COW_002": ("dry",)}
    assert f'{path}: animals.1 ("COW_001"): group: is no word' in look.faults[0]


def test_every_truncation_leaves_what_was_known_in_force_and_is_told(path: Path) -> None:
    enter(path, ANNA)
    enter(path, BERT)
    whole = path.read_bytes()
    file = FarmFile(path, LANGUAGES)
    assert len(seen(file).contacts) == 2
    for offset in range(len(whole) - 1):
        path.write_bytes(whole[:offset])
        first = FarmFile(path, LANGUAGES).look()
        assert first.people == People((ANNA,)), offset
        assert "the version before it is in force" in first.faults[0]
        assert file.look().people is None
        assert path.read_bytes() == whole[:offset]  # the gateway repairs nothing while it runs
    path.write_bytes(whole)
    assert len(seen(file).contacts) == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"{", "is damaged: "),
        (b"[]", "is damaged: "),
        (b'{"contacts": {"1": 3}}', "is damaged: "),
        (b"\xff\xfe", "is damaged: "),
        (b" " * (FARM_BYTES_MAX + 1), f"is larger than {FARM_BYTES_MAX} bytes"),
    ],
)
def test_a_file_that_is_none_is_told_once_and_changes_nothing(path: Path, text: bytes, what: str) -> None:
    enter(path, ANNA)
    file = FarmFile(path, LANGUAGES)
    seen(file)
    path.write_bytes(text)
    look = file.look()
    assert look.people is None
    (fault,) = look.faults
    assert fault.startswith(f"{path}: {what}")
    assert fault.endswith("the contacts and groups known so far stay in force")
    assert file.look().faults == ()


def test_only_so_many_faults_are_told_at_once(path: Path) -> None:
    with FarmRegister.changing(path) as farm:
        for n in range(FAULTS_TOLD_MAX + 5):
            farm.upsert_animal(f"COW_{n}", group=n + 1)
    faults = FarmFile(path, LANGUAGES).look().faults
    assert len(faults) == FAULTS_TOLD_MAX + 1
    assert faults[-1] == "and 5 more faults of this kind"


def test_one_contact_too_many_is_refused_and_by_hand_it_is_passed_over(path: Path) -> None:
    enter(path, *(Contact(f"P{n}") for n in range(CONTACTS_MAX)))
    with pytest.raises(StoreError, match=rf"{CONTACTS_MAX} contacts are there already .*contact remove"):
        enter(path, ANNA)
    enter(path, Contact("P0", rung=2))  # still editable
    by_hand(path, lambda tables: tables["contacts"].__setitem__("999", {"name": "Anna"}))
    look = FarmFile(path, LANGUAGES).look()
    assert look.people is not None
    assert len(look.people.contacts) == CONTACTS_MAX
    assert 'contacts.999 ("Anna"): is one too many' in look.faults[0]


def test_the_fullest_register_is_below_the_bound_on_its_size(path: Path) -> None:
    words = tuple("🐄" * 62 + f"{n:02d}" for n in range(32))
    addresses = tuple(Address("push", "ntfy://" + "🐄" * 503 + str(n)) for n in range(8))
    with FarmRegister.changing(path) as farm:
        for n in range(3):
            farm.put_contact(Contact(f"{n}", addresses, groups=words, kinds=words))
    assert len(seen(FarmFile(path, LANGUAGES)).contacts) == 3
    assert path.stat().st_size / 3 * CONTACTS_MAX + 1950 * 1024 < FARM_BYTES_MAX


def test_only_its_owner_may_read_it_whatever_it_was_before(path: Path) -> None:
    mask = os.umask(0)
    try:
        path.parent.mkdir()
        path.write_text('{"animals": {"1": {"cow_id": "A"}}}')
        enter(path, ANNA)
    finally:
        os.umask(mask)
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"farm.json": 0o600, "farm.json.previous": 0o600}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_what_root_changes_stays_the_gateways(path: Path) -> None:
    enter(path, ANNA)
    os.chown(path, 1236, 1237)
    enter(path, BERT)
    assert (path.stat().st_uid, path.stat().st_gid) == (1236, 1237)


def test_commands_at_once_lose_nothing(path: Path) -> None:
    names = [[f"{worker}{n}" for n in range(5)] for worker in "ABCD"]
    threads = [
        threading.Thread(target=lambda own=own: [enter(path, Contact(one)) for one in own]) for own in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {contact.name for contact in seen(FarmFile(path, LANGUAGES)).contacts}
    assert found == {one for own in names for one in own}


def test_a_gateways_own_opening_at_its_start_never_puts_an_old_version_back(path: Path) -> None:
    enter(path, ANNA)
    opened = FarmRegister.open(path)
    enter(path, BERT)
    opened.close()
    assert seen(FarmFile(path, LANGUAGES)).contacts == (ANNA, BERT)


def test_the_running_gateway_follows_the_file_and_says_what_is_wrong_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.farming")
    farm = Farm(FarmFile(path, LANGUAGES), needed=True)
    assert farm.contacts() == ()
    enter(path, ANNA)
    group(path, "COW_001", "dry")
    asyncio.run(farm.look())
    assert (farm.contacts(), farm.groups_of("COW_001")) == ((ANNA,), ("dry",))
    assert farm.groups_of("herd") == ()
    path.write_text("{")
    for _ in range(3):
        asyncio.run(farm.look())
    assert (farm.contacts(), farm.groups_of("COW_001")) == ((ANNA,), ("dry",))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "ERROR"]
    assert "barn-gateway contact add" in caplog.messages[0]
    assert caplog.messages[1] == f"Contacts in {path}: 1"
    assert f"{path}: is damaged" in caplog.messages[2]
