"""A file that appears whole or not at all: temp file, fsync, rename, fsync of its directory.

Runs in the thread of whoever writes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """What the block writes becomes `path` when it ends well; otherwise `path` stays what it was.

    Raises:
        OSError: the directory cannot be written, or the disk is full.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temp.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:  # cleared away, then raised again
        temp.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some network file systems cannot sync a directory
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """A rename itself must survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
