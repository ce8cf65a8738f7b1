"""What every detector owes, whatever it looks for."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.detection import DETECTORS, JOBS, Policies, detectors_of, jobs_without_detectors
from gateway.core.herd import VIEW_MINUTES, HerdWindow
from gateway.core.windows import Windows
from tests.herd_maker import START, judge, living, reading, told

detectors = pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.name)


def arrays(struct):
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, msgspec.Struct):
            yield from arrays(value)


def run(detector, window, baselines):
    return detector.detect(window, baselines, getattr(Policies(), detector.name))


readings = st.lists(
    st.builds(
        reading,
        cow_id=st.sampled_from(["A", "B", "C", "D"]),
        minute=st.integers(0, 470),
        temperature_c=st.sampled_from([35.0, 38.5, 38.6, 40.5, 42.0]),
        axes=st.tuples(*[st.sampled_from([-2.0, -0.9, 0.0, 0.01, 2.0])] * 3),
        second=st.integers(0, 59),
        arrived_s=st.integers(0, 30_000).map(float),
        motion=st.none() | st.floats(0, 2),
    ),
    max_size=80,
)


def prepare(made):
    windows = Windows()
    windows.feed(made)
    for cow in ("A", "E"):
        windows.reject(cow, START + 470, START, 0.0, fault=True, temperature_c=43.0, hot=True)
    spans = windows.take_spans().live
    steps = windows.steps(spans, 2)
    yield windows, windows.look(40_000.0)
    for step in steps[-3:]:
        yield windows, windows.view(spans, step, 2, 40_000.0)


@detectors
@settings(max_examples=40, deadline=None)
@given(made=readings)
def test_gaps_never_raise_inputs_stay_and_answers_repeat(detector, made):
    for windows, window in prepare(made):
        baselines = windows.baselines(window)
        for array in [*arrays(window), *arrays(baselines)]:
            array.flags.writeable = False  # a detector that writes raises here
        first = run(detector, window, baselines)
        assert run(detector, window, baselines) == first
        for finding in first:
            assert finding.kind in detector.kinds
            assert 0 <= finding.confidence <= 1
            assert 0 <= finding.evidence.quality <= 1
            assert finding.onset_ms <= finding.at_ms
            assert finding.sentence
            assert finding.subject in {*window.animals, "herd"}
            assert msgspec.json.decode(msgspec.json.encode(finding))["subject"] == finding.subject


def reordered(struct, order):
    changes = {}
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        if isinstance(value, np.ndarray):
            changes[field.name] = value[order]
        elif isinstance(value, msgspec.Struct):
            changes[field.name] = reordered(value, order)
        elif isinstance(value, tuple):
            changes[field.name] = tuple(value[i] for i in order)
    return msgspec.structs.replace(struct, **changes)


@detectors
@settings(max_examples=40, deadline=None)
@given(made=readings, rng=st.randoms(use_true_random=False))
def test_the_order_of_animals_does_not_matter(detector, made, rng):
    for windows, window in prepare(made):
        order = list(range(len(window.animals)))
        rng.shuffle(order)
        baselines = windows.baselines(window)
        one = run(detector, window, baselines)
        other = run(detector, reordered(window, order), reordered(baselines, order))
        key = lambda f: (f.subject, f.kind, f.at_ms, f.present)  # noqa: E731
        assert sorted(one, key=key) == sorted(other, key=key)


@detectors
def test_an_empty_herd_and_an_empty_animal(detector):
    windows = Windows()
    empty = windows.look(0.0)
    assert run(detector, empty, windows.baselines(empty)) == []
    windows.reject("A", START, START, 0.0, fault=True, temperature_c=None, hot=False)
    spans = windows.take_spans().live
    window = windows.view(spans, START, 2, 0.0)
    assert isinstance(window, HerdWindow)
    assert np.isnan(window.temperature_c).all()
    assert window.temperature_c.shape == (1, VIEW_MINUTES)
    assert not [f for f in run(detector, window, windows.baselines(window)) if f.present]


def test_a_healthy_herd_gives_no_alarm_in_two_days():
    windows = Windows()
    cows = [living(f"C{i}", range(2 * 1440), seed=i) for i in range(6)]
    alarms = []
    for start in range(0, 2 * 1440, 240):
        for made in cows:
            windows.feed(made[start : start + 240])
        alarms += [f for f in judge(windows, now_s=(start + 239) * 60.0) if f.present]
    assert alarms == []


def test_jobs_say_which_of_them_have_detectors():  # S0-037 to S0-040
    assert [d.name for d in detectors_of("immediate_detection")] == ["malfunction", "fever", "silence"]
    assert jobs_without_detectors() == ("inactivity_detection", "health_scoring", "estrus_detection")
    assert {d.job for d in DETECTORS} <= set(JOBS)
    assert not told([], "fever")
    for detector in DETECTORS:
        assert hasattr(Policies(), detector.name)
