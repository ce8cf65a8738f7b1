"""The herd: cows with collars, one reading a minute each, the same for the same seed. Pure.

What a herd says depends on seed, cow names, start and episodes, never on the clock, the
speed or the sink. Each cow draws from a generator of her own, so a herd of 50 begins with
the same cows as a herd of 12.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import count
from zlib import crc32

import numpy as np

from sensor_sim.episodes import CIRCADIAN_BLUNTING, FEVER_PLATEAU_C, Episode, Kind
from sensor_sim.errors import SimError
from sensor_sim.physiology import NORMALS, STATES, Minute, Physiology, Traits
from sensor_sim.times import DAY_MS, iso

Reading = dict[str, str | float]
"""A message as document 0 has it, before encoding."""

COWS_MAX = 5000
"""The gateway's own bound on animals (decision 9)."""
_BLOCK_STEPS = 60
_SECOND_STRIDE = 37
"""Prime to 60, so the first 60 collars send at 60 different seconds of the minute."""


def cow_names(cows: int) -> tuple[str, ...]:
    """`COW_001`, `COW_002`, … for 1 to COWS_MAX cows; `SimError` otherwise."""
    if not 1 <= cows <= COWS_MAX:
        raise SimError(f"{cows} cows: a herd has 1 to {COWS_MAX}")
    return tuple(f"COW_{number:03d}" for number in range(1, cows + 1))


def encode(reading: Reading) -> bytes:
    """The payload of a reading: document 0's JSON object, keys in its order, no spaces."""
    return json.dumps(reading, separators=(",", ":")).encode()


def topic_of(cow_id: str) -> str:
    """Where a cow's readings are published."""
    return f"artemis/sensors/{cow_id}"


class Herd:
    """Cows and what will happen to them.

    Args:
        cows: how many (named by `cow_names`), or the names themselves.
        seed: anything from 0; the same seed gives the same bytes.
        episodes: labelled faults and fevers; their cows must be in the herd.
        interval_s: seconds between a collar's readings.
        gyro: send the optional gyro axes.
        state: send the optional behaviour.
    """

    def __init__(
        self,
        cows: int | Sequence[str],
        seed: int = 1,
        *,
        episodes: Sequence[Episode] = (),
        interval_s: int = 60,
        gyro: bool = True,
        state: bool = True,
    ) -> None:
        self.cow_ids = cow_names(cows) if isinstance(cows, int) else tuple(cows)
        if seed < 0 or interval_s < 1:
            raise SimError("the seed must be 0 or more and the interval at least 1 s")
        strangers = sorted({episode.cow_id for episode in episodes} - set(self.cow_ids))
        if strangers:
            raise SimError(
                f"{', '.join(strangers)} is not in the herd ({self.cow_ids[0]} to {self.cow_ids[-1]})"
            )
        self.episodes = tuple(episodes)
        self._seed = seed
        self._interval_s = interval_s
        self._gyro = gyro
        self._state = state

    def readings(self, start_ms: int, minutes: float | None = None) -> Iterator[tuple[str, Reading]]:
        """Readings as `(cow_id, message)`; see `timed`."""
        for _, cow_id, reading in self.timed(start_ms, minutes):
            yield cow_id, reading

    def timed(self, start_ms: int, minutes: float | None = None) -> Iterator[tuple[int, str, Reading]]:
        """Readings as `(timestamp_ms, cow_id, message)` in order of time.

        Every call starts the herd afresh. `minutes` None goes on for ever. Timestamps are
        whole seconds in [start, start + minutes), each cow at her own second of the interval.
        """
        interval_s = self._interval_s
        seconds = np.array([_SECOND_STRIDE * index % interval_s for index in range(len(self.cow_ids))])
        order = np.argsort(seconds, kind="stable")
        overlays = {
            index: _Overlay([e for e in self.episodes if e.cow_id == cow_id])
            for index, cow_id in enumerate(self.cow_ids)
            if any(e.cow_id == cow_id for e in self.episodes)
        }
        steps = count() if minutes is None else range(math.ceil(minutes * 60 / interval_s))
        end_ms = math.inf if minutes is None else start_ms + minutes * 60_000
        bodies = self._bodies(start_ms, seconds)
        for step, minute in zip(steps, bodies, strict=False):
            base_ms = start_ms + step * interval_s * 1000
            rows = self._rows(minute)
            for index in order:
                timestamp_ms = base_ms + int(seconds[index]) * 1000
                reading = rows[index]
                reading["timestamp"] = iso(timestamp_ms)
                overlay = overlays.get(int(index))
                silent = overlay is not None and overlay.apply(
                    timestamp_ms, reading, float(minute.mean_c[index]), float(minute.circadian_c[index])
                )
                if not silent and timestamp_ms < end_ms:
                    yield timestamp_ms, self.cow_ids[index], reading

    def _bodies(self, start_ms: int, seconds: np.ndarray) -> Iterator[Minute]:
        """The herd's steps for ever; deviates are drawn an hour at a time."""
        rngs = [np.random.default_rng([self._seed, crc32(cow_id.encode())]) for cow_id in self.cow_ids]
        traits = Traits.draw(rngs)
        first = np.stack([rng.standard_normal(NORMALS) for rng in rngs])
        body = Physiology(traits, first, step_min=self._interval_s / 60)
        step = 0
        while True:
            normals = np.stack([rng.standard_normal((_BLOCK_STEPS, NORMALS)) for rng in rngs], axis=1)
            uniforms = np.stack([rng.random(_BLOCK_STEPS) for rng in rngs], axis=1)
            for row in range(_BLOCK_STEPS):
                day_s = (start_ms + step * self._interval_s * 1000) % DAY_MS / 1000
                yield body.step((day_s + seconds) / 3600 % 24, normals[row], uniforms[row])
                step += 1

    def _rows(self, minute: Minute) -> list[Reading]:
        """One message a cow, document 0's fields in its order; the timestamp comes later."""
        rows: list[Reading] = []
        accelerations = minute.acceleration_g.tolist()
        gyros = minute.gyro_dps.tolist()
        states = minute.state.tolist()
        for index, temperature_c in enumerate(minute.temperature_c.tolist()):
            fxa, mya, rza = accelerations[index]
            row: Reading = {
                "cow_id": self.cow_ids[index],
                "timestamp": "",
                "temperature": temperature_c,
                "fxa": fxa,
                "mya": mya,
                "rza": rza,
            }
            if self._gyro:
                row["sxg"], row["lyg"], row["dzg"] = gyros[index]
            if self._state:
                row["state"] = STATES[states[index]]
            rows.append(row)
        return rows


class _Overlay:
    """One cow's episodes laid over her natural readings."""

    def __init__(self, episodes: list[Episode]) -> None:
        self._episodes = sorted(episodes, key=lambda e: e.kind is not Kind.FEVER)  # a frozen one freezes it
        self._held: dict[Episode, Reading] = {}

    def apply(self, timestamp_ms: int, reading: Reading, mean_c: float, circadian_c: float) -> bool:
        """Change `reading` in place; True when the collar sends nothing."""
        silent = False
        for episode in self._episodes:
            if not episode.covers(timestamp_ms):
                continue
            if episode.kind is Kind.FEVER:
                _heat(episode.fever_level(timestamp_ms), reading, mean_c, circadian_c)
            elif episode.kind is Kind.STUCK:
                self._hold(episode, reading, ("fxa", "mya", "rza"))
            elif episode.kind is Kind.FROZEN:
                self._hold(episode, reading, ("temperature",))
            else:
                silent = True
        return silent

    def _hold(self, episode: Episode, reading: Reading, fields: tuple[str, ...]) -> None:
        """Repeat what the first reading of the episode said."""
        held = self._held.setdefault(episode, {field: reading[field] for field in fields})
        reading.update(held)


def _heat(level: float, reading: Reading, mean_c: float, circadian_c: float) -> None:
    """Lift a temperature towards the plateau; a full fever hides most of the daily rhythm."""
    lift_c = level * (FEVER_PLATEAU_C - mean_c - CIRCADIAN_BLUNTING * circadian_c)
    reading["temperature"] = round(float(reading["temperature"]) + lift_c, 2)
