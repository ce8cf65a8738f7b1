"""One button with two meanings: pressed and let go, or held. Called in gpiozero's threads.

gpiozero tells of the release in one thread and of the hold in another, and both may be due at the
same moment. Here each press has exactly one meaning, whichever comes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

HOLD_S = 3.0
"""Held this long is a test of the panel; long enough that nobody does it by leaning on it."""
BOUNCE_S = 0.03
"""A push button settles within 10 to 20 ms; the shortest tap of a finger is about 50."""


class Press:
    """Tells a short press from a long one.

    Args:
        on_acknowledge: a press that ended before it became a hold; called on its release.
        on_test: a hold; called once, while the button is still down.
        monotonic_s: seconds, to tell a press from a bouncing contact.
    """

    def __init__(
        self,
        on_acknowledge: Callable[[], None] | None,
        on_test: Callable[[], None] | None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_acknowledge = on_acknowledge
        self._on_test = on_test
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._undecided = False
        self._released_s = float("-inf")

    def down(self) -> None:
        """The contact has closed."""
        with self._lock:
            self._undecided = self._monotonic_s() - self._released_s >= BOUNCE_S

    def held(self) -> None:
        """It has been closed for `HOLD_S`."""
        self._decide(self._on_test)

    def up(self) -> None:
        """The contact has opened."""
        self._decide(self._on_acknowledge)
        with self._lock:
            self._released_s = self._monotonic_s()

    def _decide(self, meaning: Callable[[], None] | None) -> None:
        with self._lock:
            first, self._undecided = self._undecided, False
        if first and meaning is not None:
            meaning()
