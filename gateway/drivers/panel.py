"""Lamp, buzzer and acknowledge button on GPIO pins (gpiozero), and a recorder that prints.

`show` is called on the event loop and only leaves a word for two threads of ours, which play
the rhythms (drivers/panel_player). The button calls back in a gpiozero thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from gpiozero import Button, GPIOZeroError

from gateway.core.rhythms import Beats, Patterns
from gateway.core.signals import Colour, Light, Signal, Sound, in_rhythm
from gateway.drivers.panel_button import BOUNCE_S, HOLD_S, Press
from gateway.drivers.panel_pins import Beeper, Lamp, Pins, is_pi, mock_factory, real_factory
from gateway.drivers.panel_player import Player
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

RECORDED_MAX = 256
"""Signals a recorder keeps; 256 × about 300 bytes = 77 KB."""


def line(signal: Signal) -> str:
    """`PANEL red, 0.25 s on 0.25 s off, buzzer 0.5/0.5 (fever COW_003)`."""
    heard = f"buzzer {_slashed(signal.sound.beats)}" if signal.sound is not None else "silent"
    return f"PANEL {signal.light.colour}, {_seen(signal.light.beats)}, {heard} ({signal.label})"


def _seen(beats: Beats) -> str:
    if len(beats) == 2:
        return f"{beats[0]:g} s on {beats[1]:g} s off"
    return f"{_slashed(beats)} s on/off"


def _slashed(beats: Beats) -> str:
    return "/".join(f"{beat:g}" for beat in beats)


class RecorderPanel:
    """A panel without hardware: remembers what it was told and prints each change.

    Args:
        on_change: gets one line per change, e.g. `print` or a logger's `info`.
        patterns: the rhythms of this installation.
    """

    def __init__(
        self, on_change: Callable[[str], None] | None = None, *, patterns: Patterns | None = None
    ) -> None:
        self.signals: deque[Signal] = deque(maxlen=RECORDED_MAX)
        self.signal: Signal | None = None
        self._on_change = on_change
        self._patterns = patterns or Patterns()

    def show(self, signal: Signal) -> None:
        """Remember a signal until the next one."""
        signal = in_rhythm(signal, self._patterns)
        if signal == self.signal:
            return
        self.signal = signal
        self.signals.append(signal)
        if self._on_change is not None:
            self._on_change(line(signal))

    def close(self) -> None:
        """Dark and silent."""
        self.signal = None


class GpioPanel:
    """The panel on the wall.

    Args:
        pins: the wiring.
        patterns: the rhythms of this installation.
        on_acknowledge: called in a gpiozero thread when the button was pressed and let go.
        on_test: called in a gpiozero thread when the button has been held for `hold_s`; exactly
            one of the two for each press.
        on_change: gets one line per change.
        hold_s: seconds.
        pin_factory: gpiozero's; None takes the one of this machine.

    Raises:
        ConfigError: a pin cannot be had; names the wiring and the reason.
    """

    def __init__(
        self,
        pins: Pins,
        *,
        patterns: Patterns | None = None,
        on_acknowledge: Callable[[], None] | None = None,
        on_test: Callable[[], None] | None = None,
        on_change: Callable[[str], None] | None = None,
        hold_s: float = HOLD_S,
        pin_factory: Any = None,
    ) -> None:
        self.signal: Signal | None = None
        self._patterns = patterns or Patterns()
        self._on_change = on_change
        self._players: list[Player[Any]] = []
        self._lamp: Lamp | None = None
        self._beeper: Beeper | None = None
        self._button: Any = None
        try:
            self._lamp = Lamp(pins, pin_factory)
            if pins.buzzer is not None:
                self._beeper = Beeper(pins.buzzer, pins, pin_factory)
            if pins.button is not None:
                self._button = Button(
                    pins.button, pull_up=True, bounce_time=BOUNCE_S, hold_time=hold_s, pin_factory=pin_factory
                )
        except (GPIOZeroError, OSError, ValueError) as fault:
            self.close()
            raise ConfigError(
                f"panel: {pins} cannot be used: {fault}",
                hint="check the BCM numbers, that no other program holds the pins, "
                "and that the user is in group gpio",
            ) from fault
        self._light_player = self._player("panel lamp", self._lamp.light, Colour.OFF)
        self._sound_player: Player[float | None] | None = None
        if self._beeper is not None:
            self._sound_player = self._player("panel buzzer", self._beeper.sound, None)
        if self._button is not None:
            self._listen(Press(on_acknowledge, on_test))

    def show(self, signal: Signal) -> None:
        """Play a signal until the next one. A change of words alone does not restart the rhythm."""
        signal = in_rhythm(signal, self._patterns)
        before, self.signal = self.signal, signal
        if signal == before:
            return
        if before is None or signal.light != before.light:
            self._light_player.play(_lit(signal.light))
        if self._sound_player is not None and (before is None or signal.sound != before.sound):
            self._sound_player.play(_sounded(signal.sound))
        if self._on_change is not None:
            self._on_change(line(signal))

    def close(self) -> None:
        """Dark and silent, pins released, threads ended. May be called twice."""
        self.signal = None
        for player in self._players:
            player.close()
        for device in (self._lamp, self._beeper, self._button):
            if device is not None:
                device.close()

    def _player(self, name: str, apply: Callable[[Any], None], rest: Any) -> Player[Any]:
        player = Player(name, apply, rest)
        self._players.append(player)
        return player

    def _listen(self, press: Press) -> None:
        self._button.when_pressed = press.down
        self._button.when_held = press.held
        self._button.when_released = press.up


def _lit(light: Light) -> list[tuple[float, Colour]]:
    return [
        (seconds, Colour.OFF if number % 2 else light.colour) for number, seconds in enumerate(light.beats)
    ]


def _sounded(sound: Sound | None) -> tuple[tuple[float, float | None], ...]:
    return sound.steps if sound is not None else ()


def make(
    kind: str,
    pins: Pins,
    *,
    patterns: Patterns | None = None,
    on_acknowledge: Callable[[], None] | None = None,
    on_test: Callable[[], None] | None = None,
    on_change: Callable[[str], None] | None = None,
) -> GpioPanel:
    """The panel of this machine.

    Args:
        kind: "gpio" (the pins, or an error), "mock" (gpiozero's MockFactory), or "auto": the
            pins on a Raspberry Pi, else the mock. On a Pi whose pins cannot be had, "auto"
            says so at ERROR level and goes on with the mock: a barn with a dead lamp still
            wants its alerts sent.
        pins: the wiring.
        patterns: the rhythms of this installation.
        on_acknowledge: called in a gpiozero thread after a short press of the button.
        on_test: called in a gpiozero thread once the button has been held for 3 s.
        on_change: gets one line per change.

    Raises:
        ConfigError: "gpio" was asked for and cannot be had, or the wiring is impossible.
    """

    def on(pin_factory: Any) -> GpioPanel:
        return GpioPanel(
            pins,
            patterns=patterns,
            on_acknowledge=on_acknowledge,
            on_test=on_test,
            on_change=on_change,
            pin_factory=pin_factory,
        )

    if kind == "gpio" or (kind == "auto" and is_pi()):
        try:
            return on(real_factory())
        except ConfigError as fault:
            if kind == "gpio":
                raise
            log.error("No light and no sound: %s", fault)  # noqa: TRY400 - the sentence says it all
    return on(mock_factory())
