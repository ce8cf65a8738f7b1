"""Which light and sound belongs to which alerts (decision 19)."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest

from gateway.core import signals
from gateway.core.alerts import Alert, State
from gateway.core.severity import Severity
from gateway.core.signals import Colour, Light, shown, signal_for


def alert(what: str, alert_id: int = 1) -> Alert:
    """From words: "critical", "late critical", "acknowledged warning", "resolved critical"."""
    *states, severity = what.split()
    state = next((State(s) for s in states if s != "late"), State.ACTIVE)
    return Alert(
        id=alert_id,
        subject=f"COW_{alert_id:03d}",
        kind="fever",
        episode=1,
        severity=Severity[severity.upper()],
        state=state,
        onset_ms=0,
        last_seen_ms=0,
        raised_ms=alert_id,
        changed_ms=0,
        confidence=1.0,
        sentence="",
        late="late" in states,
    )


def alerts(*what: str) -> list[Alert]:
    return [alert(words, i) for i, words in enumerate(what, 1)]


TABLE: list[tuple[tuple[str, ...], str, Light, str | None]] = [
    # alerts, health, light, sound
    ((), "", signals.HEALTHY, None),
    (("info",), "", signals.HEALTHY, None),
    (("resolved critical", "false_positive critical"), "", signals.HEALTHY, None),
    (("warning",), "", signals.WARNING, None),
    (("acknowledged warning",), "", signals.WARNING_SEEN, None),
    (("warning", "acknowledged warning"), "", signals.WARNING, None),
    (("critical",), "", signals.CRITICAL, "alarm"),
    (("late critical",), "", signals.CRITICAL_LATE, None),
    (("late critical", "critical"), "", signals.CRITICAL, "alarm"),
    (("acknowledged critical",), "", signals.CRITICAL_SEEN, None),
    (("acknowledged critical", "warning"), "", signals.CRITICAL_SEEN, None),
    (("acknowledged critical", "critical"), "", signals.CRITICAL, "alarm"),
    ((), "uplink", signals.UPLINK_DOWN, None),
    ((), "clock", signals.CLOCK_UNTRUSTED, None),
    ((), "clock uplink", signals.CLOCK_UNTRUSTED, None),
    (("info",), "uplink", signals.UPLINK_DOWN, None),
    (("warning",), "clock uplink", signals.WARNING, None),
    ((), "degraded", signals.DEGRADED, "chirp"),
    (("warning",), "degraded uplink", signals.DEGRADED, "chirp"),
    (("acknowledged critical",), "degraded", signals.DEGRADED, "chirp"),
    (("critical",), "degraded clock", signals.CRITICAL, "alarm"),
]


@pytest.mark.parametrize(
    ("what", "health", "light", "sound"),
    TABLE,
    ids=[f"{', '.join(w) or 'none'} + {h}" for w, h, _, _ in TABLE],
)
def test_signal(what: tuple[str, ...], health: str, light: Light, sound: str | None) -> None:
    signal = signal_for(
        alerts(*what),
        degraded="degraded" in health,
        uplink_down="uplink" in health,
        clock_untrusted="clock" in health,
    )
    assert signal.light == light
    assert (signal.sound.name if signal.sound else None) == sound


def test_label_names_trouble_and_subject() -> None:
    assert signal_for(alerts("critical"), False, False, False).label == "fever COW_001"
    assert signal_for([], False, False, False).label == "all well"


LIGHTS = {name: value for name, value in vars(signals).items() if isinstance(value, Light)}


def test_colours_are_those_of_the_decision() -> None:
    colours = {name.split("_")[0]: light.colour for name, light in LIGHTS.items()}
    assert colours == {
        "HEALTHY": Colour.GREEN,
        "WARNING": Colour.AMBER,
        "CRITICAL": Colour.RED,
        "DEGRADED": Colour.RED,
        "CLOCK": Colour.BLUE,
        "UPLINK": Colour.BLUE,
    }


@pytest.mark.parametrize(("one", "other"), list(combinations(sorted(LIGHTS), 2)))
def test_every_state_has_a_rhythm_of_its_own(one: str, other: str) -> None:
    """Told apart without colour: a part of the rhythm differs by at least a third."""
    a, b = LIGHTS[one], LIGHTS[other]
    ratios = [max(x, y) / min(x, y) for x, y in ((a.on_s, b.on_s), (a.off_s, b.off_s))]
    assert max(ratios) >= 4 / 3


@pytest.mark.parametrize("light", list(LIGHTS.values()), ids=list(LIGHTS))
def test_a_working_gateway_always_blinks(light: Light) -> None:
    assert light.colour is not Colour.OFF
    assert 0.1 <= light.on_s <= 3
    assert 0.1 <= light.off_s <= 3


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ((), None),
        (("info", "resolved critical"), None),
        (("warning", "warning"), 2),
        (("critical", "warning"), 1),
        (("acknowledged critical", "warning"), 2),
        (("late critical", "critical", "late critical"), 2),
        (("acknowledged critical", "acknowledged warning"), 1),
        (("late critical", "warning"), 1),
    ],
)
def test_the_button_takes_what_is_shown(what: tuple[str, ...], expected: int | None) -> None:
    alert_shown = shown(alerts(*what))
    assert (alert_shown.id if alert_shown else None) == expected


def test_newest_of_equals_by_raised_time() -> None:
    first, second = alerts("warning", "warning")
    assert shown([msgspec.structs.replace(first, raised_ms=99), second]).id == 1  # type: ignore[union-attr]
