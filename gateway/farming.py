"""The farm register between file, gateway and commands: who is told of alerts, and of which animals.

`Farm` lives on the event loop of the gateway and reads the file in a worker thread, because a dying
card can take 30 s; the functions below it run in the main thread of a command, beside a running
gateway or without one. A gateway that runs sees a change within two seconds.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.config import Config
from gateway.core.contacts import Contact, contact_fault
from gateway.errors import GatewayError
from gateway.store.farm import FarmRegister
from gateway.store.farm_file import FarmFile, People, PeopleLook

log = logging.getLogger(__name__)

Say = Callable[[str], None]


class Farm:
    """Contacts and groups as they are in force. A broken register is told, and changes nothing.

    Args:
        file: the register; it has been looked at when this returns.
        needed: a way to reach people is configured, so a register without contacts is told.
    """

    def __init__(self, file: FarmFile, *, needed: bool = False) -> None:
        self._file = file
        self._needed = needed
        self._people = People()
        self._take(file.look(), first=True)

    def contacts(self) -> tuple[Contact, ...]:
        """Everyone, in the order they were entered."""
        return self._people.contacts

    def groups_of(self, subject: str) -> tuple[str, ...]:
        """The groups an animal is in; none for what is no animal, and for one nobody has put in a group."""
        return self._people.groups.get(subject, ())

    async def look(self) -> None:
        """See what has changed since; every two seconds."""
        self._take(await asyncio.to_thread(self._file.look))

    def _take(self, found: PeopleLook, *, first: bool = False) -> None:
        for fault in found.faults:
            log.error("%s", fault)
        if found.people is None:
            return
        changed = first or found.people.contacts != self._people.contacts
        self._people = found.people
        if changed and found.people.contacts:
            log.info("Contacts in %s: %d", self._file.path, len(found.people.contacts))
        elif changed and self._needed:
            log.warning(
                "Nobody is told of alerts: no contact in %s; `barn-gateway contact add` enters one",
                self._file.path,
            )


def add(config: Config, contact: Contact, *, languages: Collection[str], say: Say) -> None:
    """Enter a new contact.

    Args:
        config: names the register.
        contact: new.
        languages: those that messages can be written in.
        say: gets a sentence where the register had to be recovered, or a group is nobody's.

    Raises:
        GatewayError: there is one of this name, or something is wrong with it; nothing is changed then.
        StoreError: the register cannot be used; nothing is changed then.
    """
    with _changing(config, say) as register:
        if contact.name in _names(register):
            raise GatewayError(
                f"{contact.name}: is a contact already; nothing was changed",
                f'`barn-gateway contact change "{contact.name}"` changes what you name',
            )
        _put(register, contact, languages, say)


def change(
    config: Config,
    name: str,
    edit: Callable[[Contact], Contact],
    *,
    languages: Collection[str],
    say: Say,
) -> Contact:
    """Put what `edit` makes of a contact in its place, and return it.

    Raises:
        GatewayError: there is none of this name, or something is wrong with what `edit` made.
        StoreError: the register cannot be used; nothing is changed then.
    """
    with _changing(config, say) as register:
        good, spoilt = register.contacts()
        found = next((contact for contact in good if contact.name == name), None)
        if found is None:
            for one in spoilt:
                if one.name == name:
                    raise GatewayError(
                        f"{register.path}: {one.place}: {one.what}",
                        f'put it right there, or `barn-gateway contact remove "{name}"` and add it anew',
                    )
            raise _unknown(register, name)
        changed = edit(found)
        _put(register, changed, languages, say)
        return changed


def remove(config: Config, names: Iterable[str], *, say: Say) -> None:
    """Take contacts out, all or none.

    Raises:
        GatewayError: one of them is not in the register.
        StoreError: the register cannot be used.
    """
    with _changing(config, say) as register:
        names, known = list(names), _names(register)
        for name in names:
            if name not in known:
                raise _unknown(register, name)
        for name in names:
            register.remove_contact(name)


def contacts(config: Config, *, say: Say) -> tuple[list[Contact], list[str]]:
    """All contacts in the order they were entered, and a sentence for each entry that is none.

    Raises:
        StoreError: the register cannot be used.
    """
    if not Path(config.store.farm_register).parent.is_dir():
        return [], []
    with _changing(config, say) as register:
        good, spoilt = register.contacts()
        return good, [f"{register.path}: {one.place}: {one.what}" for one in spoilt]


@contextmanager
def _changing(config: Config, say: Say) -> Iterator[FarmRegister]:
    """The register, open for this command; tells what had to be recovered."""
    path, backups = Path(config.store.farm_register), Path(config.backup.directory)
    with FarmRegister.changing(path, backups=backups) as register:
        if register.recovered_from is not None:
            say(register.recovered_from)
        yield register


def _put(register: FarmRegister, contact: Contact, languages: Collection[str], say: Say) -> None:
    fault = contact_fault(contact)
    if fault is None and contact.language not in languages:
        fault = f'language: "{contact.language}" is none of {", ".join(sorted(languages))}'
    if fault is not None:
        raise GatewayError(f"{contact.name}: {fault}; nothing was changed")
    register.put_contact(contact)
    groups = {word for animal in register.animals() for word in _words(animal.get("group"))}
    for group in contact.groups:
        if group not in groups:
            say(f'no animal of {register.path} is in the group "{group}" yet')


def _words(group: object) -> list[str]:
    return [word for word in (group if isinstance(group, list) else [group]) if isinstance(word, str)]


def _names(register: FarmRegister) -> set[str]:
    """Also those of entries that a hand has spoilt."""
    good, spoilt = register.contacts()
    return {contact.name for contact in good} | {one.name for one in spoilt if one.name}


def _unknown(register: FarmRegister, name: str) -> GatewayError:
    near = difflib.get_close_matches(name.casefold(), [one.casefold() for one in _names(register)], n=1)
    meant = next((one for one in sorted(_names(register)) if near and one.casefold() == near[0]), None)
    hint = f'did you mean "{meant}"?' if meant else "`barn-gateway contact list` shows who is"
    return GatewayError(f"{name}: is no contact; nothing was changed", hint)
