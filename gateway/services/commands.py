"""Commands about alerts that arrive by MQTT: each is carried out once and answered. Runs on the event loop.

A repeated id gets the first answer and does nothing again (decision 27); a command that was said too
long ago is not carried out (decision 25). The sender's publish is acknowledged once what it asked for
is on disk, or once it has been told why it was not done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Final

import msgspec

from gateway.core.alert_commands import RESPONSES_TOPIC, AskFault, Command, Order, decode, expired
from gateway.core.alerts import State
from gateway.core.instants import HOUR_MS, iso_utc
from gateway.core.messages import RawMessage
from gateway.core.signals import shown
from gateway.errors import StoreError
from gateway.ports import AlertDesk, Clock, Receipt
from gateway.store.database import Database
from gateway.store.standing import standing

log = logging.getLogger(__name__)

IDS_MAX: Final = 1024
"""Commands that are remembered with their answers: 1024 × at most 3 KB = 3 MB. At the 60 a minute one
client may send (decision 24) that is 17 min, at the few of a real day months."""
RUNNING_MAX: Final = 64
"""Commands that wait for the disk at once: a minute of one client's 60 while a dying card takes 30 s for a
commit. More are told to come again."""
CLOSE_S_MAX: Final = 5.0
"""Of the 30 s of a shutdown (decision 32), what commands already here may take."""

_VERDICTS: Final = {Order.RESOLVE: State.RESOLVED, Order.FALSE_POSITIVE: State.FALSE_POSITIVE}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is published about one command; fields that say nothing are left out.

    Args:
        id: the command's; None where it could not be read.
        ok: whether this command did it.
        alert: the alert it was about.
        state: the alert's now.
        silence: number of the silence.
        until: when that ends by itself.
        by: who brought it into this state; not the sender, if somebody was first.
        since: when.
        error: why it was not done, and what would help.
    """

    id: str | None
    ok: bool
    alert: int | None = None
    state: str | None = None
    silence: int | None = None
    until: str | None = None
    by: str | None = None
    since: str | None = None
    error: str | None = None


class CommandCounters(msgspec.Struct):
    """Since start, for /metrics.

    Args:
        done: commands that did what they asked.
        not_done: those that could not: somebody was first, no such alert.
        repeated: ids that had come before.
        refused: malformed, expired, or too many at once.
        failed: the store could not write.
    """

    done: int = 0
    not_done: int = 0
    repeated: int = 0
    refused: int = 0
    failed: int = 0


class _Remembered:
    """A command and, once there is one, its answer; until then whoever repeats it waits."""

    __slots__ = ("answer", "command", "waiting")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.answer: bytes | None = None
        self.waiting: list[Receipt] = []


class AlertCommands:
    """Takes the publishes of one topic and answers them on another.

    Args:
        alarm: where they are carried out.
        database: says who was first; read only.
        clock: the gateway's clock.
        publish: gives an answer to the subscribers of a topic; must not block.
        zone: where a timestamp without a zone belongs.
        ids_max: see `IDS_MAX`.
        running_max: see `RUNNING_MAX`.
    """

    def __init__(
        self,
        *,
        alarm: AlertDesk,
        database: Database,
        clock: Clock,
        publish: Callable[[str, bytes], None],
        zone: tzinfo = UTC,
        ids_max: int = IDS_MAX,
        running_max: int = RUNNING_MAX,
    ) -> None:
        self._alarm = alarm
        self._database = database
        self._clock = clock
        self._publish = publish
        self._zone = zone
        self._ids_max = ids_max
        self._running_max = running_max
        self._remembered: dict[str, _Remembered] = {}
        self._running: set[asyncio.Task[None]] = set()
        self.counters = CommandCounters()

    def accept(self, message: RawMessage, receipt: Receipt) -> None:
        """Take one publish; its receipt is settled when it has been answered. Never blocks."""
        command = decode(message.payload, Command)
        if isinstance(command, AskFault):
            self._refuse(command.id, command.text, message, receipt)
            return
        before = self._remembered.get(command.id)
        if before is not None:
            self._repeat(before, command, message, receipt)
        elif self._clock.trusted() and (why := expired(command, self._clock.now_ms(), self._zone)):
            self._refuse(command.id, why, message, receipt)
        elif len(self._running) >= self._running_max:
            self._refuse(
                command.id, f"{self._running_max} commands wait already; try again", message, receipt
            )
        else:
            self._begin(command, message.client_id, receipt)

    async def close(self) -> None:
        """Let what has begun end; after `CLOSE_S_MAX` it is left, and its senders send it again."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_S_MAX)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _begin(self, command: Command, client_id: str, receipt: Receipt) -> None:
        while len(self._remembered) >= self._ids_max:
            del self._remembered[next(iter(self._remembered))]
        entry = _Remembered(_bare(command))
        entry.waiting.append(receipt)
        self._remembered[command.id] = entry
        task = asyncio.create_task(self._run(command, command.by.strip() or client_id, entry))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _repeat(self, before: _Remembered, command: Command, message: RawMessage, receipt: Receipt) -> None:
        if before.command != _bare(command):
            why = f"id {command.id!r} came before with another command; every command needs an id of its own"
            self._refuse(command.id, why, message, receipt)
            return
        self.counters.repeated += 1
        if before.answer is None:
            before.waiting.append(receipt)
        else:
            self._publish(RESPONSES_TOPIC, before.answer)
            receipt.settle()

    def _refuse(self, id_: str | None, why: str, message: RawMessage, receipt: Receipt) -> None:
        self.counters.refused += 1
        log.warning("Command of %s refused: %s", message.client_id, why)
        self._publish(RESPONSES_TOPIC, msgspec.json.encode(Answer(id_, ok=False, error=why)))
        receipt.settle()

    async def _run(self, command: Command, who: str, entry: _Remembered) -> None:
        try:
            answer = await self._carry_out(command, who)
            entry.answer = msgspec.json.encode(answer)
            if answer.ok:
                self.counters.done += 1
            else:
                self.counters.not_done += 1
            self._publish(RESPONSES_TOPIC, entry.answer)
        except StoreError as error:
            # Forgotten, so that the same command may come again once the store can write.
            self.counters.failed += 1
            if self._remembered.get(command.id) is entry:
                del self._remembered[command.id]
            self._publish(
                RESPONSES_TOPIC,
                msgspec.json.encode(Answer(command.id, ok=False, error=f"not stored: {error}")),
            )
        for receipt in entry.waiting:
            receipt.settle()
        entry.waiting.clear()

    async def _carry_out(self, command: Command, who: str) -> Answer:
        if command.command is Order.SILENCE:
            return await self._silence(command, who)
        if command.command is Order.UNSILENCE:
            return await self._unsilence(command, who)
        if command.command is Order.ACKNOWLEDGE:
            done = await self._alarm.acknowledge(
                alert_id=command.alert, who=who, origin="mqtt", note=command.note
            )
            return await self._answer(command, done)
        target = command.alert or self._shown()
        if target is None:
            return Answer(
                command.id, ok=False, error="alert: the panel shows none; name the alert by its number"
            )
        done = await self._alarm.close(
            alert_id=target, state=_VERDICTS[command.command], who=who, origin="mqtt", note=command.note
        )
        return await self._answer(msgspec.structs.replace(command, alert=target), done)

    def _shown(self) -> int | None:
        alert = shown(self._alarm.open_alerts)
        return None if alert is None else alert.id

    async def _answer(self, command: Command, done: int) -> Answer:
        """How the alert stands after an attempt, `done` being the alert it changed or 0."""
        alert_id = done or command.alert
        if alert_id is None:
            return Answer(command.id, ok=False, error="alert: nothing is left to acknowledge on the panel")
        found = await self._database.read(lambda db: standing(db, alert_id))
        if found is None:
            return Answer(command.id, ok=False, alert=alert_id, error=f"alert: there is no alert {alert_id}")
        step = found.decided
        return Answer(
            command.id,
            ok=done != 0,
            alert=alert_id,
            state=found.alert.state.value,
            by=None if step is None else step.who,
            since=None if step is None else iso_utc(step.at_ms),
            error=None if done else found.sentence,
        )

    async def _silence(self, command: Command, who: str) -> Answer:
        until_ms = self._clock.now_ms() + round((command.hours or 0) * HOUR_MS)
        made = await self._alarm.silence(
            subject=command.subject,
            kind=command.kind,
            until_ms=until_ms,
            who=who,
            origin="mqtt",
            reason=command.note,
        )
        return Answer(command.id, ok=True, silence=made.id, until=iso_utc(made.until_ms), by=made.who)

    async def _unsilence(self, command: Command, who: str) -> Answer:
        number = command.silence or 0
        if await self._alarm.end_silence(silence_id=number, who=who, origin="mqtt"):
            return Answer(command.id, ok=True, silence=number, by=who)
        return Answer(
            command.id,
            ok=False,
            silence=number,
            error=f"silence: no silence {number} holds; it may have ended",
        )


def _bare(command: Command) -> Command:
    """What makes two commands the same: sent again, it may say a newer time."""
    return msgspec.structs.replace(command, timestamp=None)
