"""Wire faults at their rates, and a player that never sends from the future."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sensor_sim.errors import SimError
from sensor_sim.faults import LATE_MAX, LATE_MIN, Transmission, WireFaults, transmissions
from sensor_sim.herd import Herd, encode
from sensor_sim.player import Player
from sensor_sim.times import MINUTE_MS

START_MS = 1_763_510_400_000


def wire(faults: WireFaults, minutes: int = 600) -> tuple[list[Transmission], list[tuple[str, str, int]]]:
    noted: list[tuple[str, str, int]] = []
    sent = list(
        transmissions(
            Herd(20, seed=2).timed(START_MS, minutes), faults, 2, lambda *fault: noted.append(fault)
        )
    )
    return sent, noted


def test_without_faults_everything_goes_once_and_on_time():
    sent, noted = wire(WireFaults(), 30)
    assert [t.payload for t in sent] == [encode(r) for _, r in Herd(20, seed=2).readings(START_MS, 30)]
    assert all(t.send_ms == t.timestamp_ms for t in sent)
    assert noted == []


def test_faults_come_at_the_stated_rates_and_are_labelled():
    sent, noted = wire(WireFaults(drop=0.05, duplicate=0.1, late=0.02))
    kinds = Counter(kind for kind, _, _ in noted)
    total = 20 * 600  # 3 standard deviations of a binomial: 0.6, 0.8 and 0.4 percentage points
    assert kinds["drop"] / total == pytest.approx(0.05, abs=0.006)
    assert kinds["duplicate"] / (total * 0.95) == pytest.approx(0.1, abs=0.009)
    assert kinds["late"] / (total * 0.95) == pytest.approx(0.02, abs=0.004)
    copies = Counter((t.cow_id, t.timestamp_ms) for t in sent)
    assert {key for key, n in copies.items() if n == 2} == {(c, s) for k, c, s in noted if k == "duplicate"}
    assert len(copies) == total - kinds["drop"]
    assert {(t.cow_id, t.timestamp_ms) for t in sent if t.send_ms > t.timestamp_ms} == {
        (c, s) for k, c, s in noted if k == "late"
    }


def test_late_readings_wait_their_minutes_and_order_is_by_sending():
    sent, _ = wire(WireFaults(late=0.1), 120)
    assert [t.send_ms for t in sent] == sorted(t.send_ms for t in sent)
    waits = {(t.send_ms - t.timestamp_ms) // MINUTE_MS for t in sent} - {0}
    assert min(waits) >= LATE_MIN
    assert max(waits) <= LATE_MAX


def test_faults_are_repeatable_and_leave_the_readings_alone():
    faults = WireFaults(drop=0.1, duplicate=0.1, late=0.1)
    assert wire(faults, 60) == wire(faults, 60)
    clean = {t.payload for t in wire(WireFaults(), 60)[0]}
    assert {t.payload for t in wire(faults, 60)[0]} <= clean


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(share: float):
    with pytest.raises(SimError, match="--drop"):
        WireFaults(drop=share)


class BarnClock:
    """A clock that moves only by sleeping."""

    def __init__(self, now_ms: float) -> None:
        self.now_ms = now_ms
        self.slept = 0

    def wall_ms(self) -> int:
        return int(self.now_ms)

    def monotonic_s(self) -> float:
        return self.now_ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.now_ms += 1000 * seconds


class Notebook:
    def __init__(self, clock: BarnClock) -> None:
        self.clock = clock
        self.sent: list[tuple[float, bytes]] = []

    async def send(self, topic: str, payload: bytes) -> None:
        self.sent.append((self.clock.now_ms, payload))


def play(
    speed: float | None, ago_min: int, minutes: int, *, live: bool = True
) -> tuple[Notebook, list[Transmission]]:
    clock = BarnClock(START_MS + ago_min * MINUTE_MS)
    sent = list(transmissions(Herd(3).timed(START_MS, minutes), WireFaults(), 1))
    notebook = Notebook(clock)
    player = Player(notebook, clock, start_ms=START_MS, speed=speed, live=live)
    asyncio.run(player.play(sent))
    assert player.sent == len(sent)
    return notebook, sent


@pytest.mark.parametrize("speed", [1, 7.5, 60, 5000, None])
@pytest.mark.parametrize("ago_min", [0, 30])
def test_no_reading_from_the_future_at_any_speed(speed: float | None, ago_min: int):
    notebook, sent = play(speed, ago_min, 90)
    assert all(at_ms >= t.timestamp_ms for (at_ms, _), t in zip(notebook.sent, sent, strict=True))
    assert [payload for _, payload in notebook.sent] == [t.payload for t in sent]


def test_sixty_times_faster_then_real_time():
    notebook, sent = play(60, ago_min=59, minutes=90)
    arrived_ms = [at_ms - START_MS - 59 * MINUTE_MS for at_ms, _ in notebook.sent]
    first_half_hour = [i for i, t in enumerate(sent) if t.timestamp_ms < START_MS + 30 * MINUTE_MS]
    assert arrived_ms[first_half_hour[-1]] == pytest.approx(30_000, abs=1_100)  # 30 barn minutes in 30 s
    assert notebook.sent[-1][0] == pytest.approx(sent[-1].timestamp_ms, abs=1)  # and live at the end


def test_without_pace_nothing_waits():
    notebook, _ = play(None, ago_min=0, minutes=90, live=False)
    assert notebook.clock.slept == 0
