"""Pushes a recording through a private gateway: broker, store, detectors, alert law (S0-005).

In lockstep: the clock moves to each recorded instant, everything that became due on the way
runs, then the messages of that instant are published and their acknowledgements awaited. So
the result depends on the file alone, not on the speed of the machine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.app import Gateway
from gateway.config import Config
from gateway.core.alerts import Alert
from gateway.core.delivery import Delivered
from gateway.core.recording import BadRow, RecordedMessage, message_of
from gateway.drivers.clock import ManualClock
from gateway.drivers.uplink_mqtt import MqttUplink, UplinkTarget
from gateway.errors import ConfigError, NetworkError
from gateway.store import alerts
from gateway.transfer.sources import Options, Position, by_suffix, open_source

STEP_S = 60.0
"""The clock never jumps further than this at once, so that what falls due in a gap runs in the gap."""
TAIL_S = 10 * 60.0
"""How long the clock runs on after the last row, so that its detectors run."""
IN_FLIGHT_MAX = 60
"""Messages of one instant that wait for their acknowledgement together (the broker pauses at 64)."""


class ReplayResult(msgspec.Struct, frozen=True):
    """What came of a recording.

    Args:
        sent: messages published and acknowledged.
        stored: readings in the private store; less than sent where messages were rejected
            or the recording repeats itself.
        rejected: messages that validation refused.
        duplicates: same animal and instant again.
        alerts: every alert raised, oldest onset first.
    """

    sent: int
    stored: int
    rejected: int
    duplicates: int
    alerts: list[Alert]


def read_recording(file: Path, temperature_c: float) -> list[RecordedMessage]:
    """All rows of a recording (CSV or JSON lines, also packed) in order of time.

    Raises:
        ConfigError: the file cannot be read, or a row (named by its line) cannot be sent.
    """
    messages = []
    with open_source(str(file), Options(by_suffix(file) or "csv", temperature_c)) as source:
        for row in source.rows(Position()):
            message = BadRow(row.fault[1]) if row.fault else _message(row.payload)
            if isinstance(message, BadRow):
                raise ConfigError(f"{file}:{row.line}: {message.why}")
            messages.append(message)
        source.require_rows(len(messages))
    messages.sort(key=lambda message: message.at_ms)
    return messages


def _message(payload: bytes) -> RecordedMessage | BadRow:
    try:
        return message_of(msgspec.json.decode(payload, type=dict[str, object]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BadRow(f"the row cannot be read: {error}")


async def replay(
    messages: list[RecordedMessage],
    config: Config,
    *,
    progress: Callable[[int], None],
) -> ReplayResult:
    """Run a recording through a private gateway.

    Args:
        messages: in order of time, at least one.
        config: of the private gateway; its store should be a new one.
        progress: told how many messages are done.
    """
    clock = ManualClock(messages[0].at_ms)
    async with Gateway(config, clock, own_schedule=False) as gateway:
        sender = MqttUplink(UplinkTarget("127.0.0.1", gateway.broker.port, client_id="replay"))
        try:
            done = 0
            for at_ms, group in itertools.groupby(messages, key=lambda message: message.at_ms):
                await _advance(gateway, clock, at_ms)
                while part := list(itertools.islice(group, IN_FLIGHT_MAX)):
                    await _send(sender, part)
                    done += len(part)
                    progress(done)
            await _advance(gateway, clock, clock.now_ms() + int(TAIL_S * 1000))
        finally:
            await sender.close()
        stats = gateway.ingest.stats
        raised = await gateway.database.read(lambda db: alerts.recent(db, None, limit=100_000))
        raised.sort(key=lambda alert: (alert.onset_ms, alert.subject, alert.kind))
        return ReplayResult(done, stats.stored, stats.invalid, stats.duplicates, raised)


async def _advance(gateway: Gateway, clock: ManualClock, to_ms: int) -> None:
    while clock.now_ms() < to_ms:
        await clock.advance_to(min(to_ms, clock.now_ms() + int(STEP_S * 1000)))
        await gateway.jobs.tick()


async def _send(sender: MqttUplink, part: list[RecordedMessage]) -> None:
    answers = await asyncio.gather(
        *(sender.deliver(f"artemis/sensors/{message.cow_id}", message.payload) for message in part)
    )
    for answer in answers:
        if not isinstance(answer, Delivered):
            raise NetworkError(f"The private gateway did not take a message: {answer.why}")
