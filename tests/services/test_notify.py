"""Alerts to people: real store, real SMTP and HTTP servers, a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from gateway.config.languages import load_languages
from gateway.core.alert_event import event_json
from gateway.core.alerts import Alert, Change, State
from gateway.core.breaker import BreakerPolicy
from gateway.core.contacts import Address, Contact
from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.core.findings import Finding
from gateway.core.letters import Letter
from gateway.core.notices import FAILED_KIND, ChannelForm, NotifyPolicy
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.drivers.clock import ManualClock
from gateway.drivers.notifier import Notifier
from gateway.drivers.notify_urls import Channel
from gateway.errors import StoreError
from gateway.services.notify import Notify
from gateway.store import days, notices, outbox, readings
from gateway.store.database import Database
from tests.post_offices import MailBox, Webhook

Answer = Delivered | RetryLater | Rejected
T0_MS = 1_764_081_000_000  # 2025-11-25T14:30:00Z
PHRASES = load_languages()
ANNA = Contact("Anna", (Address("email", "anna@example.org"), Address("sms", "+491511111111")))
W, C = Severity.WARNING, Severity.CRITICAL


class ProcessKilledError(BaseException):
    """What `kill -9` is to the code it hits."""


class Peer:
    """A service that remembers what it took, with faults on request."""

    def __init__(self) -> None:
        self.got: list[Letter] = []
        self.tried: list[Letter] = []
        self.answer: Callable[[Letter], Answer] = lambda _: Delivered()
        self.killed_after = ""
        self._arrived = asyncio.Condition()

    async def send(self, letter: Letter) -> Answer:
        self.tried.append(letter)
        answer = self.answer(letter)
        if isinstance(answer, Delivered):
            self.got.append(letter)
            if self.killed_after and letter.message_id.endswith(self.killed_after):
                raise ProcessKilledError
        async with self._arrived:
            self._arrived.notify_all()
        return answer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(condition)

    def ids(self) -> list[str]:
        """Of what was taken, less gateway and epoch."""
        return [letter.message_id.split(":", 2)[2] for letter in self.got]


class Barn:
    """A store, a clock and what is around the service."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock(T0_MS)
        self.contacts: tuple[Contact, ...] = (ANNA,)
        self.reported: list[Finding] = []
        self.seqs = 0

    def notify(self, send: Callable[[Letter], Awaitable[Answer]], *channels: str, **more: Any) -> Notify:
        forms = {name: ChannelForm(short=name == "sms") for name in channels or ("email",)}
        return Notify(
            clock=self.clock,
            database=self.database,
            policy=NotifyPolicy(forms),
            contacts=lambda: self.contacts,
            groups_of=lambda _: (),
            silences=tuple,
            send=send,
            phrases=PHRASES,
            zone=ZoneInfo("UTC"),
            link=lambda alert_id, who: f"http://barn.local:8080/a/{alert_id}/{who}",
            report=self.report,
            random_unit=lambda: 1.0,
            **more,
        )

    async def report(self, findings: Sequence[Finding]) -> None:
        self.reported.extend(findings)

    async def begin(self, *channels: str) -> None:
        """The channels have been there before, so that what happens now is theirs."""
        for name in channels or ("email",):
            await self.database.write(lambda db, name=name: notices.begin(db, f"notify:{name}"))

    async def moves(self, *moves: tuple[str, Severity, Change]) -> None:
        now_ms = self.clock.now_ms()

        def work(db: Any) -> None:
            for subject, severity, change in moves:
                ended = change is Change.RESOLVED
                alert = Alert(
                    id=1,
                    subject=subject,
                    kind="fever",
                    episode=1,
                    severity=severity,
                    state=State.RESOLVED if ended else State.ACTIVE,
                    onset_ms=now_ms,
                    last_seen_ms=now_ms,
                    raised_ms=now_ms,
                    changed_ms=now_ms,
                    confidence=0.9,
                    sentence=f"{subject}: hot",
                    ended_ms=now_ms if ended else None,
                )
                outbox.append(db, "alert", event_json(alert, change), now_ms)

        await self.database.write(work)

    async def raised(self, *names: str, severity: Severity = W) -> None:
        await self.moves(*((name, severity, Change.RAISED) for name in names))

    async def pending(self, name: str = "email") -> int:
        return await self.database.read(lambda db: outbox.pending(db, f"notify:{name}"))

    async def passed(self, name: str = "email") -> None:
        await until(lambda: self._is_passed(name))

    async def _is_passed(self, name: str) -> bool:
        return not await self.pending(name)

    async def asleep(self, n: int = 1) -> None:
        await until(lambda: self.clock.sleepers == n)


def run(tmp_path: Path, scene: Callable[[Barn], Awaitable[None]]) -> None:
    async def bounded() -> None:
        database = Database.open(tmp_path / "store.db")
        try:
            async with asyncio.timeout(30):
                await scene(Barn(database))
        finally:
            await database.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def running(service: Notify) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(service.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something without an event of its own; async conditions are awaited."""
    async with asyncio.timeout(10):
        while True:
            met = condition()
            if await met if isinstance(met, Awaitable) else met:
                return
            await asyncio.sleep(0.002)


def test_a_channel_begins_with_what_happens_from_now_on(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.raised("OLD")
        peer = Peer()
        service = barn.notify(peer.send)
        async with running(service):
            await barn.asleep()
            await barn.raised("NEW")
            service.wake()
            await peer.until(lambda: len(peer.got) == 1)
            await barn.passed()
        assert peer.ids() == ["2"]
        assert "NEW" in peer.got[0].title
        assert service.counts["email"].sent == 1

    run(tmp_path, scene)


def test_sent_letters_are_rows_and_a_restart_sends_nothing_twice(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", "B")
        peer = Peer()
        async with running(barn.notify(peer.send)):
            await barn.passed()
        again = Peer()
        async with running(barn.notify(again.send)):
            await barn.asleep()
        assert (peer.ids(), again.got) == (["1", "2"], [])
        rows = await barn.database.read(lambda db: notices.of_alert(db, 1))
        assert [(row.seq, row.contact, row.outcome) for row in rows] == [
            (1, "Anna", "sent"),
            (2, "Anna", "sent"),
        ]

    run(tmp_path, scene)


@pytest.mark.parametrize("seq", ["1", "2", "3"])
def test_killed_between_acceptance_and_commit_the_same_letter_goes_again_under_its_id(
    tmp_path: Path, seq: str
) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", "B", "D")
        peer = Peer()
        peer.killed_after = f":{seq}"
        task = asyncio.create_task(barn.notify(peer.send).run())
        await asyncio.wait([task])
        assert task.exception() is not None
        peer.killed_after = ""
        async with running(barn.notify(peer.send)):
            await barn.passed()
        assert sorted(peer.ids()) == sorted(["1", "2", "3", seq])
        assert len({letter.message_id for letter in peer.got}) == 3

    run(tmp_path, scene)


def test_killed_after_a_digest_it_goes_again_under_its_id(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", "B")
        await barn.clock.advance(61 * 60)
        peer = Peer()
        peer.killed_after = "/digest"
        task = asyncio.create_task(barn.notify(peer.send).run())
        await asyncio.wait([task])
        assert task.exception() is not None
        peer.killed_after = ""
        async with running(barn.notify(peer.send)):
            await barn.passed()
        assert peer.ids() == ["2/digest", "2/digest"]

    run(tmp_path, scene)


def test_a_store_that_fails_after_the_acceptance_sends_nothing_before_it_has_noted_it(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", "B")
        peer = Peer()
        service = barn.notify(peer.send)
        write = barn.database.write

        async def full(work: Any) -> Any:
            if peer.got:
                raise StoreError("disk is full")
            return await write(work)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(barn.database, "write", full)
            for _ in range(3):  # as the supervisor does
                with pytest.raises(StoreError):
                    await service.run()
        assert peer.ids() == ["1"]
        async with running(service):
            await barn.passed()
        assert peer.ids() == ["1", "2"]

    run(tmp_path, scene)


def test_a_night_without_a_line_ends_in_order_critical_first_and_the_rest_in_one_digest(
    tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(barn: Barn) -> None:
        box = MailBox(free_port)
        sender = Notifier({"email": Channel(box.url())}, no_picture)
        barn.contacts = (Contact("Anna", (Address("email", "anna@example.org"),)),)
        await barn.begin()
        service = barn.notify(sender.send)
        async with running(service):
            await barn.asleep()
            await barn.raised("W1", "W2")
            await barn.raised("C1", severity=C)
            await barn.moves(("C2", C, Change.RAISED), ("C2", C, Change.RESOLVED))
            service.wake()
            await until(lambda: service.down == ("email",))
            for wait_s in (5, 10, 300, 300, 3600):
                await barn.asleep()
                await barn.clock.advance(wait_s)
            await barn.raised("C3", severity=C)
            await barn.clock.advance(6 * 3600)
            await barn.raised("W3")
            await box.open()
            await barn.asleep()
            await barn.clock.advance(300)
            await box.until(4)
            await barn.passed()
            await barn.asleep()
        await box.close()
        ids = [one.split(":", 2)[2] for one in box.ids()]
        assert ids == ["3", "6", "5/digest", "7"]
        digest = str(box.got[2].get_body().get_content())  # type: ignore[union-attr]
        assert all(name in digest for name in ("W1", "W2", "C2"))
        assert service.counts["email"].outages == 1
        assert service.down == ()

    with caplog.at_level(logging.INFO):
        run(tmp_path, scene)
    lines = [line for line in caplog.messages if line.startswith("Notification channel")]
    assert [line[:34] for line in lines] == [
        "Notification channel email is down",
        "Notification channel email is back",
    ]


async def no_picture(_: str) -> bytes | None:
    return None


def test_a_webhook_that_fails_hangs_and_is_gone_gets_everything_once_it_works(
    tmp_path: Path, free_port: int
) -> None:
    async def scene(barn: Barn) -> None:
        hook = Webhook(free_port)
        sender = Notifier({"hook": Channel(hook.url())}, no_picture, send_s_max=0.2)
        assert await Notifier({"hook": Channel(hook.url())}, no_picture).warm() == {}
        barn.contacts = (Contact("Anna", (Address("hook", "anna"),)),)
        await barn.begin("hook")
        await barn.raised("A", severity=C)
        service = barn.notify(sender.send, "hook")
        async with running(service):
            await barn.asleep()  # refused
            await hook.open()
            hook.answer = lambda _: 500
            await barn.clock.advance(5)
            await until(lambda: hook.requests == 1)
            await barn.asleep()
            hook.hang = asyncio.Event()
            await barn.clock.advance(10)
            await until(lambda: hook.requests == 2)
            await barn.asleep()
            hook.hang.set()
            await until(lambda: not sender.hung_n)
            hook.hang, hook.answer = None, lambda _: 200
            await barn.clock.advance(20)
            await hook.until(lambda: len(hook.got) == 1)
            await barn.passed("hook")
        await hook.close()
        (got,) = hook.got
        assert got["message_id"].endswith(":1")
        assert (got["subject"], got["kind"], got["severity"]) == ("A", "fever", "critical")
        assert service.counts["hook"].failures == 3

    run(tmp_path, scene)


def test_ten_text_messages_a_minute_to_one_phone_and_a_restart_does_not_reset_it(
    tmp_path: Path, free_port: int
) -> None:
    async def scene(barn: Barn) -> None:
        hook = Webhook(free_port)
        await hook.open()
        sender = Notifier({"sms": Channel(hook.url(), short=True)}, no_picture)
        await barn.begin("sms")
        await barn.raised(*(f"C{n}" for n in range(13)), severity=C)
        async with running(barn.notify(sender.send, "sms")):
            await barn.asleep()
            assert len(hook.got) == 10
        await barn.clock.advance(30)
        async with running(barn.notify(sender.send, "sms")):
            await barn.asleep()
            assert len(hook.got) == 10, "ten in this minute already"
            await barn.clock.advance(29.9)
            await barn.asleep()
            assert len(hook.got) == 10
            await barn.clock.advance(0.1)
            await hook.until(lambda: len(hook.got) == 13)
            await barn.passed("sms")
        await hook.close()
        assert all(len(got["message"]) <= 160 and not got["title"] for got in hook.got)

    run(tmp_path, scene)


def test_five_failures_open_the_breaker_for_300_s_and_one_probe(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", severity=C)
        peer = Peer()
        tried_s: list[float] = []

        def down(_: Letter) -> Answer:
            tried_s.append(barn.clock.monotonic_s())
            return RetryLater("refused")

        peer.answer = down
        service = barn.notify(peer.send)
        async with running(service):
            for wait_s in (5, 10, 20, 40, 300):
                await barn.asleep()
                service.wake()  # a new event cuts neither back-off nor breaker
                await barn.clock.advance(wait_s)
            await barn.asleep()
        assert tried_s == [0, 5, 15, 35, 75, 375]
        async with running(service):  # as the supervisor does after a fault of the store
            await barn.asleep()
            assert len(tried_s) == 6, "it is still open"
            await barn.clock.advance(300)
            await barn.asleep()
        assert tried_s[6:] == [675]

    run(tmp_path, scene)


def test_a_letter_that_always_fails_does_not_stand_in_the_others_way_and_is_given_up_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(barn: Barn) -> None:
        bad = Contact("Bad", (Address("email", "bad@example.org"),))
        barn.contacts = (bad, Contact("Good", (Address("email", "good@example.org"),)))
        await barn.begin()
        peer = Peer()
        peer.answer = lambda one: RetryLater("550") if one.contact == "Bad" else Delivered()
        service = barn.notify(peer.send)
        async with running(service):
            await barn.asleep()
            for n in range(40):
                await barn.raised(f"C{n}", severity=C)
                service.wake()
                await peer.until(lambda n=n: len(peer.got) == n + 1)  # type: ignore[misc]
                await barn.asleep()
                await barn.clock.advance(300)
                await barn.asleep()
        assert service.down == ()
        assert service.counts["email"].dropped >= 2
        (finding,) = barn.reported
        assert (finding.kind, finding.detail) == (FAILED_KIND, "email")
        assert "Bad cannot be told by email: 550" in finding.sentence

    run(tmp_path, scene)
    assert "is down" not in caplog.text


def test_what_a_service_will_never_take_is_given_up_at_once_and_told_once(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", "B", "D")
        peer = Peer()
        peer.answer = lambda _: Rejected("no such address")
        service = barn.notify(peer.send)
        async with running(service):
            await barn.passed()
        assert service.counts["email"].dropped == 3
        assert len(barn.reported) == 1

    run(tmp_path, scene)


def test_a_failing_letter_is_given_up_after_a_day_an_urgent_one_after_three(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("W")
        await barn.raised("C", severity=C)
        peer = Peer()
        peer.answer = lambda _: RetryLater("refused")
        service = barn.notify(peer.send, breaker=BreakerPolicy(failures_n=1, open_s=3600.0))
        async with running(service):
            given_up = []
            for _ in range(75):
                await barn.asleep()
                given_up.append(service.counts["email"].dropped)
                await barn.clock.advance(3600)
            await barn.asleep()
        assert given_up.index(1) in range(25, 29)
        assert given_up.index(2) in range(73, 75)

    run(tmp_path, scene)


def test_channels_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin("email", "sms")
        await barn.raised("A")
        peer = Peer()
        stuck = asyncio.Event()

        async def send(letter: Letter) -> Answer:
            if letter.channel == "email":
                stuck.set()
                await asyncio.Event().wait()
            return await peer.send(letter)

        async with running(barn.notify(send, "email", "sms")):
            await stuck.wait()
            await barn.passed("sms")
        assert [letter.channel for letter in peer.got] == ["sms"]

    run(tmp_path, scene)


def test_twilio_not_configured_is_exactly_one_warning_and_e_mail_goes_on_s3_085(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(barn: Barn) -> None:
        barn.contacts = (ANNA, msgspec.structs.replace(ANNA, name="Bob"))
        await barn.begin()
        await barn.raised("A")
        peer = Peer()
        service = barn.notify(peer.send, "email")
        async with running(service):
            service.wake()
            await barn.passed()
        assert [letter.channel for letter in peer.got] == ["email"]

    run(tmp_path, scene)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "Twilio not configured" in warnings[0].getMessage()


def test_a_letter_is_in_the_readers_language_with_a_link_and_a_chart(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        german = msgspec.structs.replace(ANNA, language="de")
        barn.contacts = (german,)
        await barn.begin("email", "sms")
        rows = [Reading("COW_7", T0_MS - n * 600_000, 38.5 + n % 3, 0.1, 0.2, 0.9) for n in range(100)]
        await barn.database.write(lambda db: readings.append(db, rows))
        await barn.raised("COW_7")
        peer = Peer()
        async with running(barn.notify(peer.send, "email", "sms")):
            await barn.passed("email")
            await barn.passed("sms")
        full = next(one for one in peer.got if one.channel == "email")
        brief = next(one for one in peer.got if one.channel == "sms")
        assert "Fieber" in full.title
        assert "http://barn.local:8080/a/1/Anna" in full.body
        assert full.svg is not None
        assert full.svg.startswith("<svg")
        assert (brief.title, brief.svg) == ("", None)
        assert len(brief.body) <= 160

    run(tmp_path, scene)


def test_a_damaged_event_is_told_once_and_does_not_hold_up_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(barn: Barn) -> None:
        await barn.begin()
        await barn.raised("A", "B")
        await barn.database.write(lambda db: outbox.append(db, "alert", b"no json", T0_MS))
        await barn.raised("D")
        peer = Peer()
        service = barn.notify(peer.send)
        async with running(service):
            await barn.passed()
        assert peer.ids() == ["1", "2", "4"]
        assert service.counts["email"].damaged == 1

    run(tmp_path, scene)
    assert caplog.text.count("Event 3 is no alert") == 1


def test_the_summary_goes_once_a_day_to_those_who_want_it(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        barn.contacts = (msgspec.structs.replace(ANNA, daily_summary=True),)
        await barn.begin()
        peer = Peer()
        service = barn.notify(peer.send, daily_summary=time(7, 0))
        async with running(service):
            await barn.asleep(2)
            assert await barn.database.read(days.done_day) == "2025-11-25", "the first day is none yet"
            for minute in range(17 * 60):  # until 07:30
                await barn.clock.advance(60)
                if minute == 16 * 60 + 30:
                    await peer.until(lambda: len(peer.got) == 1)
            await barn.passed()
        assert len(peer.got) == 1
        assert peer.got[0].fields["kind"] == "summary"
        again = barn.notify(peer.send, daily_summary=time(7, 0))
        async with running(again):
            await barn.asleep(2)
        assert len(peer.got) == 1

    run(tmp_path, scene)


@pytest.mark.parametrize(("away_h", "letters"), [(10, 1), (14, 0)])
def test_a_summary_missed_while_off_is_sent_at_the_next_start_unless_it_is_half_a_day_late(
    tmp_path: Path, away_h: int, letters: int
) -> None:
    async def scene(barn: Barn) -> None:
        barn.contacts = (msgspec.structs.replace(ANNA, daily_summary=True),)
        await barn.begin()
        await barn.database.write(lambda db: days.mark(db, "2025-11-25"))
        await barn.clock.advance((16.5 + away_h) * 3600)
        peer = Peer()
        async with running(barn.notify(peer.send, daily_summary=time(7, 0))):
            await barn.asleep(2)
            await barn.passed()
            await barn.asleep(2)
        assert len(peer.got) == letters
        assert await barn.database.read(days.done_day) == "2025-11-26"

    run(tmp_path, scene)
