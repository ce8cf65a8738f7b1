import pytest

from gateway.core.windows import Windows
from tests.herd_maker import START, judge, living, normal, reading, told

KIND = "sensor_malfunction"


def faults(windows):
    return told(judge(windows), KIND)


def test_a_stuck_accelerometer_needs_ten_readings_and_ten_minutes():
    windows = Windows()
    windows.feed(living("A", range(20)))
    windows.feed([reading("A", m, 38.5 + m / 1000) for m in range(20, 30)])
    assert not faults(windows)
    windows.feed([reading("A", 30, 38.53)])
    (fault,) = faults(windows)
    assert fault.detail == "stuck_accelerometer"
    assert fault.evidence.duration_min == 10
    assert fault.onset_ms == (START + 20) * 60_000
    assert "unchanged for 10 min (11 readings)" in fault.sentence
    windows.feed(living("A", range(32, 34)))
    assert normal(judge(windows), KIND)


def test_an_accelerometer_fault_never_silences_fever():
    windows = Windows()
    windows.feed([reading("A", m, 38.5 + m / 1000) for m in range(30)])
    windows.feed([reading("A", 30, 41.0)])
    findings = judge(windows)
    assert told(findings, KIND)
    assert told(findings, "fever")


@pytest.mark.parametrize(
    ("size", "n", "alerts"), [(1.0, 30, 0), (1.1, 30, 0), (1.3, 30, 1), (0.5, 30, 1), (0.5, 9, 0)]
)
def test_gravity(size, n, alerts):
    windows = Windows()
    windows.feed([reading("A", m, axes=(0.01 * (m % 3), 0.0, -size)) for m in range(n)])
    found = faults(windows)
    assert {f.detail for f in found} == ({"gravity_off"} if alerts else set())


def test_a_living_cow_is_plausible():
    windows = Windows()
    windows.feed(living("A", range(400)))
    findings = judge(windows)
    assert not told(findings, KIND)
    assert normal(findings, KIND)


def refuse(windows, cow, minute, temperature_c=None):
    windows.reject(
        cow, START + minute, START + minute, minute * 60.0, fault=True, temperature_c=temperature_c, hot=False
    )


def test_three_refused_of_ten():
    windows = Windows()
    windows.feed(living("A", range(20)))
    refuse(windows, "A", 20, 50.0)
    windows.feed(living("A", range(21, 25)))
    refuse(windows, "A", 25, 50.0)
    assert not faults(windows)
    refuse(windows, "A", 26, 60.0)
    findings = judge(windows)
    (fault,) = told(findings, KIND)
    assert fault.detail == "rejected_temperature"
    assert "3 of its last 10" in fault.sentence
    windows.feed(living("A", range(27, 37)))
    assert normal(judge(windows), KIND)


def test_a_refused_temperature_gates_fever_for_that_animal_only():
    windows = Windows()
    for cow in ("A", "B"):
        windows.feed([reading(cow, 2, 40.8)])
    for minute in (0, 1, 2):
        refuse(windows, "A", minute, 50.0)
    assert {f.subject for f in told(judge(windows), "fever")} == {"B"}


def test_a_collar_broken_from_its_first_message_is_seen():
    windows = Windows()
    for minute in range(3):
        refuse(windows, "NEW", minute)
    (fault,) = faults(windows)
    assert fault.detail == "rejected_values"
    windows.reject("GHOST", None, START, 0.0, fault=False, temperature_c=None, hot=False)
    assert "GHOST" not in windows


def test_refused_ids_never_use_more_than_half_of_the_room():
    windows = Windows(animals_max=10)
    for i in range(10):
        refuse(windows, f"GHOST{i}", 0)
    assert len(windows) == 5


def test_a_temperature_that_stops_moving_is_frozen_and_gates_fever():
    windows = Windows()
    windows.feed(living("A", range(-120, 0)))
    axes = living("A", range(200))
    frozen = [reading("A", m, 40.6, (r.fxa_g, r.mya_g, r.rza_g)) for m, r in enumerate(axes)]
    windows.feed(frozen)
    findings = judge(windows)
    found = told(findings, KIND)
    assert {f.detail for f in found} == {"frozen_temperature"}
    assert min(f.at_ms for f in found) >= (START + 180) * 60_000
    assert max(f.at_ms for f in told(findings, "fever")) < (START + 182) * 60_000


def test_a_constant_that_never_moved_is_not_frozen():
    windows = Windows()
    axes = living("A", range(400))
    windows.feed([reading("A", m, 38.6, (r.fxa_g, r.mya_g, r.rza_g)) for m, r in enumerate(axes)])
    assert not faults(windows)


def test_a_slow_collar_can_be_plausible_again():
    windows = Windows()
    windows.feed([reading("A", m, axes=(0.3, 0.001 * m, -0.95)) for m in range(0, 200, 10)])
    assert normal(judge(windows, now_s=200 * 60.0), KIND)
