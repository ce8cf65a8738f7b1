"""What a person gets for a new device: its password, a line to try, a code to scan, a list to keep."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import segno

from gateway.core.credentials import ALL, Device
from gateway.core.instants import iso_utc
from gateway.errors import StoreError
from gateway.provisioning import Door, Login

ALERTS: Final = "artemis/alerts/+/+"
EXAMPLE_ANIMAL: Final = "COW_001"
WHITE_ON_BLACK: Final = "\x1b[97;40m"
"""Light modules are drawn, dark ones left out; scanners want it that way round, also on a white terminal."""
PLAIN: Final = "\x1b[0m"
CSV_COLUMNS: Final = ("id", "role", "password", "host", "port", "tls", "uri")


def example_animal(device: Device) -> str | None:
    """An animal it may send a reading of; None if it sends none."""
    if device.role == "operator":
        return None
    if device.role == "sensor":
        return device.id
    return EXAMPLE_ANIMAL if device.speaks_for == ALL else device.speaks_for[0]


def uri(login: Login, door: Door, pattern: str) -> str:
    """Everything a tool needs, as `mosquitto_pub -L` and other tools read it; the client id is the user name.

    Args:
        login: device and token.
        door: where the broker is.
        pattern: topic of readings, its last level `+`.
    """
    device, host = login.device, f"[{door.host}]" if ":" in door.host else door.host
    animal = example_animal(device) if device.role == "sensor" else None
    topic = "" if animal is None else quote(_topic(pattern, animal))
    user = quote(device.id, safe="")
    return f"mqtt{'s' * door.tls}://{user}:{quote(login.token, safe='')}@{host}:{door.port}/{topic}"


def trial(login: Login, door: Door, pattern: str) -> str:
    """A line for the shell: sends one valid reading, or for an operator shows open alerts."""
    device, animal = login.device, example_animal(login.device)
    words = ["mosquitto_sub" if animal is None else "mosquitto_pub", "-h", door.host, "-p", str(door.port)]
    if door.tls:
        words += ["--cafile", door.ca_file] if door.ca_file else ["--tls-use-os-certs"]
    words += ["-i", device.id, "-u", device.id, "-P", login.token, "-q", "1"]
    if animal is None:
        return shlex.join([*words, "-v", "-t", ALERTS])
    reading = {"cow_id": animal, "timestamp": iso_utc(time.time_ns() // 1_000_000)}
    reading |= {"temperature": 38.6, "fxa": 0.12, "mya": -0.04, "rza": -0.98}  # type: ignore[dict-item]
    return shlex.join([*words, "-t", _topic(pattern, animal), "-m", json.dumps(reading)])


def qr(text: str) -> str:
    """The text as a QR code for a terminal: two modules a character, black on white whatever its colours."""
    shown = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(shown, compact=True)
    return "\n".join(f"{WHITE_ON_BLACK}{line}{PLAIN}" for line in shown.getvalue().splitlines())


def as_object(login: Login, door: Door, pattern: str) -> dict[str, object]:
    """The same for programs."""
    device = login.device
    return {
        "id": device.id,
        "role": device.role,
        "speaks_for": device.speaks_for if device.speaks_for == ALL else list(device.speaks_for),
        "password": login.token,
        "host": door.host,
        "port": door.port,
        "tls": door.tls,
        "uri": uri(login, door, pattern),
        "try": trial(login, door, pattern),
    }


def write_csv(path: Path, logins: Sequence[Login], door: Door, pattern: str) -> None:
    """A new file that only its owner may read, on the disk when this returns.

    Raises:
        StoreError: it is there already, or cannot be written.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for login in logins:
        told = as_object(login, door, pattern)
        rows.writerow([told[column] for column in CSV_COLUMNS])
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise StoreError(f"{path}: is there already; nothing was changed", "name a new file") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; nothing was changed", "name another file") from error
    try:
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"{path}: {error.strerror}; nothing was changed", "name another file") from error


def _topic(pattern: str, animal: str) -> str:
    return f"{pattern.removesuffix('+')}{animal}"
