"""Which light and sound belongs to which alerts (decision 19)."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import signals
from gateway.core.alerts import CALLS, EMERGENCY_STOP, NEVER_SILENCED, Alert, State, sounds
from gateway.core.rhythms import BuzzerRhythms, LampRhythms, Patterns, alike
from gateway.core.severity import Severity
from gateway.core.signals import TEST, Colour, Light, Signal, Sound, call_signal, in_rhythm, shown, signal_for


def alert(what: str, alert_id: int = 1) -> Alert:
    """From words: "critical", "late critical", "acknowledged panic", "again critical"."""
    *words, last = what.split()
    call = last in NEVER_SILENCED
    return Alert(
        id=alert_id,
        subject=f"COW_{alert_id:03d}",
        kind=last if call else "fever",
        episode=1,
        severity=Severity.CRITICAL if call else Severity[last.upper()],
        state=next((State(word) for word in words if word in set(State)), State.ACTIVE),
        onset_ms=0,
        last_seen_ms=0,
        raised_ms=alert_id,
        changed_ms=0,
        confidence=1.0,
        sentence="",
        late="late" in words,
        reminders=1 if "again" in words else 0,
    )


def alerts(*what: str) -> list[Alert]:
    return [alert(words, i) for i, words in enumerate(what, 1)]


def muted(what: tuple[str, ...]) -> frozenset[int]:
    """The ids of those that are written as "muted …"."""
    return frozenset(i for i, words in enumerate(what, 1) if "muted" in words)


TABLE: list[tuple[tuple[str, ...], str, Light, str | None]] = [
    # alerts, health, light, sound
    ((), "", signals.HEALTHY, None),
    (("info",), "", signals.HEALTHY, None),
    (("resolved critical", "false_positive critical", "resolved panic"), "", signals.HEALTHY, None),
    (("warning",), "", signals.WARNING, None),
    (("acknowledged warning",), "", signals.WARNING_SEEN, None),
    (("warning", "acknowledged warning"), "", signals.WARNING, None),
    (("critical",), "", signals.CRITICAL, "alarm"),
    (("late critical",), "", signals.CRITICAL_LATE, None),
    (("late critical", "critical"), "", signals.CRITICAL, "alarm"),
    (("acknowledged critical",), "", signals.CRITICAL_SEEN, None),
    (("acknowledged critical", "warning"), "", signals.CRITICAL_SEEN, None),
    (("acknowledged critical", "critical"), "", signals.CRITICAL, "alarm"),
    # Nobody came: more urgent, whatever has been raised since.
    (("again critical",), "", signals.CRITICAL, "urgent"),
    (("again critical", "critical"), "", signals.CRITICAL, "urgent"),
    (("again acknowledged critical",), "", signals.CRITICAL_SEEN, None),
    # A person asks for help.
    (("panic",), "", signals.CALL_FOR_HELP, "call"),
    (("sos",), "", signals.CALL_FOR_HELP, "call"),
    (("fire",), "", signals.CALL_FOR_HELP, "call"),
    (("medical",), "", signals.CALL_FOR_HELP, "call"),
    (("emergency_stop",), "", signals.CALL_FOR_HELP, "call"),
    (("again panic",), "", signals.CALL_FOR_HELP, "call"),
    (("panic", "critical"), "degraded clock uplink", signals.CALL_FOR_HELP, "call"),
    (("panic", "again critical"), "", signals.CALL_FOR_HELP, "call"),
    (("panic", "acknowledged panic"), "", signals.CALL_FOR_HELP, "call"),
    (("acknowledged panic",), "", signals.CALL_SEEN, None),
    (("acknowledged panic", "warning"), "clock uplink", signals.CALL_SEEN, None),
    (("acknowledged panic", "late critical", "acknowledged critical"), "", signals.CALL_SEEN, None),
    (("acknowledged panic", "critical"), "", signals.CRITICAL, "alarm"),
    (("acknowledged panic",), "degraded", signals.DEGRADED, "chirp"),
    (("late panic",), "", signals.CALL_FOR_HELP, None),
    (("late panic", "critical"), "", signals.CRITICAL, "alarm"),
    # A person's silence takes the sound, never the light, and never that of a call.
    (("muted critical",), "", signals.CRITICAL, None),
    (("muted again critical",), "", signals.CRITICAL, None),
    (("muted critical", "critical"), "", signals.CRITICAL, "alarm"),
    (("muted critical",), "degraded", signals.DEGRADED, "chirp"),
    (("muted panic",), "", signals.CALL_FOR_HELP, "call"),
    (("muted emergency_stop",), "", signals.CALL_FOR_HELP, "call"),
    # The gateway itself.
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
        muted=muted(what),
    )
    assert signal.light == light
    assert (signal.sound.name if signal.sound else None) == sound


def test_label_names_trouble_and_subject() -> None:
    assert signal_for(alerts("critical"), False, False, False).label == "fever COW_001"
    assert signal_for(alerts("panic"), False, False, False).label == "panic COW_001"
    assert signal_for(alerts("emergency_stop"), False, False, False).label == "EMERGENCY STOP"
    assert signal_for([], False, False, False).label == "all well"


def test_label_says_what_the_gateway_cannot_do() -> None:
    assert signal_for([], True, False, False).label == "gateway cannot store"
    signal = signal_for([], "broker does not answer", False, False)
    assert signal == Signal("broker does not answer", signals.DEGRADED, signals.CHIRP)


@pytest.mark.parametrize("kind", sorted(NEVER_SILENCED))
def test_a_call_looks_the_same_before_and_after_it_is_on_disk(kind: str) -> None:
    stored = signal_for(alerts(kind), False, False, False)
    assert call_signal(kind, "COW_001") == stored


def test_a_herd_event_speaks_for_its_members() -> None:
    member, herd = alerts("critical", "acknowledged critical")
    herd = msgspec.structs.replace(herd, subject="herd", kind="fever_herd")
    member = msgspec.structs.replace(member, folded_into=herd.key)
    assert signal_for([member, herd], False, False, False) == Signal("fever_herd herd", signals.CRITICAL_SEEN)
    assert shown([member, herd]) == herd
    ended = msgspec.structs.replace(herd, state=State.RESOLVED)
    assert signal_for([member, ended], False, False, False).label == "fever COW_001"


# ---- told apart -------------------------------------------------------------------------

LIGHTS = {name: value for name, value in vars(signals).items() if isinstance(value, Light)}
SOUNDS = {name: value for name, value in vars(signals).items() if isinstance(value, Sound)}


def test_colours_are_those_of_the_decision() -> None:
    colours = {name.split("_")[0]: light.colour for name, light in LIGHTS.items()}
    assert colours == {
        "HEALTHY": Colour.GREEN,
        "WARNING": Colour.AMBER,
        "CRITICAL": Colour.RED,
        "CALL": Colour.RED,
        "DEGRADED": Colour.RED,
        "CLOCK": Colour.BLUE,
        "UPLINK": Colour.BLUE,
    }


def test_every_light_and_sound_has_a_rhythm_an_owner_can_change() -> None:
    assert {light.name for light in LIGHTS.values()} == set(LampRhythms.__struct_fields__)
    assert {sound.name for sound in SOUNDS.values()} == set(BuzzerRhythms.__struct_fields__)


@pytest.mark.parametrize(("one", "other"), list(combinations(sorted(LIGHTS), 2)))
def test_every_state_is_told_apart_without_colour(one: str, other: str) -> None:
    assert not alike(LIGHTS[one].beats, LIGHTS[other].beats)


@pytest.mark.parametrize(("one", "other"), list(combinations(sorted(SOUNDS), 2)))
def test_every_sound_is_told_apart_by_a_buzzer_with_one_pitch(one: str, other: str) -> None:
    assert not alike(SOUNDS[one].beats, SOUNDS[other].beats)


@pytest.mark.parametrize(("one", "other"), list(combinations(sorted(SOUNDS), 2)))
def test_no_two_sounds_share_their_pitches_on_a_tonal_buzzer(one: str, other: str) -> None:
    assert SOUNDS[one].tones_hz != SOUNDS[other].tones_hz


def test_the_more_urgent_a_sound_the_less_it_rests() -> None:
    pauses = [max(sound.beats[1::2]) for sound in (signals.CHIRP, signals.ALARM, signals.CALL)]
    assert pauses == sorted(pauses, reverse=True)
    assert signals.URGENT.beats.count(0.2) > len(signals.ALARM.beats) / 2


@pytest.mark.parametrize("light", list(LIGHTS.values()), ids=list(LIGHTS))
def test_a_working_gateway_always_blinks(light: Light) -> None:
    assert light.colour is not Colour.OFF
    assert all(0.1 <= beat <= 3 for beat in light.beats)


def test_the_steps_of_a_sound_are_tone_and_silence_in_turn() -> None:
    sound = Sound("two", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (1000.0, 2000.0))
    assert sound.steps == (
        (0.1, 1000.0),
        (0.2, None),
        (0.3, 2000.0),
        (0.4, None),
        (0.5, 1000.0),
        (0.6, None),
    )


STATES = st.sampled_from(["", "acknowledged ", "late ", "again ", "muted ", "resolved ", "muted late "])
WHAT = st.builds(
    lambda state, last: state + last,
    STATES,
    st.sampled_from(["info", "warning", "critical", *sorted(CALLS), EMERGENCY_STOP]),
)


@given(st.lists(WHAT, max_size=6), *[st.booleans()] * 3)
def test_two_situations_that_look_different_differ_in_rhythm(
    what: list[str], degraded: bool, uplink_down: bool, clock_untrusted: bool
) -> None:
    signal = signal_for(alerts(*what), degraded, uplink_down, clock_untrusted, muted(tuple(what)))
    same = [light for light in LIGHTS.values() if alike(light.beats, signal.light.beats)]
    assert same == [signal.light]


@given(st.lists(WHAT, max_size=6), st.booleans())
def test_what_sounds_is_what_the_lamp_names_and_the_button_takes(what: list[str], degraded: bool) -> None:
    situation, silent = alerts(*what), muted(tuple(what))
    signal = signal_for(situation, degraded, False, False, silent)
    heard = [a for a in situation if sounds(a) and (a.kind in NEVER_SILENCED or a.id not in silent)]
    if not heard:
        assert signal.sound == (signals.CHIRP if degraded else None)
        return
    taken = shown(situation, silent)
    assert taken in heard
    assert signal.label == call_signal(taken.kind, taken.subject).label
    assert signal.sound in (signals.ALARM, signals.URGENT, signals.CALL)
    assert (signal.sound == signals.CALL) == any(a.kind in NEVER_SILENCED for a in heard)


@given(st.permutations(alerts("critical", "warning", "panic", "acknowledged sos", "again critical")))
def test_the_order_of_the_alerts_does_not_matter(situation: list[Alert]) -> None:
    assert signal_for(situation, False, False, False) == call_signal("panic", "COW_003")
    assert shown(situation) == alert("panic", 3)


# ---- the test of the panel ----------------------------------------------------------------


def test_the_panel_test_shows_every_colour_and_plays_every_sound_in_about_12_s() -> None:
    assert {signal.light.colour for signal, _ in TEST} == set(Colour) - {Colour.OFF}
    assert [signal.sound for signal, _ in TEST if signal.sound] == [
        signals.ALARM,
        signals.URGENT,
        signals.CALL,
        signals.CHIRP,
    ]
    assert sum(seconds for _, seconds in TEST) == pytest.approx(12, abs=1)
    assert all(signal.label.startswith("test: ") for signal, _ in TEST)


@pytest.mark.parametrize(("signal", "seconds"), TEST, ids=[signal.label for signal, _ in TEST])
def test_each_step_lasts_long_enough_to_be_seen_and_heard(signal: Signal, seconds: float) -> None:
    assert seconds >= max(signal.light.beats[0] + 0.5, 1.0)
    if signal.sound is not None:
        turn_s = sum(signal.sound.beats)
        assert seconds >= (signal.sound.beats[0] if signal.sound is signals.CHIRP else 2 * turn_s)
    assert str(signal.light.colour) in signal.label


# ---- the rhythms of an installation ---------------------------------------------------------


def test_an_owners_rhythm_replaces_that_of_the_product() -> None:
    patterns = Patterns(
        lamp=LampRhythms(critical="0.3 0.1 0.3 0.9"), buzzer=BuzzerRhythms(alarm="0.6 0.2 0.6 0.6")
    )
    signal = in_rhythm(signal_for(alerts("critical"), False, False, False), patterns)
    assert signal.light == Light("critical", Colour.RED, (0.3, 0.1, 0.3, 0.9))
    assert signal.sound == Sound("alarm", (0.6, 0.2, 0.6, 0.6), signals.ALARM.tones_hz)
    assert signal.label == "fever COW_001"


def test_the_products_rhythms_change_nothing() -> None:
    for signal, _ in TEST:
        assert in_rhythm(signal, Patterns()) == signal
    own = Signal("own", Light("own", Colour.RED, (1.0, 1.0)), Sound("own", (1.0, 1.0), (440.0,)))
    assert in_rhythm(own, Patterns()) == own


# ---- the button ---------------------------------------------------------------------------


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
        (("panic", "critical"), 1),
        (("late panic", "critical"), 2),
        (("late panic", "late critical"), 1),
        (("acknowledged panic", "warning"), 2),
        (("acknowledged panic", "acknowledged critical"), 1),
        (("again critical", "critical"), 1),
        (("critical", "muted critical"), 1),
        (("muted panic", "critical"), 1),
    ],
)
def test_the_button_takes_what_is_shown(what: tuple[str, ...], expected: int | None) -> None:
    alert_shown = shown(alerts(*what), muted(what))
    assert (alert_shown.id if alert_shown else None) == expected


def test_newest_of_equals_by_raised_time() -> None:
    first, second = alerts("warning", "warning")
    assert shown([msgspec.structs.replace(first, raised_ms=99), second]).id == 1  # type: ignore[union-attr]
