"""One command at a time on the registers of a folder. Runs in the main thread of a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.store.atomic_json import make_folder
from gateway.store.faults import file_error

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Others that ask for it wait until the block ends; a gateway that only looks is not held up.

    An advisory lock on the folder, freed by the kernel when we die, so nothing is left to clean up.

    Args:
        path: the register, links followed; its folder is made where it is missing.

    Raises:
        StoreError: the folder refuses.
    """
    try:
        make_folder(path.parent)
        fd = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error(path, error, "run it as root or as the gateway's user") from error
    try:
        if sys.platform != "win32":
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
