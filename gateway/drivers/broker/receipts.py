"""Publishes that wait for their commit, in the order they came. Runs on the event loop.

Acknowledgements leave in receive order (MQTT 3.1.1, 4.6): one that is settled early waits
for those before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway import ports


class Receipt:
    """One publish of one connection; see `gateway.ports.Receipt`.

    Args:
        packet: the acknowledgement, ready to send; empty for QoS 0.
        queue: where it waits for its turn.
    """

    __slots__ = ("_queue", "_repeat", "packet", "settled")

    def __init__(self, packet: bytes, queue: InFlight) -> None:
        self.packet = packet
        self.settled = False
        self._queue: InFlight | None = queue
        self._repeat: Receipt | None = None

    def settle(self) -> None:
        """The message is on disk: acknowledge it when its turn comes."""
        if self.settled:
            return
        self.settled = True
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.settled(self)
        repeat, self._repeat = self._repeat, None
        if repeat is not None:
            repeat.settle()

    def follow(self, queue: InFlight) -> None:
        """The same QoS 2 message came again: acknowledge it there as well, once this is settled.

        A repeat on the connection that already waits for the answer adds nothing.
        """
        waiting = self._repeat if self._repeat is not None else self
        if not self.settled and waiting._queue is queue:  # noqa: SLF001 - of the same class
            return
        repeat = queue.add(self.packet)
        if self.settled:
            repeat.settle()
        else:
            self._repeat = repeat  # an older one belonged to a connection that is gone


class Both:
    """A publish that waits for two commits: settled when it has been settled twice.

    Args:
        receipt: of the publish.
    """

    __slots__ = ("_half", "_receipt")

    def __init__(self, receipt: ports.Receipt) -> None:
        self._receipt = receipt
        self._half = False

    def settle(self) -> None:
        """One of the two is on disk."""
        if self._half:
            self._receipt.settle()
        self._half = True


class InFlight:
    """The unsettled publishes of one connection.

    Args:
        progress: called with the acknowledgements whose turn has come, and their number.
    """

    __slots__ = ("_progress", "_waiting")

    def __init__(self, progress: Callable[[bytes, int], None]) -> None:
        self._progress = progress
        self._waiting: deque[Receipt] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, packet: bytes) -> Receipt:
        """A publish has come whose acknowledgement is `packet`."""
        receipt = Receipt(packet, self)
        self._waiting.append(receipt)
        return receipt

    def settled(self, receipt: Receipt) -> None:
        """Release it and those after it that waited for it; called by the receipt."""
        waiting = self._waiting
        if not waiting or waiting[0] is not receipt:
            return
        packets: list[bytes] = []
        while waiting and waiting[0].settled:
            packets.append(waiting.popleft().packet)
        self._progress(b"".join(packets), len(packets))

    def abandon(self) -> None:
        """The connection is gone; later settlements go nowhere."""
        self._waiting.clear()


class _Unasked:
    """The receipt of a message for which nobody awaits an answer: a will."""

    def settle(self) -> None:
        """Do nothing."""


UNASKED = _Unasked()
