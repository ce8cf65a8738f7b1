"""Where readings go: an MQTT broker (QoS 1, pipelined, reconnecting), a file, or stdout.

The MQTT sink runs one task a connection on the caller's loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from pathlib import Path
from typing import TextIO
from zlib import crc32

import aiomqtt

from sensor_sim.errors import SimError, SimNetworkError

LOG = logging.getLogger("barn-sim")
_SILENT = logging.getLogger("barn-sim.mqtt")
_SILENT.disabled = True  # the client library logs every attempt; an outage is one line here

BUFFER_MAX = 20_000
"""Readings kept while the broker is away: 250 bytes each = 5 MB; 12 collars for 27 h, 1000 for 20 min."""
IN_FLIGHT_MAX = 32
"""Unacknowledged publishes a connection: half of the 64 at which the gateway stops reading."""
CONNECTIONS_MAX = 200
"""More cows than this share connections; a socket and a paho client each, about 60 kB = 12 MB."""
CONNECT_TIMEOUT_S = 60.0
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 30.0
_ANSWER_S = 10.0


class LinesSink:
    """Writes each payload as one line; a JSON lines file or stdout."""

    def __init__(self, stream: TextIO, *, ours: bool = False) -> None:
        """`ours`: the stream was opened for this sink, so `close` closes it."""
        self._stream = stream
        self._ours = ours

    @classmethod
    def to_file(cls, path: Path) -> LinesSink:
        """Overwrite `path`; `SimError` when it cannot be written."""
        try:
            return cls(path.open("w", encoding="utf-8"), ours=True)
        except OSError as fault:
            raise SimError(f"cannot write {path}: {fault.strerror}") from None

    async def send(self, topic: str, payload: bytes) -> None:  # noqa: ARG002 (the cow_id in the payload says it)
        """Write one line."""
        self.write(payload.decode())

    def write(self, line: str) -> None:
        """Write one line of text."""
        self._stream.write(line + "\n")

    def close(self) -> None:
        """Flush, and close a file of its own."""
        self._stream.flush()
        if self._ours:
            self._stream.close()


class MqttSink:
    """Publishes with QoS 1 and waits for no single PUBACK.

    While the broker is away readings wait in a buffer of `buffer_max`; what does not fit
    pushes out the oldest (counted in `dropped`), or waits when `wait_when_full`. After a
    reconnect whatever was not acknowledged is sent again, so a reading may arrive twice.

    Args:
        host: the broker.
        port: its port.
        connections: how many; a topic always uses the same one.
        username: with `password`, the credentials of every connection.
        password: see `username`.
        wait_when_full: hold up `send` instead of dropping (runs without pace).
        buffer_max: see above; shared out among the connections.
        connect_timeout_s: how long `open` tries.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections: int = 1,
        username: str | None = None,
        password: str | None = None,
        wait_when_full: bool = False,
        buffer_max: int = BUFFER_MAX,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.host = host
        self.port = port
        self.username = username
        self.password = password
        self.fault = ""
        self._connect_timeout_s = connect_timeout_s
        self._was_up = False
        count = max(1, min(connections, CONNECTIONS_MAX))
        run = f"{random.getrandbits(24):06x}"  # two simulators on one broker must not take over each other
        owner = (
            f"{username}/" if username else ""
        )  # whose sessions they are, for brokers that bind ids to names
        share = max(1, buffer_max // count)
        self._links = [
            _Link(self, f"{owner}sim-{run}-{number}", share, wait_when_full=wait_when_full)
            for number in range(count)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acknowledged(self) -> int:
        """Publishes the broker has acknowledged."""
        return sum(link.acknowledged for link in self._links)

    @property
    def dropped(self) -> int:
        """Readings pushed out of a full buffer."""
        return sum(link.dropped for link in self._links)

    @property
    def waiting(self) -> int:
        """Readings not yet acknowledged."""
        return sum(link.waiting for link in self._links)

    @property
    def connected(self) -> bool:
        """Whether every connection is up."""
        return all(link.up.is_set() for link in self._links)

    async def open(self) -> None:
        """Connect; `SimNetworkError` when that does not succeed in time."""
        self._tasks = [asyncio.create_task(link.run(), name=link.client_id) for link in self._links]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                for link in self._links:
                    await link.up.wait()
        except TimeoutError:
            await self.close()
            raise SimNetworkError(
                f"no broker at {self.host}:{self.port} within {self._connect_timeout_s:g} s"
                f" ({self.fault or 'no answer'}); is the gateway running?"
            ) from None

    async def send(self, topic: str, payload: bytes) -> None:
        """Queue one publish."""
        await self._links[crc32(topic.encode()) % len(self._links)].put(topic, payload)

    async def drain(self, timeout_s: float) -> int:
        """Wait until everything is acknowledged; how many readings were not, in time."""
        try:
            async with asyncio.timeout(timeout_s):
                for link in self._links:
                    await link.idle.wait()
        except TimeoutError:
            pass
        return self.waiting

    async def close(self) -> None:
        """Disconnect and end every task."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def link_up(self) -> None:
        """A connection stands: tell once when all do."""
        if self.connected and not self._was_up:
            self._was_up = True
            LOG.info("Connected to %s:%d, %d readings waiting", self.host, self.port, self.waiting)

    def link_down(self, fault: str) -> None:
        """A connection is lost or was refused: tell once an outage."""
        self.fault = fault
        if self._was_up:
            self._was_up = False
            LOG.warning("Lost the broker at %s:%d (%s); keeping readings", self.host, self.port, fault)


class _Link:
    """One connection, its buffer and what is in flight."""

    def __init__(self, sink: MqttSink, client_id: str, buffer_max: int, *, wait_when_full: bool) -> None:
        self.client_id = client_id
        self.up = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.acknowledged = 0
        self.dropped = 0
        self._sink = sink
        self._buffer_max = buffer_max
        self._wait_when_full = wait_when_full
        self._queue: deque[tuple[int, str, bytes]] = deque()
        self._flying: dict[int, tuple[int, str, bytes]] = {}
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._seq = 0

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._flying)

    async def put(self, topic: str, payload: bytes) -> None:
        """Queue one publish, by the rule for a full buffer."""
        while self._wait_when_full and self.waiting >= self._buffer_max:
            self._room.clear()
            await self._room.wait()
        if self._queue and self.waiting >= self._buffer_max:
            self._queue.popleft()
            self.dropped += 1
            if self.dropped == 1:
                LOG.warning("The buffer of %d readings is full; dropping the oldest", self._buffer_max)
        self._seq += 1
        self._queue.append((self._seq, topic, payload))
        self._filled.set()
        self.idle.clear()

    async def run(self) -> None:
        """Connect, publish, and after a loss begin again; ends by cancellation."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                async with aiomqtt.Client(
                    self._sink.host,
                    self._sink.port,
                    identifier=self.client_id,
                    username=self._sink.username,
                    password=self._sink.password,
                    logger=_SILENT,
                    max_inflight_messages=IN_FLIGHT_MAX,
                    timeout=_ANSWER_S,
                ) as client:
                    pause_s = RETRY_FIRST_S
                    self.up.set()
                    self._sink.link_up()
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(_watch(client))
                        for _ in range(IN_FLIGHT_MAX):
                            tasks.create_task(self._publish(client))
            except* (aiomqtt.MqttError, OSError) as faults:
                self.up.clear()
                self._sink.link_down(_first(faults))
            self._take_back()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(RETRY_MAX_S, 2 * pause_s)

    async def _publish(self, client: aiomqtt.Client) -> None:
        """One of IN_FLIGHT_MAX workers: take, publish, await the PUBACK however long it takes."""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            item = self._queue.popleft()
            seq, topic, payload = item
            self._flying[seq] = item
            await client.publish(topic, payload, qos=1, timeout=float("inf"))
            del self._flying[seq]
            self.acknowledged += 1
            self._room.set()
            if not self.waiting:
                self.idle.set()

    def _take_back(self) -> None:
        """What was in flight goes to the front again, oldest first."""
        self._queue.extendleft(self._flying[seq] for seq in sorted(self._flying, reverse=True))
        self._flying.clear()


async def _watch(client: aiomqtt.Client) -> None:
    """Raise `MqttError` as soon as the connection is lost; a collar subscribes to nothing."""
    async for _ in client.messages:
        pass


def _first(faults: BaseExceptionGroup[BaseException]) -> str:
    """The text of the first leaf of a group."""
    fault: BaseException = faults
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return str(fault) or type(fault).__name__
