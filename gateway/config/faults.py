"""One fault of a configuration: where it is, in which key, and what to do. Pure."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True):
    """Where a value was written: a file and a line (0 = nowhere in it), or a variable."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one key.

    Args:
        place: where the operator has to look.
        path: dotted key, e.g. `mqtt.reconnect.max_delay`; empty for the file as a whole.
        text: what is wrong and the remedy; never quotes a secret.
    """

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.text}" if self.path else f"{self.place}: {self.text}"


class Contradiction(msgspec.Struct, frozen=True):
    """Keys that are each right and do not fit together; the first path is where to look."""

    paths: tuple[str, ...]
    text: str
