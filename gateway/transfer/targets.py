"""Where imported readings go: into the store itself, or to the gateway that runs on it.

Runs on the importing command's event loop. Which one is decided by the store's lock: whoever holds
it is the only writer, and the only one who can judge what is new.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from zlib import crc32

import msgspec

from gateway.config import Config
from gateway.core.delivery import Delivered, Rejected
from gateway.core.readings import Reading
from gateway.drivers.uplink_mqtt import MqttUplink, UplinkTarget
from gateway.errors import NetworkError, StoreError
from gateway.store import animals, history, identity, readings
from gateway.store.database import Database
from gateway.store.opening import open_readonly
from gateway.transfer.ledger import Counts

IN_FLIGHT_MAX = 60
"""Unacknowledged publishes a connection; the broker stops reading at 64."""
CONNECTIONS = 4
"""4 × 60 readings in each of at most 20 commits a second would be 4,800 readings/s. Measured on a
2-core x86 machine: 900/s over 2 connections, 1,500/s over 4 (a fifth of a core of the gateway's) and
no more over 8, because this command's own core is the limit; so the collars keep theirs."""
RETRY_S = 1.0
RETRY_S_MAX = 60.0
"""A gateway that restarts (systemd waits 10 s) is waited for this long; a row is never given up, the
import stops and goes on there next time."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A row that passed validation: the reading, and the message it came from."""

    reading: Reading
    payload: bytes


class Target(Protocol):
    """One of the two ways in.

    Attributes:
        sentence: which one it is, for the user.
        epoch: of the store (decision 39): another store has imported nothing yet.
        cow_ids: animals the store has readings of.
    """

    sentence: str
    epoch: str
    cow_ids: set[str]

    async def keep(self, batch: Sequence[Accepted], counts: Counts) -> None:
        """Return when every reading of the batch is on disk; count what became of them."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...


async def open_target(config: Config) -> Target:
    """The store itself, or the gateway that holds its lock.

    Raises:
        StoreError: the store cannot be opened, for another reason than its lock.
    """
    path = Path(config.database.path)
    try:
        database = Database.open(path, timeout_s=config.database.timeout_s)
    except StoreError as error:
        if isinstance(error.__cause__, BlockingIOError):  # flock: somebody holds it
            return BrokerTarget(config, error.message)
        raise
    try:
        return StoreTarget(database)
    except BaseException:  # closed, then raised again
        await database.close()
        raise


class StoreTarget:
    """Writes into a store on which no gateway runs; one transaction a batch."""

    def __init__(self, database: Database) -> None:
        self.sentence = f"No gateway runs on {database.path}: readings go into it directly."
        self.epoch = database.epoch
        self.cow_ids = set(database.read_now(animals.cow_ids))
        self._database = database

    async def keep(self, batch: Sequence[Accepted], counts: Counts) -> None:
        """One transaction.

        Raises:
            StoreError: the disk refuses; nothing of the batch is stored.
        """
        rows = [accepted.reading for accepted in batch]
        outcomes = await self._database.write(lambda db: readings.append(db, rows))
        counts.stored += outcomes.count(readings.Outcome.STORED)
        counts.duplicates += outcomes.count(readings.Outcome.DUPLICATE)
        counts.conflicts += outcomes.count(readings.Outcome.CONFLICT)

    async def close(self) -> None:
        """Fold the log into the store and free its lock."""
        await self._database.close()


class BrokerTarget:
    """Publishes to the running gateway, QoS 1: a PUBACK means that the reading is on disk (decision 29).

    The first reading is looked for in the store before the second is sent, so that another broker
    on the same port is noticed.
    """

    def __init__(self, config: Config, holder: str) -> None:
        """`holder` says who holds the lock."""
        host = _reachable(config.broker.host)
        self._address = f"{host}:{config.broker_port}"
        self._holder = holder
        self._path = Path(config.database.path)
        self._pattern = config.mqtt.topic_pattern
        self._proved = False
        # A device's sessions begin with its id; see the front door's rule for client ids.
        owner = f"{config.mqtt.username}/" if config.mqtt.username else ""
        self._links = [
            MqttUplink(
                UplinkTarget(
                    host,
                    config.broker_port,
                    client_id=f"{owner}barn-import-{os.getpid()}-{number}",
                    username=config.mqtt.username,
                    password=config.mqtt.password,
                    in_flight_max=IN_FLIGHT_MAX,
                )
            )
            for number in range(CONNECTIONS)
        ]
        self.sentence = (
            f"A gateway runs on {self._path}: readings go to it over MQTT at {self._address}; "
            "it stores and judges them."
        )
        with open_readonly(self._path) as db:
            self.epoch = identity.epoch(db)
            self.cow_ids = set(animals.cow_ids(db))

    async def keep(self, batch: Sequence[Accepted], counts: Counts) -> None:
        """Publish and wait for every PUBACK.

        Raises:
            NetworkError: the gateway does not answer any more, or another broker does.
        """
        rest = batch
        if batch and not self._proved:
            await self._send(self._links[0], batch[0])
            self._prove(batch[0].reading)
            rest = batch[1:]
        lanes: list[list[Accepted]] = [[] for _ in self._links]
        for accepted in rest:  # one animal's readings stay in order
            lanes[crc32(accepted.reading.cow_id.encode()) % len(lanes)].append(accepted)
        try:
            async with asyncio.TaskGroup() as senders:
                for link, lane in zip(self._links, lanes, strict=True):
                    waiting = iter(lane)
                    for _ in range(min(IN_FLIGHT_MAX, len(lane))):
                        senders.create_task(self._send_all(link, waiting))
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None  # one of several that say the same
        counts.acknowledged += len(batch)

    async def close(self) -> None:
        """Say goodbye."""
        await asyncio.gather(*(link.close() for link in self._links))

    async def _send_all(self, link: MqttUplink, waiting: Iterator[Accepted]) -> None:
        """One of IN_FLIGHT_MAX places in a connection's window."""
        for accepted in waiting:
            await self._send(link, accepted)

    async def _send(self, link: MqttUplink, accepted: Accepted) -> None:
        topic = _topic(self._pattern, accepted.reading.cow_id)
        give_up_s = time.monotonic() + RETRY_S_MAX
        while True:
            answer = await link.deliver(topic, accepted.payload)
            if isinstance(answer, Delivered):
                return
            if isinstance(answer, Rejected):
                raise NetworkError(f"{self._address}: a reading cannot be sent: {answer.why}")
            if not link.connects:
                raise NetworkError(
                    f"{self._holder}, and nobody takes readings at {self._address}: {answer.why}",
                    "is it another import, or a gateway with another configuration? Name it with --config",
                )
            if time.monotonic() > give_up_s:
                raise NetworkError(
                    f"The gateway at {self._address} has not answered for {RETRY_S_MAX:.0f} s: {answer.why}",
                    "run the same command again; it goes on where it stopped",
                )
            await asyncio.sleep(RETRY_S)

    def _prove(self, reading: Reading) -> None:
        """Whoever acknowledged the first reading has put it into this store."""
        with open_readonly(self._path) as db:
            at_ms = reading.timestamp_ms
            if not any(history.raw(db, at_ms, at_ms + 1, [reading.cow_id])):
                raise NetworkError(
                    f"{self._address} acknowledged a reading that is not in {self._path}",
                    "another broker answers there, or the gateway refused it: see its log and broker.port",
                )
        self._proved = True


def _reachable(host: str) -> str:
    """Where to knock when the broker listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _topic(pattern: str, cow_id: str) -> str:
    return "/".join(cow_id if level in {"+", "#"} else level for level in pattern.split("/"))
