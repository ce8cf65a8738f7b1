"""A fever from mosquitto_pub to lamp, buzzer, mailbox and webhook, over a night without a line.

The gateway runs in this process under a clock that the test moves, so that a night takes seconds;
everything around it is real: Mosquitto's client, gpiozero's mock pins with their threads, an SMTP
server, an HTTP server, SQLite.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import farming, wiring
from gateway.app import Gateway
from gateway.config import Config
from gateway.config import schema as sections
from gateway.core.alerts import State
from gateway.core.contacts import Address, Contact
from gateway.core.instants import iso_utc
from gateway.drivers import panel, panel_pins
from gateway.drivers.clock import ManualClock
from gateway.store import notices, outbox
from tests.conftest import need
from tests.post_offices import MailBox, Webhook

AFTERNOON_MS = 1_790_000_000_000  # 2026-09-21 14:13:20 UTC
STEP_S = 120.0
RED, GREEN, BUZZER, BUTTON = 17, 27, 23, 24


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Barn:
    """The gateway, its pins, and the people's side."""

    def __init__(self, config: Config, pins: Any) -> None:
        self.mail, self.hook = MailBox(free()), Webhook(free())
        email = sections.NotifyChannel(url=self.mail.url())
        notify = sections.Notify(channels={"email": email}, daily_summary=None)
        self.config = msgspec.structs.replace(config, notify=notify)
        self.pins = pins
        self.clock = ManualClock(AFTERNOON_MS)
        farming.add(
            self.config,
            Contact(
                "Anna",
                (
                    Address("email", "anna@example.org"),
                    Address("webhook", f"http://127.0.0.1:{self.hook.port}/barn"),
                ),
            ),
            languages=("en",),
            say=print,
        )
        self.gateway = Gateway(self.config, self.clock, own_schedule=False)

    async def reading(self, cow_id: str, temperature_c: float) -> None:
        """One reading of now, as a collar sends it."""
        body = {"cow_id": cow_id, "timestamp": iso_utc(self.clock.now_ms()), "temperature": temperature_c}
        payload = json.dumps({**body, "fxa": 0.1, "mya": 0.1, "rza": -1.0})
        client = await asyncio.create_subprocess_exec(
            *(need("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(self.gateway.broker.port), "-q", "1"),
            *(
                "-t",
                f"artemis/sensors/{cow_id}",
                "-m",
                payload,
            ),
        )
        assert await client.wait() == 0

    async def passes(self, seconds: float) -> None:
        """Time passes: detectors, reminders and attempts to send have their turns."""
        until_ms = self.clock.now_ms() + round(seconds * 1000)
        while self.clock.now_ms() < until_ms:
            await self.clock.advance_to(min(until_ms, self.clock.now_ms() + round(STEP_S * 1000)))
            await self.gateway.jobs.tick()
            await asyncio.sleep(0.005)

    async def seen(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for what happens in other threads; the barn's clock stands still meanwhile."""
        try:
            async with asyncio.timeout(20):
                while not condition():  # noqa: ASYNC110 - pins and threads have no event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"waited in vain: {what}")

    def high(self, pin: int) -> bool:
        return bool(self.pins.pin(pin).state)

    def state(self, subject: str) -> State | None:
        return next((a.state for a in self.gateway.alarm.open_alerts if a.subject == subject), None)

    async def nothing_waits(self) -> None:
        """Every channel has passed every event."""

        def waiting(db: Any) -> int:
            return sum(outbox.pending(db, f"notify:{name}") for name in ("email", "webhook"))

        async with asyncio.timeout(20):
            while await self.gateway.database.read(waiting):
                await self.clock.advance(60)
                await asyncio.sleep(0.01)


def test_a_fever_reaches_light_sound_mailbox_and_webhook_also_after_a_night_without_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = panel_pins.mock_factory()
    monkeypatch.setattr(panel, "mock_factory", lambda: pins)

    async def story() -> None:
        barn = Barn(wiring.private_config(tmp_path), pins)
        async with AsyncExitStack() as stack:
            await barn.mail.open()
            stack.push_async_callback(barn.mail.close)
            await barn.hook.open()
            stack.push_async_callback(barn.hook.close)
            await stack.enter_async_context(barn.gateway)
            await afternoon(barn)
            await night(barn)
            await morning(barn)

    asyncio.run(story())


async def afternoon(barn: Barn) -> None:
    await barn.seen(lambda: barn.high(GREEN), "the green lamp of a healthy barn")
    for temperature_c in (38.6, 38.7, 41.0):
        await barn.reading("COW_001", temperature_c)
        await barn.passes(60)
    await barn.mail.until(1)
    await barn.hook.until(lambda: len(barn.hook.got) >= 1)
    await barn.reading("COW_001", 41.1)
    await barn.passes(STEP_S)
    assert barn.state("COW_001") is State.ACTIVE
    await barn.seen(lambda: barn.high(RED) and not barn.high(GREEN), "the red lamp")
    await barn.seen(lambda: barn.high(BUZZER), "the buzzer")

    await barn.mail.until(2)
    await barn.hook.until(lambda: len(barn.hook.got) >= 2)
    assert barn.mail.subjects() == ["WARNING fever COW_001", "NOW CRITICAL fever COW_001"]
    for letter, call in zip(barn.mail.got, barn.hook.got, strict=True):
        (picture,) = letter.iter_attachments()
        assert picture.get_content_type() == "image/png"
        assert call["message_id"] == letter["X-Artemis-Message-ID"]

    barn.pins.pin(BUTTON).drive_low()
    await asyncio.sleep(0.1)  # a thumb: longer than a bounce, shorter than the test of the panel
    barn.pins.pin(BUTTON).drive_high()
    await barn.seen(lambda: barn.state("COW_001") is State.ACKNOWLEDGED, "the acknowledgement")
    await barn.seen(lambda: barn.gateway.panel.signal.sound is None, "silence")
    assert barn.gateway.panel.signal.light.colour == "red", "acknowledging never takes the light"
    await barn.mail.until(3)
    assert "SEEN" in barn.mail.subjects()[2]
    await barn.nothing_waits()


async def night(barn: Barn) -> None:
    """The line is cut. A cow falls ill and nobody comes; another one's fever comes and goes."""
    await barn.mail.close()
    await barn.hook.close()
    await barn.reading("COW_003", 40.6)
    await barn.passes(600)
    assert barn.state("COW_003") is State.ACTIVE
    for temperature_c in (38.6, 38.5, 38.6, 38.5, 38.6, 38.5):
        await barn.reading("COW_003", temperature_c)
        await barn.passes(STEP_S)
    assert barn.state("COW_003") is None, "it has resolved itself"
    await barn.reading("COW_002", 41.0)
    await barn.passes(60)
    await barn.reading("COW_002", 41.0)
    await barn.passes(10 * 3600)
    assert barn.state("COW_002") is State.ACTIVE
    await barn.seen(lambda: barn.high(BUZZER), "the buzzer, that nobody has silenced")
    assert len(barn.mail.got) == 3
    assert barn.gateway.alerting.notify.down == ("webhook", "email")


async def morning(barn: Barn) -> None:
    """The line is back: the critical one first, the rest in one digest, nothing twice."""
    await asyncio.sleep(0.5)  # real time: an attempt under way ends, and the next is due by the barn's
    await barn.mail.open()
    await barn.hook.open()
    await barn.nothing_waits()
    new = barn.mail.got[3:]
    assert len(new) == 2
    assert "CRITICAL fever COW_002" in new[0]["Subject"]
    assert "COW_003" in new[1].get_body(("plain", "html")).get_content()
    assert "COW_002" not in new[1].get_body(("plain", "html")).get_content()
    assert len(set(barn.mail.ids())) == len(barn.mail.got)
    assert sorted(one["message_id"] for one in barn.hook.got) == sorted(barn.mail.ids())
    (alert,) = (one for one in barn.gateway.alarm.open_alerts if one.subject == "COW_002")
    told = await barn.gateway.database.read(lambda db: notices.of_alert(db, alert.id))
    assert {(one.contact, one.channel, one.outcome) for one in told} == {
        ("Anna", "email", "sent"),
        ("Anna", "webhook", "sent"),
    }
