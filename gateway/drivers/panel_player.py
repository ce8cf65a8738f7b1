"""Plays the steps of a pattern on one device, in a thread of its own.

gpiozero's `blink` knows one on and one off time, and changing it joins the old thread on the
caller's time. Here the thread lives as long as the device, a change is one word in its queue,
and only this thread touches the pins: the event loop neither waits for a pin nor hears of one
that fails.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

State = TypeVar("State")

CLOSE_S = 2.0
"""How long `close` waits for the thread, which wakes at once; a pin takes microseconds."""


class Player(Generic[State]):
    """One device's rhythm.

    Args:
        name: of the thread, and of the device in the log.
        apply: puts the device into a state; called in the thread only.
        rest: the state of a device that plays nothing, and that `close` leaves.
    """

    def __init__(self, name: str, apply: Callable[[State], None], rest: State) -> None:
        self._apply = apply
        self._rest = rest
        self._next: queue.SimpleQueue[Sequence[tuple[float, State]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def play(self, steps: Sequence[tuple[float, State]]) -> None:
        """Play (seconds, state) over and over from now on; no steps = rest. Never waits, never raises."""
        if self._thread.is_alive():  # else nobody would empty the queue
            self._next.put(steps)

    def close(self) -> None:
        """Rest, and end the thread. May be called twice."""
        self._next.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        ended = False
        try:
            steps: Sequence[tuple[float, State]] | None = ()
            while steps is not None:
                steps = self._until_next(steps)
            self._apply(self._rest)
            ended = True
        finally:
            if not ended:  # the fault itself goes to the journal as every thread's does
                log.error("The %s has stopped: its pin cannot be driven", self._thread.name)

    def _until_next(self, steps: Sequence[tuple[float, State]]) -> Sequence[tuple[float, State]] | None:
        for seconds, state in cycle(steps):
            self._apply(state)
            try:
                return self._next.get(timeout=seconds)
            except queue.Empty:
                continue
        self._apply(self._rest)
        return self._next.get()
