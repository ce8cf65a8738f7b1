from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.delivery import BackoffPolicy, Delivered, Rejected, RetryLater
from gateway.core.readings import Reading
from gateway.drivers.clock import ManualClock, SystemClock
from gateway.drivers.uplink_mqtt import MqttUplink, UplinkTarget
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.services import forward as forward_module
from gateway.services.forward import EVENTS_IN_MEMORY, Forward
from gateway.store import outbox, readings, slices
from gateway.store.database import Database
from tests.upstream import Mosquitto, subscriber

Answer = Delivered | RetryLater | Rejected
DOWN = RetryLater("Failed to connect to MQTT broker: [Errno 111] Connection refused")
T0_MS = 1_764_081_000_000  # 2025-11-25T14:30:00Z


class ProcessKilledError(BaseException):
    """What `kill -9` is to the code it hits."""


class Peer:
    """A receiver that remembers what reached it, with faults on request."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.attempts = 0
        self.answer: Callable[[str], Answer] = lambda _: Delivered()
        self.killed_after: str | None = None
        self.arrived = asyncio.Condition()

    async def deliver(self, topic: str, payload: bytes) -> Answer:
        self.attempts += 1
        answer = self.answer(topic)
        if isinstance(answer, Delivered):
            body = json.loads(payload)
            self.got.append((topic, body))
            if body.get("message_id", "").endswith(f":{self.killed_after}"):
                raise ProcessKilledError
        async with self.arrived:
            self.arrived.notify_all()
        return answer

    async def close(self) -> None:
        pass

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(condition)

    def seqs(self) -> list[int]:
        return [body["seq"] for topic, body in self.got if "/events/" in topic]

    def slices(self) -> list[tuple[str, int]]:
        return [(body["cow_id"], len(body["rows"])) for topic, body in self.got if "/readings/" in topic]


def run(tmp_path: Path, scene: Callable[[Database], Awaitable[None]]) -> None:
    async def bounded() -> None:
        database = Database.open(tmp_path / "store.db")
        try:
            async with asyncio.timeout(30):
                await scene(database)
        finally:
            await database.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


def forward(database: Database, peer: Any, clock: Clock | None = None, **options: Any) -> Forward:
    options = {"readings_interval_s": 300.0, "random_unit": lambda: 1.0} | options
    return Forward(
        clock=clock or ManualClock(T0_MS),
        database=database,
        transport=peer,
        destination="upstream",
        topic_prefix="artemis/barns",
        **options,
    )


@contextlib.asynccontextmanager
async def running(service: Forward) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(service.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def raise_events(database: Database, *names: str) -> None:
    def work(db: Any) -> None:
        for name in names:
            outbox.append(db, "alert", json.dumps({"name": name}).encode(), T0_MS)

    await database.write(work)


async def store_readings(database: Database, *rows: tuple[str, int]) -> None:
    batch = [Reading(cow, T0_MS + minute * 60_000, 38.5, 0.1, 0.2, 0.9) for cow, minute in rows]
    await database.write(lambda db: readings.append(db, batch))


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something without an event of its own; async conditions are awaited."""
    async with asyncio.timeout(10):
        while True:
            met = condition()
            if await met if isinstance(met, Awaitable) else met:
                return
            await asyncio.sleep(0.002)


def test_events_arrive_in_order_with_their_stable_ids_and_move_the_cursor(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        count = 2 * EVENTS_IN_MEMORY + 5
        await raise_events(database, *(f"n{n}" for n in range(count)))
        service = forward(database, peer)
        assert await service.pending() == count
        async with running(service):
            await peer.until(lambda: len(peer.got) == count)
            await until(lambda: _is_zero(service))
        gateway = database.gateway_id
        assert peer.seqs() == list(range(1, count + 1))
        topic, body = peer.got[4]
        assert topic == f"artemis/barns/{gateway}/events/alert"
        assert body == {
            "name": "n4",
            "message_id": f"{gateway}:{database.epoch}:5",
            "gateway_id": gateway,
            "seq": 5,
        }
        assert service.counts.delivered == count
        assert database.commits < 10, "the cursor is not committed event by event"

    run(tmp_path, scene)


async def _is_zero(service: Forward) -> bool:
    return await service.pending() == 0


def test_never_more_than_100_events_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    after = outbox.after

    def spy(db: Any, seq: int, limit: int) -> Any:
        limits.append(limit)
        return after(db, seq, limit)

    monkeypatch.setattr(forward_module.outbox, "after", spy)

    async def scene(database: Database) -> None:
        peer = Peer()
        await raise_events(database, *("x" for _ in range(250)))
        async with running(forward(database, peer)):
            await peer.until(lambda: len(peer.got) == 250)

    run(tmp_path, scene)
    assert set(limits) == {100}


def test_killed_between_acknowledgement_and_commit_sends_the_same_id_again(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        await raise_events(database, *"abcde")
        peer.killed_after = "3"

        async def no_more_writes(_: Any) -> None:
            raise ProcessKilledError

        dying = forward(database, peer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "write", no_more_writes)
            with pytest.raises(ProcessKilledError):
                await dying.run()
        peer.killed_after = None
        assert peer.seqs() == [1, 2, 3]
        async with running(forward(database, peer)):
            await peer.until(lambda: peer.seqs()[-1] == 5)
        assert peer.seqs() == [1, 2, 3, 1, 2, 3, 4, 5], "nothing lost, order kept"
        ids = {body["message_id"]: body["name"] for _, body in peer.got}
        assert list(ids.values()) == list("abcde"), "one id for each event: a receiver drops the repetition"

    run(tmp_path, scene)


def test_a_store_that_cannot_commit_is_a_fault_and_loses_nothing(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        await raise_events(database, "a")

        async def full(_: Any) -> None:
            raise StoreError("disk is full")

        service = forward(database, peer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "write", full)
            with pytest.raises(StoreError):
                await service.run()
        assert await service.pending() == 1
        async with running(service):  # as the supervisor does
            await until(lambda: _is_zero(service))
        assert peer.seqs() == [1]

    run(tmp_path, scene)


def test_rejected_events_are_counted_and_do_not_hold_up_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        await database.write(lambda db: outbox.append(db, "alert", b"no json", T0_MS))
        await database.write(lambda db: outbox.append(db, "odd", b"{}", T0_MS))
        await raise_events(database, "good")
        peer.answer = lambda topic: Rejected("too large") if topic.endswith("odd") else Delivered()
        service = forward(database, peer)
        async with running(service):
            await peer.until(lambda: peer.seqs() == [3])
            await until(lambda: _is_zero(service))
        assert (service.counts.rejected, service.counts.delivered) == (2, 1)

    run(tmp_path, scene)
    assert "will never take event 1 (alert), skipped: payload is no JSON object" in caplog.text
    assert "will never take event 2 (odd), skipped: too large" in caplog.text


def test_an_outage_is_two_log_lines_and_5_10_20_40_60_s_s0_096(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        clock = ManualClock(T0_MS)
        tries: list[float] = []

        def answer(_: str) -> Answer:
            tries.append(clock.monotonic_s())
            return DOWN if clock.monotonic_s() < 150 else Delivered()

        peer.answer = answer
        await raise_events(database, "a")
        service = forward(database, peer, clock, backoff=BackoffPolicy())
        async with running(service):
            for attempt in range(1, 7):
                await peer.until(lambda n=attempt: peer.attempts == n)  # type: ignore[misc]
                await until(lambda: clock.sleepers == 1)
                assert service.down
                service.wake()  # a new event does not cut the back-off
                await clock.advance(min(60, 5 * 2 ** (attempt - 1)))
            await peer.until(lambda: bool(peer.got))
            assert not service.down
            peer.answer = lambda _: DOWN
            await until(lambda: clock.sleepers == 1)
            await raise_events(database, "b")
            service.wake()
            await peer.until(lambda: service.counts.outages == 2)
        assert tries == [0, 5, 15, 35, 75, 135, 195]
        assert service.counts.retries == 7

    with caplog.at_level(logging.INFO):
        run(tmp_path, scene)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", "Failed to connect to MQTT broker: [Errno 111] Connection refused"),
        ("INFO", "Uplink upstream is back after 195 s, attempt 7"),
        ("ERROR", "Failed to connect to MQTT broker: [Errno 111] Connection refused"),
    ]


def test_an_event_leaves_within_a_second_of_wake(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        service = forward(database, peer, SystemClock())
        async with running(service):
            await raise_events(database, "first")
            service.wake()
            await peer.until(lambda: len(peer.got) == 1)
            async with asyncio.timeout(1):
                await raise_events(database, "second")
                service.wake()
                await peer.until(lambda: len(peer.got) == 2)

    run(tmp_path, scene)


def test_slices_go_once_per_cycle_and_again_when_they_changed(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        clock = ManualClock(T0_MS)
        await store_readings(database, ("A", 0), ("A", 1), ("B", 0), ("A", 40))
        async with running(forward(database, peer, clock)):
            await peer.until(lambda: len(peer.got) == 3)
            await until(lambda: clock.sleepers == 1)
            assert peer.slices() == [("A", 2), ("B", 1), ("A", 1)]
            topic, body = peer.got[0]
            assert topic == f"artemis/barns/{database.gateway_id}/readings/A"
            assert body["hour"] == T0_MS // 3_600_000
            assert [row["timestamp"] for row in body["rows"]] == [
                "2025-11-25T14:30:00Z",
                "2025-11-25T14:31:00Z",
            ]
            await until(lambda: _clean(database))
            await store_readings(database, ("B", 1))
            while clock.monotonic_s() < 290:
                await clock.advance(10)
                await until(lambda: clock.sleepers == 1)
            assert len(peer.got) == 3, "not before the cycle"
            await clock.advance(10)
            await peer.until(lambda: len(peer.got) == 4)
            assert peer.slices()[-1] == ("B", 2)
            await until(lambda: _clean(database))

    run(tmp_path, scene)


async def _clean(database: Database) -> bool:
    return not await database.read(slices.waiting)


def test_a_slice_that_changes_while_it_is_sent_stays_dirty(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        clock = ManualClock(T0_MS)
        await store_readings(database, ("A", 0))
        original = peer.deliver

        async def meanwhile(topic: str, payload: bytes) -> Answer:
            if not peer.got:
                await store_readings(database, ("A", 1))
            return await original(topic, payload)

        peer.deliver = meanwhile  # type: ignore[method-assign]
        async with running(forward(database, peer, clock, readings_interval_s=10.0)):
            await peer.until(lambda: peer.slices() == [("A", 1)])
            await until(lambda: clock.sleepers == 1)
            assert not await _clean(database)
            await clock.advance(10)
            await peer.until(lambda: peer.slices() == [("A", 1), ("A", 2)])
            await until(lambda: _clean(database))

    run(tmp_path, scene)


def test_an_event_overtakes_the_slices_that_wait(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        await store_readings(database, *((f"C{n}", 0) for n in range(5)))
        original = peer.deliver

        async def alarm_during_the_second(topic: str, payload: bytes) -> Answer:
            answer = await original(topic, payload)
            if len(peer.got) == 2:
                await raise_events(database, "fever")
            return answer

        peer.deliver = alarm_during_the_second  # type: ignore[method-assign]
        async with running(forward(database, peer)):
            await peer.until(lambda: len(peer.got) == 6)
        kinds = [topic.split("/")[3] for topic, _ in peer.got]
        assert kinds == ["readings"] * 2 + ["events"] + ["readings"] * 3

    run(tmp_path, scene)


def test_an_outage_in_the_middle_of_a_cycle_resumes_where_it_was(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        clock = ManualClock(T0_MS)
        await store_readings(database, *((f"C{n}", 0) for n in range(4)))
        peer.answer = lambda _: DOWN if len(peer.got) == 2 and peer.attempts == 3 else Delivered()
        service = forward(database, peer, clock)
        async with running(service):
            await peer.until(lambda: peer.attempts == 3)
            await until(lambda: clock.sleepers == 1)
            left = await database.write(lambda db: slices.claim(db, 10))
            assert [part.cow_id for part in left] == ["C2", "C3"], "what was acknowledged is settled"
            await clock.advance(5)
            await peer.until(lambda: len(peer.got) == 4)
        assert peer.slices() == [(f"C{n}", 1) for n in range(4)]
        assert service.counts.slices_delivered == 4

    run(tmp_path, scene)


def test_a_rejected_slice_is_counted_and_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        await store_readings(database, ("A", 0), ("B", 0))
        peer.answer = lambda topic: Rejected("no") if topic.endswith("/A") else Delivered()
        service = forward(database, peer)
        async with running(service):
            await peer.until(lambda: peer.slices() == [("B", 1)])
            await until(lambda: _clean(database))
        assert service.counts.slices_rejected == 1

    run(tmp_path, scene)
    assert "will never take readings of A, hour" in caplog.text


def test_readings_can_be_switched_off(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        clock = ManualClock(T0_MS)
        await store_readings(database, ("A", 0))
        await raise_events(database, "a")
        async with running(forward(database, peer, clock, readings_interval_s=None)):
            await peer.until(lambda: len(peer.got) == 1)
            await until(lambda: clock.sleepers == 1)
            assert peer.slices() == []

    run(tmp_path, scene)


def test_a_cycle_that_hit_its_bound_is_followed_by_the_next_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_module, "SLICES_PER_CYCLE", 2)

    async def scene(database: Database) -> None:
        peer = Peer()
        clock = ManualClock(T0_MS)
        await store_readings(database, *((f"C{n}", 0) for n in range(5)))
        async with running(forward(database, peer, clock)):
            await peer.until(lambda: len(peer.got) == 5)
        assert clock.monotonic_s() == 0
        assert peer.slices() == [(f"C{n}", 1) for n in range(5)]

    run(tmp_path, scene)


def test_stopping_during_a_delivery_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        peer = Peer()
        await raise_events(database, *"abc")
        reached = asyncio.Event()
        original = peer.deliver

        async def hang_at_the_third(topic: str, payload: bytes) -> Answer:
            if len(peer.got) == 2:
                reached.set()
                await asyncio.Event().wait()
            return await original(topic, payload)

        peer.deliver = hang_at_the_third  # type: ignore[method-assign]
        service = forward(database, peer)
        async with running(service):
            await reached.wait()
        assert await service.pending() == 1

    run(tmp_path, scene)


# Against a real broker ---------------------------------------------------------------------------


def test_events_raised_while_the_upstream_is_down_arrive_once_and_in_order(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)

    async def scene(database: Database) -> None:
        clock = ManualClock(T0_MS)
        uplink = MqttUplink(UplinkTarget("127.0.0.1", broker.port, database.gateway_id))
        service = forward(database, uplink, clock)
        await raise_events(database, *(f"n{n}" for n in range(150)))
        async with running(service):
            await until(lambda: clock.sleepers == 1 and service.down)
            broker.start()
            async with subscriber(broker.port) as got:
                await clock.advance(5)
                bodies = [json.loads((await got.get()).payload) for _ in range(150)]
                await until(lambda: _is_zero(service))
                assert got.empty()
        await uplink.close()
        assert [body["name"] for body in bodies] == [f"n{n}" for n in range(150)]
        assert len({body["message_id"] for body in bodies}) == 150

    try:
        run(tmp_path, scene)
    finally:
        broker.kill()


def test_a_broker_killed_midway_and_restarted_gets_everything_in_order(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)

    async def scene(database: Database) -> None:
        clock = ManualClock(T0_MS)
        uplink = MqttUplink(UplinkTarget("127.0.0.1", broker.port, database.gateway_id))
        service = forward(database, uplink, clock)
        names = [f"n{n}" for n in range(400)]
        seen: list[dict[str, Any]] = []
        await raise_events(database, *names)
        async with subscriber(broker.port) as got, running(service):
            seen.extend([json.loads((await got.get()).payload) for _ in range(30)])
            broker.kill()
            await until(lambda: clock.sleepers == 1 and service.down)
            acknowledged = service.counts.delivered
            broker.start()
            async with subscriber(broker.port) as again:
                await clock.advance(5)
                while not seen or seen[-1]["name"] != names[-1]:
                    seen.append(json.loads((await again.get()).payload))
                await until(lambda: _is_zero(service))
        await uplink.close()
        # The dead broker took some to the grave after acknowledging them: they count as arrived.
        before, after = seen[:30], seen[30:]
        assert [body["name"] for body in before] == names[:30]
        first = after[0]["seq"]
        assert first <= acknowledged + 1, "nothing that was not acknowledged is skipped"
        assert [body["name"] for body in after] == names[first - 1 :]
        assert len({body["message_id"] for body in after}) == len(after)

    broker.start()
    try:
        run(tmp_path, scene)
    finally:
        broker.kill()
