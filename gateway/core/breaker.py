"""The circuit breaker of one notification channel (decision 21): when to stop asking. Pure.

Closed: everything may be sent. After `failures_n` failures in a row it opens: nothing is sent for
`open_s`. Then it is asked again; one more failure opens it anew, a success closes it.
"""

from __future__ import annotations

import msgspec


class BreakerPolicy(msgspec.Struct, frozen=True):
    """Decision 21: 5 failures, 300 s."""

    failures_n: int = 5
    open_s: float = 300.0


class Breaker(msgspec.Struct, frozen=True):
    """How a channel has answered lately.

    Args:
        failures: in a row.
        opened_s: monotonic seconds when it opened last; None = closed.
    """

    failures: int = 0
    opened_s: float | None = None

    @property
    def open(self) -> bool:
        """Whether the channel counts as broken, also while it is asked again."""
        return self.opened_s is not None


def wait_s(breaker: Breaker, now_s: float, policy: BreakerPolicy) -> float:
    """Seconds until the channel may be asked; 0 = now."""
    if breaker.opened_s is None:
        return 0.0
    return max(0.0, breaker.opened_s + policy.open_s - now_s)


def failed(breaker: Breaker, now_s: float, policy: BreakerPolicy) -> Breaker:
    """After one more failure at monotonic `now_s`."""
    failures = breaker.failures + 1
    if breaker.open or failures >= policy.failures_n:
        return Breaker(failures, now_s)
    return Breaker(failures)


def succeeded() -> Breaker:
    """After a success, whatever was before."""
    return Breaker()
