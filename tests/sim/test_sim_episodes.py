"""Labels first: data differ from the healthy herd inside the labels, and nowhere else."""

from __future__ import annotations

import json

import pytest

from sensor_sim.episodes import Episode, Kind, parse_plan, scenario
from sensor_sim.errors import SimError
from sensor_sim.herd import Herd, Reading, cow_names
from sensor_sim.times import MINUTE_MS, parse_duration_s, parse_start_ms

START_MS = 1_763_510_400_000
HOUR_MS = 60 * MINUTE_MS


def run(*episodes: Episode, minutes: int = 24 * 60, seed: int = 3) -> dict[tuple[str, int], Reading]:
    herd = Herd(6, seed=seed, episodes=episodes)
    return {(cow_id, stamp): reading for stamp, cow_id, reading in herd.timed(START_MS, minutes)}


@pytest.mark.parametrize("kind", list(Kind))
def test_labels_cover_exactly_what_is_changed(kind: Kind):
    label = Episode(kind, "COW_003", START_MS + 2 * HOUR_MS, START_MS + 20 * HOUR_MS)
    healthy, sick = run(), run(label)
    changed = {key for key in healthy if sick.get(key) != healthy[key]}
    covered = {(cow, stamp) for cow, stamp in healthy if cow == "COW_003" and label.covers(stamp)}
    assert changed <= covered
    # a repeated value may equal the natural one by chance, and a fever's first and last minutes round to 0
    assert len(changed) >= 0.9 * len(covered)


def test_fever_rises_within_its_rise_and_stays_over_40_5():
    for seed in range(5):
        label = Episode(Kind.FEVER, "COW_002", START_MS + 6 * HOUR_MS, START_MS + 20 * HOUR_MS)
        cow = [(s, float(r["temperature"])) for (c, s), r in run(label, seed=seed).items() if c == "COW_002"]
        plateau = [t for s, t in cow if label.start_ms + 1000 * label.rise_s <= s < START_MS + 17 * HOUR_MS]
        assert min(plateau) >= 40.5
        assert max(plateau) <= 41.6
        before = [t for s, t in cow if s < label.start_ms]
        after = [t for s, t in cow if s >= START_MS + 20 * HOUR_MS]
        assert max(before + after) < 39.3
        assert 1.5 <= min(plateau) - sum(before) / len(before) <= 3.0


def test_stuck_repeats_one_triple_and_leaves_the_rest():
    label = Episode(Kind.STUCK, "COW_001", START_MS + HOUR_MS)
    cow = [r for (c, s), r in run(label, minutes=180).items() if c == "COW_001" and label.covers(s)]
    assert len({(r["fxa"], r["mya"], r["rza"]) for r in cow}) == 1
    assert len({r["temperature"] for r in cow}) > 3
    assert len(cow) == 120


def test_frozen_repeats_one_temperature_even_of_a_fever():
    fever = Episode(Kind.FEVER, "COW_001", START_MS, START_MS + 10 * HOUR_MS)
    frozen = Episode(Kind.FROZEN, "COW_001", START_MS + 3 * HOUR_MS, START_MS + 5 * HOUR_MS)
    cow = {s: r["temperature"] for (c, s), r in run(frozen, fever, minutes=360).items() if c == "COW_001"}
    assert len({t for s, t in cow.items() if frozen.covers(s)}) == 1


def test_silent_sends_nothing():
    label = Episode(Kind.SILENT, "COW_004", START_MS + HOUR_MS, START_MS + 2 * HOUR_MS)
    stamps = [s for c, s in run(label, minutes=180) if c == "COW_004"]
    assert len(stamps) == 120
    assert not any(label.covers(stamp) for stamp in stamps)


@pytest.mark.parametrize("seed", range(1, 8))
def test_demo_shows_everything_within_25_barn_minutes(seed: int):
    names = cow_names(12)
    fever, stuck, silent = (plan.at(START_MS) for plan in scenario("demo", names))
    rows = list(Herd(names, seed=seed, episodes=(fever, stuck, silent)).timed(START_MS, 60))
    hot = [
        (s, float(r["temperature"]))
        for s, c, r in rows
        if c == fever.cow_id and s >= START_MS + 23 * MINUTE_MS
    ]
    assert min(t for _, t in hot) >= 40.5
    assert hot[0][0] < START_MS + 25 * MINUTE_MS
    assert max(float(r["temperature"]) for _, c, r in rows if c != fever.cow_id) < 39.3
    assert max(s for s, c, _ in rows if c == silent.cow_id) < START_MS + 15 * MINUTE_MS
    assert len({fever.cow_id, stuck.cow_id, silent.cow_id}) == 3


def test_healthy_scenario_is_empty_and_demo_needs_three_cows():
    assert scenario("healthy", cow_names(1)) == ()
    assert len(scenario("demo", cow_names(3))) == 3
    with pytest.raises(SimError, match="at least 3 cows"):
        scenario("demo", cow_names(2))


def test_truth_line_says_kind_cow_and_instants():
    label = json.loads(parse_plan(Kind.FEVER, "COW_003@+20m/6h/30m").at(START_MS).truth())
    assert label == {
        "kind": "fever",
        "cow_id": "COW_003",
        "start": "2025-11-19T00:20:00Z",
        "end": "2025-11-19T06:20:00Z",
        "plateau": "2025-11-19T00:50:00Z",
        "plateau_c": 40.85,
    }
    assert json.loads(parse_plan(Kind.STUCK, "B:1@+1h").at(START_MS).truth())["end"] is None


@pytest.mark.parametrize(
    "text", ["COW_003", "COW_003@20m", "COW 3@+20m", "COW_003@+20", "COW_003@+20m/0s", "@+1m"]
)
def test_bad_plans_are_refused_with_the_option_in_the_text(text: str):
    with pytest.raises(SimError, match=r"--silent|duration"):
        parse_plan(Kind.SILENT, text)


def test_a_rise_is_for_fevers_only():
    with pytest.raises(SimError, match="--stuck"):
        parse_plan(Kind.STUCK, "COW_003@+20m/6h/30m")


def test_a_strange_cow_is_refused():
    with pytest.raises(SimError, match="COW_099 is not in the herd"):
        Herd(3, episodes=[Episode(Kind.STUCK, "COW_099", START_MS)])


def test_durations_and_starts():
    assert [parse_duration_s(t) for t in ("90s", "20m", "6h", "1h30m", "2d")] == [
        90,
        1200,
        21600,
        5400,
        172800,
    ]
    now_ms = START_MS + 12 * HOUR_MS + 5_000
    assert parse_start_ms("now", now_ms) == START_MS + 12 * HOUR_MS
    assert parse_start_ms("-6h", now_ms) == START_MS + 6 * HOUR_MS
    for text in ("2025-11-19T00:00:00Z", "2025-11-19T00:00:00", "2025-11-19T02:00:00+02:00"):
        assert parse_start_ms(text, now_ms) == START_MS
    with pytest.raises(SimError, match="--start"):
        parse_start_ms("yesterday", now_ms)
