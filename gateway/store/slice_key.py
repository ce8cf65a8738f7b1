"""A period (an hour or a day since 1970) and an animal as one whole number, time first. Pure.

The key of packed hours and of days of hourly figures: what is written together lies together, and a row
id is appended to at the end of its B-tree. Readings as they came have a key of their own (store/hot.py).
"""

from __future__ import annotations

ANIMAL_BITS = 16
"""Room for 65,535 animals; decision 9 admits 5000."""


def of(period: int, animal: int) -> int:
    """The key of an animal's hour or day."""
    return period << ANIMAL_BITS | animal


def apart(key: int) -> tuple[int, int]:
    """(period, animal)."""
    return key >> ANIMAL_BITS, key & (1 << ANIMAL_BITS) - 1
