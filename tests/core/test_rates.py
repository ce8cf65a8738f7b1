import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import rates
from gateway.core.rates import PASS, Disconnect, Drop, Meter, Meters, Pause, Rate, TokenBucket
from gateway.core.topics import SENSOR_RATE

MINUTE = Rate(per_min=60, burst=3)  # a token a second


def decisions(rate, arrivals, scale=1):
    """The decision for each (QoS, time); the bucket is full at time 0."""
    bucket = TokenBucket(rate, scale, 0.0)
    return [bucket.take(qos, now_s) for qos, now_s in arrivals]


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        # The last token of the burst: the message passes, the socket rests for the next one.
        ([(1, 0)] * 3, [PASS, PASS, Pause(1.0, first=True)]),
        ([(2, 0)] * 3, [PASS, PASS, Pause(1.0, first=True)]),
        ([(0, 0)] * 5, [PASS, PASS, PASS, Drop(first=True), Drop(first=False)]),
        # A pause that is kept: one message for each second.
        (
            [(1, 0), (1, 0), (1, 0), (1, 1), (1, 2.5)],
            [PASS, PASS, Pause(1.0, first=True), Pause(1.0, first=False), Pause(0.5, first=False)],
        ),
        # QoS 1 after QoS 0 has emptied the bucket is never dropped.
        ([(0, 0)] * 3 + [(1, 0), (0, 1)], [PASS] * 3 + [Pause(2.0, first=True), Drop(first=False)]),
        # A pause that is not kept makes the next one longer.
        (
            [(1, 0)] * 5,
            [PASS, PASS, Pause(1.0, first=True), Pause(2.0, first=False), Pause(3.0, first=False)],
        ),
        # A jump ahead fills the bucket, not more, and the next time over the limit is news again.
        (
            [(0, 0)] * 4 + [(0, 1e9)] * 4,
            [PASS, PASS, PASS, Drop(first=True)] * 2,
        ),
        # A refill that does not fill it makes no news.
        ([(0, 0)] * 4 + [(0, 1)] * 2, [PASS] * 3 + [Drop(first=True), PASS, Drop(first=False)]),
    ],
)
def test_a_bucket_decides(arrivals, expected):
    assert decisions(MINUTE, arrivals) == expected


def test_a_collars_day_of_backlog_passes_at_once():
    assert decisions(SENSOR_RATE, [(1, 0.0)] * 1440) == [PASS] * 1440


def test_a_backlog_of_any_length_drains():
    """Ten days with the pauses kept: nothing is dropped, and it takes the time the rate says."""
    bucket, now_s = TokenBucket(SENSOR_RATE, 1, 0.0), 0.0
    for _ in range(14_400):
        decision = bucket.take(1, now_s)
        if decision is not PASS:
            assert isinstance(decision, Pause)
            assert decision.wait_s < 0.61  # a PINGREQ behind it waits no longer than this
            now_s += decision.wait_s
    assert now_s == pytest.approx((14_400 - 2000 + 1) * 0.6)


def test_a_flood_past_ten_times_the_limit_is_disconnected():
    answers = decisions(MINUTE, [(0, 0.0)] * 31)
    assert answers[:3] == [PASS] * 3
    assert all(isinstance(answer, Drop) for answer in answers[3:30])
    assert answers[30] == Disconnect()


@pytest.mark.parametrize(("per_min", "disconnected"), [(599, False), (601, True)])
def test_ten_times_the_steady_limit_is_the_border(per_min, disconnected):
    arrivals = [(0, number * 60 / per_min) for number in range(40_000)]
    assert (Disconnect() in decisions(MINUTE, arrivals)) is disconnected


def test_a_concentrator_has_as_many_tokens_as_animals():
    assert decisions(MINUTE, [(1, 0.0)] * 6, scale=2) == [PASS] * 5 + [Pause(0.5, first=True)]


ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2]), st.one_of(st.just(0.0), st.floats(0, 90))), max_size=120
)
RATES = st.builds(Rate, per_min=st.floats(0.5, 6000), burst=st.integers(1, 20))


@settings(max_examples=150)
@given(RATES, st.integers(1, 3), ARRIVALS)
def test_no_more_passes_than_burst_and_time_allow(rate, scale, arrivals):
    """Whatever comes and whenever, if pauses are kept; and only QoS 0 is ever lost."""
    bucket, now_s, credit = TokenBucket(rate, scale, 0.0), 0.0, 0
    passed = 0
    for qos, gap_s in arrivals:
        now_s += gap_s
        decision = bucket.take(qos, now_s)
        if isinstance(decision, Drop | Disconnect):
            assert qos == 0
            continue
        passed += 1
        credit = credit or int(qos > 0 and len({kind for kind, _ in arrivals}) > 1)
        allowed = scale * (rate.burst + now_s * rate.per_min / 60) + credit
        assert passed <= allowed + 1e-6 * max(1, allowed)
        if isinstance(decision, Pause):
            assert qos > 0
            assert 0 < decision.wait_s <= 2 * 60 / (rate.per_min * scale) + 1e-9
            now_s += decision.wait_s


@settings(max_examples=100)
@given(RATES, ARRIVALS)
def test_messages_with_qos_are_never_dropped_even_if_pauses_are_not_kept(rate, arrivals):
    bucket, now_s = TokenBucket(rate, 1, 0.0), 0.0
    for qos, gap_s in arrivals:
        now_s += gap_s
        decision = bucket.take(qos, now_s)
        assert qos == 0 or decision is PASS or isinstance(decision, Pause)


@settings(max_examples=100)
@given(RATES, st.lists(st.sampled_from([0, 1, 2]), max_size=100))
def test_within_the_limit_nobody_notices_the_bucket(rate, kinds):
    """A client that keeps to the steady rate and never uses up its burst is not slowed nor robbed."""
    roomy = Rate(rate.per_min, rate.burst + 1)
    period_s = 60 / rate.per_min * (1 + 1e-9)
    answers = decisions(roomy, [(qos, number * period_s) for number, qos in enumerate(kinds)])
    assert all(answer is PASS for answer in answers)


@pytest.mark.parametrize(("per_min", "burst"), [(0, 1), (-1, 1), (math.nan, 1), (1, 0)])
def test_a_rate_that_lets_nothing_pass_is_an_error(per_min, burst):
    with pytest.raises(ValueError, match="lets nothing pass"):
        Rate(per_min, burst)


def test_each_row_has_its_own_bucket():
    meter = Meter()
    assert [meter.take("sensors", MINUTE, 0, 0.0) for _ in range(4)][3] == Drop(first=True)
    assert meter.take("commands", MINUTE, 0, 0.0) is PASS


def test_a_new_bucket_is_full_whatever_the_clock_says():
    assert Meter().take("sensors", MINUTE, 1, 1e9) is PASS


def test_a_client_that_reconnects_finds_its_buckets_as_it_left_them():
    meters = Meters()
    for _ in range(4):
        meters.of("COW_001", 1).take("sensors", MINUTE, 0, 0.0)
    assert meters.of("COW_001", 1).take("sensors", MINUTE, 0, 0.0) == Drop(first=False)
    assert meters.of("COW_002", 1).take("sensors", MINUTE, 0, 0.0) is PASS
    assert meters.of("COW_001", 5).take("sensors", MINUTE, 0, 0.0) is PASS  # it speaks for others now


def test_the_clients_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(rates, "CLIENTS_MAX", 3)
    meters = Meters()
    first, second = meters.of("a", 1), meters.of("b", 1)
    meters.of("c", 1)
    assert meters.of("a", 1) is first  # connects again: b is now the one that came longest ago
    meters.of("d", 1)
    assert len(meters) == 3
    assert meters.forgotten == 1
    assert meters.of("a", 1) is first
    assert meters.of("b", 1) is not second
