"""The device register: who may speak, in `data/devices.json`, edited by commands and by people.

Two sides that never meet in one process: `DeviceRegister` changes the file, in the main thread of a
command, with the other commands locked out; `DeviceFile` looks at it for the gateway, in a worker
thread, and never writes. Each change is one atomic replacement, so a look sees one version whole.

The key of the digests lies in the same file. A file of its own would protect nothing (tokens are
random, their digests can be published), and losing it alone would lock every collar out.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tinydb import TinyDB, where

from gateway.core.credentials import DEVICES_MAX, Device, Roster, bounds_fault, device_fault
from gateway.errors import StoreError
from gateway.store.atomic_json import AtomicJsonStorage, Kind
from gateway.store.links import followed
from gateway.store.register_lock import locked
from gateway.store.register_look import Found, RegisterLook, Wording

KEY_BYTES = 32
"""Of HMAC-SHA-256: as long as its output."""
REGISTER_BYTES_MAX = 6 * 1024 * 1024
"""Above the fullest register: 5120 devices × 730 bytes (400 of them a label of 100 four-byte signs) +
10,000 ids spoken for × 75 = 4.5 MB. It is checked in a worker thread."""

DEVICE_FILE = Kind(
    documents_max=DEVICES_MAX + 1,  # and the one with the key
    when_full="`barn-gateway device remove` those that are gone",
    backup_time=lambda _: None,  # an old list would let in who was put out
    mode=0o600,
)
"""The device register on disk."""


class _Installation(msgspec.Struct, frozen=True):
    key: str


class _Content(msgspec.Struct, frozen=True):
    installation: dict[str, _Installation] = {}
    devices: dict[str, Device] = {}


class DeviceRegister:
    """An open register, for one command. Use `changing`.

    Attributes:
        path: the file.
        recovered_from: what had to be done to get a readable file, or None.
    """

    @classmethod
    @contextmanager
    def changing(cls, path: Path) -> Iterator[DeviceRegister]:
        """Open it with other commands locked out until the block ends; a missing one is empty.

        Raises:
            StoreError: the directory refuses, or an entry that a person has edited is wrong.
        """
        path = followed(path)
        with locked(path):
            register = cls(AtomicJsonStorage(path, DEVICE_FILE))
            try:
                yield register
            finally:
                register.close()

    def __init__(self, storage: AtomicJsonStorage) -> None:
        self.path = storage.path
        self.recovered_from = storage.recovered_from
        self._db = TinyDB(storage=lambda: storage)
        self._installation = self._db.table("installation", cache_size=0)
        self._devices = self._db.table("devices", cache_size=0)

    def key(self) -> bytes:
        """Of this installation; made with the first call.

        Raises:
            StoreError: it is no key, or the disk refuses.
        """
        found = self._installation.all()
        if not found:
            self._installation.insert({"key": secrets.token_hex(KEY_BYTES)})
            found = self._installation.all()
        try:
            return bytes.fromhex(found[0]["key"])
        except (KeyError, TypeError, ValueError):
            raise self._wrong("the key of the installation is no hexadecimal number") from None

    def devices(self) -> list[Device]:
        """All of them, in the order they were added.

        Raises:
            StoreError: an entry is wrong; names it.
        """
        return [self._device(document) for document in self._devices.all()]

    def add(self, devices: Sequence[Device]) -> None:
        """Enter new ones, all or none, in one write.

        Raises:
            StoreError: too many, or the disk refuses; nothing is changed then.
        """
        self._check_bounds([*self.devices(), *devices])
        self._devices.insert_multiple(msgspec.to_builtins(device) for device in devices)

    def change(self, devices: Iterable[Device]) -> None:
        """Put these in the place of those with their ids, in one write.

        Raises:
            StoreError: the disk refuses; nothing is changed then.
        """
        by_id = {device.id: device for device in devices}

        def renew(document: Any) -> None:
            document.update(msgspec.to_builtins(by_id[document["id"]]))

        self._check_bounds([by_id.get(device.id, device) for device in self.devices()])
        self._devices.update(renew, where("id").test(by_id.__contains__))

    def remove(self, ids: Sequence[str]) -> None:
        """Take them out, in one write; those that are not there are passed over.

        Raises:
            StoreError: the disk refuses; nothing is changed then.
        """
        self._devices.remove(where("id").test(set(ids).__contains__))

    def close(self) -> None:
        """Release the register. Every change is on disk already."""
        self._db.close()

    def _device(self, document: Any) -> Device:
        try:
            device = msgspec.convert(dict(document), Device)
        except msgspec.ValidationError as error:
            raise self._wrong(f"the device {document.get('id', '?')!r}: {error}") from None
        fault = device_fault(device)
        if fault is not None:
            raise self._wrong(fault)
        return device

    def _check_bounds(self, devices: Sequence[Device]) -> None:
        fault = bounds_fault(devices)
        if fault is not None:
            raise StoreError(f"{self.path}: {fault}", DEVICE_FILE.when_full)

    def _wrong(self, what: str) -> StoreError:
        return StoreError(
            f"{self.path}: {what}", "correct it there, or put the `.previous` version in its place"
        )


_WORDING = Wording(
    kept="the devices known so far stay in force",
    nothing="no device can log in until it is put right",
)


class DeviceFile:
    """The register as the gateway sees it.

    Args:
        path: the file; may be missing, may be a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RegisterLook(
            path, _decoded, empty=Roster(), bytes_max=REGISTER_BYTES_MAX, wording=_WORDING
        )

    def look(self) -> Found[Roster]:
        """What is new. A fault is told once; a first look at a broken file takes its previous version."""
        return self._file.look()


def _decoded(text: bytes) -> Roster:
    """Raises ValueError saying what is wrong with it; msgspec's errors are such."""
    content = msgspec.json.decode(text, type=_Content)
    key = next((one.key for one in content.installation.values()), "")
    return Roster(bytes.fromhex(key), content.devices.values())
