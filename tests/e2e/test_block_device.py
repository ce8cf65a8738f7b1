"""Power cuts at the block device: what an ext4 held at an instant, mounted again (decision 29).

kill -9 leaves the page cache alive; a power cut does not. Here the store lies on an ext4 in an image
file. Under load the gateway is stopped between two of its system calls, the image is copied as it is
(`Card.freeze_copy` says why that is one instant), and the gateway goes on. The copy is then mounted
like a card after a power cut: the journal is replayed, the store opened, its log recovered.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.store import history
from gateway.store.database import Database
from gateway.store.opening import open_readonly
from gateway.store.readings import append
from tests.bench.barn_day import HOUR_MS, START_MS, arrivals
from tests.bench.block_device import Card, format_card, mounted, why_not
from tests.conftest import ROOT
from tests.e2e.gateway_process import GatewayProcess, running_gateway
from tests.e2e.publishers import Acked, Keys, assert_stored_once, publish_until_cut

PUBLISHERS = 100
CARD_BYTES = 64 * 1024 * 1024
STORE = Path("barn/data/alert_state.db")
DRAIN_TURNS = 20
"""Turns of the event loop in which publishers read what the stopped gateway had already sent."""


@pytest.fixture
def card_image(tmp_path: Path) -> Path:
    """A formatted card; where the kernel gives no right to mount one, or has no loop devices, a skip."""
    why = why_not()
    if why is not None:
        pytest.skip(why)
    image = tmp_path / "card.img"
    format_card(image, CARD_BYTES)
    return image


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Two loopback ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


async def _cut(gateway: GatewayProcess, card: Card, copy: Path, acked: Acked) -> Keys:
    """One simulated power cut; returns what had been acknowledged before it.

    Whatever the gateway had sent when it was stopped lies in the publishers' receive buffers, and is
    counted in before the copy begins: the copy must hold all of it.
    """
    pid = gateway.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(DRAIN_TURNS):
            await asyncio.sleep(0)
        keys = set(acked.keys)
        card.freeze_copy(copy)
    finally:
        os.kill(pid, signal.SIGCONT)
    return keys


async def _cuts(gateway: GatewayProcess, card: Card, copies: list[Path], dice: random.Random) -> list[Keys]:
    """Cut after every few hundred acknowledgements, while everybody goes on publishing."""
    acked = Acked()
    due = []
    async with asyncio.timeout(300), asyncio.TaskGroup() as publishers:
        tasks = [
            publishers.create_task(publish_until_cut(gateway.port, f"COW_{n:03d}", [0], acked))
            for n in range(PUBLISHERS)
        ]
        for copy in copies:
            await acked.more(dice.randrange(100, 1500))
            due.append(await _cut(gateway, card, copy, acked))
        for task in tasks:
            task.cancel()
    return due


def power_cuts(home: Path, image: Path, port: int, http_port: int, *, cuts: int, seed: int) -> None:
    copies = [home / f"cut-{number:03d}.img" for number in range(cuts)]
    with (
        mounted(image, home / "mount") as card,
        running_gateway(
            card.mount / STORE.parts[0], port, http_port, store={"commit_window_ms": 20}
        ) as gateway,
    ):
        due = asyncio.run(_cuts(gateway, card, copies, random.Random(seed)))
    logs = set()
    for copy, acked in zip(copies, due, strict=True):
        with mounted(copy, home / "after") as card:
            log = card.mount / STORE.with_name(f"{STORE.name}-wal")
            logs.add(log.read_bytes()[12:16])  # its header's checkpoint sequence number
            database = Database.open(card.mount / STORE)  # replays the log, checks, migrates
            database.close_now()
            stored = assert_stored_once(card.mount / STORE, acked)
        copy.unlink()
    print(
        f"{cuts} cuts in {len(logs)} logs, the last with {len(due[-1])} acknowledged and {stored} stored"
        f" (seed {seed})"
    )
    assert len(due[-1]) > 100 * cuts
    assert len(logs) > 1, "no cut saw a log that a checkpoint had begun anew; publish more between cuts"


@pytest.mark.rig
def test_thirty_power_cuts_at_the_block_device_lose_nothing_acknowledged(
    tmp_path: Path, card_image: Path, free_ports: tuple[int, int]
) -> None:
    power_cuts(tmp_path, card_image, *free_ports, cuts=30, seed=20261122)


@pytest.mark.soak
def test_300_power_cuts_at_the_block_device_lose_nothing_acknowledged(
    tmp_path: Path, card_image: Path, free_ports: tuple[int, int]
) -> None:
    power_cuts(tmp_path, card_image, *free_ports, cuts=300, seed=int.from_bytes(os.urandom(4), "big"))


PACKED_ANIMALS, PACKED_H = 60, 8
PACKING_WRITES = 130
"""Writes to the device that rolling up and packing them takes; the cuts are spread over these."""


def _wait_for_writes(card: Card, process: subprocess.Popen[str], writes: int) -> None:
    """Return when the device has taken so many more writes, or nobody is left to make them."""
    target = card.traffic().writes + writes
    while card.traffic().writes < target and process.poll() is None:
        time.sleep(0.0005)


def power_cuts_in_packing(home: Path, image: Path, *, cuts: int, seed: int) -> None:
    """Cut while a process rolls up and packs; each copy must hold every reading, in one place."""
    dice = random.Random(seed)
    sent = {
        (one.cow_id, one.timestamp_ms): one
        for hour in range(PACKED_H)
        for one in arrivals(PACKED_ANIMALS, hour, 1)
    }
    copies = [home / f"cut-{number:03d}.img" for number in range(cuts)]
    with mounted(image, home / "mount") as card:
        database = Database.open(card.mount / STORE)
        database.write_now(lambda db: append(db, list(sent.values())))
        database.close_now()
        command = [sys.executable, "-m", "tests.e2e.housekeeping_process", str(card.mount / STORE)]
        command.append(str(START_MS + (PACKED_H + 72) * HOUR_MS))
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            for copy in copies:
                _wait_for_writes(card, process, dice.randrange(1, 2 * PACKING_WRITES // cuts))
                process.send_signal(signal.SIGSTOP)
                card.freeze_copy(copy)
                process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.communicate()
    shares = []
    for copy in copies:
        with mounted(copy, home / "after") as card:
            Database.open(card.mount / STORE).close_now()
            with open_readonly(card.mount / STORE) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (packed,) = db.execute("SELECT ifnull(sum(rows_n), 0) FROM chunks").fetchone()
                (hot,) = db.execute("SELECT count(*) FROM hot_readings").fetchone()
                readings = [one for hour in history.raw(db, 0, 2**53) for one in hour]
        assert hot + packed == len(sent), "a reading lies in both places, or in none"
        assert {(one.cow_id, one.timestamp_ms) for one in readings} == sent.keys()
        shares.append(packed / len(sent))
        copy.unlink()
    print(f"{cuts} cuts, with {', '.join(f'{share:.0%}' for share in shares)} packed (seed {seed})")
    assert any(0 < share < 1 for share in shares), "no cut fell into the packing"


@pytest.mark.rig
def test_ten_power_cuts_while_hours_are_packed_leave_each_reading_in_one_place(
    tmp_path: Path, card_image: Path
) -> None:
    power_cuts_in_packing(tmp_path, card_image, cuts=10, seed=20261124)


@pytest.mark.soak
def test_a_hundred_power_cuts_while_hours_are_packed(tmp_path: Path, card_image: Path) -> None:
    power_cuts_in_packing(tmp_path, card_image, cuts=100, seed=int.from_bytes(os.urandom(4), "big"))
