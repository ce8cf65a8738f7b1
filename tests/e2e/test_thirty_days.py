"""A barn over days, in lockstep with a clock the data drives: the buzzer begins once for one episode."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from gateway import wiring
from gateway.app import Gateway
from gateway.core.alerts import sounds
from gateway.core.delivery import Delivered
from gateway.drivers.clock import ManualClock
from gateway.drivers.uplink_mqtt import MqttUplink, UplinkTarget
from sensor_sim.episodes import Episode, Kind, Plan
from sensor_sim.herd import Herd

START_MS = 1_764_028_800_000  # 2025-11-25T00:00:00Z
COWS = tuple(f"COW_{n:03d}" for n in range(1, 5))
SEEN_AFTER_MS = 7 * 60_000
"""Somebody hears the buzzer in the yard, finishes what they do, and presses the button."""
DAY_S = 86_400


def troubles(days: int) -> list[Episode]:
    """Every day and a half a fever of 10 h, by turns; a stuck collar and a gap of 3 h every third day."""
    plans = [
        Plan(Kind.FEVER, COWS[n % len(COWS)], round((0.6 + 1.5 * n) * DAY_S), 10 * 3600, rise_s=3600)
        for n in range(int(days / 1.5))
    ]
    for n in range(max(1, days // 3)):
        plans.append(Plan(Kind.STUCK, COWS[(n + 2) % len(COWS)], round((0.4 + 3 * n) * DAY_S), 6 * 3600))
        plans.append(Plan(Kind.SILENT, COWS[(n + 4) % len(COWS)], round((1.1 + 3 * n) * DAY_S), 3 * 3600))
    return [plan.at(START_MS) for plan in plans]


class Ear:
    """Hears each change of the panel, as a person beside it would, and presses the button later."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._sounding = False
        self._heard: set[tuple[str, str, int]] = set()
        self.gateway: Gateway | None = None
        self.begun: list[set[tuple[str, str, int]]] = []
        self.twice: list[str] = []
        self.press_at_ms: int | None = None

    def change(self, line: str) -> None:
        """A line of the panel; the buzzer begins where it was silent before."""
        was, self._sounding = self._sounding, "silent" not in line
        if not self._sounding:
            self.press_at_ms = None
            return
        if was or self.gateway is None:
            return
        self.press_at_ms = self._clock.now_ms() + SEEN_AFTER_MS
        episodes = {
            (alert.subject, alert.kind, alert.episode)
            for alert in self.gateway.alarm.open_alerts
            if sounds(alert)
        }
        if not episodes - self._heard:
            self.twice.append(f"{line} at {self._clock.now_ms()}: {sorted(episodes)}")
        self._heard |= episodes
        self.begun.append(episodes)

    async def press(self) -> None:
        """The button, when its time has come; what still sounds then is pressed again later."""
        if self.gateway is None or self.press_at_ms is None or self._clock.now_ms() < self.press_at_ms:
            return
        self.press_at_ms = self._clock.now_ms() + SEEN_AFTER_MS
        await self.gateway.alarm.acknowledge(alert_id=None, who="button", origin="button")


async def days_in_the_barn(home: Path, days: int) -> tuple[Ear, list[Episode]]:
    clock, episodes = ManualClock(START_MS), troubles(days)
    ear = Ear(clock)
    config = wiring.private_config(home)
    herd = Herd(COWS, seed=5, episodes=episodes)
    timed = herd.timed(START_MS, days * 1440)
    async with Gateway(config, clock, own_schedule=False, panel_line=ear.change) as gateway:
        ear.gateway = gateway
        sender = MqttUplink(UplinkTarget("127.0.0.1", gateway.broker.port, client_id="barn"))
        try:
            for minute, rows in itertools.groupby(timed, key=lambda row: row[0] // 60_000):
                await clock.advance_to((minute + 1) * 60_000)
                answers = await asyncio.gather(
                    *(
                        sender.deliver(f"artemis/sensors/{cow_id}", msgspec.json.encode(reading))
                        for _, cow_id, reading in rows
                    )
                )
                assert all(isinstance(answer, Delivered) for answer in answers)
                await gateway.jobs.tick()
                await gateway.alarm.tick()
                await ear.press()
        finally:
            await sender.close()
    return ear, episodes


def check(ear: Ear, episodes: list[Episode]) -> None:
    assert ear.twice == []
    fevers = {episode.cow_id for episode in episodes if episode.kind is Kind.FEVER}
    heard = {subject for begun in ear.begun for subject, kind, _ in begun if kind == "fever"}
    assert heard == fevers  # or nothing would be shown by silence


@pytest.mark.rig
def test_in_two_days_the_buzzer_begins_once_for_each_episode(tmp_path: Path) -> None:
    check(*asyncio.run(days_in_the_barn(tmp_path, 2)))


@pytest.mark.soak
def test_in_thirty_days_the_buzzer_begins_once_for_each_episode(tmp_path: Path) -> None:
    check(*asyncio.run(days_in_the_barn(tmp_path, 30)))
