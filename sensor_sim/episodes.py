"""What goes wrong with a cow or a collar, as labels first: the data follow the label. Pure.

A label covers exactly the readings it changes, `[start, end)`; the same herd without the
episode gives identical readings everywhere else, which a test holds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from sensor_sim.errors import SimError
from sensor_sim.times import MINUTE_MS, iso, parse_duration_s

FEVER_PLATEAU_C = 40.85
"""Well over the 40.5 °C of decision 4 with what noise and circadian rhythm take away, well under
the 42.0 °C of validation. From a normal mean of 38.3–38.8 that is a rise of 2.05–2.55 °C."""
FEVER_RISE_S = 90 * 60
FEVER_FALL_S = 3 * 3600
FEVER_LENGTH_S = 14 * 3600
CIRCADIAN_BLUNTING = 0.7
"""Share of the daily rhythm that a full fever hides."""


class Kind(StrEnum):
    """The kinds of episode; also the `kind` of a truth line and the name of a CLI option."""

    FEVER = "fever"
    STUCK = "stuck"  # the accelerometer repeats one triple
    FROZEN = "frozen"  # the thermometer repeats one value
    SILENT = "silent"  # the collar sends nothing


@dataclass(frozen=True, slots=True)
class Episode:
    """One labelled stretch of one cow; `end_ms` None means until the run ends.

    `rise_s` and `fall_s` count for fevers only: seconds from start to plateau, and from
    plateau to normal before the end.
    """

    kind: Kind
    cow_id: str
    start_ms: int
    end_ms: int | None = None
    rise_s: int = FEVER_RISE_S
    fall_s: int = FEVER_FALL_S

    def covers(self, timestamp_ms: int) -> bool:
        """Whether a reading of this instant is changed."""
        return self.start_ms <= timestamp_ms and (self.end_ms is None or timestamp_ms < self.end_ms)

    def fever_level(self, timestamp_ms: int) -> float:
        """0 (normal) to 1 (plateau), smooth at both shoulders."""
        level = _smooth((timestamp_ms - self.start_ms) / (1000 * self.rise_s))
        if self.end_ms is not None:
            level = min(level, _smooth((self.end_ms - timestamp_ms) / (1000 * self.fall_s)))
        return level

    def truth(self) -> str:
        """The label as one JSON line."""
        label: dict[str, object] = {
            "kind": self.kind.value,
            "cow_id": self.cow_id,
            "start": iso(self.start_ms),
            "end": None if self.end_ms is None else iso(self.end_ms),
        }
        if self.kind is Kind.FEVER:
            label |= {"plateau": iso(self.start_ms + 1000 * self.rise_s), "plateau_c": FEVER_PLATEAU_C}
        return json.dumps(label, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Plan:
    """An episode relative to the start of the run, as written on the command line."""

    kind: Kind
    cow_id: str
    onset_s: int
    length_s: int | None = None
    rise_s: int = FEVER_RISE_S

    def at(self, start_ms: int) -> Episode:
        """The episode of a run that starts at `start_ms`."""
        onset_ms = start_ms + 1000 * self.onset_s
        end_ms = None if self.length_s is None else onset_ms + 1000 * self.length_s
        fall_s = FEVER_FALL_S if self.length_s is None else max(60, min(FEVER_FALL_S, self.length_s // 4))
        return Episode(self.kind, self.cow_id, onset_ms, end_ms, self.rise_s, fall_s)


_PLAN = re.compile(
    r"(?P<cow>[A-Za-z0-9_.:-]{1,64})@\+(?P<onset>[^/]+)(?:/(?P<length>[^/]+)(?:/(?P<rise>[^/]+))?)?"
)


def parse_plan(kind: Kind, text: str) -> Plan:
    """`COW_003@+20m`, `COW_003@+20m/6h` (length) or `COW_003@+20m/6h/30m` (a fever's rise)."""
    found = _PLAN.fullmatch(text)
    if found is None or (found["rise"] and kind is not Kind.FEVER):
        rise = "[/RISE]" if kind is Kind.FEVER else ""
        raise SimError(f"--{kind} '{text}' is not COW@+ONSET[/LENGTH{rise}], for example COW_003@+20m/6h")
    length_s = parse_duration_s(found["length"]) if found["length"] else None
    if length_s is None and kind is Kind.FEVER:
        length_s = FEVER_LENGTH_S
    rise_s = parse_duration_s(found["rise"]) if found["rise"] else FEVER_RISE_S
    if length_s == 0 or rise_s == 0:
        raise SimError(f"--{kind} '{text}': a length or rise of 0 is no episode")
    return Plan(kind, found["cow"], parse_duration_s(found["onset"]), length_s, rise_s)


SCENARIOS = ("demo", "healthy")


def scenario(name: str, cow_ids: tuple[str, ...]) -> tuple[Plan, ...]:
    """`healthy`: nothing. `demo`: a fever ≥ 40.5 °C by barn minute 22, a stuck and a silent collar.

    The demo's fever rises in 18 minutes instead of an hour or two, so that at 60 times real
    time somebody who waits half a minute sees it.
    """
    if name == "healthy":
        return ()
    if name != "demo":
        raise SimError(f"--scenario '{name}' is unknown; there are {' and '.join(SCENARIOS)}")
    if len(cow_ids) < 3:
        raise SimError("--scenario demo needs at least 3 cows: one each for fever, stuck and silent")
    feverish, stuck, silent = (2, 4, 6) if len(cow_ids) >= 7 else (0, 1, 2)
    return (
        Plan(Kind.FEVER, cow_ids[feverish], 4 * 60, FEVER_LENGTH_S, rise_s=18 * 60),
        Plan(Kind.STUCK, cow_ids[stuck], 6 * 60),
        Plan(Kind.SILENT, cow_ids[silent], 15 * 60),
    )


def _smooth(share: float) -> float:
    """Smoothstep: 0 below 0, 1 above 1, no kink between."""
    bounded = min(1.0, max(0.0, share))
    return bounded * bounded * (3.0 - 2.0 * bounded)


def in_barn_time(episode: Episode, start_ms: int) -> str:
    """How an episode is announced: `fever in COW_003 from barn minute 4`."""
    return f"{episode.kind} in {episode.cow_id} from barn minute {(episode.start_ms - start_ms) // MINUTE_MS}"
