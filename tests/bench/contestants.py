"""The gateway and its peers, started for one round: what they listen on and whose CPU and memory counts."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.store.database import Database
from tests.bench.generator import Device, Plan
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
        plain_port: one without TLS beside `port`, for its own subscriber.
        devices: file with the passwords of its clients; None lets anybody in.
        cafile: the authority of its certificate; None is no TLS.
    """

    port: int
    pids: tuple[int, ...]
    store: Path | None = None
    pragmas: str = ""
    plain_port: int | None = None
    devices: Path | None = None
    cafile: Path | None = None

    def takes(self, plan: Plan) -> Plan:
        """The load as it goes to this one."""
        devices, cafile = (None if file is None else str(file) for file in (self.devices, self.cafile))
        return msgspec.structs.replace(plan, port=self.port, devices=devices, cafile=cafile)

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
def gateway(
    clients: int, *, listeners: int = 0, tls: bool = False, herd: bool = False
) -> Iterator[Contestant]:
    """A fresh gateway that knows its clients by their passwords; `herd`: each speaks for any animal."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as home:
        port, tls_port, sections = free_port(), free_port(), settings()
        devices = register(Path(home), clients, listeners, herd=herd)
        folder = Path(home) / "certificates"
        if tls:
            certificates(folder)
            sections["broker"]["tls"] = {"enabled": True, "port": tls_port}
        with running_gateway(Path(home), port, free_port(), **sections) as process:
            yield Contestant(
                tls_port if tls else port,
                (process.process.pid,),
                process.store,
                devices=devices,
                cafile=folder / "ca.crt" if tls else None,
            )


def register(home: Path, clients: int, listeners: int = 0, *, herd: bool = False) -> Path:
    """Enter the clients of a `Plan` as devices of the gateway in `home`; returns their passwords' file."""
    role = ("--role", "concentrator", "--speaks-for", "all") if herd else ()
    sensors = _command(home, "device", "add", f"COW_0000..COW_{clients - 1:04d}", *role, "--json")
    names = [f"COW-listener-{number}" for number in range(listeners)]
    people = _command(home, "device", "add", *names, "--role", "operator", "--json") if names else []
    found = [Device(one["id"], one["id"], one["password"]) for one in map(json.loads, (*sensors, *people))]
    file = home / "passwords.json"
    file.write_bytes(msgspec.json.encode(found))
    return file


def certificates(folder: Path) -> None:
    """The gateway's own authority and server certificate."""
    folder.mkdir()
    _command(folder, "certificates", "--folder", str(folder))


def _command(home: Path, *words: str) -> list[str]:
    """Lines that a command of the gateway prints."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


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
def mosquitto(folder: Path | None = None) -> Iterator[Contestant]:
    """Mosquitto alone, anonymous; with TLS if a folder of `certificates` is given."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as home:
        port, plain_port, config = free_port(), free_port(), Path(home) / "mosquitto.conf"
        lines = [
            f"user {getpass.getuser()}",  # as root it would become one who may not read the key
            "allow_anonymous true",
            "max_queued_messages 0",
            f"listener {port} 127.0.0.1",
        ]
        if folder is not None:
            lines += [
                f"certfile {folder}/server.crt",
                f"keyfile {folder}/server.key",
                f"listener {plain_port} 127.0.0.1",
            ]
        config.write_text("\n".join(lines) + "\n")
        with subprocess.Popen(
            [need("mosquitto"), "-c", str(config)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            try:
                until(lambda: _listens(port), "mosquitto to listen")
                yield Contestant(
                    port,
                    (process.pid,),
                    plain_port=plain_port if folder else None,
                    cafile=folder / "ca.crt" if folder else None,
                )
            finally:
                process.terminate()


@contextmanager
def document_0_stack(per_commit: int, *, tls: bool = False) -> Iterator[Contestant]:
    """Mosquitto, and the subscriber that stores (tests/bench/document_0_stack.py), which uses no TLS."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "certificates" if tls else None
        if folder is not None:
            certificates(folder)
        database = Path(home) / "peer.db"
        ready = Path(f"{database}.ready")
        with mosquitto(folder) as broker:
            plain_port = broker.plain_port or broker.port
            words = [sys.executable, "-m", "tests.bench.document_0_stack"]
            with subprocess.Popen(
                [*words, str(plain_port), str(database), str(per_commit)], cwd=ROOT
            ) as subscriber:
                try:
                    until(lambda: ready.exists() and ready.read_text(), "the subscription")
                    yield broker._replace(
                        pids=(*broker.pids, subscriber.pid), store=database, pragmas=ready.read_text()
                    )
                finally:
                    subscriber.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
