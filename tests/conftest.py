"""Guards and shared fixtures for every test."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
GRACE_S = 2.0
"""A thread that was told to end gets this long to be gone."""


def _sockets() -> set[str]:
    """The sockets this process holds, by inode; empty where /proc does not exist."""
    found = set()
    if not Path("/proc/self/fd").is_dir():
        return found
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            target = str(entry.readlink())
        except OSError:  # closed since it was listed
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --real-pins tests/drivers/test_panel.py`, on a Pi with a panel."""
    parser.addoption("--real-pins", action="store_true", help="drive the panel wired to this Raspberry Pi")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Lamp and buzzer of a machine are left alone unless somebody asks."""
    if config.getoption("--real-pins"):
        return
    untouched = pytest.mark.skip(reason="needs a wired panel: pytest --real-pins")
    for item in items:
        if item.get_closest_marker("real_pins"):
            item.add_marker(untouched)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or a socket behind (tasks end with `asyncio.run`)."""
    threads_before = set(threading.enumerate())
    sockets_before = _sockets()
    yield
    deadline = time.monotonic() + GRACE_S
    while True:
        threads = [t for t in threading.enumerate() if t not in threads_before and t.is_alive()]
        sockets = _sockets() - sockets_before
        if not threads and not sockets:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: threads {[t.name for t in threads]}, sockets {sorted(sockets)}")
        for thread in threads:
            thread.join(timeout=0.05)
        if not threads:
            time.sleep(0.01)  # a closed socket leaves /proc within a moment


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    """Whether this process has the kernel's right to mount; root in a container often has not."""
    status = Path("/proc/self/status")
    if not status.exists():
        return False
    (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)


def need(tool: str) -> str:
    """Path of an outside program; missing is a failure in CI and a skip on a laptop."""
    found = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
    if found is None:
        message = (
            f"{tool} is not installed (Debian: apt-get install mosquitto mosquitto-clients sqlite3 strace)"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
