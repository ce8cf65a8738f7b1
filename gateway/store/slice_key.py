"""A period (an hour or a day since 1970) and an animal as one whole number, time first. Pure.

The key of packed hours and of days of hourly figures: what is written together lies together, and a row
id is appended to at the end of its B-tree. Readings as they came have a key of their own (store/hot.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

P = TypeVar("P", bound=Hashable)

ANIMAL_BITS = 16
"""Room for 65,535 animals; decision 9 admits 5000."""


def of(period: int, animal: int) -> int:
    """The key of an animal's hour or day."""
    return period << ANIMAL_BITS | animal


def apart(key: int) -> tuple[int, int]:
    """(period, animal)."""
    return key >> ANIMAL_BITS, key & (1 << ANIMAL_BITS) - 1


def by_period(slices: Iterable[tuple[P, int]]) -> Iterator[tuple[P, str]]:
    """Periods of (period, animal), each with its animals as a JSON list: for one statement a period.

    A commit of a herd holds hundreds of animals and one hour or two; SQLite walks a list with `json_each`
    in half of the time that as many statements take.
    """
    animals: dict[P, list[int]] = defaultdict(list)
    for period, animal in slices:
        animals[period].append(animal)
    return ((period, json.dumps(sorted(found))) for period, found in animals.items())
