"""What a destination answered, and how long to wait before asking again."""

from __future__ import annotations

import msgspec


class Delivered(msgspec.Struct, frozen=True):
    """The destination has it and said so."""


class RetryLater(msgspec.Struct, frozen=True):
    """The line or the destination is down; nothing is lost, try again."""

    why: str


class Rejected(msgspec.Struct, frozen=True):
    """The destination has understood and will never take it; count it and go on."""

    why: str
