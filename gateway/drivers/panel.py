"""Lamp, buzzer and acknowledge button on GPIO pins (gpiozero), and a recorder that prints.

`show` is called on the event loop and only starts or stops gpiozero's own background
threads, which do the blinking. The button calls back in a gpiozero thread.

Wiring: one RGB lamp (or three plain ones) on three pins, or a single plain lamp on one,
where the rhythm alone tells the states apart. Amber is red and green together. No PWM: it
needs nothing of the pin, and a killed process leaves a plain level that pull-downs and
`all_pins_off` can clear.
"""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from gpiozero import LED, RGBLED, Button, Buzzer, Device, GPIOZeroError, OutputDevice
from gpiozero.pins.mock import MockFactory

from gateway.core.signals import Colour, Signal
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

RECORDED_MAX = 256
"""Signals a recorder keeps; 256 × about 300 bytes = 77 KB."""
BOUNCE_S = 0.05
"""A push button settles within 10–20 ms; nobody presses twice in 50."""
PI_MODEL = Path("/proc/device-tree/model")
"""Where a Raspberry Pi says that it is one."""

_RGB = {
    Colour.OFF: (0, 0, 0),
    Colour.GREEN: (0, 1, 0),
    Colour.AMBER: (1, 1, 0),
    Colour.RED: (1, 0, 0),
    Colour.BLUE: (0, 0, 1),
}


class Pins(msgspec.Struct, frozen=True):
    """Where the panel is wired, in BCM numbers.

    Args:
        lamp: (red, green, blue), or one pin of a single plain lamp.
        buzzer: an active buzzer; None if there is none.
        button: to ground, the Pi's pull-up is used; None if there is none.
        lamp_active_high: False for a common-anode RGB lamp.
        buzzer_active_high: False for a buzzer module that sounds on a low level.
    """

    lamp: tuple[int, int, int] | int
    buzzer: int | None = None
    button: int | None = None
    lamp_active_high: bool = True
    buzzer_active_high: bool = True


def line(signal: Signal) -> str:
    """`PANEL red, 0.25 s on 0.25 s off, buzzer 0.5/0.5 (fever COW_003)`."""
    light, sound = signal.light, signal.sound
    heard = f"buzzer {sound.on_s:g}/{sound.off_s:g}" if sound is not None else "silent"
    return f"PANEL {light.colour}, {light.on_s:g} s on {light.off_s:g} s off, {heard} ({signal.label})"


class RecorderPanel:
    """A panel without hardware: remembers what it was told and prints each change.

    Args:
        on_change: gets one line per change, e.g. `print` or a logger's `info`.
    """

    def __init__(self, on_change: Callable[[str], None] | None = None) -> None:
        self.signals: deque[Signal] = deque(maxlen=RECORDED_MAX)
        self.signal: Signal | None = None
        self._on_change = on_change

    def show(self, signal: Signal) -> None:
        """Remember a signal until the next one."""
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
        on_acknowledge: called in a gpiozero thread when the button is pressed.
        on_change: gets one line per change.
        pin_factory: gpiozero's; None takes the one of this machine.

    Raises:
        ConfigError: a pin cannot be had; names the wiring and the reason.
    """

    def __init__(
        self,
        pins: Pins,
        *,
        on_acknowledge: Callable[[], None] | None = None,
        on_change: Callable[[str], None] | None = None,
        pin_factory: Any = None,
    ) -> None:
        self.signal: Signal | None = None
        self._on_change = on_change
        self._lamp: Any = None
        self._buzzer: Any = None
        self._button: Any = None
        try:
            self._lamp = _lamp(pins, pin_factory)
            if pins.buzzer is not None:
                self._buzzer = Buzzer(
                    pins.buzzer, active_high=pins.buzzer_active_high, pin_factory=pin_factory
                )
            if pins.button is not None:
                self._button = Button(
                    pins.button, pull_up=True, bounce_time=BOUNCE_S, pin_factory=pin_factory
                )
        except (GPIOZeroError, OSError, ValueError) as fault:
            self.close()
            raise ConfigError(
                f"panel: {pins} cannot be used: {fault}",
                hint="check the BCM numbers, that no other program holds the pins, "
                "and that the user is in group gpio",
            ) from fault
        if self._button is not None and on_acknowledge is not None:
            self._button.when_pressed = on_acknowledge

    def show(self, signal: Signal) -> None:
        """Play a signal until the next one. A change of words alone does not restart the rhythm."""
        before, self.signal = self.signal, signal
        if signal == before:
            return
        if before is None or signal.light != before.light:
            self._blink(signal)
        if self._buzzer is not None and (before is None or signal.sound != before.sound):
            if signal.sound is None:
                self._buzzer.off()
            else:
                self._buzzer.beep(signal.sound.on_s, signal.sound.off_s)
        if self._on_change is not None:
            self._on_change(line(signal))

    def close(self) -> None:
        """Dark and silent, pins released, background threads ended. May be called twice."""
        self.signal = None
        for device in (self._lamp, self._buzzer, self._button):
            if device is not None and not device.closed:
                if device is not self._button:
                    device.off()
                device.close()

    def _blink(self, signal: Signal) -> None:
        light = signal.light
        if light.colour is Colour.OFF:
            self._lamp.off()
        elif isinstance(self._lamp, RGBLED):
            self._lamp.blink(light.on_s, light.off_s, on_color=_RGB[light.colour])
        else:
            self._lamp.blink(light.on_s, light.off_s)


def make(
    kind: str,
    pins: Pins,
    *,
    on_acknowledge: Callable[[], None] | None = None,
    on_change: Callable[[str], None] | None = None,
) -> GpioPanel:
    """The panel of this machine.

    Args:
        kind: "gpio" (the pins, or an error), "mock" (gpiozero's MockFactory), or "auto": the
            pins on a Raspberry Pi, else the mock. On a Pi whose pins cannot be had, "auto"
            says so at ERROR level and goes on with the mock: a barn with a dead lamp still
            wants its alerts sent.
        pins: the wiring.
        on_acknowledge: called in a gpiozero thread when the button is pressed.
        on_change: gets one line per change.

    Raises:
        ConfigError: "gpio" was asked for and cannot be had, or the wiring is impossible.
    """
    if kind == "gpio" or (kind == "auto" and _is_pi()):
        try:
            return GpioPanel(
                pins, on_acknowledge=on_acknowledge, on_change=on_change, pin_factory=_real_factory()
            )
        except ConfigError as fault:
            if kind == "gpio":
                raise
            log.error("No light and no sound: %s", fault)  # noqa: TRY400 - the sentence says it all
    return GpioPanel(pins, on_acknowledge=on_acknowledge, on_change=on_change, pin_factory=MockFactory())


def all_pins_off(pins: Pins, *, pin_factory: Any = None) -> None:
    """Drive lamp and buzzer to "off" and release them; for `ExecStopPost`.

    A killed process can leave a pin latched (decision 19). Every pin is tried, also after
    one has failed.

    Raises:
        ConfigError: at least one pin could not be driven; names them.
    """
    factory = pin_factory if pin_factory is not None else _real_factory()
    lamps = pins.lamp if isinstance(pins.lamp, tuple) else (pins.lamp,)
    wanted = [(pin, pins.lamp_active_high) for pin in lamps]
    if pins.buzzer is not None:
        wanted.append((pins.buzzer, pins.buzzer_active_high))
    faults = []
    for pin, active_high in wanted:
        try:
            OutputDevice(pin, active_high=active_high, initial_value=False, pin_factory=factory).close()
        except (GPIOZeroError, OSError, ValueError) as fault:
            faults.append(f"{pin}: {fault}")
    if faults:
        raise ConfigError(f"panel: pins not driven off: {'; '.join(faults)}")


def _lamp(pins: Pins, pin_factory: Any) -> Any:
    if isinstance(pins.lamp, int):
        return LED(pins.lamp, active_high=pins.lamp_active_high, pin_factory=pin_factory)
    red, green, blue = pins.lamp
    return RGBLED(red, green, blue, active_high=pins.lamp_active_high, pwm=False, pin_factory=pin_factory)


def _is_pi() -> bool:
    try:
        return b"Raspberry Pi" in PI_MODEL.read_bytes()
    except OSError:
        return False


def _real_factory() -> Any:
    """The choice gpiozero makes for this machine, its fall-back warnings turned into log lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            factory = Device._default_pin_factory()  # noqa: SLF001 - its public way leaves a global behind
        except (GPIOZeroError, OSError) as fault:
            raise ConfigError(
                f"panel: no way to the GPIO pins: {fault}",
                hint="; ".join(str(w.message) for w in caught) or "install lgpio",
            ) from fault
    for warning in caught:
        log.info("gpiozero: %s", warning.message)
    return factory
