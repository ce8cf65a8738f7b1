from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.drivers.clock import ManualClock
from gateway.errors import StoreError
from gateway.supervisor import CriticalTaskError, Supervisor


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scene()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


def supervisor(**options: Any) -> tuple[Supervisor, ManualClock]:
    clock = ManualClock()
    return Supervisor(clock, random_unit=lambda: 1.0, **options), clock


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("ending", ["fails", "returns"])
def test_a_critical_task_that_ends_ends_the_process_and_is_named(ending: str) -> None:
    async def writer() -> None:
        if ending == "fails":
            raise StoreError("disk full", hint="free some space")

    async def scene() -> None:
        boss, _ = supervisor()
        boss.start("web", forever, critical=False)
        boss.start("writer", writer, critical=True)
        with pytest.raises(CriticalTaskError, match="critical task writer has ended") as caught:
            await boss.wait()
        assert caught.value.name == "writer"
        assert isinstance(caught.value.__cause__, StoreError) == (ending == "fails")
        assert caught.value.hint == ("free some space" if ending == "fails" else "")
        assert await boss.stop("web") == ()

    run(scene)


def test_others_start_again_with_a_growing_back_off(caplog: pytest.LogCaptureFixture) -> None:
    starts: list[float] = []

    async def scene() -> None:
        boss, clock = supervisor()

        async def flaky() -> None:
            starts.append(clock.monotonic_s())
            if len(starts) == 4:
                await clock.sleep(60)  # a steady run forgives the past
            if len(starts) < 6:
                raise OSError("no route")

        boss.start("forward", flaky, critical=False)
        await clock.advance(300)
        assert boss.restarts == {"forward": 5}
        assert boss.faults == {"forward": "OSError: no route"}
        await boss.stop()

    with caplog.at_level(logging.ERROR):
        run(scene)
    assert starts == [0, 1, 3, 7, 68, 70]
    assert "Task forward failed, again in 1.0 s: no route" in caplog.text


def test_a_fault_with_a_remedy_is_logged_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        boss, clock = supervisor()
        faults: list[Exception] = [
            StoreError("store is full", hint="free some space"),
            ZeroDivisionError("bug"),
        ]

        async def work() -> None:
            raise faults.pop(0) if faults else asyncio.CancelledError

        boss.start("forward", work, critical=False)
        await clock.advance(10)
        await boss.stop()

    run(scene)
    known, bug = caplog.records
    assert "free some space" in known.getMessage()
    assert not known.exc_info
    assert bug.exc_info


def test_stop_cancels_the_newest_first_and_only_whom_it_is_told() -> None:
    ended: list[str] = []

    async def scene() -> None:
        boss, _ = supervisor()

        def work(name: str) -> Callable[[], Awaitable[None]]:
            async def wait() -> None:
                try:
                    await forever()
                finally:
                    ended.append(name)

            return wait

        for name in ("broker", "ingest", "web"):
            boss.start(name, work(name), critical=name != "web")
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(boss.request_stop)
        await boss.wait()
        assert await boss.stop("web") == ()
        assert ended == ["web"]
        assert await boss.stop() == ()

    run(scene)
    assert ended == ["web", "ingest", "broker"]


def test_a_task_that_will_not_stop_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        release = asyncio.Event()
        boss, _ = supervisor(stop_s_max=0.05)

        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        boss.start("mule", stubborn, critical=False)
        await asyncio.sleep(0)
        assert await boss.stop() == ("mule",)
        assert boss.remaining_s == 0
        release.set()
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

    run(scene)
    assert "Tasks that did not stop in 0 s: mule" in caplog.text


def test_a_fault_while_stopping_does_not_keep_the_others_alive(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        boss, _ = supervisor()

        async def clumsy() -> None:
            try:
                await forever()
            finally:
                raise OSError("tripped")

        boss.start("a", forever, critical=True)
        boss.start("clumsy", clumsy, critical=True)
        await asyncio.sleep(0)
        assert await boss.stop() == ()

    run(scene)
    assert "Task clumsy failed while stopping" in caplog.text


def test_the_last_resort_works_while_the_loop_hangs_and_can_be_called_off() -> None:
    gone = threading.Event()

    async def hangs() -> None:
        boss, _ = supervisor(stop_s_max=0.02, give_up=gone.set)
        boss.request_stop()
        assert gone.wait(5)  # blocks the loop's thread
        boss.stopped()

    async def in_time() -> None:
        boss, _ = supervisor(stop_s_max=30, give_up=gone.clear)
        boss.request_stop()
        await boss.stop()
        boss.stopped()

    run(hangs)
    run(in_time)
    assert gone.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "last resort"]


def test_only_silence_starves_the_watchdog() -> None:
    now_s = 0.0

    async def scene() -> None:
        nonlocal now_s
        boss, _ = supervisor(monotonic_s=lambda: now_s)
        boss.expect("writer", 10)
        boss.expect("detect", 300)
        now_s = 10
        assert boss.healthy()
        now_s = 11
        assert boss.silent() == ("writer",)
        assert not boss.healthy()
        boss.beat("writer")
        boss.beat("nobody expects this one")
        assert boss.healthy()

    run(scene)


def test_names_are_unique() -> None:
    async def scene() -> None:
        boss, _ = supervisor()
        boss.start("web", forever, critical=False)
        with pytest.raises(ValueError, match="already supervised"):
            boss.start("web", forever, critical=False)
        await asyncio.sleep(0)
        await boss.stop()

    run(scene)
