"""Calls for help and the emergency stop: heard at once, acknowledged when on disk (S3-067, S4-056).

`accept_call` and `accept_stop` run in the broker's callbacks on the event loop and sound the panel
before anything else; `run` is the task that puts what was heard on disk, one report for all that came
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core.alerts import NEVER_SILENCED, Move
from gateway.core.emergency import read_call, read_stop
from gateway.core.findings import Finding
from gateway.core.messages import RawMessage
from gateway.ports import Receipt

log = logging.getLogger(__name__)

REPEAT_S = 30.0
"""A device sends again until it is heard: what comes this soon is the same call."""
RETRY_S = 1.0
"""Between attempts while the store cannot write."""
CALLS_MAX = 1024
"""Senders remembered, those whose call waits for the store included; 2 KB each with its receipts, so 2 MB.
A farm has a hundred people and buttons; more than this within 30 s is a fault or an attack, and what it
sends becomes dead letters. The receipts of one sender's repeats are bounded by the broker: 64 of a
connection."""

Key = tuple[str, str]
"""(subject, kind)."""


class EmergencyCounters(msgspec.Struct):
    """Since start, for /metrics.

    Args:
        heard: calls and stops that made light and sound.
        repeated: messages that were the same call again.
        crowded_out: messages that became dead letters because too many others called.
    """

    heard: int = 0
    repeated: int = 0
    crowded_out: int = 0


class _Call:
    """One finding on its way to the disk, and whoever waits for it."""

    __slots__ = ("finding", "heard_s", "on_disk", "receipts")

    def __init__(self, finding: Finding, heard_s: float) -> None:
        self.finding = finding
        self.heard_s = heard_s
        self.on_disk = False
        self.receipts: list[Receipt] = []

    def await_disk(self, message: RawMessage, receipt: Receipt) -> None:
        """Settle the receipt after the commit; at once where nobody waits for an answer."""
        if self.on_disk or message.qos == 0:
            receipt.settle()
        else:
            self.receipts.append(receipt)

    def stored(self) -> None:
        self.on_disk = True
        for receipt in self.receipts:
            receipt.settle()
        self.receipts.clear()


class Emergencies:
    """The path from a panic button to the panel, and then to the disk.

    Args:
        call: light and sound now (`Alarm.call`); must not block.
        report: puts findings on disk (`Alarm.report`); True once everything handed over so far is there.
            What it could not store it keeps, and tries again with the next report.
        refuse: keeps a message as a dead letter, with the reason, and settles its receipt.
        repeat_s: what the same sender sends within this many seconds is the same call.
    """

    def __init__(
        self,
        *,
        call: Callable[[Finding], None],
        report: Callable[[list[Finding]], Awaitable[bool]],
        refuse: Callable[[RawMessage, str, Receipt], None],
        repeat_s: float = REPEAT_S,
    ) -> None:
        self._call = call
        self._report = report
        self._refuse = refuse
        self._repeat_s = repeat_s
        self._calls: dict[Key, _Call] = {}
        self._waiting: list[_Call] = []
        self._due = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.counters = EmergencyCounters()

    @property
    def waiting_n(self) -> int:
        """Senders whose call is not on disk yet."""
        return sum(not call.on_disk for call in self._calls.values())

    def accept_call(self, message: RawMessage, receipt: Receipt) -> None:
        """Somebody asks for help. Never blocks."""
        finding = read_call(message.topic, message.payload, message.received_ms, message.client_id)
        self._accept(finding, message, receipt)

    def accept_stop(self, message: RawMessage, receipt: Receipt) -> None:
        """Somebody stops the barn. Never blocks."""
        self._accept(read_stop(message.payload, message.received_ms, message.client_id), message, receipt)

    def follow(self, move: Move) -> None:
        """Hear of every committed move: what is sent after a call has ended is a new one, however soon."""
        alert = move.alert
        if alert.kind in NEVER_SILENCED and not alert.open:
            ended = self._calls.get((alert.subject, alert.kind))
            if ended is not None and ended.on_disk:
                del self._calls[alert.subject, alert.kind]

    async def run(self) -> None:
        """Put on disk whatever was heard, and acknowledge it. Never returns."""
        while True:
            await self._due.wait()
            self._due.clear()
            held: list[_Call] = []
            while self._waiting or held:
                fresh, self._waiting = self._waiting, []
                held += fresh
                if await self._report([call.finding for call in fresh]):
                    for call in held:
                        call.stored()
                    held = []
                else:
                    await asyncio.sleep(RETRY_S)
            self._idle.set()

    async def drain(self) -> None:
        """Return when nothing waits for the disk. Called at stop, while `run` still runs."""
        await self._idle.wait()

    def _accept(self, finding: Finding, message: RawMessage, receipt: Receipt) -> None:
        key = (finding.subject, finding.kind)
        call = self._calls.get(key)
        if call is not None and message.received_s - call.heard_s < self._repeat_s:
            self.counters.repeated += 1
        elif call is not None and not call.on_disk:
            self._hear(call.finding, message)  # the store is failing: the first one is yet to be kept
            call.heard_s = message.received_s
        elif call is None and not self._room(message.received_s):
            self.counters.crowded_out += 1
            why = f"{CALLS_MAX} others have called for help just now and are heard; this call makes no alert"
            self._refuse(message, why, receipt)
            return
        else:
            self._hear(finding, message)
            call = self._calls[key] = _Call(finding, message.received_s)
            self._waiting.append(call)
            self._idle.clear()
            self._due.set()
        call.await_disk(message, receipt)

    def _hear(self, finding: Finding, message: RawMessage) -> None:
        self._call(finding)
        self.counters.heard += 1
        log.warning("Client %r on %s: %s", message.client_id, message.topic, finding.sentence)

    def _room(self, now_s: float) -> bool:
        """Whether one more sender can be remembered; those that are done with are forgotten for it."""
        if len(self._calls) >= CALLS_MAX:
            self._calls = {
                key: call
                for key, call in self._calls.items()
                if not call.on_disk or now_s - call.heard_s < self._repeat_s
            }
        return len(self._calls) < CALLS_MAX
