"""Alerts and health → light and sound (decision 19). Pure data; drivers/panel plays it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Colour(StrEnum):
    """Lamp colours; each state also has its own rhythm, for colour-blind people."""

    OFF = "off"
    GREEN = "green"
    AMBER = "amber"
    RED = "red"
    BLUE = "blue"


class Light(msgspec.Struct, frozen=True):
    """A blinking lamp. A working gateway always blinks: dark or steady means dead."""

    colour: Colour
    on_s: float
    off_s: float


class Sound(msgspec.Struct, frozen=True):
    """A buzzer rhythm, repeated until told otherwise."""

    name: str
    on_s: float
    off_s: float


class Signal(msgspec.Struct, frozen=True):
    """What the panel shows now. `label` is the word a log and the laptop print."""

    label: str
    light: Light
    sound: Sound | None = None
