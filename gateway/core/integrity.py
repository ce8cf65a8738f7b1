"""What a look through a store finds. Pure values; store/integrity looks, the command line tells."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

RESTORE = "restore a backup: barn-gateway restore FILE"

Progress = Callable[[str, int, int], None]
"""Told (what is looked at, done, of how many); 0 of 0 while that is not known."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that is not as it was written.

    Args:
        place: the file, and where in it.
        what: what is wrong there.
        remedy: what the operator can do.
    """

    place: str
    what: str
    remedy: str = RESTORE
