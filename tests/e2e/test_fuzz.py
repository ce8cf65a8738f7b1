"""Rubbish at the front door of the real process, beside a client that must not notice.

Some connections are hypothesis' (a failing one is shrunk and printed), the others mutants of valid
sessions, many at once (a failing one is printed with its seed; FUZZ_SEED=… repeats a run). Whatever is
sent: the process stays up, what it answers is MQTT, it closes when the client has closed, and it holds
no file and no memory for it afterwards.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings

from tests.bench.generator import Plan
from tests.bench.processes import open_files, rss_mb, running_load
from tests.e2e.gateway_process import GatewayProcess, running_gateway, until
from tests.e2e.streams import mutant, sessions
from tests.e2e.test_whole_barn import free_ports

WINDOW_MS = 20
SECTIONS: dict[str, dict[str, Any]] = {
    "store": {"commit_window_ms": WINDOW_MS},
    "detector_schedules": {"immediate_detection": {"interval_minutes": 2, "enabled": True}},
}
AT_ONCE = 8
CLOSING_S_MAX = 20.0
"""Until the gateway has closed what its client has half closed; a commit on a busy machine is in it."""
GROWTH_MB_MAX = 24.0
"""After a round of warming up. The bounds leave retained messages 16 MiB, and thousands of sessions."""
P99_BEYOND_WINDOW_MS_MAX = 100.0
"""Twice the 50 ms it is meant to see: the fuzz runs on the same machine."""
CI_SEED = "4"
FROM_SERVER = {0x20, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0}


class Extent(NamedTuple):
    """How many connections of each kind; a third of the mutants warm the process up."""

    generated: int
    mutants: int
    seed: str


def check_answer(answer: bytes) -> None:
    """Whole packets that a server may send, CONNACK first and once; the last may be cut by the close."""
    position = packets = 0
    while position < len(answer):
        first = answer[position]
        assert first in FROM_SERVER or first & 0xF0 == 0x30, f"byte 0x{first:02x} in {answer.hex()}"
        assert (first == 0x20) == (packets == 0), f"CONNACK is not packet 1 of {answer.hex()}"
        length = shift = 0
        position += 1
        while position < len(answer):
            digit = answer[position]
            length |= (digit & 0x7F) << shift
            shift += 7
            position += 1
            if not digit & 0x80:
                break
        position += length
        packets += 1


def send(port: int, pieces: list[bytes]) -> bytes:
    """Send them, half close, and return what came until the gateway closed."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=CLOSING_S_MAX) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                answer += chunk
        except TimeoutError:
            raise  # it owes an end
        except OSError:
            pass  # it may close while we speak
    return answer


async def send_async(port: int, pieces: list[bytes], *, rude: bool) -> bytes:
    """The same, among others; a rude client is gone without reading."""
    async with asyncio.timeout(CLOSING_S_MAX):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            with suppress(OSError):  # it may close while we speak
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if not rude:
                    writer.write_eof()
                    return await reader.read()
            return b""
        finally:
            writer.transport.abort()


class Mutants:
    """Mutated streams by number, many at once; tells which they were if one of them does harm."""

    def __init__(self, gateway: GatewayProcess, seed: str) -> None:
        self._gateway = gateway
        self._seed = seed
        self._latest: deque[str] = deque(maxlen=2 * AT_ONCE)

    async def send(self, numbers: range) -> None:
        left: Iterator[int] = iter(numbers)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._worker(left))
        except* (AssertionError, OSError, TimeoutError) as faults:
            raise AssertionError(
                f"FUZZ_SEED={self._seed}: {faults.exceptions}; process: {self._gateway.process.poll()}; "
                f"streams before it, each tests.e2e.streams.mutant(…): {list(self._latest)}"
            ) from faults

    async def _worker(self, left: Iterator[int]) -> None:
        for number in left:
            seed = f"{self._seed}:{number}"
            pieces = mutant(seed)
            self._latest.append(seed)
            check_answer(await send_async(self._gateway.port, pieces, rude=number % 5 == 0))


def held(gateway: GatewayProcess) -> Counter[str]:
    """Files and sockets of the process, but for the store's: its few readers are opened when first wanted."""
    files = open_files(gateway.process.pid)
    return Counter({name: n for name, n in files.items() if not name.startswith(str(gateway.store))})


def generated(gateway: GatewayProcess, count: int, *, fixed: bool) -> None:
    """Hypothesis' streams, one after another."""

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(sessions())
    def one(pieces: list[bytes]) -> None:
        check_answer(send(gateway.port, pieces))
        assert gateway.process.poll() is None

    one()


def fuzz(home: Path, extent: Extent) -> float:
    """Both kinds beside a client that counts; returns its p99 beyond the commit window, in ms."""
    port, http_port = free_ports(2)
    plan = Plan(
        port,
        clients=1,
        count=200_000 if extent.mutants > 2000 else 20_000,
        in_flight=65535,
        rate=100.0,
        listeners=1,
        topic_filter="artemis/sensors/WELL-BEHAVED_0000",
        qos=1,
        name="WELL-BEHAVED",
    )
    with (
        running_gateway(home, port, http_port, **SECTIONS) as gateway,
        running_load(plan) as good,
    ):
        pid, mutants, warm = gateway.process.pid, Mutants(gateway, extent.seed), extent.mutants // 3
        good.step("connect")
        good.step("begin")
        files = held(gateway)
        asyncio.run(mutants.send(range(warm)))
        until(lambda: gateway.health()["broker"]["connections"] == 2, "the fuzz to be gone")
        before_mb = rss_mb(pid)

        asyncio.run(mutants.send(range(warm, extent.mutants)))
        generated(gateway, extent.generated, fixed=extent.seed == CI_SEED)

        assert gateway.process.poll() is None
        until(lambda: gateway.health()["broker"]["connections"] == 2, "the fuzz to be gone")
        until(lambda: held(gateway) == files, f"the files of before {files}, not {held(gateway)}")
        after_mb = rss_mb(pid)
        result = good.step("finish")
        p99_ms = result["p99_ms"] - WINDOW_MS
        print(
            f"\n{extent.mutants + extent.generated} fuzz connections; beside them {result['sent']:.0f} "
            f"publishes, PUBACK p99 {p99_ms:.1f} ms beyond the commit window, to the subscriber p99 "
            f"{result['receive_p99_ms']:.1f} ms; {files.total()} files before and after, "
            f"RSS {before_mb:.1f} → {after_mb:.1f} MB"
        )
        assert result["acknowledged"] == result["sent"] > 0
        assert result["received"] == result["sent"]
        assert (result["lost"], result["repeated"], result["disordered"]) == (0, 0, 0)
        assert after_mb - before_mb < GROWTH_MB_MAX
        assert gateway.health()["status"] == "healthy"
        assert "Traceback" not in gateway.log() + gateway.console()
    return p99_ms


@pytest.mark.rig
def test_two_thousand_connections_of_rubbish_are_not_noticed_by_the_client_beside_them(
    tmp_path: Path,
) -> None:
    fuzz(tmp_path, Extent(generated=800, mutants=1200, seed=os.environ.get("FUZZ_SEED", CI_SEED)))


@pytest.mark.soak
def test_fifty_thousand_connections_of_rubbish_neither(tmp_path: Path) -> None:
    seed = os.environ.get("FUZZ_SEED") or f"{random.SystemRandom().getrandbits(32)}"
    print(f"\nFUZZ_SEED={seed}")
    p99_ms = fuzz(tmp_path, Extent(generated=10_000, mutants=40_000, seed=seed))
    assert p99_ms < P99_BEYOND_WINDOW_MS_MAX


def test_a_stream_of_a_seed_is_always_the_same() -> None:
    assert [mutant(f"1:{number}") for number in range(50)] == [mutant(f"1:{number}") for number in range(50)]
    assert len({b"".join(mutant(f"1:{number}")) for number in range(50)}) > 45
