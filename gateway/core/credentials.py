"""Who may speak, and how a token is checked (decision 34). Pure; used on the event loop and by commands.

A device has an id, a role and a token. Tokens are random, 128 bits or more, so that guessing is
hopeless and one HMAC-SHA-256 is enough: a thousand logins after a power cut cost some milliseconds,
where a password hash would cost minutes. Only digests are kept. Their key makes a digest worthless
in another installation, where the same device may have another token; it keeps no secret that the
digests would not keep by themselves, which is why it may lie in the same file.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from gateway.core.topics import ROLE_CONCENTRATOR, ROLE_OPERATOR, ROLE_SENSOR

Role = Literal["sensor", "concentrator", "operator"]
ALL: Final = "all"

ROLES_OF: Final[dict[Role, frozenset[str]]] = {
    "sensor": frozenset({ROLE_SENSOR}),
    "concentrator": frozenset({ROLE_SENSOR, ROLE_CONCENTRATOR}),
    # A dashboard or phone reads what sensors say, and commands; a stolen phone must not be able to
    # say that a cow is healthy, so it is no sensor.
    "operator": frozenset({ROLE_OPERATOR}),
}
"""What each kind of device is to the route table."""

DEVICE_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""As a cow_id (decision 9): by default a collar has its animal's id (decision 40)."""
SESSION_MARK: Final = "/"
"""Ends the device's id in a client id. No id can hold it, so `COW_1/a` is nobody's but COW_1's."""

DEVICES_MAX: Final = 5120
"""5000 collars (decision 9) and 120 concentrators, phones and tools."""
SPOKEN_FOR_MAX: Final = 10_000
"""Ids listed by all concentrators together: each of 5000 animals in reach of two of them."""
LABEL_CHARACTERS_MAX: Final = 100
TOKEN_BYTES_MAX: Final = 256
"""A longer password is no token of ours; hashing 64 KiB of it would cost 100 times a login."""
KEY_BYTES_MIN: Final = 16

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY = bytes(32)


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the device register.

    Args:
        id: user name of its logins, and the beginning of its client ids.
        role: what it is; see `ROLES_OF`.
        digest: of its token, see `token_digest`; 64 hexadecimal digits.
        speaks_for: of a concentrator: the animals it may name, or "all". Others: empty.
        created_ms: UTC epoch milliseconds.
        rotated_ms: when it got its present token.
        label: a note for people.
    """

    id: str
    role: Role
    digest: str
    speaks_for: tuple[str, ...] | Literal["all"] = ()
    created_ms: int = 0
    rotated_ms: int = 0
    label: str = ""

    @property
    def names(self) -> frozenset[str] | None:
        """Ids it may use where a topic names a device; None = any."""
        if self.role == "operator" or self.speaks_for == ALL:
            return None
        return frozenset((self.id, *self.speaks_for))


def token_digest(key: bytes, device_id: str, token: bytes) -> bytes:
    """What is kept of a token; another device's is different even with the same token."""
    return hmac.digest(key, device_id.encode() + b"\0" + token, "sha256")


def may_hold(device_id: str, client_id: str) -> bool:
    """Whether a session with this client id belongs to the device: `COW_1` or `COW_1/anything`."""
    return client_id == device_id or client_id.startswith(device_id + SESSION_MARK)


def id_fault(device_id: str) -> str | None:
    """Why this may not be a device's id, or None."""
    if DEVICE_ID.fullmatch(device_id) is not None:
        return None
    return f"{device_id[:80]!r} is no device id: 1 to 64 of A-Z a-z 0-9 _ . : -"


def device_fault(device: Device) -> str | None:
    """What is wrong with one entry, or None."""
    fault = id_fault(device.id)
    if fault is not None:
        return fault
    if _DIGEST.fullmatch(device.digest) is None:
        return f"{device.id}: its digest must be 64 hexadecimal digits"
    if len(device.label) > LABEL_CHARACTERS_MAX or not device.label.isprintable():
        return f"{device.id}: its label must be one line of at most {LABEL_CHARACTERS_MAX} characters"
    if device.role != "concentrator" and device.speaks_for:
        return f"{device.id}: only a concentrator speaks for others; a {device.role} must not have speaks_for"
    if device.role == "concentrator" and not device.speaks_for:
        return f'{device.id}: a concentrator needs speaks_for: a list of animals, or "all"'
    if device.speaks_for != ALL:
        wrong = next(filter(None, map(id_fault, device.speaks_for)), None)
        if wrong is not None:
            return f"{device.id}: speaks_for: {wrong}"
    return None


class Roster:
    """The devices that may speak now; never changed, only replaced.

    Args:
        key: of this installation; may be empty where there are no devices.
        devices: at most `DEVICES_MAX`.

    Raises:
        ValueError: an entry is wrong, there twice, or one too many; says which.
    """

    def __init__(self, key: bytes = b"", devices: Iterable[Device] = ()) -> None:
        self._key = key
        self._devices: dict[str, tuple[Device, bytes]] = {}
        for device in devices:
            fault = device_fault(device)
            if fault is not None:
                raise ValueError(fault)
            if device.id in self._devices:
                raise ValueError(f"{device.id} is there twice")
            self._devices[device.id] = (device, bytes.fromhex(device.digest))
        fault = bounds_fault([device for device, _ in self._devices.values()])
        if fault is not None:
            raise ValueError(fault)
        if self._devices and len(key) < KEY_BYTES_MIN:
            raise ValueError(f"the key of the installation is missing or shorter than {KEY_BYTES_MIN} bytes")

    def __len__(self) -> int:
        return len(self._devices)

    def get(self, device_id: str) -> Device | None:
        """The device of this id."""
        found = self._devices.get(device_id)
        return None if found is None else found[0]

    def check(self, device_id: str, token: bytes) -> Device | None:
        """The device, if the token is its own. An unknown one costs the same as a wrong token."""
        if len(token) > TOKEN_BYTES_MAX:
            return None
        device, expected = self._devices.get(device_id, (None, _NOBODY))
        right = hmac.compare_digest(token_digest(self._key, device_id, token), expected)
        return device if right else None

    def owner(self, client_id: str) -> Device | None:
        """The device whose session this client id names, if it is registered."""
        return self.get(client_id.partition(SESSION_MARK)[0])


def bounds_fault(devices: Sequence[Device]) -> str | None:
    """Whether there are too many of them, or None."""
    if len(devices) > DEVICES_MAX:
        return f"{len(devices)} devices; at most {DEVICES_MAX} can be registered"
    spoken_for = sum(len(one.speaks_for) for one in devices if one.speaks_for != ALL)
    if spoken_for > SPOKEN_FOR_MAX:
        return f'the concentrators list {spoken_for} animals; at most {SPOKEN_FOR_MAX} in all, or "all"'
    return None


_RANGE = re.compile(r"(?P<stem>.*?)(?P<first>[0-9]+)\.\.(?P=stem)(?P<last>[0-9]+)")


def spelled_out(words: Iterable[str]) -> list[str]:
    """Ids, with each range `COW_001..COW_200` written out; in order.

    Raises:
        ValueError: no id, no range, one twice, or more than `DEVICES_MAX`.
    """
    found: dict[str, None] = {}
    for word in words:
        for one in _one_or_range(word):
            fault = id_fault(one)
            if fault is not None:
                raise ValueError(fault)
            if one in found:
                raise ValueError(f"{one} is named twice")
            found[one] = None
            if len(found) > DEVICES_MAX:
                raise ValueError(f"more than {DEVICES_MAX} ids")
    return list(found)


def _one_or_range(word: str) -> Iterable[str]:
    if ".." not in word:
        return (word,)
    match = _RANGE.fullmatch(word)
    if match is None:
        raise ValueError(f"{word[:140]!r} is no range; write it like COW_001..COW_200")
    first, last, width = int(match["first"]), int(match["last"]), len(match["first"])
    if first > last or len(match["last"]) != width:
        raise ValueError(f"{word[:140]!r}: both ends need the same number of digits, the smaller first")
    return (f"{match['stem']}{number:0{width}d}" for number in range(first, last + 1))
