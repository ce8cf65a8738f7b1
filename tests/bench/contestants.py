"""The gateway and its peers, started for one round: what they listen on and whose CPU and memory counts."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gateway.store.database import Database
from tests.bench.processes import cpu_s, free_port, raise_file_limit, rss_mb
from tests.conftest import ROOT, need
from tests.e2e.gateway_process import running_gateway, until

WINDOW_MS = 20
"""Commit window of every round; the default of 500 ms is chosen for the card, and would hide the work."""
CONNECTIONS_MAX = 6000
STORED_S_MAX = 300.0


class Contestant(NamedTuple):
    """A broker that listens, and everything behind it.

    Args:
        port: where readings go.
        pids: all processes that do the work.
        store: where the readings end up; None for a broker alone.
        pragmas: what SQLite says about its journal and its syncs.
    """

    port: int
    pids: tuple[int, ...]
    store: Path | None = None
    pragmas: str = ""

    def cpu_s(self) -> float:
        return cpu_s(*self.pids)

    def rss_mb(self) -> float:
        return rss_mb(*self.pids)

    def await_stored(self, total: float) -> None:
        """Return when the store holds `total` readings; more is a fault."""
        assert self.store is not None
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=30)) as db:

            def stored() -> int:
                return int(db.execute("SELECT count(*) FROM sensor_data").fetchone()[0])

            until(lambda: stored() >= total, f"{total} stored readings", STORED_S_MAX)
            assert stored() == total, f"{stored()} stored of {total}"


def settings() -> dict[str, dict[str, Any]]:
    """Of every gateway here: detectors at their usual pace, room for the largest round."""
    return {
        "store": {"commit_window_ms": WINDOW_MS},
        "logging": {"level": "ERROR"},
        "detector_schedules": {"immediate_detection": {"interval_minutes": 2, "enabled": True}},
        "broker": {"limits": {"connections_max": CONNECTIONS_MAX}},
    }


@contextmanager
def gateway() -> Iterator[Contestant]:
    """A fresh gateway."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        with running_gateway(Path(home), port, free_port(), **settings()) as process:
            yield Contestant(port, (process.process.pid,), process.store)


def gateway_pragmas() -> str:
    """What the gateway's own writing connection says about itself."""
    with tempfile.TemporaryDirectory() as home:
        database = Database.open(Path(home) / "store.db")
        try:
            ((mode,), (synchronous,)) = database.write_now(
                lambda db: [
                    db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")
                ]
            )
        finally:
            database.close_now()
    return f"journal_mode={mode}, synchronous={synchronous}"


@contextmanager
def mosquitto(certificates: Path | None = None) -> Iterator[Contestant]:
    """Mosquitto alone, anonymous; with TLS if a directory with server.crt and server.key is given."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as home:
        port, config = free_port(), Path(home) / "mosquitto.conf"
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0"]
        if certificates is not None:
            lines += [f"certfile {certificates}/server.crt", f"keyfile {certificates}/server.key"]
        config.write_text("\n".join(lines) + "\n")
        with subprocess.Popen(
            [need("mosquitto"), "-c", str(config)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            try:
                until(lambda: _listens(port), "mosquitto to listen")
                yield Contestant(port, (process.pid,))
            finally:
                process.terminate()


@contextmanager
def document_0_stack(per_commit: int) -> Iterator[Contestant]:
    """Mosquitto, and the subscriber that stores (tests/bench/document_0_stack.py)."""
    with mosquitto() as broker, tempfile.TemporaryDirectory() as home:
        database = Path(home) / "peer.db"
        ready = Path(f"{database}.ready")
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.bench.document_0_stack",
                *map(str, (broker.port, database, per_commit)),
            ],
            cwd=ROOT,
        ) as subscriber:
            try:
                until(lambda: ready.exists() and ready.read_text(), "the subscription")
                yield Contestant(broker.port, (*broker.pids, subscriber.pid), database, ready.read_text())
            finally:
                subscriber.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
