import pytest

from gateway.core.detectors.fever import FeverPolicy
from gateway.core.severity import Severity
from gateway.core.windows import Windows
from tests.herd_maker import START, judge, living, normal, reading, told


def fevers(windows, **kw):
    return told(judge(windows, **kw), "fever")


def test_document_0_fever_message_alone_is_a_warning_and_no_malfunction():  # S0-089
    windows = Windows()
    windows.feed([reading("FEVER_TEST", 0, 40.5, (0.01, 0.01, 0.01))])
    findings = judge(windows)
    (fever,) = told(findings, "fever")
    assert fever.severity is Severity.WARNING
    assert fever.confidence <= 0.6
    assert fever.detail == "single_reading"
    assert fever.at_ms == START * 60_000
    assert "FEVER_TEST: 40.5 °C" in fever.sentence
    assert "one reading" in fever.sentence
    assert "confidence 0.6" in fever.sentence
    assert not told(findings, "sensor_malfunction")


@pytest.mark.parametrize(("temperature_c", "alerts"), [(40.49, 0), (40.5, 1), (42.0, 1)])
def test_the_absolute_threshold(temperature_c, alerts):
    windows = Windows()
    windows.feed([reading("A", 0, temperature_c)])
    assert len(fevers(windows)) == alerts


@pytest.mark.parametrize(("again", "severity"), [(1, 3), (9, 3), (10, 3), (11, 2), (30, 2)])
def test_a_second_hot_reading_within_ten_minutes_is_critical(again, severity):
    windows = Windows()
    windows.feed([reading("A", 0, 40.6)])
    assert fevers(windows)[-1].severity is Severity.WARNING
    windows.feed([reading("A", again, 40.7)])
    last = fevers(windows)[-1]
    assert last.severity == severity
    assert last.at_ms == (START + again) * 60_000


def test_a_hot_reading_followed_by_a_normal_one_in_the_same_step_is_still_seen():
    windows = Windows()
    windows.feed([reading("A", 0, 40.8), reading("A", 1, 38.6)])
    findings = judge(windows)
    (fever,) = told(findings, "fever")
    assert fever.detail == "single_reading"
    (calm,) = normal(findings, "fever")
    assert calm.at_ms > fever.at_ms


def test_between_hot_and_normal_nothing_is_said():
    windows = Windows()
    windows.feed([reading("A", 0, 40.2)])
    findings = judge(windows)
    assert not told(findings, "fever")
    assert not normal(findings, "fever")


def test_hours_of_backlog_bring_the_same_fever_as_live_readings():
    made = [
        reading("A", m, 40.7 if m in {100, 104} else 38.6, (0.3, 0.01 * (m % 5), -0.95)) for m in range(200)
    ]
    live, late = Windows(), Windows()
    found = []
    for i in range(0, 200, 2):
        live.feed(made[i : i + 2])
        found += fevers(live)
    late.feed(made)
    assert fevers(late) == found
    assert [f.severity for f in found] == [Severity.WARNING, Severity.CRITICAL]


def test_a_risen_herd_explains_a_hot_animal_and_a_small_one_does_not():
    for herd, rise_c, alerts in ((8, 0.0, 1), (8, 0.7, 0), (3, 0.7, 1)):
        windows = Windows()
        for i in range(herd):
            cow = f"C{i}"
            windows.feed(living(cow, range(180)))
            windows.feed(living(cow, range(180, 240), rise_c=rise_c))
        windows.take_spans()
        windows.feed([reading("C0", 240, 40.6)])
        found = fevers(windows)
        assert len(found) == alerts, (herd, rise_c)
        if herd == 8 and alerts:
            assert "herd normal" in found[0].evidence.herd
        if herd == 3:
            assert "herd unknown" in found[0].evidence.herd


def reject(windows, minute, temperature_c, cow="A"):
    windows.reject(
        cow,
        START + minute,
        START + minute,
        minute * 60.0,
        fault=True,
        temperature_c=temperature_c,
        hot=42.0 < temperature_c <= 44.0,
    )


def test_rejected_42_to_44_after_a_hot_reading_is_evidence_and_no_malfunction():
    windows = Windows()
    windows.feed([reading("A", 0, 41.5)])
    assert fevers(windows)[0].severity is Severity.WARNING
    for minute in (2, 3, 4, 5):
        reject(windows, minute, 42.6)
    findings = judge(windows)
    assert {f.severity for f in told(findings, "fever")} == {Severity.CRITICAL}
    assert "rejected 42.6 °C" in told(findings, "fever")[-1].sentence
    assert not told(findings, "sensor_malfunction")


def test_rejected_values_long_after_or_hotter_still_are_a_fault():
    for minute, temperature_c in ((31, 42.6), (5, 50.0)):
        windows = Windows()
        windows.feed([reading("A", 0, 40.6)])
        judge(windows)
        for i in range(3):
            reject(windows, minute + i, temperature_c)
        findings = judge(windows)
        assert not told(findings, "fever")
        (fault,) = {f.detail for f in told(findings, "sensor_malfunction")}
        assert fault == "rejected_temperature"


def week(windows, days=6):
    for i in range(6):
        windows.feed(living(f"C{i}", range(0, days * 1440, 5)))
    windows.take_spans()
    return days * 1440


def test_an_hour_above_the_own_baseline_is_a_fever_below_the_absolute_threshold():
    windows = Windows()
    now = week(windows)
    for rise_c, severity in ((0.6, None), (1.2, Severity.WARNING), (1.8, Severity.CRITICAL)):
        for i in range(6):
            windows.feed(living(f"C{i}", range(now, now + 120), rise_c=rise_c if i == 2 else 0.0))
        found = fevers(windows)
        now += 240
        assert {f.subject for f in found} == ({"C2"} if severity else set())
        if severity:
            assert max(f.severity for f in found) is severity
        own = [f for f in found if f.detail == "above_own_baseline"]
        if severity is Severity.WARNING:  # 1.8 °C more also reach 40.5 °C
            assert own[-1].severity is severity
            assert own[-1].evidence.reference_n >= 12
            assert own[-1].evidence.deviation > 1.0
            assert "its own" in own[-1].sentence


def test_a_short_rise_and_a_rise_of_all_are_no_fever():
    windows = Windows()
    now = week(windows)
    windows.feed(living("C1", range(now, now + 25), rise_c=1.3))
    for i in range(6):
        windows.feed(living(f"C{i}", range(now + 25, now + 120)))
    assert not fevers(windows)
    for i in range(6):
        windows.feed(living(f"C{i}", range(now + 120, now + 240), rise_c=1.2))
    assert not [f for f in fevers(windows) if f.detail == "above_own_baseline"]


def test_thresholds_come_from_the_policy():
    assert FeverPolicy().absolute_c == 40.5
    assert FeverPolicy().again_within_min == 10
