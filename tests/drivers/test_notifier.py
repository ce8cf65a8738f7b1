"""The notifier against real servers, and the URLs it makes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.core.letters import Letter
from gateway.drivers import notifier as notifier_module
from gateway.drivers.notifier import Notifier
from gateway.drivers.notify_urls import Channel, channels_of, url_of, without_secrets
from gateway.drivers.rasteriser import Rasteriser
from tests.post_offices import MailBox, Webhook

TWILIO = {"TWILIO_ACCOUNT_SID": "AC0123", "TWILIO_AUTH_TOKEN": "t0ken", "TWILIO_PHONE_NUMBER": "+15550001111"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="32"><rect width="9" height="9"/></svg>'


def letter(channel: str = "email", to: str = "anna@example.org", **details: Any) -> Letter:
    fields: dict[str, Any] = {
        "contact": "Anna",
        "message_id": "gw:ep:17",
        "title": "CRITICAL fever COW_042",
        "body": "COW_042 has 41.2 °C & rising\nsecond line",
        "severity": "critical",
    }
    return Letter(channel=channel, to=to, **fields | details)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something without an event of its own."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def no_picture(_: str) -> bytes | None:
    return None


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scene()

    asyncio.run(bounded())


def test_an_e_mail_arrives_as_written_with_its_id_and_its_picture(free_port: int) -> None:
    async def scene() -> None:
        box = MailBox(free_port)
        await box.open()
        sender = Notifier({"email": Channel(box.url())}, Rasteriser().png)
        assert await sender.send(letter(svg=SVG)) == Delivered()
        await box.close()
        (got,) = box.got
        assert got["Subject"] == "CRITICAL fever COW_042"
        assert got["To"] == "anna@example.org"
        assert box.ids() == ["gw:ep:17"]
        body = got.get_body()
        assert body is not None
        assert body.get_content_type() == "text/plain"
        assert body.get_content().replace("\r", "").strip() == "COW_042 has 41.2 °C & rising\nsecond line"
        (picture,) = got.iter_attachments()
        assert (picture.get_content_type(), picture.get_filename()) == ("image/png", "chart.png")
        assert picture.get_content().startswith(b"\x89PNG")
        assert sender.counts.sent == 1

    run(scene)


def test_a_webhook_gets_the_facts_as_fields(free_port: int) -> None:
    async def scene() -> None:
        hook = Webhook(free_port)
        await hook.open()
        sender = Notifier(channels_of({}, {}), no_picture)
        to = f"http://127.0.0.1:{free_port}/barn/7?key=a%26b"
        fields = {"subject": "COW_042", "kind": "fever", "sentence": "41.2 °C, 100 % sure & rising + more"}
        assert await sender.send(letter("webhook", to, fields=fields)) == Delivered()
        await hook.close()
        (got,) = hook.got
        assert got["path"] == "/barn/7"
        assert got["query"] == {"key": "a&b"}
        assert got["title"] == "CRITICAL fever COW_042"
        assert got["message_id"] == "gw:ep:17"
        assert got["severity"] == "critical"
        assert {key: got[key] for key in fields} == fields

    run(scene)


def test_a_refusal_an_error_and_a_dead_server_are_all_tried_again_later(free_port: int) -> None:
    async def scene() -> None:
        hook = Webhook(free_port)
        sender = Notifier({"hook": Channel(hook.url("s3cretpath/{to}"))}, no_picture)
        refused = await sender.send(letter("hook"))
        assert isinstance(refused, RetryLater)
        await hook.open()
        hook.answer = lambda _: 500
        failed = await sender.send(letter("hook"))
        assert isinstance(failed, RetryLater)
        assert "500" in failed.why
        hook.answer = lambda _: 200
        assert await sender.send(letter("hook")) == Delivered()
        await hook.close()
        assert "s3cretpath" not in refused.why + failed.why

    run(scene)


def test_a_mailbox_that_does_not_exist_is_no_reason_to_give_up_yet(free_port: int) -> None:
    async def scene() -> None:
        box = MailBox(free_port)
        await box.open()
        box.refused.add("anna@example.org")
        sender = Notifier({"email": Channel(box.url())}, no_picture)
        answer = await sender.send(letter())
        await box.close()
        assert isinstance(answer, RetryLater)

    run(scene)


def test_a_send_that_hangs_is_left_behind_counted_and_bounded(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_module, "HUNG_MAX", 2)

    async def scene() -> None:
        hook = Webhook(free_port)
        hook.hang = asyncio.Event()
        await hook.open()
        sender = Notifier({"hook": Channel(hook.url())}, no_picture, send_s_max=30.0)
        assert await sender.warm() == {}
        sender = Notifier({"hook": Channel(hook.url())}, no_picture, send_s_max=0.1)
        for _ in range(2):
            answer = await sender.send(letter("hook"))
            assert answer == RetryLater("no answer within 0.1 s")
        third = await sender.send(letter("hook"))
        assert third == RetryLater("2 earlier sends still hang")
        assert (sender.hung_n, sender.counts.abandoned) == (2, 2)
        await until(lambda: hook.requests == 2)
        hook.hang.set()
        await until(lambda: not sender.hung_n)
        await hook.close()

    run(scene)


def test_stopping_in_the_middle_of_a_send_leaves_no_trouble(
    free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        hook = Webhook(free_port)
        hook.hang = asyncio.Event()
        await hook.open()
        sender = Notifier({"hook": Channel(hook.url())}, no_picture)
        sending = asyncio.create_task(sender.send(letter("hook")))
        await until(lambda: hook.requests == 1)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        hook.hang.set()
        await until(lambda: not sender.hung_n)
        await hook.close()

    run(scene)
    assert capsys.readouterr().err == ""


def test_warming_tells_which_channels_can_send_nothing_and_shows_no_password() -> None:
    async def scene() -> None:
        channels = {
            "email": Channel("mailtos://barn:hunter2@example.org?to={to}"),
            "chat": Channel("nonsense://hunter2/{to}"),
            "sms": Channel("twilio://wrong:hunter2@+15550001111/{to}", short=True),
            "push": channels_of({}, {})["push"],
        }
        found = await Notifier(channels, no_picture).warm()
        assert sorted(found) == ["chat", "sms"]
        assert "notify.channels.chat.url" in found["chat"]
        assert "hunter2" not in str(found)

    run(scene)


def test_an_address_that_is_none_is_rejected() -> None:
    async def scene() -> None:
        sender = Notifier(channels_of({}, {}), no_picture)
        assert isinstance(await sender.send(letter("webhook", "ftp://hunter2@x")), Rejected)
        answer = await sender.send(letter("push", "nonsense://hunter2"))
        assert isinstance(answer, Rejected)
        assert "hunter2" not in answer.why
        assert isinstance(await sender.send(letter("fax")), Rejected)

    run(scene)


def test_apprise_and_its_http_write_nothing_into_our_log(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        sender = Notifier({"hook": Channel(f"json://barn:hunter2@127.0.0.1:{free_port}/t0ken/")}, no_picture)
        assert isinstance(await sender.send(letter("hook")), RetryLater)

    with caplog.at_level(logging.DEBUG):
        run(scene)
    assert [record for record in caplog.records if record.name.startswith(("apprise", "urllib3"))] == []
    assert "hunter2" not in caplog.text


def test_sms_is_there_when_all_three_variables_of_twilio_are_s3_085() -> None:
    assert channels_of({}, TWILIO)["sms"] == Channel("twilio://AC0123:t0ken@%2B15550001111/{to}", short=True)
    for name in TWILIO:
        assert "sms" not in channels_of({}, {**TWILIO, name: " "})
    own = Channel("json://gsm-modem.local/{to}", short=True)
    assert channels_of({"sms": own}, TWILIO)["sms"] == own


@pytest.mark.parametrize(
    ("channel", "to", "url"),
    [
        ("slack://a/b/c/#{to}", "barn & herd", "slack://a/b/c/#barn%20%26%20herd"),
        ("tgram://bot/{to}", "../x?y=1", "tgram://bot/..%2Fx%3Fy%3D1"),
        ("ntfy://host/topic", "ignored", "ntfy://host/topic"),
    ],
)
def test_an_address_never_becomes_a_part_of_the_url(channel: str, to: str, url: str) -> None:
    assert url_of(Channel(channel), letter("x", to)) == url


def test_complaints_lose_what_the_url_keeps_to_itself() -> None:
    url = "mailtos://barn:p%40ss1@mail.example.org/anna%40farm.example?smtp=relay&:kind=fever&format=text"
    text = without_secrets("535 p@ss1 for barn at mail.example.org refused fever as text", url)
    assert text == "535 *** for *** at mail.example.org refused fever as text"
