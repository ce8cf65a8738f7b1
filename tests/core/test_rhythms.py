"""What a rhythm may be, and which two a person can tell apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.rhythms import BEAT_S_MAX, BEAT_S_MIN, BuzzerRhythms, LampRhythms, alike, beats_of

BEATS = st.lists(st.tuples(*[st.floats(BEAT_S_MIN, BEAT_S_MAX)] * 2), min_size=1, max_size=8).map(
    lambda pairs: tuple(beat for pair in pairs for beat in pair)
)


def test_a_rhythm_is_seconds_on_and_off_in_turn() -> None:
    assert beats_of("0.1 0.1 .1  7e-1") == (0.1, 0.1, 0.1, 0.7)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", '"" has 0 numbers; it needs 1 to 8 pairs'),
        ("1", '"1" has 1 numbers'),
        ("1 1 1", "has 3 numbers"),
        ("1 " * 18, "has 18 numbers"),
        ("0.5 often", 'is no rhythm; write seconds on and off in turn, like "0.1 0.9"'),
        ("0,5 0,5", "is no rhythm"),
        ("0.04 1", "0.04 s must be 0.05 to 10 s"),
        ("1 10.1", "10.1 s must be"),
        ("-1 1", "-1 s must be"),
        ("nan 1", "nan s must be"),
        ("inf 1", "inf s must be"),
    ],
)
def test_what_is_no_rhythm_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is looked at below
        beats_of(text)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.5 0.5", "0.5 0.5", True),
        ("0.5 0.5", "0.6 0.5", True),
        ("0.5 0.5", "0.7 0.5", False),
        ("0.5 0.5", "0.5 0.7", False),
        ("0.1 0.1", "0.1 0.1 0.1 0.1", True),
        ("0.1 0.1", "0.1 0.1 0.1 0.5", False),
        ("0.1 0.1 0.1 0.7", "0.1 0.7 0.1 0.1", True),
        ("0.1 0.7", "0.7 0.1", False),
        ("0.1 0.1 0.1 0.1 0.1 0.5", "0.1 0.1 0.1 0.5", False),
    ],
)
def test_two_rhythms_are_told_apart_by_a_part_a_third_longer(one: str, other: str, same: bool) -> None:
    assert alike(beats_of(one), beats_of(other)) is same


@given(BEATS, BEATS, st.integers(0, 7))
def test_it_does_not_matter_who_is_compared_with_whom_or_when_somebody_looks(
    one: tuple[float, ...], other: tuple[float, ...], pairs: int
) -> None:
    shift = 2 * pairs % len(one)
    assert alike(one, one[shift:] + one[:shift])
    assert alike(one, other) == alike(other, one) == alike(one[shift:] + one[:shift], other)


def test_all_faults_of_the_patterns_are_said_at_once() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is looked at below
        LampRhythms(healthy="x", warning="0.25 0.25", uplink_down="9 99")
    assert str(caught.value) == (
        'healthy: "x" is no rhythm; write seconds on and off in turn, like "0.1 0.9"; '
        'uplink_down: "9 99": 99 s must be 0.05 to 10 s; '
        "warning and critical would look the same; make a part of one at least a third longer"
    )
    with pytest.raises(ValueError, match="alarm and call would sound the same"):
        BuzzerRhythms(call="0.4 0.4")
