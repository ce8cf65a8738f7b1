"""The farm register: what people edit (animals, later groups, contacts, fences, rules) in TinyDB.

Small, read often, written by hand. Calls are short but write to disk: from the event loop, call them
in a worker thread. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tinydb import TinyDB, where

from gateway.core.backups import farm_time
from gateway.store.atomic_json import AtomicJsonStorage, Kind

FARM_FILE = Kind(
    documents_max=2000,  # × about 200 bytes = 0.4 MB
    when_full="remove animals that have left the farm",
    backup_time=farm_time,
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

    def __init__(self, storage: AtomicJsonStorage) -> None:
        self.path = storage.path
        self.recovered_from = storage.recovered_from
        self._db = TinyDB(storage=lambda: storage)
        self._animals = self._db.table("animals", cache_size=0)
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

    def close(self) -> None:
        """Release the register. Every change is on disk already."""
        with self._lock:
            self._db.close()
