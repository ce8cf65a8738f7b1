"""How a healthy herd lies, stands, walks, feeds and keeps its temperature. Pure, vectorised over cows.

Motion is fitted to a real heifer's neck sensor (24 h, one sample a minute, axes in g, recorded
in 2020): behaviour shares, |a|, quantiles of |Δa| between successive minutes overall and per
behaviour, and the autocorrelation of log |Δa|. `TARGET_DELTA_G` are its figures; tests compare.

The model: behaviour is a semi-Markov chain with a diurnal pattern. Each bout has a neck
posture (pitch, roll) around which the head wanders; the size of the steps has a slow
log-normal volatility (calm and restless stretches). Acceleration is gravity turned into
that posture, its length jittering with the steps, plus sensor noise, in counts of 0.01 g.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STATES = ("lying", "standing", "feeding", "walking")

TARGET_DELTA_G = {0.05: 0.014, 0.10: 0.022, 0.25: 0.042, 0.50: 0.099, 0.75: 0.262, 0.90: 0.498, 0.95: 0.686}
"""Quantiles of |a_k − a_(k−1)|, g, of the real heifer's 1394 successive minutes."""

# By state, in the order of STATES. The posture means and the dwell medians are the heifer's.
_PITCH_RAD = np.array([0.28, 0.04, -0.35, 0.0])
_ROLL_RAD = np.array([0.0, -0.10, -0.13, -0.10])
_STEP_RAD = np.array([0.0285, 0.20, 0.33, 0.35])
_STEP_SPREAD = np.array([1.6, 0.82, 0.55, 0.4])
_PULL = np.array([0.30, 0.40, 0.50, 0.50])
_LENGTH_JITTER = np.array([0.20, 0.20, 0.20, 0.30])
_GYRO_DPS_PER_RAD = np.array([45.0, 55.0, 60.0, 80.0])
_DWELL_MIN = np.array([66.0, 20.0, 40.0, 1.5])
_DWELL_SPREAD = np.array([0.35, 0.9, 0.5, 0.5])

_STEP_RAD_MAX = 0.5
_ANGLE_RAD_MAX = 0.9
"""A neck bends this far from its usual posture (52°); it also keeps every axis within ±1.6 g."""
_BOUT_RAD = 0.10
_VOLATILITY_MEMORY = 0.5
_NOISE_G = 0.0045
_GYRO_DPS_MAX = 2000.0
_SAME_TRIPLES_MAX = 3
"""A living cow's triples repeat at most this often in a row (heifer: 13 pairs in 24 h, no
three); longer repeats belong to the stuck episode alone."""

NORMALS = 15
"""Normal deviates a cow uses per step; the slices below share them out."""
_VOLATILITY, _TURN, _LENGTH, _SENSOR, _GYRO = 0, slice(1, 3), 3, slice(4, 7), slice(7, 10)
_TEMPERATURE_SLOW, _TEMPERATURE_FAST, _BOUT, _DWELL = 10, 11, slice(12, 14), 14

_TEMPERATURE_SLOW_C = 0.04
_TEMPERATURE_FAST_C = 0.02
_TEMPERATURE_MEMORY = 0.98
"""A slow wander with a memory of about 50 minutes (drinking, rumination) under a thermometer's noise."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What makes a herd's cows differ; one row or entry a cow."""

    mean_c: Floats
    amplitude_c: Floats
    peak_h: Floats
    mount_rad: Floats
    restlessness: Floats
    gyro_bias_dps: Floats

    @classmethod
    def draw(cls, rngs: list[np.random.Generator]) -> Traits:
        """Each cow's traits from her own generator, so that a larger herd starts alike."""
        normals = np.stack([rng.standard_normal(10) for rng in rngs])
        bounded = np.clip(normals, -2.0, 2.0)
        return cls(
            mean_c=38.55 + 0.12 * bounded[:, 0],
            # 0.4–0.5 °C from trough to peak; evening maximum.
            amplitude_c=0.225 + 0.0125 * bounded[:, 1],
            peak_h=19.0 + 0.7 * bounded[:, 2],
            mount_rad=0.08 * bounded[:, 3:5],
            restlessness=np.exp(0.06 * bounded[:, 5]),
            gyro_bias_dps=0.6 * bounded[:, 6:9],
        )


@dataclass(frozen=True, slots=True)
class Minute:
    """One step of the whole herd, natural (before episodes), in wire units and rounding."""

    temperature_c: Floats
    mean_c: Floats
    circadian_c: Floats
    acceleration_g: Floats
    gyro_dps: Floats
    state: Ints


class Physiology:
    """The herd's bodies. `step` consumes one row of deviates a cow and returns what collars see."""

    def __init__(self, traits: Traits, first: Floats, *, step_min: float) -> None:
        """`first`: a row of NORMALS deviates a cow for the state at the start."""
        cows = len(first)
        self._traits = traits
        self._step_min = step_min
        self._state = np.where(first[:, _LENGTH] < 0.3, 0, 1).astype(np.int64)
        self._left_min = _DWELL_MIN[self._state] * np.exp(0.5 * first[:, _DWELL] - 0.5)
        self._volatility = first[:, _VOLATILITY].copy()
        self._bout = _BOUT_RAD * first[:, _BOUT]
        self._angle = self._posture()
        self._slow = first[:, _TEMPERATURE_SLOW].copy()
        self._last = np.full((cows, 3), np.nan)
        self._repeats = np.zeros(cows, dtype=np.int64)

    def step(self, hours: Floats, normals: Floats, uniform: Floats) -> Minute:
        """Advance one step.

        Args:
            hours: each cow's time of day, hours UTC.
            normals: [cows, NORMALS] standard normal deviates.
            uniform: [cows] deviates in [0, 1) for the choice of behaviour.
        """
        self._behave(hours, normals, uniform)
        state = self._state
        memory = _VOLATILITY_MEMORY
        self._volatility = (
            memory * self._volatility + np.sqrt(1.0 - memory * memory) * normals[:, _VOLATILITY]
        )
        spread = np.exp(_STEP_SPREAD[state] * self._volatility)
        size = np.minimum(_STEP_RAD[state] * self._traits.restlessness * spread, _STEP_RAD_MAX)
        pull = _PULL[state][:, None] * (self._posture() - self._angle)
        turn = size[:, None] * normals[:, _TURN] * np.array([1.0, 0.75])
        self._angle = np.clip(self._angle + pull + turn, -_ANGLE_RAD_MAX, _ANGLE_RAD_MAX)
        gyro = self._traits.gyro_bias_dps + (_GYRO_DPS_PER_RAD[state] * size)[:, None] * normals[:, _GYRO]
        temperature, circadian = self._temperature(hours, normals)
        return Minute(
            temperature_c=temperature.round(2),
            mean_c=self._traits.mean_c,
            circadian_c=circadian,
            acceleration_g=self._acceleration(size, normals),
            gyro_dps=np.clip(gyro, -_GYRO_DPS_MAX, _GYRO_DPS_MAX).round(2),
            state=state.copy(),
        )

    def _posture(self) -> Floats:
        """Where each neck rests in its present bout: [cows, (pitch, roll)], rad."""
        usual = np.stack([_PITCH_RAD[self._state], _ROLL_RAD[self._state]], axis=1)
        rest: Floats = usual + self._bout + self._traits.mount_rad
        return rest

    def _behave(self, hours: Floats, normals: Floats, uniform: Floats) -> None:
        """End bouts that are over and choose what follows."""
        self._left_min -= self._step_min
        for cow in np.flatnonzero(self._left_min <= 0):
            weights = _next_weights(float(hours[cow]))
            weights[self._state[cow]] = 0.0
            choice = np.searchsorted(np.cumsum(weights) / weights.sum(), uniform[cow], side="right")
            state = min(int(choice), len(STATES) - 1)
            self._state[cow] = state
            spread = np.exp(_DWELL_SPREAD[state] * normals[cow, _DWELL])
            self._left_min[cow] = max(1.0, _DWELL_MIN[state] * spread)
            self._bout[cow] = _BOUT_RAD * normals[cow, _BOUT]

    def _acceleration(self, size: Floats, normals: Floats) -> Floats:
        """Gravity in the collar's axes with the jitter of moving, 0.01 g counts."""
        jitter = np.clip(_LENGTH_JITTER[self._state] * size * normals[:, _LENGTH], -0.35, 0.35)
        length = 1.0 + jitter
        pitch, roll = self._angle[:, 0], self._angle[:, 1]
        exact = np.stack(
            [
                length * np.sin(pitch),
                length * np.cos(pitch) * np.sin(roll),
                -length * np.cos(pitch) * np.cos(roll),
            ],
            axis=1,
        )
        triple: Floats = (exact + _NOISE_G * normals[:, _SENSOR]).round(
            2
        ) + 0.0  # + 0.0: no "-0.0" on the wire
        self._repeats = np.where((triple == self._last).all(axis=1), self._repeats + 1, 1)
        stuck = self._repeats > _SAME_TRIPLES_MAX
        triple[stuck, 2] = (triple[stuck, 2] + 0.01).round(2)
        self._repeats[stuck] = 1
        self._last = triple
        return triple

    def _temperature(self, hours: Floats, normals: Floats) -> tuple[Floats, Floats]:
        """Temperature and its circadian part, °C."""
        traits = self._traits
        circadian = traits.amplitude_c * np.cos(2.0 * np.pi * (hours - traits.peak_h) / 24.0)
        memory = _TEMPERATURE_MEMORY**self._step_min
        self._slow = memory * self._slow + np.sqrt(1.0 - memory**2) * normals[:, _TEMPERATURE_SLOW]
        slow = _TEMPERATURE_SLOW_C * np.clip(self._slow, -2.5, 2.5)
        fast = _TEMPERATURE_FAST_C * np.clip(normals[:, _TEMPERATURE_FAST], -3.0, 3.0)
        return traits.mean_c + circadian + slow + fast, circadian


def _next_weights(hour: float) -> Floats:
    """Odds of the next behaviour by time of day: meals at dawn and dusk, rest at night."""
    meal = float(np.exp(-(((hour - 7.5) / 1.5) ** 2)) + np.exp(-(((hour - 17.5) / 1.5) ** 2)))
    night = 1.0 if hour < 5.0 or hour >= 21.0 else 0.0
    return np.array([0.42 + 0.15 * night, 0.42, 0.03 + 0.25 * meal, 0.25 - 0.15 * night])
