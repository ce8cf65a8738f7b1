"""The load of the rigs and benches, in a process of its own: collars that publish, clients that listen.

Run as `python -m tests.bench.generator PLAN`, PLAN being a `Plan` in JSON. Each line on standard input is
a step, answered by one JSON line: `connect`, `run` (ends when everything has been acknowledged and
received), `begin` (the same, not waited for; answered when it has begun), `finish` (send no more, then as
`run`), `storm` (connect all at once, each sends as soon as it may). The end of the input closes everything.

Its own CPU is part of every answer, so that a reader sees whether it was the bottleneck.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import ssl
import sys
import time
from pathlib import Path

import msgspec

from tests.bench.load import Publisher, connect_packet, packets_of, publish_packet, subscribe_packet

STEP_S_MAX = 300.0
CONNECTING_MAX = 50
"""Sockets being opened at once in the step `connect`; a storm has no such limit."""
RETRY_S = 0.05


class Device(msgspec.Struct, frozen=True):
    """What a client shows at the door."""

    client_id: str
    username: str
    password: str


class Plan(msgspec.Struct, frozen=True):
    """A load.

    Args:
        port: of the broker, on loopback.
        clients: that publish, a connection each; and an animal each, unless there is a herd.
        count: readings each.
        in_flight: unacknowledged readings of each at most; a closed loop.
        rate: readings a second of all together: an open loop, that does not wait for acknowledgements.
        listeners: clients that subscribe to `topic_filter` with `qos`, and how each reading is followed.
        devices: file with a JSON list of `Device`; none are anonymous.
        cafile: speak TLS and trust this authority.
        clean: whether sessions end with the connection.
        name: client ids are this and a number.
        herd: animals that the clients share out and speak for in turn; 0 = one each, named like it.
    """

    port: int
    clients: int
    count: int
    in_flight: int = 48
    rate: float = 0.0
    listeners: int = 0
    topic_filter: str = "artemis/sensors/+"
    qos: int = 0
    devices: str | None = None
    cafile: str | None = None
    clean: bool = True
    name: str = "COW"
    herd: int = 0


class Done(msgspec.Struct, frozen=True):
    """What became of a load; times in ms from the write to the socket, CPU that of this process."""

    sent: int
    acknowledged: int
    seconds: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    lateness_p99_ms: float
    """How late the sends of an open loop were, which is this process' own fault."""
    received: int = 0
    receive_p50_ms: float = 0.0
    receive_p99_ms: float = 0.0
    lost: int = 0
    repeated: int = 0
    disordered: int = 0


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class Listener(asyncio.Protocol):
    """A subscriber: which of the readings came, in which order, and when."""

    def __init__(self, plan: Plan, connect: bytes) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.came: list[tuple[bytes, float]] = []
        self._plan, self._connect = plan, connect
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._connect)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= 4:
            size, body = buffer[position + 1], position + 2
            if size & 0x80:
                size, body = (size & 0x7F) | buffer[position + 2] << 7, position + 3
            if len(buffer) < body + size:
                break
            self._take(buffer[position], bytes(buffer[body : body + size]), now)
            position = body + size
        del buffer[:position]

    def _take(self, first: int, body: bytes, now: float) -> None:
        if first == 0x20:
            assert body[1] == 0, f"CONNACK {body[1]}"
            self.transport.write(subscribe_packet(self._plan.topic_filter, self._plan.qos))
        elif first == 0x90:
            assert body[2] == self._plan.qos, f"SUBACK {body[2]}"
            self.ready.set_result(None)
        elif first & 0xF0 == 0x30:
            start = 2 + int.from_bytes(body[:2], "big")
            if first & 0x06:
                self.transport.write(b"\x40\x02" + body[start : start + 2])
                start += 2
            self.came.append((body[start:], now))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed by the broker"))


def herd_packets(client: int, plan: Plan) -> list[bytes]:
    """What client `client` publishes: a reading of each of its animals, then the next of each."""
    share = plan.herd // plan.clients
    return [
        publish_packet(
            f"COW_{client + number % share * plan.clients:04d}", number // share, number % 65535 + 1
        )
        for number in range(plan.count)
    ]


class Generator:
    """One load and its steps."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waits_ms: list[float] = []
        self._lateness_ms: list[float] = []
        self._publishers: list[Publisher] = []
        self._listeners: list[Listener] = []
        self._order: dict[bytes, tuple[int, int, float]] = {}  # payload → (client, number, when)
        self._running: asyncio.Task[None] | None = None
        self._stopping = False
        self._began_s = self._cpu_began_s = 0.0
        self._tls = ssl.create_default_context(cafile=plan.cafile) if plan.cafile else None
        names = [f"{plan.name}_{number:04d}" for number in range(plan.clients)]
        listening = [f"{plan.name}-listener-{number}" for number in range(plan.listeners)]
        logins: dict[str, tuple[str, str]] = {}
        if plan.devices is not None:
            devices = msgspec.json.decode(Path(plan.devices).read_bytes(), type=list[Device])
            names = [one.client_id for one in devices[: plan.clients]]
            listening = [one.client_id for one in devices[plan.clients : plan.clients + plan.listeners]]
            logins = {one.client_id: (one.username, one.password) for one in devices}
        self._packets = [
            herd_packets(number, plan) if plan.herd else packets_of(name, plan.count)
            for number, name in enumerate(names)
        ]
        hello = [connect_packet(name, logins.get(name), clean=plan.clean) for name in names + listening]
        self._hello, self._hello_listeners = hello[: plan.clients], hello[plan.clients :]

    async def _open(self, protocol: asyncio.Protocol) -> None:
        await asyncio.get_running_loop().create_connection(
            lambda: protocol,
            "127.0.0.1",
            self._plan.port,
            ssl=self._tls,
            server_hostname="localhost" if self._tls else None,
        )

    def _publisher(self, number: int) -> Publisher:
        one = Publisher("", self._packets[number], self._plan.in_flight, self._waits_ms, self._hello[number])
        one.allowed = 0 if self._plan.rate else one.allowed
        return one

    async def connect(self) -> dict[str, float]:
        """Open everything, a few at once."""
        began, gate = time.perf_counter(), asyncio.Semaphore(CONNECTING_MAX)

        async def come(one: Publisher | Listener) -> None:
            async with gate:
                await self._open(one)
                await (one.connected if isinstance(one, Publisher) else one.ready)

        self._publishers = [self._publisher(number) for number in range(self._plan.clients)]
        self._listeners = [Listener(self._plan, hello) for hello in self._hello_listeners]
        await asyncio.gather(*map(come, self._listeners))
        await asyncio.gather(*map(come, self._publishers))
        return {"seconds": time.perf_counter() - began}

    async def storm(self) -> dict[str, float]:
        """All at once, as soon as the broker listens; a connection that is refused tries again."""
        connected_s: list[float] = []
        began = time.perf_counter()

        async def come(number: int) -> None:
            while True:
                one = self._publisher(number)
                one.done.add_done_callback(lambda done: done.exception())
                with contextlib.suppress(OSError):
                    await self._open(one)
                    await one.connected
                    break
                await asyncio.sleep(RETRY_S)
            connected_s.append(time.perf_counter() - began)
            one.pump()
            self._publishers.append(one)
            await one.done

        while True:  # the storm begins when the door opens
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._plan.port)
                writer.close()
                break
            await asyncio.sleep(RETRY_S)
        self._began_s = began = time.perf_counter()
        self._cpu_began_s = time.process_time()
        await asyncio.gather(*(come(number) for number in range(self._plan.clients)))
        return {"connected_s": max(connected_s), **msgspec.to_builtins(self._done())}

    def begin(self) -> dict[str, float]:
        """Start sending."""
        self._waits_ms.clear()
        self._began_s, self._cpu_began_s = time.perf_counter(), time.process_time()
        self._running = asyncio.create_task(self._paced() if self._plan.rate else self._closed_loop())
        return {}

    async def finish(self) -> dict[str, float]:
        """Send no more, wait for what is owed."""
        self._stopping = True
        return await self.ended()

    async def ended(self) -> dict[str, float]:
        """Wait until all is acknowledged and received."""
        assert self._running is not None
        await self._running
        answer: dict[str, float] = msgspec.to_builtins(self._done())
        return answer

    async def _closed_loop(self) -> None:
        for one in self._publishers:
            one.pump()
        await asyncio.gather(*(one.done for one in self._publishers))

    async def _paced(self) -> None:
        """The open loop: what is due is sent, whatever the broker does."""
        total, clients = self._plan.count * self._plan.clients, self._plan.clients
        began, sent = time.perf_counter(), 0
        while sent < total and not self._stopping:
            number, client = divmod(sent, clients)
            due = began + sent / self._plan.rate
            early_s = due - time.perf_counter()
            if early_s > 0:
                await asyncio.sleep(early_s)
            now = time.perf_counter()
            self._lateness_ms.append((now - due) * 1000)
            if self._listeners:
                packet = self._packets[client][number]
                self._order[packet[packet.index(b'{"cow_id') :]] = client, number, now
            publisher = self._publishers[client]
            publisher.allowed = number + 1
            publisher.pump()
            sent += 1
        await self._settle(sent)

    async def _settle(self, sent: int) -> None:
        """Until all came, or nothing more comes for five seconds."""
        wanted = sent * (1 + len(self._listeners))
        deadline, before = 0.0, -1
        while True:
            have = len(self._waits_ms) + sum(len(one.came) for one in self._listeners)
            if have != before:
                deadline, before = time.perf_counter() + 5, have
            if have >= wanted or time.perf_counter() > deadline:
                return
            await asyncio.sleep(0.01)

    def _done(self) -> Done:
        waits_ms, received_ms = self._waits_ms, [0.0] * 0
        lost = repeated = disordered = 0
        for listener in self._listeners:
            last = [-1] * self._plan.clients
            seen = set()
            for payload, when in listener.came:
                if payload not in self._order:
                    continue  # not ours: a rig lets others publish on the same topics
                client, number, sent = self._order[payload]
                received_ms.append((when - sent) * 1000)
                repeated += payload in seen
                disordered += number < last[client]
                last[client] = max(number, last[client])
                seen.add(payload)
            lost += len(self._order) - len(seen)
        return Done(
            sent=sum(one.sent for one in self._publishers),
            acknowledged=len(waits_ms),
            seconds=time.perf_counter() - self._began_s,
            cpu_s=time.process_time() - self._cpu_began_s,
            p50_ms=percentile(waits_ms, 0.5),
            p99_ms=percentile(waits_ms, 0.99),
            lateness_p99_ms=percentile(self._lateness_ms, 0.99),
            received=len(received_ms),
            receive_p50_ms=percentile(received_ms, 0.5),
            receive_p99_ms=percentile(received_ms, 0.99),
            lost=lost,
            repeated=repeated,
            disordered=disordered,
        )

    async def step(self, name: str) -> dict[str, float]:
        """One line of the input."""
        async with asyncio.timeout(STEP_S_MAX):
            if name == "connect":
                return await self.connect()
            if name == "storm":
                return await self.storm()
            if name == "begin":
                return self.begin()
            if name == "run":
                self.begin()
                return await self.ended()
            assert name == "finish", name
            return await self.finish()


async def main(plan: Plan) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    generator = Generator(plan)
    print(json.dumps({}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await generator.step(line.strip())), flush=True)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))
