"""One suite for every panel: the recorder, gpiozero's mock pins, and the wall.

On a Pi: `pytest --real-pins tests/drivers/test_panel.py`, wired as the README shows, or with
`BARN_REAL_PINS=red,green,blue,buzzer` (BCM numbers) in the environment.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from gpiozero.pins.mock import MockFactory, MockPin

from gateway import wiring
from gateway.config import Config
from gateway.config.schema import PanelPins
from gateway.core import signals
from gateway.core.rhythms import LampRhythms, Patterns
from gateway.core.signals import TEST, Colour, Light, Signal, Sound, call_signal
from gateway.drivers import panel as panel_module
from gateway.drivers import panel_pins
from gateway.drivers.panel import GpioPanel, RecorderPanel, line, make
from gateway.drivers.panel_button import BOUNCE_S, Press
from gateway.drivers.panel_pins import Pins, all_pins_off, mock_factory
from gateway.drivers.panel_player import Player
from gateway.errors import ConfigError
from gateway.ports import Panel

PINS = Pins(lamp=(17, 27, 22), buzzer=24, button=23)
TONAL = Pins(lamp=(17, 27, 22), buzzer=24, button=23, tonal=True)
HEALTHY = Signal("all well", signals.HEALTHY)
WARNING = Signal("fever COW_001", signals.WARNING)
FEVER = Signal("fever COW_003", signals.CRITICAL, signals.ALARM)
SEEN = Signal("fever COW_003", signals.CRITICAL_SEEN)
CLOCK = Signal("clock not set", signals.CLOCK_UNTRUSTED)
PANIC = call_signal("panic", "TAG_7")
FAST = Signal(
    "fast", Light("fast", Colour.RED, (0.01, 0.01)), Sound("fast", (0.01, 0.01, 0.01, 0.02), (2000.0, 500.0))
)
DARK = Signal("off", Light("off", Colour.OFF, (1, 1)))
COLOURS = [
    (HEALTHY, {"green"}),
    (WARNING, {"red", "green"}),
    (SEEN, {"red"}),
    (CLOCK, {"blue"}),
]
HEARD = [signal for signal, _ in TEST if signal.sound]


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
            sounding = {"buzzer"} if signal.sound else set()
            return self._lit(panel_pins.RGB[signal.light.colour]) | sounding
        lamp, beeper = self.panel._lamp.device, self.panel._beeper.device
        if lamp.closed:
            return set()
        return self._lit(lamp.value) | ({"buzzer"} if beeper.value else set())

    @staticmethod
    def _lit(rgb: tuple[float, ...]) -> set[str]:
        return {name for name, lit in zip(("red", "green", "blue"), rgb, strict=True) if lit}

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
    named = os.environ.get("BARN_REAL_PINS")
    default = PanelPins()
    numbers = named.split(",") if named else (*default.wired.values(),)[:4]
    red, green, blue, buzzer = (int(number) for number in numbers)
    return Pins(lamp=(red, green, blue), buzzer=buzzer)


@pytest.fixture(
    params=["recorder", "mock pins", "tonal buzzer", pytest.param("real pins", marks=pytest.mark.real_pins)]
)
def wall(request: pytest.FixtureRequest) -> Iterator[Wall]:
    if request.param == "recorder":
        shown = Wall(RecorderPanel)
    elif request.param == "mock pins":
        shown = Wall(lambda out: GpioPanel(PINS, on_change=out, pin_factory=MockFactory()))
    elif request.param == "tonal buzzer":
        shown = Wall(lambda out: GpioPanel(TONAL, on_change=out, pin_factory=mock_factory()))
    else:
        shown = Wall(lambda out: make("gpio", wired(), on_change=out))
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
    assert wall.comes_to({"red"})


@pytest.mark.parametrize("signal", HEARD, ids=[signal.label for signal in HEARD])
def test_every_sound_is_played(wall: Wall, signal: Signal) -> None:
    wall.panel.show(signal)
    assert wall.comes_to({"red", "buzzer"})


def test_is_a_panel_and_never_blocks(wall: Wall) -> None:
    panel: Panel = wall.panel
    started_s = time.monotonic()
    for _ in range(20):
        panel.show(FEVER)
        panel.show(HEALTHY)
    assert time.monotonic() - started_s < 2  # one slow blink alone lasts 3 s


def test_prints_each_change_once(wall: Wall) -> None:
    for signal in (HEALTHY, HEALTHY, FEVER, FEVER, SEEN, PANIC):
        wall.panel.show(signal)
    assert wall.lines == [
        "PANEL green, 0.1 s on 2.9 s off, silent (all well)",
        "PANEL red, 0.25 s on 0.25 s off, buzzer 0.5/0.5 (fever COW_003)",
        "PANEL red, 1.5 s on 0.5 s off, silent (fever COW_003)",
        "PANEL red, 0.1/0.1/0.1/0.1/0.1/0.5 s on/off, buzzer 0.1/0.1 (panic TAG_7)",
    ]


def test_close_is_dark_and_silent_and_may_come_twice(wall: Wall) -> None:
    wall.panel.show(FEVER)
    wall.panel.close()
    assert wall.on() == set()
    wall.panel.close()


# ---- recorder ---------------------------------------------------------------------------


def test_recorder_remembers_the_newest() -> None:
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


def test_a_pattern_of_several_beats_keeps_its_order(factory: MockFactory) -> None:
    beats = (0.01, 0.01, 0.01, 0.2)
    panel = GpioPanel(PINS, pin_factory=factory)
    panel.show(Signal("two", Light("two", Colour.RED, beats), Sound("two", beats, (2000.0,))))
    until(lambda: len(states(factory, 17)) > 8 and len(states(factory, 24)) > 8)
    panel.close()
    for number in (17, 24):  # a timestamp says how long the state before it lasted
        lasted = [state.timestamp for state in factory.pin(f"GPIO{number}").states[2:9]]
        assert all(seconds >= 0.9 * beat for seconds, beat in zip(lasted, beats + beats, strict=False))


class WaveFactory(MockFactory):
    """Mock pins that remember the pitch they were given."""

    def __init__(self) -> None:
        self.tones_hz: list[float | None] = []
        remembered = self.tones_hz

        class WavePin(panel_pins.MockPWMPin):
            def _set_frequency(self, value: float | None) -> None:
                super()._set_frequency(value)
                remembered.append(value)

        super().__init__(pin_class=WavePin)


def test_a_tonal_buzzer_plays_the_pitches_and_rests_between_them() -> None:
    factory = WaveFactory()
    panel = GpioPanel(TONAL, pin_factory=factory)
    factory.tones_hz.clear()
    panel.show(FAST)
    until(lambda: len(factory.tones_hz) > 8)
    panel.close()
    start = factory.tones_hz.index(2000.0)
    assert factory.tones_hz[start : start + 5] == [2000.0, None, 500.0, None, 2000.0]
    assert factory.tones_hz[-1] is None


def test_a_tonal_buzzer_that_sounds_on_a_low_level_rests_on_a_high_one() -> None:
    factory = mock_factory()
    pins = Pins(lamp=17, buzzer=24, tonal=True, buzzer_active_high=False)
    panel = GpioPanel(pins, pin_factory=factory)
    assert states(factory, 24)[-1] is True
    panel.show(FEVER)
    until(lambda: factory.pin("GPIO24").frequency == signals.ALARM.tones_hz[0])
    panel.show(SEEN)
    until(lambda: factory.pin("GPIO24").frequency is None and states(factory, 24)[-1])
    panel.close()


def test_a_tonal_buzzer_needs_a_pin_that_can_carry_a_wave(factory: MockFactory) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        GpioPanel(TONAL, pin_factory=factory)


def test_a_panel_plays_the_rhythms_of_its_owner(factory: MockFactory) -> None:
    patterns = Patterns(lamp=LampRhythms(warning="0.05 0.05 0.05 0.4"))
    lines: list[str] = []
    panel = GpioPanel(PINS, patterns=patterns, on_change=lines.append, pin_factory=factory)
    panel.show(WARNING)
    panel.show(WARNING)
    panel.close()
    recorder = RecorderPanel(lines.append, patterns=patterns)
    recorder.show(WARNING)
    recorder.show(WARNING)
    assert lines == ["PANEL amber, 0.05/0.05/0.05/0.4 s on/off, silent (fever COW_001)"] * 2


class JammedPin(MockPin):
    """A pin that stops obeying, and one that keeps whoever drives it waiting."""

    broken = False
    free = threading.Event()
    asked = threading.Event()

    def _set_state(self, value: float) -> None:
        if value and not self.free.is_set():
            self.asked.set()
            assert self.free.wait(5)
        if value and self.broken:
            raise OSError(5, "I/O error")
        super()._set_state(value)


def test_a_slow_pin_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JammedPin, "free", threading.Event())
    monkeypatch.setattr(JammedPin, "asked", threading.Event())
    factory = MockFactory(pin_class=JammedPin)
    panel = GpioPanel(PINS, pin_factory=factory)
    panel.show(FEVER)
    assert JammedPin.asked.wait(5)
    panel.show(SEEN)  # returns although the pin of the step before still waits for us
    panel.show(HEALTHY)
    JammedPin.free.set()
    until(lambda: states(factory, 27)[-1] and not states(factory, 17)[-1] and not states(factory, 24)[-1])
    panel.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pin_that_fails_is_said_and_fails_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(JammedPin, "broken", True)
    monkeypatch.setattr(JammedPin, "free", threading.Event())
    JammedPin.free.set()
    factory = MockFactory(pin_class=JammedPin)
    panel = GpioPanel(PINS, pin_factory=factory)
    panel.show(FEVER)
    until(lambda: len(caplog.records) == 2)
    panel.show(SEEN)
    panel.close()
    assert sorted(record.message for record in caplog.records) == [
        "The panel buzzer has stopped: its pin cannot be driven",
        "The panel lamp has stopped: its pin cannot be driven",
    ]


def test_nothing_piles_up_for_a_player_that_has_ended() -> None:
    player: Player[int] = Player("ended", lambda _: None, 0)
    player.close()
    player.play([(1.0, 1)])
    player.close()
    assert player._next.qsize() == 1  # the second close's word


def test_dark_is_dark(factory: MockFactory) -> None:
    panel = GpioPanel(PINS, pin_factory=factory)
    panel.show(FAST)
    until(lambda: True in states(factory, 17))
    panel.show(DARK)
    until(lambda: panel._lamp.device.value == (0, 0, 0) and states(factory, 24)[-1] is False)
    shown_n = len(states(factory, 17))
    panel.close()
    assert len(states(factory, 17)) == shown_n


def test_a_change_of_words_does_not_restart_the_rhythm(factory: MockFactory) -> None:
    lines: list[str] = []
    panel = GpioPanel(PINS, on_change=lines.append, pin_factory=factory)
    panel.show(FEVER)
    until(lambda: states(factory, 17)[-1] and states(factory, 24)[-1])
    played: list[object] = []
    for player in panel._players:
        player.play = played.append  # type: ignore[method-assign]
    panel.show(Signal("fever COW_009", FEVER.light, FEVER.sound))
    assert lines[-1].endswith("(fever COW_009)")
    assert played == []
    panel.show(SEEN)
    assert len(played) == 2
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
        panel.show(DARK)
        until(lambda: not states(factory, 17)[-1])
    panel.close()


class Finger:
    """Somebody at the button, and what came of it."""

    def __init__(self, factory: MockFactory, hold_s: float) -> None:
        self.heard: list[str] = []
        self.happened = threading.Event()
        self._pin = factory.pin("GPIO23")
        self.panel = GpioPanel(
            PINS,
            on_acknowledge=lambda: self._note("acknowledge"),
            on_test=lambda: self._note("test"),
            hold_s=hold_s,
            pin_factory=factory,
        )

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self.happened.set()

    def press(self) -> None:
        self._pin.drive_low()

    def let_go(self) -> None:
        self._pin.drive_high()


def test_a_short_press_acknowledges_when_it_ends(factory: MockFactory) -> None:
    finger = Finger(factory, hold_s=60)
    finger.press()
    assert finger.heard == []
    finger.let_go()
    assert finger.heard == ["acknowledge"]
    finger.panel.close()


def test_a_long_press_tests_while_it_is_held_and_acknowledges_nothing(factory: MockFactory) -> None:
    finger = Finger(factory, hold_s=0.02)
    finger.press()
    assert finger.happened.wait(5)
    finger.let_go()
    assert finger.heard == ["test"]
    finger.panel.close()


def test_a_press_is_long_from_three_seconds_on() -> None:
    factory = MockFactory()
    panel = GpioPanel(PINS, pin_factory=factory)
    assert panel._button.hold_time == 3.0
    panel.close()


def press(now_s: list[float]) -> tuple[Press, list[str]]:
    heard: list[str] = []
    return Press(lambda: heard.append("acknowledge"), lambda: heard.append("test"), lambda: now_s[0]), heard


@pytest.mark.parametrize(
    ("events", "meaning"),
    [
        ("down up", ["acknowledge"]),
        ("down held up", ["test"]),
        ("down up held", ["acknowledge"]),  # let go in the very moment it became a hold
        ("down held held up up", ["test"]),
        ("up", []),  # held down while the gateway started
        ("held up", []),
    ],
)
def test_each_press_means_one_thing(events: str, meaning: list[str]) -> None:
    button, heard = press([0.0])
    for event in events.split():
        getattr(button, event)()
    assert heard == meaning


def test_a_bouncing_contact_is_one_press() -> None:
    now_s = [0.0]
    button, heard = press(now_s)
    button.down()
    button.up()
    for now_s[0] in (0.001, 0.01, BOUNCE_S - 0.001):
        button.down()
        button.up()
    assert heard == ["acknowledge"]
    now_s[0] += BOUNCE_S
    button.down()
    button.held()
    assert heard == ["acknowledge", "test"]


def test_a_press_in_two_threads_at_once_means_one_thing() -> None:
    for _ in range(200):
        button, heard = press([0.0])
        button.down()
        start = threading.Barrier(2)
        hold = threading.Thread(target=lambda: (start.wait(), button.held()))  # noqa: B023 - joined below
        hold.start()
        start.wait()
        button.up()
        hold.join()
        assert len(heard) == 1


def test_a_button_that_nobody_listens_to(factory: MockFactory) -> None:
    panel = GpioPanel(PINS, hold_s=0.01, pin_factory=factory)
    factory.pin("GPIO23").drive_low()
    factory.pin("GPIO23").drive_high()
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


# ---- from the configuration -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "pins"),
    [
        (PanelPins(), Pins((17, 27, 22), 23, 24)),
        (PanelPins(lamp="three"), Pins((17, 27, 22), 23, 24)),
        (PanelPins(lamp="one", green_pin=17), Pins(17, 23, 24)),
        (PanelPins(buzzer="tonal", button_pin=None), Pins((17, 27, 22), 23, tonal=True)),
        (
            PanelPins(active_high=False),
            Pins((17, 27, 22), 23, 24, lamp_active_high=False, buzzer_active_high=False),
        ),
        (
            PanelPins(active_high=False, buzzer_active_high=True),
            Pins((17, 27, 22), 23, 24, lamp_active_high=False),
        ),
        (PanelPins(buzzer_active_high=False), Pins((17, 27, 22), 23, 24, buzzer_active_high=False)),
    ],
)
def test_the_configuration_says_how_it_is_wired(section: PanelPins, pins: Pins) -> None:
    assert wiring.pins(Config(panel=section)) == pins


@pytest.mark.parametrize("driver", ["mock", "off"])
def test_a_configured_panel_plays_the_configured_rhythms(driver: Literal["mock", "off"]) -> None:
    section = PanelPins(driver=driver, patterns=Patterns(lamp=LampRhythms(warning="0.7 0.2")))
    panel = wiring.panel(Config(panel=section), on_acknowledge=lambda: None, on_change=None)
    panel.show(WARNING)
    assert panel.signal.light.beats == (0.7, 0.2)  # type: ignore[attr-defined]
    panel.close()


# ---- which panel this machine gets --------------------------------------------------------


def test_a_laptop_gets_the_mock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(panel_pins, "PI_MODEL", tmp_path / "missing")
    lines: list[str] = []
    panel = make("auto", PINS, on_change=lines.append)
    panel.show(HEALTHY)
    panel.close()
    assert lines == [line(HEALTHY)]
    make("auto", TONAL).close()


@pytest.fixture
def pi_without_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\x00")
    monkeypatch.setattr(panel_pins, "PI_MODEL", model)
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
    caplog.set_level(logging.INFO, logger="gateway.drivers.panel_pins")
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    make("gpio", PINS).close()
    all_pins_off(PINS)

    def fall_back() -> MockFactory:
        warnings.warn("Falling back from lgpio", UserWarning, stacklevel=1)
        return MockFactory()

    monkeypatch.setattr(panel_pins.Device, "_default_pin_factory", staticmethod(fall_back))
    make("gpio", PINS).close()
    assert [record.message for record in caplog.records] == ["gpiozero: Falling back from lgpio"]
