"""What the panel is told, with no store, no network and a clock that only sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from gateway.core import signals
from gateway.core.alerts import Alert, State
from gateway.core.findings import Finding
from gateway.core.severity import Severity
from gateway.core.signals import Signal
from gateway.services import signalling as module
from gateway.services.signalling import Signalling

T0 = 1_700_000_000_000
NOBODY: frozenset[int] = frozenset()
FEVER = Alert(
    id=1,
    subject="COW_042",
    kind="fever",
    episode=1,
    severity=Severity.CRITICAL,
    state=State.ACTIVE,
    onset_ms=T0,
    last_seen_ms=T0,
    raised_ms=T0,
    changed_ms=T0,
    confidence=0.9,
    sentence="40.6 °C",
)
WARNING = msgspec.structs.replace(FEVER, id=2, subject="COW_001", severity=Severity.WARNING)
CHIRPING = Signal("gateway cannot store", signals.DEGRADED, signals.CHIRP)


def panic(subject: str = "worker-3", at_ms: int = T0) -> Finding:
    return Finding(subject, "panic", True, Severity.CRITICAL, at_ms, at_ms, 1.0, "help")


class StepClock:
    """Sleeps until the test lets it go on."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Semaphore(0)
        self.slept_s = 0.0

    def now_ms(self) -> int:
        return T0

    def monotonic_s(self) -> float:
        return 0.0

    def trusted(self) -> bool:
        return False

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.asked.release()
        await self.go_on.acquire()


class Panel:
    """Signalling, and everything it has shown."""

    def __init__(self) -> None:
        self.shown: list[Signal] = []
        self.clock = StepClock()
        self.signalling = Signalling(self.shown.append, self.clock)

    @property
    def now(self) -> Signal:
        assert self.signalling.signal == self.shown[-1]
        return self.shown[-1]


def on_panel(story: Callable[[Panel], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with asyncio.timeout(10):
            await story(Panel())

    asyncio.run(tell())


def test_it_shows_nothing_before_it_knows_anything() -> None:
    assert Panel().signalling.signal is None


def test_trouble_of_the_gateway_sounds_before_there_is_a_store() -> None:
    panel = Panel()
    panel.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=True)
    assert panel.shown == [CHIRPING]
    assert panel.signalling.hush()
    assert panel.now == Signal("gateway cannot store", signals.DEGRADED)
    assert not panel.signalling.hush(), "it is still already"


def test_each_change_is_shown_once() -> None:
    panel = Panel()
    for _ in range(3):
        panel.signalling.alerts([WARNING], NOBODY)
        panel.signalling.health(None, uplink_down=True, clock_untrusted=False)
    assert [signal.label for signal in panel.shown] == ["fever COW_001"]


def test_a_store_that_fails_chirps_although_health_knows_nothing_of_it() -> None:
    panel = Panel()
    panel.signalling.store_failing(True)
    panel.signalling.health(None, uplink_down=False, clock_untrusted=False)
    assert panel.now == CHIRPING
    panel.signalling.store_failing(False)
    assert panel.now.label == "all well"


def test_the_chirp_is_back_with_the_next_trouble() -> None:
    panel = Panel()
    panel.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=False)
    panel.signalling.hush()
    panel.signalling.health(None, uplink_down=False, clock_untrusted=False)
    panel.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=False)
    assert panel.now == CHIRPING


def test_the_button_stills_no_alarm_that_stands_on_disk() -> None:
    panel = Panel()
    panel.signalling.alerts([FEVER], NOBODY)
    assert not panel.signalling.hush()
    assert panel.now.sound == signals.ALARM


def test_what_is_muted_lights_and_does_not_sound() -> None:
    panel = Panel()
    panel.signalling.alerts([FEVER], frozenset({1}))
    assert panel.now == Signal("fever COW_042", signals.CRITICAL)


def test_a_call_comes_before_everything_until_it_is_stored() -> None:
    panel = Panel()
    panel.signalling.alerts([FEVER], NOBODY)
    panel.signalling.call(panic())
    panel.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=False)
    assert panel.now == signals.call_signal("panic", "worker-3")
    panel.signalling.stored([panic()])
    assert panel.now.label == "fever COW_042"


def test_a_call_that_was_sent_again_meanwhile_is_not_stored_yet() -> None:
    panel = Panel()
    panel.signalling.call(panic())
    panel.signalling.call(panic(at_ms=T0 + 1))
    panel.signalling.stored([panic()])
    assert panel.now.sound == signals.CALL
    panel.signalling.stored([panic(at_ms=T0 + 1)])
    assert panel.now.label == "all well"


def test_the_button_stills_calls_and_chirp_together_and_their_lamp_stays() -> None:
    panel = Panel()
    panel.signalling.health("gateway cannot store", uplink_down=False, clock_untrusted=False)
    panel.signalling.call(panic("worker-1"))
    panel.signalling.call(panic("worker-2"))
    assert panel.signalling.hush()
    assert panel.now == msgspec.structs.replace(signals.call_signal("panic", "worker-2"), sound=None)
    panel.signalling.alerts([FEVER], NOBODY)
    assert (panel.now.label, panel.now.sound) == ("fever COW_042", signals.ALARM)
    panel.signalling.call(panic("worker-4"))
    assert panel.now == signals.call_signal("panic", "worker-4")


def test_calls_are_bounded_and_the_newest_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS_MAX", 2)
    panel = Panel()
    calls = [panic(f"worker-{n}") for n in range(5)]
    for call in calls:
        panel.signalling.call(call)
    assert panel.now.label == "panic worker-4"
    panel.signalling.stored(calls[3:])
    assert panel.now.label == "all well"


def test_the_panel_test_plays_everything_and_goes_back() -> None:
    async def story(panel: Panel) -> None:
        panel.signalling.alerts([WARNING], NOBODY)
        for _ in signals.TEST:
            panel.clock.go_on.release()
        assert await panel.signalling.test()
        assert panel.shown[1:-1] == [signal for signal, _ in signals.TEST]
        assert panel.clock.slept_s == sum(seconds for _, seconds in signals.TEST)
        assert panel.now.label == "fever COW_001"

    on_panel(story)


def test_nothing_is_tested_while_something_sounds() -> None:
    async def story(panel: Panel) -> None:
        panel.signalling.alerts([FEVER], NOBODY)
        assert not await panel.signalling.test()
        assert len(panel.shown) == 1

    on_panel(story)


def test_an_alert_ends_the_test_at_once() -> None:
    async def story(panel: Panel) -> None:
        test = asyncio.create_task(panel.signalling.test())
        await panel.clock.asked.acquire()
        panel.signalling.alerts([FEVER], NOBODY)
        assert panel.now == Signal("fever COW_042", signals.CRITICAL, signals.ALARM)
        panel.clock.go_on.release()
        assert not await test
        assert panel.now.label == "fever COW_042"

    on_panel(story)


def test_news_that_changes_nothing_does_not_end_the_test() -> None:
    async def story(panel: Panel) -> None:
        test = asyncio.create_task(panel.signalling.test())
        await panel.clock.asked.acquire()
        panel.signalling.alerts([], NOBODY)
        assert panel.now == signals.TEST[0][0]
        assert not await panel.signalling.test(), "one at a time"
        for _ in signals.TEST:
            panel.clock.go_on.release()
        assert await test

    on_panel(story)


def test_a_test_that_is_cancelled_leaves_the_truth() -> None:
    async def story(panel: Panel) -> None:
        test = asyncio.create_task(panel.signalling.test())
        await panel.clock.asked.acquire()
        test.cancel()
        await asyncio.gather(test, return_exceptions=True)
        assert panel.now.label == "all well"

    on_panel(story)
