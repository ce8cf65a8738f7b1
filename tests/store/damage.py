"""Ways to damage a store file, and what can still be read of it by its own pages."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

PAGE = 4096
LEAF, INTERIOR = 0x0D, 0x05  # of a table


def page_of(data: bytes, number: int) -> bytes:
    """Numbered from 1, as SQLite does."""
    return data[(number - 1) * PAGE : number * PAGE]


def replaced(data: bytes, number: int, page: bytes) -> bytes:
    return data[: (number - 1) * PAGE] + page + data[number * PAGE :]


def zeroed(data: bytes, *numbers: int) -> bytes:
    for number in numbers:
        data = replaced(data, number, bytes(PAGE))
    return data


def flipped(data: bytes, seed: int, bits: int, first: int = 0) -> bytes:
    """Single bits, anywhere from byte `first` on."""
    dice, damaged = random.Random(seed), bytearray(data)
    for _ in range(bits):
        damaged[dice.randrange(first, len(data))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def root_of(store: Path, table: str) -> int:
    with closing(sqlite3.connect(store)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(root)


def leaves(data: bytes, root: int) -> dict[int, int]:
    """Leaf page → its rows, of a table; what hangs below a damaged page is left out."""
    page = page_of(data, root)
    if len(page) < PAGE:
        return {}
    cells = int.from_bytes(page[3:5], "big")
    if page[0] == LEAF:
        return {root: cells}
    if page[0] != INTERIOR:
        return {}
    at = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
    children = [int.from_bytes(page[a : a + 4], "big") for a in at] + [int.from_bytes(page[8:12], "big")]
    return {leaf: rows for child in children for leaf, rows in leaves(data, child).items()}
