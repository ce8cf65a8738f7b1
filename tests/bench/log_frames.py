"""Which pages a commit puts into the write-ahead log, by table (https://sqlite.org/fileformat2.html#walformat)."""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

_HEADER_BYTES = 32
_FRAME_HEADER = struct.Struct(">IIQQ")  # page number, pages in the file if it ends a commit, salts, checksums


class Frames(NamedTuple):
    """The log since it was last begun anew.

    Attributes:
        commits: transactions in it.
        pages: frames in it.
        by_table: frames by the table or index the page belongs to.
    """

    commits: int
    pages: int
    by_table: Counter[str]

    @property
    def per_commit(self) -> float:
        return self.pages / self.commits


def frames(store: Path) -> Frames:
    """Read the log beside a store; an open one, or its pages would be folded into the file."""
    log = store.with_name(f"{store.name}-wal").read_bytes()
    page_bytes = int.from_bytes(log[8:12], "big")
    salts = int.from_bytes(log[16:24], "big")
    touched = []
    commits = 0
    for at in range(_HEADER_BYTES, len(log) - page_bytes, _FRAME_HEADER.size + page_bytes):
        page, file_pages, frame_salts, _ = _FRAME_HEADER.unpack_from(log, at)
        if frame_salts != salts:
            break  # left over from before
        touched.append(page)
        commits += file_pages > 0
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as db:
        owner = dict(db.execute("SELECT pageno, name || ' ' || pagetype FROM dbstat"))
    return Frames(commits, len(touched), Counter(owner.get(page, "free list") for page in touched))
