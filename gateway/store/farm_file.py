"""The farm register as the gateway sees it: contacts and groups, looked at every other second.

Runs in a worker thread and never writes. A person may edit the file by hand: an entry that makes no
sense is told with its place and remedy, and the rest is in force without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.contacts import Address, Contact, contact_fault
from gateway.store.register_look import RegisterLook, Wording

CONTACTS_MAX = 50
"""Everyone on the largest farm, its vet and its dairy. At 8 addresses each one critical alert is 400
messages at most: 40 min for a phone service that takes 10 a minute."""
FARM_BYTES_MAX = 4 * 1024 * 1024
"""Above the fullest register: 50 contacts × 35 KB (8 addresses of 512 and 64 words of 64 four-byte
signs) + 1950 animals × 1 KB (five times the usual) = 3.8 MB. It is read in a worker thread."""
FAULTS_TOLD_MAX = 20
"""Of one look; more is one slip in many places, and twenty lines show which."""
LANGUAGE_OTHERWISE = "en"
"""Spoken to who wants a language that there is none of."""

Groups = Mapping[str, tuple[str, ...]]
Documents = dict[str, dict[str, Any]]


class People(msgspec.Struct, frozen=True):
    """The part of the register that says who is told of what.

    Args:
        contacts: without faults, in the order they were entered.
        groups: animal → its groups; animals without one are left out.
    """

    contacts: tuple[Contact, ...] = ()
    groups: Groups = {}


class Spoilt(msgspec.Struct, frozen=True):
    """An entry that cannot be used.

    Args:
        place: its table, number and name.
        name: of the contact; "" where it has none, and for animals.
        what: is wrong with it, and the remedy.
    """

    place: str
    name: str
    what: str


class _Read(msgspec.Struct, frozen=True):
    people: People
    spoilt: tuple[Spoilt, ...] = ()


class PeopleLook(msgspec.Struct, frozen=True):
    """What a look at the file has brought.

    Args:
        people: in force from now on; None = as before.
        faults: sentences that were not told before.
    """

    people: People | None = None
    faults: tuple[str, ...] = ()


_WORDING = Wording(
    kept="the contacts and groups known so far stay in force",
    nothing="nobody is told of alerts until it is put right",
)


class FarmFile:
    """The looks at one farm register.

    Args:
        path: the file; may be missing, may be a link.
        languages: those that messages can be written in.
    """

    def __init__(self, path: Path, languages: Collection[str]) -> None:
        self.path = path
        self._languages = languages
        self._people = People()
        self._told: frozenset[str] = frozenset()
        self._file = RegisterLook(
            path, _decoded, empty=_Read(People()), bytes_max=FARM_BYTES_MAX, wording=_WORDING
        )

    def look(self) -> PeopleLook:
        """What is new; a fault is told once.

        A contact that was in force and has been spoilt by hand stays as it was until it is put right:
        a slip in a phone number must not keep a fever from its herdsman.
        """
        found = self._file.look()
        faults = [] if found.fault is None else [found.fault]
        if found.content is None:
            return PeopleLook(None, tuple(faults))
        people, spoilt = found.content.people, found.content.spoilt
        contacts, notes = self._spoken_to(self._with_spoilt(people.contacts, spoilt))
        notes = [self._sentence(one) for one in spoilt] + notes
        faults += [note for note in notes if note not in self._told]
        self._told = frozenset(notes)
        self._people = People(contacts, people.groups)
        return PeopleLook(self._people, _first(faults))

    def _with_spoilt(self, good: tuple[Contact, ...], spoilt: tuple[Spoilt, ...]) -> tuple[Contact, ...]:
        names = {contact.name for contact in good}
        lost = {one.name for one in spoilt if one.name} - names
        return (*good, *(contact for contact in self._people.contacts if contact.name in lost))

    def _sentence(self, one: Spoilt) -> str:
        known = one.name and any(contact.name == one.name for contact in self._people.contacts)
        then = "what was known so far stays in force" if known else "the entry is passed over"
        return f"{self.path}: {one.place}: {one.what}; {then}"

    def _spoken_to(self, contacts: tuple[Contact, ...]) -> tuple[tuple[Contact, ...], list[str]]:
        """Each in a language there is; and what to say of those who wanted another."""
        known, notes = [], []
        for contact in contacts:
            if contact.language in self._languages:
                known.append(contact)
                continue
            known.append(msgspec.structs.replace(contact, language=LANGUAGE_OTHERWISE))
            notes.append(
                f'{self.path}: contact "{contact.name}": language: "{contact.language}" is none of '
                f'{", ".join(sorted(self._languages))}; messages are in "{LANGUAGE_OTHERWISE}"'
            )
        return tuple(known), notes


def contacts_in(documents: Mapping[str, Mapping[str, Any]]) -> tuple[list[Contact], list[Spoilt]]:
    """The contacts of a table, and the entries that are none.

    Args:
        documents: number in the table → what is there.
    """
    good: dict[str, Contact] = {}
    spoilt: list[Spoilt] = []
    for number, document in documents.items():
        found = document.get("name")
        name = found if isinstance(found, str) else ""
        contact = _contact(document)
        if isinstance(contact, Contact) and contact.name in good:
            contact = "name: is there twice; give one of the two another"
        elif isinstance(contact, Contact) and len(good) >= CONTACTS_MAX:
            contact = f"is one too many; at most {CONTACTS_MAX} contacts fit"
        if isinstance(contact, Contact):
            good[name] = contact
        else:
            spoilt.append(Spoilt(_place("contacts", number, name), name, contact))
    return list(good.values()), spoilt


def _contact(document: Mapping[str, Any]) -> Contact | str:
    """A contact, or what is wrong with it."""
    fault = _field_fault("", document, Contact)
    addresses = document.get("addresses")
    for at, address in enumerate(addresses if isinstance(addresses, list) else ()):
        fault = fault or _field_fault(f"addresses[{at}].", address, Address)
    if fault:
        return fault
    try:
        contact = msgspec.convert(dict(document), Contact)
    except msgspec.ValidationError as error:
        return str(error)
    return contact_fault(contact) or contact


def _field_fault(place: str, document: object, kind: type[msgspec.Struct]) -> str:
    """A field that nobody reads is a slip of the hand: `adresses` would be a person without any."""
    fields = kind.__struct_fields__
    names = document if isinstance(document, dict) else {}
    strange = next((name for name in names if name not in fields), None)
    return "" if strange is None else f"{place}{strange}: is no field; there are {', '.join(fields)}"


def _groups_in(documents: Documents) -> tuple[dict[str, tuple[str, ...]], list[Spoilt]]:
    """Animal → its groups. `group` is a word or a list of words."""
    groups: dict[str, tuple[str, ...]] = {}
    spoilt: list[Spoilt] = []
    for number, document in documents.items():
        cow_id, group = document.get("cow_id"), document.get("group")
        if group is None or group in ("", []):
            continue
        name = cow_id if isinstance(cow_id, str) else ""
        words = group if isinstance(group, list) else [group]
        if not name:
            spoilt.append(Spoilt(_place("animals", number, ""), "", "cow_id: is missing; write the animal's"))
        elif not all(isinstance(word, str) and word.strip() for word in words):
            what = 'group: is no word; write "dry" or ["dry", "heifers"]'
            spoilt.append(Spoilt(_place("animals", number, name), "", what))
        else:
            words = [word.strip() for word in words]
            groups[name] = tuple(dict.fromkeys((*groups.get(name, ()), *words)))
    return groups, spoilt


def _place(table: str, number: str, name: str) -> str:
    return f'{table}.{number} ("{name}")' if name else f"{table}.{number}"


def _decoded(text: bytes) -> _Read:
    """Raises msgspec.DecodeError where the text is no register."""
    tables = msgspec.json.decode(text, type=dict[str, Documents])
    contacts, spoilt = contacts_in(tables.get("contacts", {}))
    groups, animals_spoilt = _groups_in(tables.get("animals", {}))
    return _Read(People(tuple(contacts), groups), (*spoilt, *animals_spoilt))


def _first(faults: list[str]) -> tuple[str, ...]:
    more = len(faults) - FAULTS_TOLD_MAX
    told = faults[:FAULTS_TOLD_MAX]
    return (*told, f"and {more} more faults of this kind") if more > 0 else tuple(told)
