"""A register as the running gateway sees it: looked at every other second, read when it has changed.

Runs in a worker thread and never writes. What a person has broken changes nothing that is in force,
and is told once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from gateway.store.links import followed

Content = TypeVar("Content")


class Found(msgspec.Struct, Generic[Content], frozen=True):
    """What a look has brought.

    Args:
        content: in force from now on; None = as before.
        fault: why the file cannot be used as it is; what was in force stays in force.
    """

    content: Content | None = None
    fault: str | None = None


class Wording(msgspec.Struct, frozen=True):
    """The ends of a fault's sentence.

    Args:
        kept: what was in force stays.
        nothing: there is nothing that could be in force.
    """

    kept: str
    nothing: str


class RegisterLook(Generic[Content]):
    """The looks at one file.

    Args:
        path: the file; may be missing, may be a link.
        decode: makes the content of the file's bytes; a ValueError says what is wrong with them.
        empty: the content where there never was a file.
        bytes_max: what a file holds at most; a larger one is a fault.
        wording: of the faults.
    """

    def __init__(
        self,
        path: Path,
        decode: Callable[[bytes], Content],
        *,
        empty: Content,
        bytes_max: int,
        wording: Wording,
    ) -> None:
        self.path = path
        self._decode = decode
        self._empty = empty
        self._bytes_max = bytes_max
        self._wording = wording
        self._seen: tuple[int, ...] | None = None
        self._fault: str | None = None
        self._loaded = False
        self._was_there = False

    def look(self) -> Found[Content]:
        """What is new. A fault is told once; a first look at a broken file takes its previous version."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return self._without_file()
        except OSError as error:
            return self._failed(f"cannot be read: {error.strerror}")
        seen = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if seen == self._seen:
            return Found()
        try:
            content = self._read(self.path)
        except OSError as error:
            return self._failed(f"cannot be read: {error.strerror}")
        except ValueError as error:  # decoding faults are ValueErrors too
            self._seen = seen
            return self._failed(str(error))
        self._seen, self._fault = seen, None
        self._loaded = self._was_there = True
        return Found(content)

    def _without_file(self) -> Found[Content]:
        """Nothing in it where there never was a file; one that has vanished is a fault."""
        self._seen = None
        if self._was_there or self._previous_path().exists():
            return self._failed("is missing")
        self._fault = None
        if self._loaded:
            return Found()
        self._loaded = True
        return Found(self._empty)

    def _failed(self, what: str) -> Found[Content]:
        """Say it, unless it was said; before anything was in force, the previous version comes in."""
        if what == self._fault:
            return Found()
        self._fault = what
        if self._loaded:
            return Found(None, f"{self.path}: {what}; {self._wording.kept}")
        try:
            content = self._read(self._previous_path())
        except (OSError, ValueError):
            return Found(None, f"{self.path}: {what}; {self._wording.nothing}")
        self._loaded = self._was_there = True
        return Found(content, f"{self.path}: {what}; the version before it is in force")

    def _previous_path(self) -> Path:
        path = followed(self.path)
        return path.with_name(path.name + ".previous")

    def _read(self, path: Path) -> Content:
        """Raises OSError, or ValueError saying what is wrong with the content."""
        with path.open("rb") as file:
            text = file.read(self._bytes_max + 1)
        if len(text) > self._bytes_max:
            raise ValueError(f"is larger than {self._bytes_max} bytes")
        try:
            return self._decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"is damaged: {error}") from None
