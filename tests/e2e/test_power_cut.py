"""Acknowledged means on disk (decision 29): kill -9 under load, and the order of system calls."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
from pathlib import Path

import aiomqtt
import pytest

from tests.conftest import need
from tests.e2e.gateway_process import GatewayProcess, running_gateway, until
from tests.e2e.publishers import Acked, Keys, assert_stored_once, message, publish_until_cut

PUBLISHERS = 200


async def _round(gateway: GatewayProcess, next_: dict[str, list[int]], keys: Keys, grow: int) -> None:
    """Let everybody publish until `grow` more readings are acknowledged, then pull the plug."""
    acked = Acked()
    async with asyncio.timeout(60), asyncio.TaskGroup() as publishers:
        for cow_id, numbers in next_.items():
            publishers.create_task(publish_until_cut(gateway.port, cow_id, numbers, acked))
        await acked.more(grow)
        gateway.process.kill()
    keys |= acked.keys


def kill_rounds(home: Path, rounds: int, seed: int) -> tuple[int, int]:
    """Pull the plug `rounds` times; returns how many readings were acknowledged and stored."""
    dice = random.Random(seed)
    next_ = {f"COW_{n:03d}": [0] for n in range(PUBLISHERS)}
    acked: Keys = set()
    for _ in range(rounds):
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            b.bind(("127.0.0.1", 0))
            port, http_port = a.getsockname()[1], b.getsockname()[1]
        with running_gateway(home, port, http_port, store={"commit_window_ms": 20}) as gateway:
            asyncio.run(_round(gateway, next_, acked, dice.randrange(100, 600)))
            gateway.process.wait(timeout=10)
    return len(acked), assert_stored_once(home / "data" / "alert_state.db", acked)


def test_three_kills_under_200_publishers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    acked, stored = kill_rounds(tmp_path / "barn", rounds=3, seed=20261121)
    print(f"{acked} acknowledged, {stored} stored")
    assert acked >= 300


@pytest.mark.rig
def test_thirty_kills_under_200_publishers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    acked, stored = kill_rounds(tmp_path / "barn", rounds=30, seed=20261121)
    print(f"{acked} acknowledged, {stored} stored")
    assert acked >= 3000


@pytest.mark.soak
def test_300_kills_under_200_publishers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    acked, stored = kill_rounds(tmp_path / "barn", rounds=300, seed=seed)
    print(f"{acked} acknowledged, {stored} stored")


RECEIVED = re.compile(r"^\d+ .*(?:recvfrom|recv|read)\(.*(STRACE_\d+)")
WAL_WRITE = re.compile(r"^(\d+) .*pwrite64\(\d+<[^>]*-wal>")
WAL_SYNC = re.compile(r"^(\d+) .*(?:fdatasync|fsync)\(\d+<[^>]*-wal>(\)\s+= 0)?(\s*<unfinished)?")
SYNC_RESUMED = re.compile(r"^(\d+) .*<\.\.\. (?:fdatasync|fsync) resumed>.*= 0")
PUBACK = re.compile(r'^\d+ .*(?:sendto|sendmsg|write|writev)\(\d+<(?:TCP|socket).*?"@\\2')


def _replay_trace(trace: str) -> int:
    """Every PUBACK must follow a finished sync of a WAL write that followed its PUBLISH."""
    received_at: list[int] = []
    write_at = synced_write_at = -1
    syncing: dict[str, int] = {}
    acks = 0
    for at, line in enumerate(trace.splitlines()):
        if RECEIVED.match(line):
            received_at.append(at)
        elif match := WAL_WRITE.match(line):
            write_at = at
        elif match := WAL_SYNC.match(line):
            if match[2]:
                synced_write_at = write_at
            else:
                syncing[match[1]] = write_at
        elif match := SYNC_RESUMED.match(line):
            if match[1] in syncing:
                synced_write_at = syncing.pop(match[1])
        elif PUBACK.match(line):
            assert acks < len(received_at), f"a PUBACK before its PUBLISH: {line}"
            assert synced_write_at > received_at[acks], (
                f"PUBACK {acks + 1} left before the sync that holds its reading had returned: {line}"
            )
            acks += 1
    return acks


def test_no_puback_leaves_before_its_wal_sync_returned(tmp_path: Path, free_port: int) -> None:
    strace = need("strace")
    trace_file = tmp_path / "trace.txt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http_port = probe.getsockname()[1]
    # -D: the gateway stays our own child, the tracer is the grandchild.
    wrap = (strace, "-D", "-f", "-y", "-s", "200", "-o", str(trace_file), "-e")
    calls = "trace=recvfrom,recvmsg,read,sendto,sendmsg,write,writev,pwrite64,fdatasync,fsync"
    with running_gateway(
        tmp_path / "barn", free_port, http_port, (*wrap, calls), store={"commit_window_ms": 20}
    ) as gateway:
        asyncio.run(_publish_one_by_one(gateway.port, 30))

    def trace() -> str:
        return trace_file.read_text(encoding="utf-8", errors="replace")

    until(lambda: trace().rstrip().endswith("+++ exited with 0 +++"), "the end of the trace")
    assert _replay_trace(trace()) == 30


async def _publish_one_by_one(port: int, count: int) -> None:
    async with asyncio.timeout(60), aiomqtt.Client("127.0.0.1", port, timeout=20) as client:
        for number in range(count):
            topic, payload = message(f"STRACE_{number}", number)
            await client.publish(topic, payload, qos=1)
