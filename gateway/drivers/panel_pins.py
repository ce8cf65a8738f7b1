"""Where the panel is wired, and the gpiozero devices on those pins.

One RGB lamp (or three plain ones) on three pins, or a single plain lamp on one, where the
rhythm alone tells the states apart. Amber is red and green together. No PWM for the lamp: it
needs nothing of the pin, and a killed process leaves a plain level that pull-downs and
`all_pins_off` can clear.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import msgspec
from gpiozero import LED, RGBLED, Buzzer, Device, GPIOZeroError, OutputDevice, PWMOutputDevice
from gpiozero.pins.mock import MockFactory, MockPWMPin

from gateway.core.signals import Colour
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

PI_MODEL = Path("/proc/device-tree/model")
"""Where a Raspberry Pi says that it is one."""
DUTY = 0.5
"""A square wave: the loudest a tonal buzzer gets."""

RGB = {
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
        buzzer: None if there is none.
        button: to ground, the Pi's pull-up is used; None if there is none.
        tonal: the buzzer has no oscillator of its own and plays what pitch it is given.
        lamp_active_high: False for a common-anode RGB lamp.
        buzzer_active_high: False for a buzzer module that sounds on a low level.
    """

    lamp: tuple[int, int, int] | int
    buzzer: int | None = None
    button: int | None = None
    tonal: bool = False
    lamp_active_high: bool = True
    buzzer_active_high: bool = True


class Lamp:
    """A lamp with three colours, or one without."""

    def __init__(self, pins: Pins, pin_factory: Any) -> None:
        high = pins.lamp_active_high
        self.device: Any
        if isinstance(pins.lamp, int):
            self.device = LED(pins.lamp, active_high=high, pin_factory=pin_factory)
        else:
            self.device = RGBLED(*pins.lamp, active_high=high, pwm=False, pin_factory=pin_factory)

    def light(self, colour: Colour) -> None:
        """Show a colour from now on."""
        rgb = RGB[colour]
        self.device.value = rgb if isinstance(self.device, RGBLED) else int(any(rgb))

    def close(self) -> None:
        """Dark; releases the pins. May be called twice."""
        if not self.device.closed:
            self.light(Colour.OFF)
            self.device.close()


class Beeper:
    """An active buzzer, or a tonal one.

    gpiozero's TonalBuzzer knows no active level and is silent on a low pin, which keeps a module
    that sounds on a low level screaming. So a tonal one is a plain PWM pin.
    """

    def __init__(self, pin: int, pins: Pins, pin_factory: Any) -> None:
        self._tonal = pins.tonal
        kind = PWMOutputDevice if pins.tonal else Buzzer
        self.device: Any = kind(pin, active_high=pins.buzzer_active_high, pin_factory=pin_factory)
        self.sound(None)

    def sound(self, tone_hz: float | None) -> None:
        """Sound from now on; None = silent. An active buzzer has a pitch of its own."""
        if not self._tonal:
            self.device.value = int(tone_hz is not None)
        elif tone_hz is None:
            self.device.frequency = None  # ends the wave wherever it is,
            self.device.value = 0  # hence the level after it
        else:
            self.device.frequency = tone_hz
            self.device.value = DUTY

    def close(self) -> None:
        """Silent; releases the pin. May be called twice."""
        if not self.device.closed:
            self.sound(None)
            self.device.close()


def all_pins_off(pins: Pins, *, pin_factory: Any = None) -> None:
    """Drive lamp and buzzer to "off" and release them; for `ExecStopPost`.

    A killed process can leave a pin latched (decision 19). Every pin is tried, also after
    one has failed.

    Raises:
        ConfigError: at least one pin could not be driven; names them.
    """
    factory = pin_factory if pin_factory is not None else real_factory()
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


def is_pi() -> bool:
    """Whether this machine says that it is a Raspberry Pi."""
    try:
        return b"Raspberry Pi" in PI_MODEL.read_bytes()
    except OSError:
        return False


def mock_factory() -> Any:
    """Pins that only remember, with and without a wave on them."""
    return MockFactory(pin_class=MockPWMPin)


def real_factory() -> Any:
    """The choice gpiozero makes for this machine, its fall-back warnings turned into log lines.

    Raises:
        ConfigError: there is no way to the pins.
    """
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
