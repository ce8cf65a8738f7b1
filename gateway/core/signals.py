"""Alerts and health → light and sound (decision 19). Pure data; drivers/panel plays it.

Every state has its own rhythm besides its colour, so that a colour-blind person, or a
panel with one plain lamp, can tell them apart. Info alerts do not change the lamp.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from gateway.core.alerts import NEVER_SILENCED, Alert, State, sounds
from gateway.core.severity import Severity


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


HEALTHY = Light(Colour.GREEN, 0.1, 2.9)
WARNING = Light(Colour.AMBER, 1.0, 1.0)
WARNING_SEEN = Light(Colour.AMBER, 0.5, 2.0)
CRITICAL = Light(Colour.RED, 0.25, 0.25)
CRITICAL_LATE = Light(Colour.RED, 0.25, 0.75)
CRITICAL_SEEN = Light(Colour.RED, 1.5, 0.5)
DEGRADED = Light(Colour.RED, 0.1, 0.1)
CLOCK_UNTRUSTED = Light(Colour.BLUE, 0.1, 1.4)
UPLINK_DOWN = Light(Colour.BLUE, 0.5, 0.5)

ALARM = Sound("alarm", 0.5, 0.5)
"""Sounds until somebody acknowledges, so "sound again after 30 min" needs no timer."""
CHIRP = Sound("chirp", 0.1, 4.9)
"""The gateway itself is in trouble; told from the alarm by ear."""
CALL = Sound("call", 0.2, 0.1)
TEST: tuple[tuple[Signal, float], ...] = (
    (Signal("test: green", HEALTHY), 1.0),
    (Signal("test: red", CRITICAL, ALARM), 2.0),
)


def shown(alerts: Sequence[Alert], muted: frozenset[int] = frozenset()) -> Alert | None:
    """The alert the panel shows, which its button acknowledges.

    Nobody has seen it before seen, most severe first, news before history, then newest.
    None while there is nothing but info.
    """
    on_panel = [alert for alert in alerts if alert.open and alert.severity > Severity.INFO]
    return max(on_panel, key=lambda alert: (_heard(alert, muted), _urgency(alert)), default=None)


def signal_for(
    alerts: Sequence[Alert],
    degraded: bool,  # noqa: FBT001 - the port's fixed order, called by name
    uplink_down: bool,  # noqa: FBT001
    clock_untrusted: bool,  # noqa: FBT001
    muted: frozenset[int] = frozenset(),
) -> Signal:
    """The one signal for everything that is going on.

    Rank: a critical alert nobody has seen, a gateway that cannot store, other critical
    alerts, warnings, clock, uplink, healthy. The clock comes before the uplink because an
    untrusted clock spoils data and a line that is down only delays it.

    Args:
        alerts: any alerts; ended ones and info do not count.
        degraded: the store cannot write.
        uplink_down: an upstream is configured and cannot be reached.
        clock_untrusted: neither NTP nor an RTC nor a person has set the clock.
    """
    on_panel = [alert for alert in alerts if alert.open and alert.severity > Severity.INFO]
    worst = max(on_panel, key=lambda alert: (_heard(alert, muted), _rank_on_lamp(alert)), default=None)
    if degraded and (worst is None or not _heard(worst, muted)):
        return Signal("gateway cannot store", DEGRADED, CHIRP)
    if worst is not None:
        label = f"{worst.kind} {worst.subject}"
        sound = CALL if worst.kind in NEVER_SILENCED else ALARM
        return Signal(label, _light_of(worst), sound if _heard(worst, muted) else None)
    if clock_untrusted:
        return Signal("clock not set", CLOCK_UNTRUSTED)
    if uplink_down:
        return Signal("uplink down", UPLINK_DOWN)
    return Signal("all well", HEALTHY)


def call_signal(kind: str, subject: str) -> Signal:
    """A call for help that is not yet on disk."""
    return Signal(f"{kind} {subject}", CRITICAL, CALL)


def _heard(alert: Alert, muted: frozenset[int]) -> bool:
    return sounds(alert) and alert.id not in muted


def _urgency(alert: Alert) -> tuple[bool, bool, int, bool, int, int]:
    """For the button: what sounds, then what nobody has seen, then how bad, then how new."""
    unseen = alert.state is State.ACTIVE
    return (sounds(alert), unseen, alert.severity, not alert.late, alert.raised_ms, alert.id)


def _rank_on_lamp(alert: Alert) -> tuple[bool, int, bool, bool, int, int]:
    """For the lamp: red stays red however much has been acknowledged."""
    unseen = alert.state is State.ACTIVE
    return (sounds(alert), alert.severity, unseen, not alert.late, alert.raised_ms, alert.id)


def _light_of(alert: Alert) -> Light:
    if alert.severity is Severity.CRITICAL:
        if alert.state is State.ACKNOWLEDGED:
            return CRITICAL_SEEN
        return CRITICAL_LATE if alert.late else CRITICAL
    return WARNING_SEEN if alert.state is State.ACKNOWLEDGED else WARNING
