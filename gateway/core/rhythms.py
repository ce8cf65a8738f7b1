"""Rhythms of lamp and buzzer: written as text, checked, and told apart. Pure.

A rhythm is what a colour-blind person sees and what everybody hears through a barn wall, so
no two states may share one. Its text is the seconds on, off, on, off … of one turn.
"""

from __future__ import annotations

from itertools import combinations, cycle, islice
from math import lcm

import msgspec

Beats = tuple[float, ...]
"""Seconds on, off, on, off …; played again from the start."""

BEAT_S_MIN = 0.05
"""A flash or beep below this is missed: the eye fuses light at about 20 changes a second."""
BEAT_S_MAX = 10.0
"""A longer pause would pass for a dead gateway, which is dark or steady."""
BEATS_MAX = 16
"""Eight flashes; nobody counts further."""
TOLD_APART = 4 / 3
"""Two lengths are told apart from this ratio on. People notice about a tenth; but they have to
know the state from memory, at night."""


def beats_of(text: str) -> Beats:
    """Read a rhythm such as "0.1 0.1 0.1 0.7".

    Raises:
        ValueError: it cannot be played; one sentence with the remedy.
    """
    try:
        beats = tuple(float(word) for word in text.split())
    except ValueError:
        raise ValueError(f'"{text}" is no rhythm; write seconds on and off in turn, like "0.1 0.9"') from None
    if not beats or len(beats) % 2 or len(beats) > BEATS_MAX:
        raise ValueError(
            f'"{text}" has {len(beats)} numbers; it needs 1 to {BEATS_MAX // 2} pairs of seconds on and off'
        )
    for beat in beats:
        if not BEAT_S_MIN <= beat <= BEAT_S_MAX:
            raise ValueError(f'"{text}": {beat:g} s must be {BEAT_S_MIN:g} to {BEAT_S_MAX:g} s')
    return beats


def alike(one: Beats, other: Beats) -> bool:
    """Whether a person who joins at any moment could take one rhythm for the other."""
    length = lcm(len(one), len(other))
    a, b = _turns(one, 0, length), _turns(other, 0, length)
    return any(
        all(max(x, y) / min(x, y) < TOLD_APART for x, y in zip(a, _turns(b, shift, length), strict=True))
        for shift in range(0, length, 2)
    )


def _turns(beats: Beats, shift: int, length: int) -> Beats:
    return tuple(islice(cycle(beats), shift, shift + length))


def _check(rhythms: msgspec.Struct, verb: str) -> None:
    """Raise ValueError with all that is wrong."""
    played: dict[str, Beats] = {}
    wrong: list[str] = []
    for name in rhythms.__struct_fields__:
        try:
            played[name] = beats_of(getattr(rhythms, name))
        except ValueError as fault:
            wrong.append(f"{name}: {fault}")
    wrong += [
        f"{one} and {other} would {verb} the same; make a part of one at least a third longer"
        for one, other in combinations(played, 2)
        if alike(played[one], played[other])
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


class LampRhythms(msgspec.Struct, frozen=True, kw_only=True):
    """One rhythm for each state the lamp shows."""

    healthy: str = "0.1 2.9"
    warning: str = "1 1"
    warning_seen: str = "0.5 2"
    critical: str = "0.25 0.25"
    critical_late: str = "0.25 0.75"
    critical_seen: str = "1.5 0.5"
    call: str = "0.1 0.1 0.1 0.1 0.1 0.5"
    call_seen: str = "0.1 0.1 0.1 1.2"
    degraded: str = "0.1 0.1"
    clock_untrusted: str = "0.1 1.4"
    uplink_down: str = "0.5 0.5"

    def __post_init__(self) -> None:
        """Two states that look the same would be one."""
        _check(self, "look")


class BuzzerRhythms(msgspec.Struct, frozen=True, kw_only=True):
    """One rhythm for each sound, so that also a buzzer with one pitch tells them apart."""

    alarm: str = "0.5 0.5"
    urgent: str = "0.2 0.1 0.2 0.5"
    call: str = "0.1 0.1"
    chirp: str = "0.1 4.9"

    def __post_init__(self) -> None:
        """Two sounds that sound the same would be one."""
        _check(self, "sound")


class Patterns(msgspec.Struct, frozen=True, kw_only=True):
    """The rhythms of an installation; the defaults are the product's."""

    lamp: LampRhythms = LampRhythms()
    buzzer: BuzzerRhythms = BuzzerRhythms()
