from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.drivers.systemd import Systemd


def listener(address: str) -> socket.socket:
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.settimeout(5)
    ear.bind(address)
    return ear


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_every_message_arrives_as_one_datagram(kind: str, tmp_path: Path) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"barn-gateway-test-{os.getpid()}"
    with listener(name if kind == "path" else "\0" + name) as ear:
        manager = Systemd({"NOTIFY_SOCKET": name if kind == "path" else "@" + name})
        manager.ready()
        manager.status("5 animals\nREADY=0")
        manager.watchdog()
        manager.stopping()
        got = [ear.recv(200) for _ in range(4)]
        manager.close()
        manager.watchdog()
    assert got == [b"READY=1", b"STATUS=5 animals READY=0", b"WATCHDOG=1", b"STOPPING=1"]
    assert manager.unsent == 0


def test_without_the_variable_nothing_happens() -> None:
    manager = Systemd({})
    manager.ready()
    manager.close()
    assert manager.watchdog_s is None
    assert manager.unsent == 0


def test_a_manager_that_went_away_is_counted_and_does_not_raise(tmp_path: Path) -> None:
    manager = Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    manager.ready()
    manager.close()
    assert manager.unsent == 1


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval_is_ours_only(environ: dict[str, str], seconds: float | None) -> None:
    assert Systemd(environ).watchdog_s == seconds
