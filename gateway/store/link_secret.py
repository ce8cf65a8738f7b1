"""The secret that signs the links in notifications. Function over a connection; writes once."""

from __future__ import annotations

import secrets
import sqlite3

from gateway.core.links import SECRET_BYTES
from gateway.store import meta

_KEY = "link_secret"


def link_secret(db: sqlite3.Connection) -> bytes:
    """The store's own, made when it is asked for first; a backup holds it, so links outlive a restore."""
    kept = meta.get(db, _KEY)
    if kept is None:
        kept = secrets.token_hex(SECRET_BYTES)
        meta.put(db, _KEY, kept)
    return bytes.fromhex(str(kept))
