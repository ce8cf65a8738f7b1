import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import windows as w
from gateway.core.arrivals import ARRIVALS_MIN, ArrivalBook, RejectBook
from gateway.core.baselines import BINS, HourBins
from gateway.core.herd import VIEW_MINUTES
from gateway.core.motion import motion_grid_g
from gateway.core.windows import ANIMALS_MAX, RING_MINUTES, Span, Windows
from gateway.store.rows import decode, encode
from tests.herd_maker import START, living, reading


def view(windows: Windows, minute: int, spans: tuple[Span, ...] | None = None):
    spans = windows.take_spans().live if spans is None else spans
    return windows.view(spans, START + minute, 2, 0.0)


def test_memory_of_a_thousand_animals_stays_in_its_bound():
    windows = Windows()
    for i in range(1000):
        windows.feed([reading(f"C{i}", 0)])
    assert len(windows) == 1000
    assert windows.nbytes <= 16_500_000


def test_no_more_animals_than_the_bound():
    windows = Windows(animals_max=70)
    windows.feed([reading(f"C{i}", 0, 38.0 + i / 100) for i in range(80)])
    assert len(windows) == 70
    assert windows.animals_refused == 10
    seen = view(windows, 0)
    assert np.allclose(seen.temperature_c[:, -1], [38.0 + i / 100 for i in range(70)], atol=1e-4)
    assert ANIMALS_MAX == 5000


def test_a_view_has_each_animals_own_now_in_its_last_column_and_nothing_later():
    windows = Windows()
    windows.feed([reading("A", 0, 38.1), reading("A", 1, 38.2), reading("A", 5, 38.9), reading("B", 0, 39.0)])
    seen = view(windows, 0)
    assert seen.animals == ("A", "B")
    assert seen.temperature_c.shape == (2, VIEW_MINUTES)
    assert seen.now_minute.tolist() == [START + 1, START]
    assert np.allclose(seen.temperature_c[0, -2:], [38.1, 38.2], atol=1e-4)
    assert np.isnan(seen.temperature_c[1, -2])
    assert 38.9 not in np.round(seen.temperature_c.astype(float), 2)


def test_the_last_reading_of_a_minute_wins_in_any_order_and_the_hottest_is_kept():
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        several = [reading("A", 0, t, second=s) for t, s in ((38.5, 5), (40.7, 20), (38.6, 50))]
        windows = Windows()
        for i in order:
            windows.feed([several[i]])
        seen = view(windows, 0)
        assert round(float(seen.temperature_c[0, -1]), 2) == 38.6
        assert round(float(seen.peak_c[0, -1]), 2) == 40.7
        assert seen.now_ms[0] == (START * 60 + 50) * 1000


def test_late_readings_inside_the_ring_fill_their_minute():
    windows = Windows()
    windows.feed([reading("A", 0, 38.0), reading("A", 10, 38.5)])
    windows.take_spans()
    windows.feed([reading("A", 4, 39.1)])
    pending = windows.take_spans()
    assert pending.live == (Span("A", START + 4, START + 4),)
    seen = view(windows, 4, pending.live)
    assert seen.now_minute.tolist() == [START + 4]
    assert round(float(seen.temperature_c[0, -1]), 2) == 39.1


def test_older_than_the_ring_goes_to_the_store_and_never_moves_the_window():
    windows = Windows()
    windows.feed([reading("A", 3000)])
    windows.take_spans()
    windows.feed([reading("A", 60, 41.0)])
    pending = windows.take_spans()
    assert pending.live == ()
    assert pending.late == (("A", START // 60 + 1),)
    assert view(windows, 3000, (Span("A", START + 3000, START + 3000),)).temperature_c[0, -1] < 39
    assert windows.take_spans() == w.Pending()


def test_a_long_backlog_is_split_between_ring_and_store():
    windows = Windows()
    windows.feed([reading("A", minute) for minute in range(1440)])
    pending = windows.take_spans()
    floor = START + 1439 - (RING_MINUTES - 1 - w.LEAD_MINUTES)
    assert pending.live == (Span("A", floor, START + 1439),)
    hours = [hour for _, hour in pending.late]
    assert hours == list(range(START // 60, -(-floor // 60)))


def test_hours_that_wait_are_bounded_and_counted(monkeypatch):
    monkeypatch.setattr(w, "LATE_HOURS_MAX", 3)
    windows = Windows()
    for hour in range(5):
        windows.mark_late("A", hour)
    windows.mark_late("A", 0)
    assert windows.late_refused == 2
    assert len(windows.take_spans().late) == 3


def test_spans_that_were_given_back_wait_again():
    windows = Windows()
    windows.feed([reading("A", 10), reading("A", 11)])
    pending = windows.take_spans()
    windows.give_back(pending.live)
    assert windows.take_spans() == pending


def test_a_span_the_ring_has_left_behind_becomes_late_hours():
    windows = Windows()
    windows.feed([reading("A", 0)])
    windows.feed([reading("A", 600)])
    pending = windows.take_spans()
    assert pending.live[0].from_minute > START
    assert ("A", START // 60) in pending.late


def test_steps_hold_new_data_and_do_not_depend_on_the_run():
    windows = Windows()
    windows.feed([reading("A", 1), reading("A", 2), reading("B", 400)])
    spans = windows.take_spans().live
    assert windows.steps(spans, 2) == [START, START + 2, START + 400]
    assert windows.steps((), 2) == []
    seen = windows.view(spans, START + 400, 2, 0.0)
    assert seen.animals == ("B",)  # A was heard more than an hour before: no context
    assert seen.judge.tolist() == [True]


def test_context_is_whoever_was_heard_within_the_hour():
    windows = Windows()
    windows.feed([reading("A", 0), reading("B", 59), reading("C", 70)])
    windows.take_spans()
    windows.feed([reading("D", 70)])
    seen = view(windows, 70)
    assert dict(zip(seen.animals, seen.judge.tolist(), strict=True)) == {"B": False, "C": False, "D": True}


def test_motion_leaves_gravity_out_needs_neighbours_and_yields_to_the_collar():
    windows = Windows()
    lying, moved = (0.0, 0.0, -1.0), (0.3, 0.4, -1.0)
    windows.feed(
        [
            reading("A", 0, axes=lying),
            reading("A", 1, axes=moved),
            reading("A", 3, axes=lying),
            reading("A", 4, axes=lying, motion=0.7),
            reading("A", 5, axes=lying),
        ]
    )
    motion = view(windows, 4).motion_g[0, -6:]
    assert np.isnan(motion[[0, 2, 3]]).all()
    assert np.allclose(motion[[1, 4, 5]], [0.5, 0.7, 0.0], atol=1e-6)
    one = np.zeros((2, 1), np.float32)
    assert np.isnan(motion_grid_g(one, one, one, one * np.nan)).all()


def test_baselines_are_unknown_at_first_and_leave_the_last_day_out():
    windows = Windows()
    windows.feed(living("A", range(0, 3 * 1440, 10)))
    seen = view(windows, 3 * 1440 - 10)
    early = windows.baselines(seen)
    assert np.isnan(early.temperature_c[0])
    assert np.isnan(early.sigma_c[0])
    windows.feed(living("A", range(3 * 1440, 5 * 1440, 10)))
    windows.feed(living("A", range(5 * 1440, 6 * 1440, 10), rise_c=1.5))
    seen = view(windows, 6 * 1440 - 10)
    later = windows.baselines(seen)
    assert later.days_n[0] >= 5
    expected = 38.6 + 0.25 * np.sin(2 * np.pi * (START + 6 * 1440) / 1440)
    assert abs(later.temperature_c[0] - expected) < 0.2
    assert later.sigma_c[0] >= 0.15
    assert later.motion_g.shape == (1,)


def test_tainted_hours_and_hours_overwritten_are_no_reference():
    windows = Windows()
    windows.feed(living("A", range(0, 6 * 1440, 10)))
    seen = view(windows, 6 * 1440 - 10)
    before = windows.baselines(seen)
    windows.taint("A", START, START + 2 * 1440 - 1)
    windows.taint("nobody", START, START)
    after = windows.baselines(seen)
    assert after.n[0] == before.n[0] - 10
    windows.feed(living("A", [BINS * 60 + m for m in range(0, 6 * 1440, 10)]))
    assert windows.baselines(view(windows, BINS * 60 + 6 * 1440 - 10)).days_n[0] <= 6


def test_growing_keeps_every_number():
    windows = Windows()
    windows.feed([reading(f"C{i}", m, 38 + i / 1000) for i in range(60) for m in range(12)])
    before = view(windows, 10)
    windows.feed([reading(f"D{i}", 0) for i in range(200)])
    after = windows.view((Span("C0", START, START + 11),), START + 10, 2, 0.0)
    rows = [after.animals.index(name) for name in before.animals]
    assert np.array_equal(after.temperature_c[rows], before.temperature_c, equal_nan=True)
    assert after.arrivals.n[rows].tolist() == before.arrivals.n.tolist()


def test_the_learned_interval_is_robust():
    book = ArrivalBook(1)
    at_s = 0.0
    for i in range(60):
        at_s += 3600.0 if i == 30 else 0.01 if i in {40, 41} else 60.0
        book.arrived(0, at_s, i)
    seen = book.view(np.array([0]), at_s, look=True)
    assert 50 < seen.interval_s[0] < 75
    assert seen.gap_to_s[0] - seen.gap_from_s[0] == 3600
    assert seen.gap_new[0]
    assert not book.view(np.array([0]), at_s, look=False).gap_new[0]
    assert ARRIVALS_MIN == 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 700), st.integers(0, 59), st.integers(3500, 4200)),
        max_size=60,
        unique_by=lambda t: t[:3],
    ),
    st.randoms(use_true_random=False),
)
def test_order_of_arrival_and_batches_do_not_change_the_grid(items, rng):
    newest = {}
    for cow, minute, _, _ in items:
        newest[cow] = max(newest.get(cow, 0), minute)
    # Of what lies outside the ring nothing is asked; inside it, the order must not matter.
    items = [i for i in items if i[1] > newest[i[0]] - RING_MINUTES]
    made = [reading(f"C{c}", m, t / 100, second=s, arrived_s=0.0) for c, m, s, t in items]
    shuffled = made[:]
    rng.shuffle(shuffled)
    one, other = Windows(), Windows()
    one.feed(made)
    for i in range(0, len(shuffled), 7):
        other.feed(shuffled[i : i + 7])
    for cow, minute in newest.items():
        span = (Span(f"C{cow}", START + minute, START + minute),)
        at = minute - minute % 2
        views = [windows.view(span, START + at, 2, 0.0) for windows in (one, other)]
        rows = [seen.animals.index(f"C{cow}") for seen in views]
        for name in ("temperature_c", "peak_c", "fxa_g", "motion_g"):
            a, b = (getattr(seen, name)[row] for seen, row in zip(views, rows, strict=True))
            assert np.array_equal(a, b, equal_nan=True)


def test_views_are_copies():
    windows = Windows()
    windows.feed([reading("A", 0)])
    seen = view(windows, 0)
    windows.feed([reading("A", 0, 41.0, second=30)])
    assert round(float(seen.temperature_c[0, -1]), 1) == 38.6
    assert msgspec.structs.replace(seen).animals == ("A",)


def test_arrivals_told_together_teach_the_same_as_one_by_one():
    rng = np.random.default_rng(4)
    rows = rng.integers(0, 5, 400)
    steps_s = rng.choice([0.0, 0.0, 0.4, 60.0, 900.0], 400)
    at_s = np.cumsum(steps_s).tolist()
    data_ms = [None if n % 17 == 0 else 1000 * n for n in range(400)]
    one, other = ArrivalBook(5), ArrivalBook(5)
    for row, s, ms in zip(rows.tolist(), at_s, data_ms, strict=True):
        one.arrived(row, s, ms)
    for start in range(0, 400, 57):
        part = slice(start, start + 57)
        other.arrived_all(rows[part], at_s[part], data_ms[part])
    seen = [book.view(np.arange(5), at_s[-1], look=True) for book in (one, other)]
    for name in seen[0].__struct_fields__:
        assert np.array_equal(*(getattr(arrivals, name) for arrivals in seen), equal_nan=True), name
    assert seen[0].gap_new.all()


def test_verdicts_told_together_push_out_the_oldest():
    book = RejectBook(2)
    for minute in range(4):
        book.refused(0, minute, 50.0, hot=False)
    book.accepted(np.array([0] * 8 + [1] * 30))
    assert book.view(np.array([0, 1]), 10).temperature_n.tolist() == [2, 0]
    book.accepted(np.array([0] * 50))
    assert book.view(np.array([0]), 10).temperature_n.tolist() == [0]


def test_a_bin_that_is_full_keeps_the_mean_of_what_it_took():
    bins = HourBins(2)
    for _ in range(5):
        rows = np.array([0] * 20_000 + [1])
        bins.add_temperatures(rows, np.full(len(rows), 7), np.full(len(rows), 38.61))
        bins.add_motion(rows[-100:], np.full(100, 7), np.full(100, 0.25))
    full, usual = bins._n[:, 7].tolist()
    assert (full, usual) == (65_535, 5)
    assert bins._temperature_sum[:, 7].tolist() == [65_535 * 3861, 5 * 3861]
    assert bins._motion_n[:, 7].tolist() == [255, 5]
    assert np.allclose(bins._motion_sum[:, 7], [255 * 0.25, 5 * 0.25])


def test_the_ring_rounds_as_the_store_does():
    pairs = enumerate([38.125, 41.996])
    made = [reading("A", minute, t, axes=(t / 100, -0.0005, 1.9996)) for minute, t in pairs]
    windows = Windows()
    windows.feed(made)
    seen = view(windows, 0)
    stored = [decode(encode(r, 1), "A") for r in made]
    for name in ("temperature_c", "fxa_g", "mya_g", "rza_g"):
        assert getattr(seen, name)[0, -2:].tolist() == [np.float32(getattr(r, name)) for r in stored], name
