"""A store or register that is a link to another disk. Runs in the thread of whoever opens it.

SQLite keeps its log beside the file itself, and a rename puts a new file in the place of a link. So
whoever looks beside a file or replaces it follows the link first.
"""

from __future__ import annotations

import os
from pathlib import Path


def followed(path: Path) -> Path:
    """The file that is meant; anything but a link is returned as it was given, also a relative path."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def log_of(path: Path) -> Path:
    """Where SQLite keeps the write-ahead log of this store."""
    file = followed(path)
    return file.with_name(file.name + "-wal")
