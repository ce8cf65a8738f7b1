"""Which letter of a channel is tried next, and when: failures, strikes, ten a minute. Pure state.

Time is an argument, monotonic seconds. Nothing of it is stored: after a restart every letter is tried
anew, and the minute is seeded from the rows of what was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from gateway.core.delivery import BackoffPolicy, next_delay
from gateway.core.notices import SMS_PER_MIN, Sending

MINUTE_S = 60.0
ROUND_LETTERS = 2
"""Tried in a row while they fail: the first in order and one other."""
GIVE_UP_STRIKES = 20
"""Failures of one letter while others of its channel went through: it is the letter, not the line."""
STRUCK_BACKOFF = BackoffPolicy(initial_s=15.0, max_s=300.0)
"""Of a letter that fails alone: up to 15, 30, 60 … 300 s, so 20 strikes take about an hour."""


class Trouble(msgspec.Struct):
    """How often a letter has failed.

    Args:
        tries: failures in all.
        strikes: of them, while others went through; from the first on it goes behind all others.
        others_n: letters of the channel that had gone through at the last strike.
        next_s: a struck letter is not tried before.
    """

    tries: int = 0
    strikes: int = 0
    others_n: int = 0
    next_s: float = 0.0


class Attempts:
    """What a channel remembers of its letters.

    Args:
        limited: at most `SMS_PER_MIN` tries in any minute to one address (S3-054).
    """

    def __init__(self, *, limited: bool) -> None:
        self._limited = limited
        self._troubles: dict[tuple[str, int], Trouble] = {}
        self._tried_s: dict[str, deque[float]] = {}
        self._through_n = 0

    def next(self, ahead: Sequence[Sending], suspects: Sequence[Sending], now_s: float) -> Sending | None:
        """The first that may go now, struck ones last; beside a suspect the one that was tried least."""
        keys = {one.key for one in suspects}
        ready = [one for one in ahead if one.key not in keys and self.wait_s(one, now_s) <= 0]
        if suspects:
            ready = [one for one in ready if not self.trouble(one).strikes]
            return min(ready, key=lambda one: self.trouble(one).tries, default=None)
        return min(ready, key=lambda one: self.trouble(one).strikes > 0, default=None)

    def trouble(self, sending: Sending) -> Trouble:
        """What is known of a letter."""
        return self._troubles.get(sending.key) or Trouble()

    def wait_s(self, sending: Sending, now_s: float) -> float:
        """Seconds until the letter may be tried: its own back-off, and ten a minute to one phone."""
        tried = self._tried_s.get(sending.address.to)
        full_s = tried[0] + MINUTE_S - now_s if tried and len(tried) == SMS_PER_MIN else 0.0
        return max(0.0, full_s, self.trouble(sending).next_s - now_s)

    def tried(self, address: str, now_s: float) -> None:
        """A letter to this address is handed over at `now_s`, whatever becomes of it."""
        if self._limited:
            self._tried_s.setdefault(address, deque(maxlen=SMS_PER_MIN)).append(now_s)

    def failed(self, sending: Sending, now_s: float, random_unit: float) -> Trouble:
        """After one more failure of a letter."""
        trouble = self._troubles.setdefault(sending.key, Trouble())
        trouble.tries += 1
        if trouble.strikes:
            self._strike(trouble, now_s, random_unit)
        return trouble

    def went_through(self, suspects: Sequence[Sending], now_s: float, random_unit: float) -> None:
        """After a success: what failed in the same round failed by itself."""
        self._through_n += 1
        for one in suspects:
            self._strike(self._troubles.setdefault(one.key, Trouble()), now_s, random_unit)

    def keep(self, ahead: Sequence[Sending], now_s: float) -> None:
        """What is no longer to be sent leaves nothing behind in memory."""
        keys = {one.key for one in ahead}
        self._troubles = {key: found for key, found in self._troubles.items() if key in keys}
        since_s = now_s - MINUTE_S
        self._tried_s = {to: tried for to, tried in self._tried_s.items() if tried[-1] > since_s}

    def _strike(self, trouble: Trouble, now_s: float, random_unit: float) -> None:
        """It failed, and others went through since it was struck last."""
        if not trouble.strikes or self._through_n > trouble.others_n:
            trouble.strikes += 1
            trouble.others_n = self._through_n
        trouble.next_s = now_s + next_delay(trouble.tries, STRUCK_BACKOFF, random_unit)
