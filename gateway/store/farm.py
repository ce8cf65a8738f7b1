"""The farm register as commands see it: what people edit (animals, contacts; later fences, rules) in TinyDB.

Small, read often, written by hand. Two sides: `FarmRegister` changes the file, in the main thread of a
command, with other commands locked out; `farm_file.FarmFile` looks at it for the gateway. The gateway
itself opens a register once, at its start, because that repairs a damaged one, and changes nothing
after that. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tinydb import TinyDB, where

from gateway.core.backups import farm_time
from gateway.core.contacts import Contact
from gateway.errors import StoreError
from gateway.store.atomic_json import AtomicJsonStorage, Kind
from gateway.store.farm_file import CONTACTS_MAX, Spoilt, contacts_in
from gateway.store.links import followed
from gateway.store.register_lock import locked

FARM_FILE = Kind(
    documents_max=2000,  # × about 200 bytes = 0.4 MB
    when_full="remove animals that have left the farm",
    backup_time=farm_time,
    mode=0o600,  # phone numbers, and push addresses that hold a secret
)
"""The farm register on disk."""


class FarmRegister:
    """An open register (`data/farm.json`).

    Attributes:
        path: the file.
        recovered_from: a sentence for the log and a system alert where the file had to be taken
            from its previous version or a backup, or begun anew; None usually.
    """

    @classmethod
    def open(cls, path: Path, *, now_ms: int | None = None, backups: Path | None = None) -> FarmRegister:
        """Open the register; a missing one is empty and made with the first change.

        Args:
            path: the file.
            now_ms: UTC epoch milliseconds, names a damaged file `.bad-<time>`; default: now.
            backups: folder whose newest readable copy is used where no version is; default:
                `backups` beside the file.

        Raises:
            StoreUnavailableError: a damaged file cannot be put aside for now (card full, read-only).
            StoreError: a file may not be read, or the directory not be written.
        """
        return cls(AtomicJsonStorage(path, FARM_FILE, now_ms=now_ms, backups=backups))

    @classmethod
    @contextmanager
    def changing(cls, path: Path, *, backups: Path | None = None) -> Iterator[FarmRegister]:
        """Open it for one command, with other commands locked out until the block ends.

        Raises:
            StoreError: the directory refuses, or a version may not be read.
        """
        path = followed(path)
        with locked(path):
            register = cls.open(path, backups=backups)
            try:
                yield register
            finally:
                register.close()

    def __init__(self, storage: AtomicJsonStorage) -> None:
        self.path = storage.path
        self.recovered_from = storage.recovered_from
        self._db = TinyDB(storage=lambda: storage)
        self._animals = self._db.table("animals", cache_size=0)
        self._contacts = self._db.table("contacts", cache_size=0)
        self._lock = threading.Lock()

    def animals(self) -> list[dict[str, Any]]:
        """All animals, each with its `cow_id`, in the order they were entered."""
        with self._lock:
            return [dict(document) for document in self._animals.all()]

    def animal(self, cow_id: str) -> dict[str, Any] | None:
        """One animal, or None."""
        with self._lock:
            found = self._animals.search(where("cow_id") == cow_id)
            return dict(found[0]) if found else None

    def upsert_animal(self, cow_id: str, **fields: Any) -> None:
        """Enter an animal or change the given fields of one (JSON values).

        Raises:
            StoreError: too many documents, or the disk refuses; nothing is changed then.
        """
        one = where("cow_id") == cow_id
        with self._lock:  # TinyDB's own upsert would write the file twice
            if self._animals.contains(one):
                self._animals.update(fields, one)
            else:
                self._animals.insert({"cow_id": cow_id, **fields})

    def remove_animal(self, cow_id: str) -> bool:
        """Take an animal out; False if there was none.

        Raises:
            StoreError: the disk refuses; nothing is changed then.
        """
        with self._lock:
            return bool(self._animals.remove(where("cow_id") == cow_id))

    def contacts(self) -> tuple[list[Contact], list[Spoilt]]:
        """Those without a fault in the order they were entered, and the entries that have one."""
        with self._lock:
            return contacts_in({str(document.doc_id): document for document in self._contacts.all()})

    def put_contact(self, contact: Contact) -> None:
        """Enter a contact, or put it in the place of the one with its name, also of a spoilt one.

        Raises:
            StoreError: too many, or the disk refuses; nothing is changed then.
        """
        one = where("name") == contact.name
        fields = msgspec.to_builtins(contact)
        with self._lock:
            if self._contacts.contains(one):
                self._contacts.update(lambda document: _become(document, fields), one)
            elif len(self._contacts) >= CONTACTS_MAX:
                raise StoreError(
                    f"{self.path}: {CONTACTS_MAX} contacts are there already",
                    "`barn-gateway contact remove` those who have left",
                )
            else:
                self._contacts.insert(fields)

    def remove_contact(self, name: str) -> bool:
        """Take a contact out, also a spoilt one; False if there was none.

        Raises:
            StoreError: the disk refuses; nothing is changed then.
        """
        with self._lock:
            return bool(self._contacts.remove(where("name") == name))

    def close(self) -> None:
        """Release the register. Every change is on disk already."""
        with self._lock:
            self._db.close()


def _become(document: Any, fields: dict[str, Any]) -> None:
    """Also what a hand has written beside the fields goes."""
    document.clear()
    document.update(fields)
