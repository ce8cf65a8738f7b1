"""A herd through real MQTT with everything a barn does to it: each reading stored once, and unchanged.

Concentrators bring the readings of many collars with repeats, out of order, hours late, and from
collars whose clocks are wrong. What was sent is the truth; what is read back must be equal to it at
the stored resolution (1/100 °C, 1/1000 g, 1/100 °/s, 1/1000 of motion intensity, milliseconds).
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gateway.core.readings import FLAG_CLOCK_AHEAD, Reading
from gateway.core.validation import STATES
from gateway.store import history
from gateway.store.database import Database
from gateway.store.opening import open_readonly
from tests.bench.load import Publisher, publish_bytes
from tests.e2e.gateway_process import running_gateway
from tests.e2e.housekeeping_process import housekeeping

CONCENTRATORS = 8
IN_FLIGHT = 64
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
DUPLICATE, CONFLICT, LATE, SHUFFLED = 0.05, 0.01, 0.05, 0.2
"""Shares of readings that are sent again, again with another temperature, up to 5 h late, out of order."""
_ORDER_MS = 90_000
"""A reading out of order is overtaken by those of the next minute and a half."""


class Sent(NamedTuple):
    """A reading in whole numbers of its stored resolution, as it was sent."""

    cow_id: str
    timestamp_ms: int
    temperature_centi: int
    axes_milli: tuple[int, int, int]
    gyro_centi: tuple[int | None, int | None, int | None]
    state: str | None
    motion_milli: int | None
    clock_ahead: bool

    def payload(self) -> bytes:
        at = datetime.fromtimestamp(self.timestamp_ms / 1000, UTC)
        fields: dict[str, object] = {
            "cow_id": self.cow_id,
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "temperature": self.temperature_centi / 100,
        }
        fields |= {
            name: milli / 1000 for name, milli in zip(("fxa", "mya", "rza"), self.axes_milli, strict=True)
        }
        for name, centi in zip(("sxg", "lyg", "dzg"), self.gyro_centi, strict=True):
            if centi is not None:
                fields[name] = centi / 100
        if self.state is not None:
            fields["state"] = self.state
        if self.motion_milli is not None:
            fields["motion_intensity"] = self.motion_milli / 1000
        return json.dumps(fields).encode()


def as_sent(reading: Reading) -> Sent:
    """What came back, in the same whole numbers."""

    def whole(value: float | None, per_unit: int) -> int | None:
        return None if value is None else round(value * per_unit)

    gyro = (reading.sxg_dps, reading.lyg_dps, reading.dzg_dps)
    return Sent(
        reading.cow_id,
        reading.timestamp_ms,
        round(reading.temperature_c * 100),
        (round(reading.fxa_g * 1000), round(reading.mya_g * 1000), round(reading.rza_g * 1000)),
        (whole(gyro[0], 100), whole(gyro[1], 100), whole(gyro[2], 100)),
        reading.state,
        whole(reading.motion_intensity, 1000),
        bool(reading.flags & FLAG_CLOCK_AHEAD),
    )


class Traffic(NamedTuple):
    """What a barn sends.

    Attributes:
        messages: (cow_id, payload) in the order of sending; one animal always by one concentrator.
        truth: every reading that must be stored, exactly once.
        refused: messages that must become dead letters.
    """

    messages: list[tuple[str, bytes]]
    truth: set[Sent]
    refused: int


def traffic(animals: int, minutes: int, now_ms: int, seed: int) -> Traffic:
    """`minutes` of a herd that end now. Every 50th collar's clock is a year behind, every 50th two
    days ahead (refused), every 50th an hour ahead (kept and flagged).
    """
    dice = random.Random(seed)
    first_ms = now_ms - minutes * MINUTE_MS
    queue: list[tuple[float, int, Sent]] = []
    truth: set[Sent] = set()
    for animal in range(animals):
        cow_id = f"COW_{animal:04d}"
        clock_ms = {1: -YEAR_MS, 2: 48 * HOUR_MS, 3: HOUR_MS + minutes * MINUTE_MS}.get(animal % 50, 0)
        phase_ms = dice.randrange(MINUTE_MS)
        for minute in range(minutes):
            at_ms = first_ms + minute * MINUTE_MS + phase_ms
            measured_ms, order = at_ms, float(at_ms)
            if dice.random() < LATE and not clock_ms:
                measured_ms -= dice.randrange(1, 6) * HOUR_MS  # from the collar's memory
            if dice.random() < SHUFFLED:
                order += dice.randrange(_ORDER_MS)
            reading = _random_reading(dice, cow_id, measured_ms + clock_ms, ahead=clock_ms > 0)
            queue.append((order, len(queue), reading))
            if dice.random() < DUPLICATE:
                queue.append((order + dice.randrange(_ORDER_MS), len(queue), reading))
            if dice.random() < CONFLICT:
                other = reading._replace(temperature_centi=3500 + (reading.temperature_centi - 3499) % 700)
                queue.append((order + dice.randrange(1, _ORDER_MS), len(queue), other))
            if clock_ms != 48 * HOUR_MS:
                truth.add(reading)
    queue.sort(key=lambda entry: entry[:2])
    refused = sum(reading.timestamp_ms > now_ms + 24 * HOUR_MS for _, _, reading in queue)
    return Traffic([(one.cow_id, one.payload()) for _, _, one in queue], truth, refused)


def _random_reading(dice: random.Random, cow_id: str, timestamp_ms: int, *, ahead: bool) -> Sent:
    """Anything a collar may say, over the whole range, with and without the optional fields."""
    axes = (dice.randint(-2000, 2000), dice.randint(-2000, 2000), dice.randint(-2000, 2000))
    gyro = [dice.randint(-200_000, 200_000) if dice.random() < 0.8 else None for _ in range(3)]
    return Sent(
        cow_id,
        timestamp_ms,
        dice.randint(3500, 4200),
        axes,
        (gyro[0], gyro[1], gyro[2]),
        dice.choice([*sorted(STATES), None]),
        dice.randint(0, 100_000) if dice.random() < 0.5 else None,
        ahead,
    )


async def send(port: int, messages: list[tuple[str, bytes]], per_s: int | None) -> int:
    """Publish everything over a few connections, at a pace if given; returns how many were acknowledged."""
    shares: list[list[bytes]] = [[] for _ in range(CONCENTRATORS)]
    for cow_id, payload in messages:
        share = shares[int(cow_id[-4:]) % CONCENTRATORS]
        share.append(publish_bytes(f"artemis/sensors/{cow_id}", payload, len(share) % 65535 + 1))
    waits_ms: list[float] = []
    loop = asyncio.get_running_loop()
    publishers = []
    for number, share in enumerate(shares):
        make = partial(Publisher, f"base-{number}", share, IN_FLIGHT, waits_ms)
        _, publisher = await loop.create_connection(make, "127.0.0.1", port)
        await publisher.connected
        publishers.append((publisher, len(share)))
    began_s = loop.time()
    while per_s is not None and (loop.time() - began_s) * per_s < len(messages):
        done = (loop.time() - began_s) * per_s / len(messages)
        for publisher, count in publishers:
            publisher.allowed = int(count * done)
            publisher.pump()
        await asyncio.sleep(0.02)  # the pace, not a wait for something
    for publisher, count in publishers:
        publisher.allowed = count
        publisher.pump()
    async with asyncio.timeout(300):
        await asyncio.gather(*(publisher.done for publisher, _ in publishers))
    for publisher, _ in publishers:
        publisher.close()
    return len(waits_ms)


def stored(path: Path) -> list[Reading]:
    """Everything that can be read back, from wherever it lies."""
    with open_readonly(path) as db:
        return [reading for hour in history.raw(db, 0, 2**53) for reading in hour]


async def pack_everything(path: Path, now_ms: int) -> int:
    """Housekeeping as it runs three days later; returns how many readings it packed."""
    database = Database.open(path)
    try:
        housekeep = housekeeping(database, now_ms + 3 * 24 * HOUR_MS)
        await housekeep.run()
        return housekeep.counters["packed_rows"]
    finally:
        await database.close()


def assert_is_truth(found: list[Reading], truth: set[Sent]) -> None:
    came_back = [as_sent(reading) for reading in found]
    assert len(set(came_back)) == len(came_back), "a reading is stored twice"
    missing, strange = truth - set(came_back), set(came_back) - truth
    assert not missing, f"{len(missing)} of {len(truth)} sent readings are not stored: {sorted(missing)[:3]}"
    assert not strange, f"{len(strange)} stored readings were never sent so: {sorted(strange)[:3]}"


def herd_through_the_gateway(home: Path, animals: int, minutes: int, per_s: int | None, seed: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    sent = traffic(animals, minutes, now_ms, seed)
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, http_port = one.getsockname()[1], other.getsockname()[1]
    with running_gateway(home, port, http_port, logging={"level": "ERROR"}) as gateway:
        began = time.monotonic()
        acknowledged = asyncio.run(send(port, sent.messages, per_s))
        took_s = time.monotonic() - began
        assert acknowledged == len(sent.messages)
        counted = json.loads(gateway.get("/health"))["messages"]
        before = stored(gateway.store)
        assert_is_truth(before, sent.truth)
    print(
        f"{acknowledged} messages of {animals} animals in {took_s:.1f} s ({acknowledged / took_s:.0f}/s): "
        f"{len(sent.truth)} stored, {sent.refused} refused (seed {seed})"
    )
    packed = asyncio.run(pack_everything(gateway.store, time.time_ns() // 1_000_000))
    assert packed == len(sent.truth)
    after = stored(gateway.store)
    assert_is_truth(after, sent.truth)
    # Packed hours keep the arrival to the second; that is the gateway's note, not the collar's word.
    for one, other in zip(before, after, strict=True):
        assert abs(one.received_ms - other.received_ms) < 1000
        assert msgspec.structs.replace(one, received_ms=other.received_ms) == other
    assert (counted["total"], counted["stored"]) == (acknowledged, len(sent.truth))
    assert counted["invalid"] == sent.refused > 0
    assert counted["duplicates"] == acknowledged - sent.refused - len(sent.truth) > 0


def test_a_herd_with_faults_on_the_wire_is_stored_once_and_unchanged(tmp_path: Path) -> None:
    herd_through_the_gateway(tmp_path / "barn", animals=100, minutes=20, per_s=None, seed=20261123)


@pytest.mark.soak
def test_a_thousand_animals_for_an_hour_at_1000_messages_a_second(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    herd_through_the_gateway(tmp_path / "barn", animals=1000, minutes=60, per_s=1000, seed=seed)
