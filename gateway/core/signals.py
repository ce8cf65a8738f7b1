"""Alerts and health → light and sound (decision 19). Pure data; drivers/panel plays it.

Every state has its own rhythm besides its colour, so that a colour-blind person, or a
panel with one plain lamp, can tell them apart; every sound has its own rhythm besides its
pitch, for a buzzer that has only one. Info alerts do not change the lamp.

What the lamp shows and what sounds, the first that holds:

1. a call for help nobody has answered: panic, SOS, fire, medical, the emergency stop;
2. a critical alert nobody has seen and nobody has silenced;
3. a gateway that cannot do its work;
4. everything else that is open: the worse first, then calls, then what nobody has seen, then
   news before history, then the newest;
5. a clock that is not set, 6. an uplink that is down, 7. all well.

1 to 3 sound, the others do not; among several of 2, one that nobody has come for again and again
goes first. A person's silence makes an alert still, never a call. What sounds is what the lamp
shows and what the button acknowledges, so that nobody silences a thing other than the one in
front of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from gateway.core.alerts import EMERGENCY_STOP, NEVER_SILENCED, Alert, State, sounds
from gateway.core.rhythms import Beats, Patterns, beats_of
from gateway.core.severity import Severity


class Colour(StrEnum):
    """Lamp colours; each state also has its own rhythm, for colour-blind people."""

    OFF = "off"
    GREEN = "green"
    AMBER = "amber"
    RED = "red"
    BLUE = "blue"


class Light(msgspec.Struct, frozen=True):
    """A blinking lamp. A working gateway always blinks: dark or steady means dead.

    Args:
        name: under which an owner may give it another rhythm (`LampRhythms`).
        colour: of a lamp that has colours.
        beats: seconds on, off, on, off …, over and over.
    """

    name: str
    colour: Colour
    beats: Beats


class Sound(msgspec.Struct, frozen=True):
    """A buzzer rhythm, repeated until told otherwise.

    Args:
        name: under which an owner may give it another rhythm (`BuzzerRhythms`).
        beats: seconds on, off, on, off ….
        tones_hz: pitch of the first beep, the second …, over and over; only a tonal buzzer has it.
    """

    name: str
    beats: Beats
    tones_hz: tuple[float, ...]

    @property
    def steps(self) -> tuple[tuple[float, float | None], ...]:
        """(seconds, Hz), None = silence; played over and over."""
        tones = len(self.tones_hz)
        return tuple(
            (beat, None if number % 2 else self.tones_hz[number // 2 % tones])
            for number, beat in enumerate(self.beats)
        )


class Signal(msgspec.Struct, frozen=True):
    """What the panel shows now. `label` is the word a log and the laptop print."""

    label: str
    light: Light
    sound: Sound | None = None


def _light(name: str, colour: Colour) -> Light:
    return Light(name, colour, beats_of(getattr(Patterns().lamp, name)))


def _sound(name: str, *tones_hz: float) -> Sound:
    return Sound(name, beats_of(getattr(Patterns().buzzer, name)), tones_hz)


HEALTHY = _light("healthy", Colour.GREEN)
WARNING = _light("warning", Colour.AMBER)
WARNING_SEEN = _light("warning_seen", Colour.AMBER)
CRITICAL = _light("critical", Colour.RED)
CRITICAL_LATE = _light("critical_late", Colour.RED)
CRITICAL_SEEN = _light("critical_seen", Colour.RED)
CALL_FOR_HELP = _light("call", Colour.RED)
CALL_SEEN = _light("call_seen", Colour.RED)
DEGRADED = _light("degraded", Colour.RED)
CLOCK_UNTRUSTED = _light("clock_untrusted", Colour.BLUE)
UPLINK_DOWN = _light("uplink_down", Colour.BLUE)

# Pitches lie between 1 and 3 kHz: small buzzers are loud there, and hearing lost with age or to
# machines is lost above it.
ALARM = _sound("alarm", 2000.0)
"""A critical animal. Sounds until somebody acknowledges, so "sound again after 30 min" needs no timer."""
URGENT = _sound("urgent", 2000.0, 2600.0)
"""The same alert, told again because nobody came: they have got used to the alarm."""
CALL = _sound("call", 2800.0, 2100.0)
"""A person needs help now: without a pause."""
CHIRP = _sound("chirp", 1200.0)
"""The gateway itself is in trouble; told from the alarm by ear."""

TEST: tuple[tuple[Signal, float], ...] = (
    (Signal("test: green, all well", HEALTHY), 1.0),
    (Signal("test: amber, a warning", WARNING), 2.0),
    (Signal("test: blue, clock or uplink", UPLINK_DOWN), 1.0),
    (Signal("test: red, a critical alert", CRITICAL, ALARM), 2.0),
    (Signal("test: red, critical and nobody came", CRITICAL, URGENT), 2.0),
    (Signal("test: red, a call for help", CALL_FOR_HELP, CALL), 2.0),
    (Signal("test: red, the gateway needs help", DEGRADED, CHIRP), 2.0),
)
"""(signal, seconds): each colour and each sound for at least one turn, 12 s in all, the chirp's pause
cut short; long enough to walk along, short enough to listen to."""


def shown(alerts: Sequence[Alert], muted: frozenset[int] = frozenset()) -> Alert | None:
    """The alert the panel's button acknowledges.

    What sounds first, a call before all; then what nobody has seen before seen, calls, most
    severe, news before history, newest. None while there is nothing but info.

    Args:
        alerts: any alerts; ended ones, info, and what a herd event speaks for do not count.
        muted: ids of alerts a person has silenced.
    """
    return max(_on_panel(alerts), key=lambda alert: _urgency(alert, muted), default=None)


def signal_for(
    alerts: Sequence[Alert],
    degraded: bool | str,  # noqa: FBT001 - the port's fixed order, called by name
    uplink_down: bool,  # noqa: FBT001
    clock_untrusted: bool,  # noqa: FBT001
    muted: frozenset[int] = frozenset(),
) -> Signal:
    """The one signal for everything that is going on, ranked as the module says.

    The clock comes before the uplink because an untrusted clock spoils data and a line that
    is down only delays it.

    Args:
        alerts: any alerts; ended ones, info, and what a herd event speaks for do not count.
        degraded: the gateway cannot do its work; what it cannot do, in a few words, or True if
            the store cannot write.
        uplink_down: an upstream is configured and cannot be reached.
        clock_untrusted: neither NTP nor an RTC nor a person has set the clock.
        muted: ids of alerts a person has silenced; they light and do not sound.
    """
    worst = max(_on_panel(alerts), key=lambda alert: _rank_on_lamp(alert, muted), default=None)
    if degraded and (worst is None or not _heard(worst, muted)):
        return Signal(degraded if isinstance(degraded, str) else "gateway cannot store", DEGRADED, CHIRP)
    if worst is not None:
        sound = _sound_of(worst) if _heard(worst, muted) else None
        return Signal(_label(worst.kind, worst.subject), _light_of(worst), sound)
    if clock_untrusted:
        return Signal("clock not set", CLOCK_UNTRUSTED)
    if uplink_down:
        return Signal("uplink down", UPLINK_DOWN)
    return Signal("all well", HEALTHY)


def call_signal(kind: str, subject: str) -> Signal:
    """A call for help that has just come in and is not yet on disk; the same as of its alert."""
    return Signal(_label(kind, subject), CALL_FOR_HELP, CALL)


def in_rhythm(signal: Signal, patterns: Patterns) -> Signal:
    """The signal in the rhythms of this installation."""
    light, sound = signal.light, signal.sound
    lamp_text: str | None = getattr(patterns.lamp, light.name, None)
    if lamp_text is not None:
        light = msgspec.structs.replace(light, beats=beats_of(lamp_text))
    if sound is not None:
        buzzer_text: str | None = getattr(patterns.buzzer, sound.name, None)
        if buzzer_text is not None:
            sound = msgspec.structs.replace(sound, beats=beats_of(buzzer_text))
    return Signal(signal.label, light, sound)


def _on_panel(alerts: Sequence[Alert]) -> list[Alert]:
    """What counts: open, more than info, and no open herd event speaks for it."""
    speaking = {alert.key for alert in alerts if alert.open}
    return [
        alert
        for alert in alerts
        if alert.open and alert.severity > Severity.INFO and alert.folded_into not in speaking
    ]


def _calls(alert: Alert) -> bool:
    return alert.kind in NEVER_SILENCED


def _heard(alert: Alert, muted: frozenset[int]) -> bool:
    return sounds(alert) and (_calls(alert) or alert.id not in muted)


def _urgency(alert: Alert, muted: frozenset[int]) -> tuple[int, bool, bool, int, bool, int, int]:
    """For the button: an answered call is not answered twice, so what nobody has seen comes first."""
    unseen = alert.state is State.ACTIVE
    return (
        _loudness(alert, muted),
        unseen,
        _calls(alert),
        alert.severity,
        not alert.late,
        alert.raised_ms,
        alert.id,
    )


def _rank_on_lamp(alert: Alert, muted: frozenset[int]) -> tuple[int, int, bool, bool, bool, int, int]:
    """For the lamp: red stays red however much has been acknowledged."""
    unseen = alert.state is State.ACTIVE
    return (
        _loudness(alert, muted),
        alert.severity,
        _calls(alert),
        unseen,
        not alert.late,
        alert.raised_ms,
        alert.id,
    )


def _loudness(alert: Alert, muted: frozenset[int]) -> int:
    """What sounds, from 0 for what does not to 3 for a call."""
    if not _heard(alert, muted):
        return 0
    if _calls(alert):
        return 3
    return 2 if alert.reminders else 1


def _label(kind: str, subject: str) -> str:
    return "EMERGENCY STOP" if kind == EMERGENCY_STOP else f"{kind} {subject}"


def _sound_of(alert: Alert) -> Sound:
    if _calls(alert):
        return CALL
    return URGENT if alert.reminders else ALARM


def _light_of(alert: Alert) -> Light:
    seen = alert.state is State.ACKNOWLEDGED
    if _calls(alert):
        return CALL_SEEN if seen else CALL_FOR_HELP
    if alert.severity is Severity.CRITICAL:
        if seen:
            return CRITICAL_SEEN
        return CRITICAL_LATE if alert.late else CRITICAL
    return WARNING_SEEN if seen else WARNING
