from __future__ import annotations

from gateway.core.breaker import Breaker, BreakerPolicy, failed, succeeded, wait_s

POLICY = BreakerPolicy()


def after(failures: int, now_s: float = 0.0) -> Breaker:
    state = Breaker()
    for _ in range(failures):
        state = failed(state, now_s, POLICY)
    return state


def test_four_failures_leave_it_closed_and_the_fifth_opens_it_for_300_s() -> None:
    assert not after(4).open
    assert wait_s(after(4), 0.0, POLICY) == 0
    assert after(5, 10.0).open
    assert wait_s(after(5, 10.0), 10.0, POLICY) == 300
    assert wait_s(after(5, 10.0), 309.0, POLICY) == 1
    assert wait_s(after(5, 10.0), 310.0, POLICY) == 0


def test_a_failed_probe_opens_it_anew() -> None:
    again = failed(after(5), 300.0, POLICY)
    assert wait_s(again, 300.0, POLICY) == 300


def test_it_stays_open_while_it_is_asked_again_and_a_success_closes_it() -> None:
    assert after(5).open
    assert wait_s(after(5), 400.0, POLICY) == 0
    assert after(5).open
    closed = succeeded()
    assert not closed.open
    assert not failed(closed, 500.0, POLICY).open, "failures are counted in a row"
