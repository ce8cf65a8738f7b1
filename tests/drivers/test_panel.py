"""One suite for every panel: the recorder, gpiozero's mock pins, and with BARN_REAL_PINS the wall.

On a Pi: `BARN_REAL_PINS=red,green,blue,buzzer pytest -m real_pins tests/drivers/test_panel.py`
(BCM numbers).
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory

from gateway.core import signals
from gateway.core.signals import Colour, Light, Signal, Sound
from gateway.drivers import panel as panel_module
from gateway.drivers.panel import GpioPanel, Pins, RecorderPanel, all_pins_off, line, make
from gateway.errors import ConfigError
from gateway.ports import Panel

PINS = Pins(lamp=(17, 27, 22), buzzer=24, button=23)
HEALTHY = Signal("all well", signals.HEALTHY)
WARNING = Signal("fever COW_001", signals.WARNING)
FEVER = Signal("fever COW_003", signals.CRITICAL, signals.ALARM)
SEEN = Signal("fever COW_003", signals.CRITICAL_SEEN)
CLOCK = Signal("clock not set", signals.CLOCK_UNTRUSTED)
FAST = Signal("fast", Light(Colour.RED, 0.01, 0.01), Sound("fast", 0.01, 0.01))
COLOURS = [
    (HEALTHY, {"green"}),
    (WARNING, {"red", "green"}),
    (SEEN, {"red"}),
    (CLOCK, {"blue"}),
]


class Wall:
    """A panel, what it printed, and what a person in front of it sees and hears."""

    def __init__(self, make_panel: Callable[[Callable[[str], None]], Any]) -> None:
        self.lines: list[str] = []
        self.panel = make_panel(self.lines.append)

    def on(self) -> set[str]:
        if isinstance(self.panel, RecorderPanel):
            signal = self.panel.signal
            if signal is None:
                return set()
            rgb = panel_module._RGB[signal.light.colour]
            sounding = {"buzzer"} if signal.sound else set()
            return {name for name, lit in zip(("red", "green", "blue"), rgb, strict=True) if lit} | sounding
        if self.panel._lamp.closed:
            return set()
        values = (*self.panel._lamp.value, self.panel._buzzer.value)
        return {name for name, on in zip(("red", "green", "blue", "buzzer"), values, strict=True) if on}

    def comes_to(self, expected: set[str]) -> bool:
        deadline_s = time.monotonic() + 5
        while self.on() != expected:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.002)
        return True


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    mock = MockFactory()
    yield mock
    mock.reset()


def wired() -> Pins:
    red, green, blue, buzzer = (int(pin) for pin in os.environ["BARN_REAL_PINS"].split(","))
    return Pins(lamp=(red, green, blue), buzzer=buzzer)


@pytest.fixture(params=["recorder", "mock pins", pytest.param("real pins", marks=pytest.mark.real_pins)])
def wall(request: pytest.FixtureRequest) -> Iterator[Wall]:
    if request.param == "recorder":
        shown = Wall(RecorderPanel)
    elif request.param == "mock pins":
        shown = Wall(lambda out: GpioPanel(PINS, on_change=out, pin_factory=MockFactory()))
    elif "BARN_REAL_PINS" in os.environ:
        shown = Wall(lambda out: make("gpio", wired(), on_change=out))
    else:
        pytest.skip("BARN_REAL_PINS names no wired panel")
    yield shown
    shown.panel.close()


# ---- the same for every panel -----------------------------------------------------------


@pytest.mark.parametrize(("signal", "lit"), COLOURS, ids=[signal.label for signal, _ in COLOURS])
def test_shows_the_colour(wall: Wall, signal: Signal, lit: set[str]) -> None:
    wall.panel.show(signal)
    assert wall.comes_to(lit)


def test_critical_sounds_until_acknowledged(wall: Wall) -> None:
    wall.panel.show(FEVER)
    assert wall.comes_to({"red", "buzzer"})
    wall.panel.show(SEEN)
    assert "buzzer" not in wall.on()
    assert wall.comes_to({"red"})


def test_is_a_panel_and_never_blocks(wall: Wall) -> None:
    panel: Panel = wall.panel
    started_s = time.monotonic()
    for _ in range(20):
        panel.show(FEVER)
        panel.show(HEALTHY)
    assert time.monotonic() - started_s < 2  # one slow blink alone lasts 3 s


def test_prints_each_change_once(wall: Wall) -> None:
    for signal in (HEALTHY, HEALTHY, FEVER, FEVER, SEEN):
        wall.panel.show(signal)
    assert wall.lines == [
        "PANEL green, 0.1 s on 2.9 s off, silent (all well)",
        "PANEL red, 0.25 s on 0.25 s off, buzzer 0.5/0.5 (fever COW_003)",
        "PANEL red, 1.5 s on 0.5 s off, silent (fever COW_003)",
    ]


def test_close_is_dark_and_silent_and_may_come_twice(wall: Wall) -> None:
    wall.panel.show(FEVER)
    wall.panel.close()
    assert wall.on() == set()
    wall.panel.close()


# ---- recorder ---------------------------------------------------------------------------


def test_recorder_remembers_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = RecorderPanel()
    for n in range(panel_module.RECORDED_MAX + 5):
        recorder.show(Signal(str(n), signals.WARNING))
    assert len(recorder.signals) == panel_module.RECORDED_MAX
    assert recorder.signals[0].label == "5"


# ---- gpiozero ---------------------------------------------------------------------------


def states(factory: MockFactory, number: int) -> list[bool]:
    return [bool(state.state) for state in factory.pin(f"GPIO{number}").states]


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_pins_really_blink_and_beep(factory: MockFactory) -> None:
    panel = GpioPanel(PINS, pin_factory=factory)
    panel.show(FAST)
    until(lambda: len(states(factory, 17)) > 6 and len(states(factory, 24)) > 6)
    assert states(factory, 17)[:5] == [False, True, False, True, False]
    assert states(factory, 24)[:5] == [False, True, False, True, False]
    assert not any(states(factory, 27) + states(factory, 22))
    panel.close()
    assert states(factory, 17)[-1] is False
    assert states(factory, 24)[-1] is False


def test_dark_is_dark(factory: MockFactory) -> None:
    panel = GpioPanel(PINS, pin_factory=factory)
    panel.show(FAST)
    until(lambda: True in states(factory, 17))
    panel.show(Signal("off", Light(Colour.OFF, 1, 1)))
    assert states(factory, 17)[-1] is False
    panel.close()


def test_a_change_of_words_does_not_restart_the_rhythm(factory: MockFactory) -> None:
    lines: list[str] = []
    panel = GpioPanel(PINS, on_change=lines.append, pin_factory=factory)
    panel.show(FEVER)
    threads = set(threading.enumerate())
    panel.show(Signal("fever COW_009", FEVER.light, FEVER.sound))
    assert set(threading.enumerate()) == threads
    assert lines[-1].endswith("(fever COW_009)")
    panel.close()


def test_common_anode_and_low_level_buzzer(factory: MockFactory) -> None:
    pins = Pins(lamp=(17, 27, 22), buzzer=24, lamp_active_high=False, buzzer_active_high=False)
    panel = GpioPanel(pins, pin_factory=factory)
    assert [states(factory, pin)[-1] for pin in (17, 27, 22, 24)] == [True] * 4
    panel.show(FEVER)
    until(lambda: not states(factory, 17)[-1] and not states(factory, 24)[-1])
    panel.close()
    all_pins_off(pins, pin_factory=factory)
    assert [states(factory, pin)[-1] for pin in (17, 27, 22, 24)] == [True] * 4


def test_one_plain_lamp_blinks_every_state(factory: MockFactory) -> None:
    panel = GpioPanel(Pins(lamp=17), pin_factory=factory)
    for signal in (HEALTHY, FEVER, CLOCK):
        panel.show(signal)
        until(lambda: states(factory, 17)[-1])
        panel.show(Signal("off", Light(Colour.OFF, 1, 1)))
        assert states(factory, 17)[-1] is False
    panel.close()


def test_the_button_calls_back(factory: MockFactory) -> None:
    pressed = threading.Event()
    panel = GpioPanel(PINS, on_acknowledge=pressed.set, pin_factory=factory)
    factory.pin("GPIO23").drive_low()
    assert pressed.wait(5)
    panel.close()


def test_a_button_that_nobody_listens_to(factory: MockFactory) -> None:
    panel = GpioPanel(PINS, pin_factory=factory)
    factory.pin("GPIO23").drive_low()
    panel.close()


@pytest.mark.parametrize("pins", [Pins(lamp=(17, 17, 22)), Pins(lamp=99), Pins(lamp=17, buzzer=17)])
def test_impossible_wiring_is_named_and_releases_what_it_took(factory: MockFactory, pins: Pins) -> None:
    with pytest.raises(ConfigError, match="panel: Pins"):
        GpioPanel(pins, pin_factory=factory)
    GpioPanel(PINS, pin_factory=factory).close()


def test_all_pins_off_clears_a_latched_pin(factory: MockFactory) -> None:
    for number in (17, 24):
        pin = factory.pin(f"GPIO{number}")
        pin.function = "output"
        pin.state = True
    all_pins_off(PINS, pin_factory=factory)
    assert [states(factory, pin)[-1] for pin in (17, 27, 22, 24)] == [False] * 4
    all_pins_off(Pins(lamp=17), pin_factory=factory)


def test_all_pins_off_tries_every_pin(factory: MockFactory) -> None:
    factory.pin("GPIO24").function = "output"
    factory.pin("GPIO24").state = True
    with pytest.raises(ConfigError, match="not driven off: 99"):
        all_pins_off(Pins(lamp=99, buzzer=24), pin_factory=factory)
    assert states(factory, 24)[-1] is False


# ---- which panel this machine gets --------------------------------------------------------


def test_a_laptop_gets_the_mock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(panel_module, "PI_MODEL", tmp_path / "missing")
    lines: list[str] = []
    panel = make("auto", PINS, on_change=lines.append)
    panel.show(HEALTHY)
    panel.close()
    assert lines == [line(HEALTHY)]


@pytest.fixture
def pi_without_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\x00")
    monkeypatch.setattr(panel_module, "PI_MODEL", model)
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "nosuch")


def test_a_pi_whose_pins_cannot_be_had_goes_on_and_says_so(
    pi_without_pins: None, caplog: pytest.LogCaptureFixture
) -> None:
    make("auto", PINS).close()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith("No light and no sound: panel: no way to the GPIO pins")


def test_pins_that_were_asked_for_must_be_there(pi_without_pins: None) -> None:
    with pytest.raises(ConfigError, match="no way to the GPIO pins"):
        make("gpio", PINS)
    with pytest.raises(ConfigError, match="no way to the GPIO pins"):
        all_pins_off(PINS)


def test_gpiozeros_own_choice_is_taken_and_its_warnings_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gateway.drivers.panel")
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    make("gpio", PINS).close()
    all_pins_off(PINS)

    def fall_back() -> MockFactory:
        warnings.warn("Falling back from lgpio", UserWarning, stacklevel=1)
        return MockFactory()

    monkeypatch.setattr(panel_module.Device, "_default_pin_factory", staticmethod(fall_back))
    make("gpio", PINS).close()
    assert [record.message for record in caplog.records] == ["gpiozero: Falling back from lgpio"]
