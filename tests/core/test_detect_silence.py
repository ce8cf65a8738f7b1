import pytest

from gateway.core.severity import Severity
from gateway.core.windows import Windows
from tests.herd_maker import START, judge, normal, reading, told


def talk(windows, cow, minutes):
    windows.feed([reading(cow, m) for m in minutes])


def look(windows, minute):
    return judge(windows, now_s=minute * 60.0)


def test_ten_arrivals_are_needed():
    windows = Windows()
    talk(windows, "A", range(9))
    talk(windows, "B", range(10))
    assert {f.subject for f in told(look(windows, 100), "silence")} == {"B"}


@pytest.mark.parametrize(
    ("after", "detail"), [(10, None), (11, "sensor_gap"), (59, "sensor_gap"), (60, "missing_animal")]
)
def test_gap_and_missing(after, detail):
    windows = Windows()
    talk(windows, "A", range(20))
    found = told(look(windows, 19 + after), "silence")
    assert [f.detail for f in found] == ([detail] if detail else [])
    if detail:
        assert found[0].severity is (Severity.WARNING if detail == "missing_animal" else Severity.INFO)
        assert found[0].onset_ms == (START + 19) * 60_000
        assert found[0].evidence.duration_min == after


def test_a_slow_reporter_has_its_own_measure():
    windows = Windows()
    talk(windows, "A", range(0, 300, 15))
    assert not told(look(windows, 285 + 44), "silence")
    assert told(look(windows, 285 + 46), "silence")


@pytest.mark.parametrize("phase", [0, 1, 2, 3, 7])
def test_a_gap_that_opened_and_closed_between_two_looks_is_found_once(phase):
    windows = Windows()
    talk(windows, "A", range(20))
    look(windows, 19)
    talk(windows, "A", range(31, 33 + phase))
    findings = look(windows, 33 + phase)
    (gap,) = told(findings, "silence")
    assert gap.ended
    assert gap.evidence.duration_min == 12
    assert (gap.onset_ms, gap.at_ms) == ((START + 19) * 60_000, (START + 31) * 60_000)
    assert normal(findings, "silence")
    talk(windows, "A", range(33 + phase, 36 + phase))
    assert not told(look(windows, 36 + phase), "silence")


def test_whoever_speaks_again_is_normal_even_if_it_speaks_of_the_past():
    windows = Windows()
    talk(windows, "A", range(20))
    gap = told(look(windows, 100), "silence")[-1]
    windows.feed([reading("A", 20, arrived_s=101 * 60.0)])
    findings = look(windows, 101)
    (ended,) = told(findings, "silence")
    assert ended.ended
    assert ended.at_ms > gap.at_ms
    assert normal(findings, "silence")[0].at_ms > gap.at_ms


def test_half_of_the_herd_is_one_fault_of_the_gateway():
    windows = Windows()
    for i in range(6):
        talk(windows, f"C{i}", range(20))
    for i in range(3):
        talk(windows, f"C{i}", range(20, 60))
    findings = look(windows, 59)
    assert [f.subject for f in told(findings, "silence_herd")] == ["herd"]
    assert "3 of 6 animals" in told(findings, "silence_herd")[0].sentence
    assert not told(findings, "silence")
    for i in range(3, 6):
        talk(windows, f"C{i}", range(61, 64))
    findings = look(windows, 63)
    assert normal(findings, "silence_herd")
    assert not told(findings, "silence_herd")
    assert not told(findings, "silence")  # their gaps were the gateway's, not theirs
    assert {f.subject for f in normal(findings, "silence")} >= {"C3", "C4", "C5"}


def test_two_animals_are_no_herd_and_the_long_lost_do_not_count():
    windows = Windows()
    for cow in ("A", "B"):
        talk(windows, cow, range(20))
    assert len(told(look(windows, 60), "silence")) == 2
    windows = Windows()
    for i in range(6):
        talk(windows, f"C{i}", range(20))
    for i in range(3):
        talk(windows, f"C{i}", range(20, 3000))
    findings = look(windows, 3000)
    assert not told(findings, "silence_herd")
    assert len(told(findings, "silence")) == 3


def test_refused_messages_are_signs_of_life():
    windows = Windows()
    talk(windows, "A", range(20))
    for minute in range(20, 40):
        windows.reject("A", None, START, minute * 60.0, fault=False, temperature_c=None, hot=False)
    assert not told(look(windows, 45), "silence")
