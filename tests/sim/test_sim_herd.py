"""The healthy herd: repeatable, like the real heifer, and document 0 on the wire."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache

import numpy as np
import pytest

from sensor_sim.errors import SimError
from sensor_sim.herd import Herd, Reading, cow_names, encode, topic_of
from sensor_sim.physiology import TARGET_DELTA_G

START_MS = 1_763_510_400_000  # 2025-11-19T00:00:00Z


@cache
def day() -> dict[str, list[Reading]]:
    cows: dict[str, list[Reading]] = {}
    for cow_id, reading in Herd(30, seed=1).readings(START_MS, 1440):
        cows.setdefault(cow_id, []).append(reading)
    return cows


def axes() -> np.ndarray:
    return np.array([[[r["fxa"], r["mya"], r["rza"]] for r in rows] for rows in day().values()])


def temperatures() -> np.ndarray:
    return np.array([[r["temperature"] for r in rows] for rows in day().values()])


def test_same_seed_same_bytes_and_another_seed_others():
    one, again, other = (
        b"\n".join(encode(r) for _, r in Herd(5, seed=seed).readings(START_MS, 90)) for seed in (7, 7, 8)
    )
    assert one == again
    assert one != other


def test_a_larger_herd_begins_with_the_same_cows():
    small = [encode(r) for c, r in Herd(3).readings(START_MS, 60) if c == "COW_002"]
    large = [encode(r) for c, r in Herd(40).readings(START_MS, 60) if c == "COW_002"]
    assert small == large


def test_a_longer_run_begins_like_a_shorter_one():
    short = list(Herd(2).readings(START_MS, 30))
    assert list(itertools.islice(Herd(2).readings(START_MS), len(short))) == short


def test_gravity_is_in_the_accelerometer():
    # Real heifer: |a| p1 0.85, median 1.00, p99 1.16 g (DECISIONS 1).
    low, middle, high = np.quantile(np.linalg.norm(axes(), axis=2), [0.01, 0.5, 0.99])
    assert low == pytest.approx(0.85, abs=0.03)
    assert middle == pytest.approx(1.0, abs=0.01)
    assert high == pytest.approx(1.16, abs=0.03)


def test_motion_has_the_real_heifers_quantiles():
    delta = np.linalg.norm(np.diff(axes(), axis=1), axis=2)
    for share, real_g in TARGET_DELTA_G.items():
        assert np.quantile(delta, share) == pytest.approx(real_g, rel=0.2), share


def test_each_cow_alone_moves_like_a_cow():
    delta = np.linalg.norm(np.diff(axes(), axis=1), axis=2)
    medians = np.quantile(delta, 0.5, axis=1)
    assert medians.min() > 0.05
    assert medians.max() < 0.22


def test_axes_stay_in_range_and_triples_repeat_at_most_three_times():
    assert np.abs(axes()).max() <= 2.0
    for rows in axes():
        runs = [len(list(group)) for _, group in itertools.groupby(map(tuple, rows.tolist()))]
        assert max(runs) <= 3


def test_lying_and_standing_differ_in_gravity():
    rows = [r for cow in day().values() for r in cow]
    fore_aft = {
        s: np.mean([r["fxa"] for r in rows if r["state"] == s]) for s in ("lying", "standing", "feeding")
    }
    assert fore_aft["lying"] > fore_aft["standing"] + 0.15 > fore_aft["feeding"] + 0.3


def test_behaviour_budget_is_a_cows():
    states = [r["state"] for cow in day().values() for r in cow]
    share = {state: states.count(state) / len(states) for state in set(states)}
    assert set(share) == {"lying", "standing", "walking", "feeding"}
    assert 0.5 < share["lying"] < 0.75
    assert 0.04 < share["feeding"] < 0.2


def test_temperature_is_normal_and_circadian():
    values = temperatures()
    assert np.quantile(values, 0.001) >= 38.0
    assert np.quantile(values, 0.999) <= 39.2
    hourly = values.reshape(len(values), 24, 60).mean(axis=2)
    herd = hourly.mean(axis=0)
    assert 0.38 <= herd.max() - herd.min() <= 0.52
    assert 17 <= herd.argmax() <= 21
    assert values.mean(axis=1).std() > 0.05  # cows differ


def test_messages_are_document_0s():
    names = ["cow_id", "timestamp", "temperature", "fxa", "mya", "rza", "sxg", "lyg", "dzg", "state"]
    for cow_id, reading in Herd(12).readings(START_MS, 10):
        message = json.loads(encode(reading))
        assert list(message) == names
        assert re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", message["cow_id"])
        assert topic_of(cow_id) == f"artemis/sensors/{message['cow_id']}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", message["timestamp"])
        assert 35.0 <= message["temperature"] <= 42.0
        assert all(-2.0 <= message[axis] <= 2.0 for axis in ("fxa", "mya", "rza"))
        assert all(abs(message[axis]) <= 2000 for axis in ("sxg", "lyg", "dzg"))
        assert message["state"] in {"lying", "standing", "walking", "feeding"}
        assert "-0.0," not in encode(reading).decode()


def test_optional_fields_can_be_left_out():
    _, reading = next(Herd(1, gyro=False, state=False).readings(START_MS, 1))
    assert list(reading) == ["cow_id", "timestamp", "temperature", "fxa", "mya", "rza"]


def test_one_reading_a_minute_each_at_her_own_second_in_order():
    timed = list(Herd(12).timed(START_MS, 5))
    stamps = [timestamp_ms for timestamp_ms, _, _ in timed]
    assert stamps == sorted(stamps)
    assert len(timed) == 60
    seconds = {cow_id: {t // 1000 % 60 for t, c, _ in timed if c == cow_id} for cow_id in cow_names(12)}
    assert all(len(own) == 1 for own in seconds.values())
    assert len(set.union(*seconds.values())) == 12


def test_readings_end_with_the_run():
    assert max(t for t, _, _ in Herd(60).timed(START_MS, 2.5)) < START_MS + 150_000


@pytest.mark.parametrize("cows", [0, 5001])
def test_a_herd_has_bounds(cows: int):
    with pytest.raises(SimError, match="1 to 5000"):
        Herd(cows)
