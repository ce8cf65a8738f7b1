"""Acknowledging, ending and silencing over HTTP: the first one wins, and strangers' pages do nothing."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from gateway.core.alerts import State
from gateway.web.server import REQUEST_BYTES_MAX, WebServer
from tests.alert_desk import T0_MS
from tests.web.site import Site, run, status_of

FORM = "application/x-www-form-urlencoded"


def test_a_program_acknowledges_and_reads_the_audit(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        body = {"by": "Anna", "note": "on my way", "origin": "cli"}
        answer = await site.send(f"/api/alerts/{number}/acknowledge", body)
        assert (answer["status"], answer["decided_by"]) == ("acknowledged", "Anna")
        assert answer["decided_at"] == "2025-11-25T14:30:00Z"
        step = site.barn.history(number)[-1]
        assert (step.who, step.origin, step.reason) == ("Anna", "cli", "on my way")
        found = await site.session.get(site.url(f"/api/alerts/{number}"))
        assert [one["to"] for one in (await found.json())["history"]] == ["active", "acknowledged"]

    run(tmp_path, scene)


def test_of_two_at_once_exactly_one_wins_and_the_other_is_told_who(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()

        async def say(who: str) -> tuple[int, dict[str, Any]]:
            async with site.session.post(
                site.url(f"/api/alerts/{number}/acknowledge"), json={"by": who}
            ) as answer:
                return answer.status, await answer.json()

        answers = await asyncio.gather(*(say(f"person {n}") for n in range(8)))
        (won,) = [content for status, content in answers if status == 200]
        lost = [content["error"] for status, content in answers if status == 409]
        assert len(lost) == 7
        assert all(f"alert {number} was acknowledged by {won['decided_by']} (web)" in text for text in lost)
        assert [step.to_state for step in site.barn.history(number)] == ["active", "acknowledged"]

    run(tmp_path, scene)


@pytest.mark.parametrize(
    ("verdict", "state", "words"),
    [
        ("resolve", State.RESOLVED, "was resolved by"),
        ("false_positive", State.FALSE_POSITIVE, "a false alarm by"),
    ],
)
def test_an_alert_is_ended_once(tmp_path: Path, verdict: str, state: State, words: str) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        await site.send(f"/api/alerts/{number}/{verdict}", {"by": "Anna"})
        assert site.barn.alert(number).state is state
        again = await site.send(f"/api/alerts/{number}/{verdict}", {"by": "Ben"}, 409)
        assert words in again["error"]

    run(tmp_path, scene)


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/api/alerts/999/acknowledge", {"by": "Anna"}, 404, "there is no alert 999"),
        ("/api/alerts/1/acknowledge", {}, 400, "by is missing"),
        ("/api/alerts/1/acknowledge", {"by": " "}, 400, "by is missing"),
        ("/api/alerts/1/acknowledge", {"by": "Anna", "origin": "button"}, 400, "origin must be"),
        ("/api/alerts/1/acknowledge", {"by": "Anna", "who": "x"}, 400, "no field 'who'"),
        ("/api/alerts/1/acknowledge", [1], 400, "a JSON object is needed"),
        ("/api/alerts/1/snooze", {"by": "Anna"}, 404, "Not Found"),
        ("/api/alerts/x/acknowledge", {"by": "Anna"}, 404, "Not Found"),
        ("/api/silences", {"by": "Anna"}, 400, "hours is missing"),
        ("/api/silences", {"by": "Anna", "hours": 1e9}, 400, "hours must be"),
        ("/api/silences", {"by": "Anna", "hours": 1, "kind": "fire"}, 400, "never silenced"),
        ("/api/silences/7/end", {"by": "Anna"}, 404, "no silence 7 holds"),
        ("/api/alerts/1/acknowledge", {"by": "x" * REQUEST_BYTES_MAX}, 413, "too many bytes"),
    ],
)
def test_every_refusal_says_why(tmp_path: Path, path: str, body: Any, status: int, sentence: str) -> None:
    async def scene(site: Site) -> None:
        assert sentence in (await site.send(path, body, status))["error"]

    run(tmp_path, scene)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "Content-Type": FORM},
        {"Origin": "null", "Content-Type": FORM},
        {"Sec-Fetch-Site": "cross-site", "Content-Type": FORM},
        {"Content-Type": FORM},
        {"Content-Type": "text/plain"},
        {"Host": "evil.example", "Content-Type": "application/json"},
        {"Host": "evil.example", "Origin": "http://evil.example", "Content-Type": FORM},
    ],
)
def test_a_strangers_page_changes_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        for path in (f"/api/alerts/{number}/acknowledge", f"/api/alerts/{number}/resolve", "/api/silences"):
            async with site.session.post(site.url(path), data=b"by=Anna&hours=1", headers=headers) as answer:
                assert answer.status == 403
                assert len(await answer.text()) > 40
        assert site.barn.alert(number).state is State.ACTIVE
        assert not site.barn.alarm.silences

    run(tmp_path, scene)


def test_known_names_of_this_machine_may_change_things(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        await site.submit(
            f"/api/alerts/{number}/acknowledge",
            {"by": "Anna"},
            Host="gw.example.com",
            Origin="https://gw.example.com",
        )
        assert site.barn.alert(number).state is State.ACKNOWLEDGED

    run(tmp_path, scene)


def test_what_is_neither_json_nor_a_form_is_refused(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        headers = {"Origin": site.url(""), "Content-Type": "application/xml"}
        async with site.session.post(
            site.url("/api/silences"), data=b"<by>Anna</by>", headers=headers
        ) as answer:
            assert answer.status == 415
            assert "send application/json" in (await answer.json())["error"]
        text = await site.submit("/api/silences", {f"f{n}": "1" for n in range(20)}, 400)
        assert "at most 16 fields" in text

    run(tmp_path, scene)


def test_the_forms_of_the_page_work_without_scripts_and_the_browser_remembers_the_name(
    tmp_path: Path,
) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        before = await site.get("/")
        assert f'action="/api/alerts/{number}/acknowledge"' in before
        assert 'name="by" value=""' in before
        name = 'Jürgen "J" <b>; x=1'
        await site.submit(f"/api/alerts/{number}/acknowledge", {"by": name, "note": ""})
        after = await site.get("/")
        assert 'name="by" value="Jürgen &quot;J&quot; &lt;b&gt;; x=1"' in after
        assert "acknowledged by Jürgen &quot;J&quot; &lt;b&gt;; x=1 (web) 0 s ago: seen" in after
        assert f'formaction="/api/alerts/{number}/acknowledge"' not in after
        assert f'formaction="/api/alerts/{number}/false_positive"' in after
        second = await site.submit(f"/api/alerts/{number}/acknowledge", {"by": "Ben"}, 409)
        assert "was acknowledged by Jürgen" in second
        assert "<b>" not in second
        assert '<a href="/">' in second, "an answer to a person is a page"

    run(tmp_path, scene)


def test_a_cookie_from_elsewhere_is_only_a_text(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        await site.barn.raise_alert()
        for value in ("%3Cscript%3E", "%FF%FE", "a" * 500, "%0A%0D"):
            async with site.session.get(site.url("/"), headers={"Cookie": f"by={value}"}) as answer:
                text = await answer.text()
                assert answer.status == 200
                assert "<script>" not in text
                assert "a" * 65 not in text

    run(tmp_path, scene)


def test_what_the_panel_shows_comes_first_on_the_page(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        for subject in ("COW_1", "COW_2"):
            await site.barn.raise_alert(subject)
            site.barn.clock.ms += 1000
        text = await site.get("/")
        assert text.index("COW_2 · fever") < text.index("COW_1 · fever"), "the newest nobody has seen"
        await site.send("/api/alerts/2/acknowledge", {"by": "Anna"})
        text = await site.get("/")
        assert text.index("COW_1 · fever") < text.index("COW_2 · fever")

    run(tmp_path, scene)


def test_silences_are_made_shown_and_ended(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        wish = {"by": "Anna", "hours": 4, "subject": "COW_7", "kind": "fever", "reason": "calving"}
        made = await site.send("/api/silences", wish, 201)
        assert made == {
            "id": 1,
            "subject": "COW_7",
            "kind": "fever",
            "from": "2025-11-25T14:30:00Z",
            "until": "2025-11-25T18:30:00Z",
            "who": "Anna",
            "origin": "web",
            "reason": "calving",
        }
        await site.submit("/api/silences", {"by": "Ben", "hours": "0.5", "subject": "", "kind": ""})
        text = await site.get("/")
        assert "<h3>COW_7 · fever</h3>" in text
        assert "silent until 2025-11-25 18:30 UTC, by Anna (web) 0 s ago: calving" in text
        assert "<h3>the whole barn</h3>" in text
        await site.submit("/api/silences/2/end", {"by": "Ben"})
        await site.send("/api/silences/1", {"by": "Anna"}, method="DELETE")
        await site.send("/api/silences/1", {"by": "Anna"}, 404, method="DELETE")
        assert await site.get("/api/silences") == "[]"
        assert "No silence holds." in await site.get("/silences")

    run(tmp_path, scene)


def test_one_alert_has_a_page_with_its_history_and_who_was_told(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        await site.barn.database.write(
            lambda db: db.execute(
                "INSERT INTO notices (channel, seq, contact, outcome, at_ms, alert_id, address)"
                " VALUES ('sms', 1, 'Ben', 'sent', ?, ?, '+491701234567')",
                (T0_MS, number),
            )
        )
        await site.send(f"/api/alerts/{number}/acknowledge", {"by": "Anna", "note": "vet called"})
        text = await site.get(f"/alerts/{number}")
        for said in (
            "Anna (web)",
            "vet called",
            "gateway (automatic)",
            "<td>Ben</td><td>sms</td><td>sent</td>",
        ):
            assert said in text
        assert "+4917" not in text + await site.get(f"/api/alerts/{number}"), (
            "addresses are nobody's business"
        )
        assert 'http-equiv="refresh"' not in text, "somebody may be writing here"
        assert "there is no alert 99" in await site.get("/alerts/99", 404)

    run(tmp_path, scene)


def test_a_store_that_cannot_write_is_503_and_changes_nothing(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        with site.barn.locked():
            answer = await site.send(f"/api/alerts/{number}/acknowledge", {"by": "Anna"}, 503)
            assert "locked" in answer["error"]
            text = await site.submit(f"/api/alerts/{number}/acknowledge", {"by": "Anna"}, 503)
            assert "That was not possible" in text
        assert site.barn.alert(number).state is State.ACTIVE

    run(tmp_path, scene)


def test_before_the_store_is_open_nothing_can_be_done_and_that_is_said(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        bare = WebServer(lambda: status_of(site.barn), None)
        await bare.start(port=0)
        try:
            base = f"http://127.0.0.1:{bare.port}"
            async with site.session.post(f"{base}/api/alerts/1/acknowledge", json={"by": "Anna"}) as answer:
                assert answer.status == 503
                assert "/health says why" in (await answer.json())["error"]
            async with site.session.get(f"{base}/") as answer:
                assert "<form" not in await answer.text()
            async with site.session.get(f"{base}/a/1/QW5uYQ/abc") as answer:
                assert answer.status == 503
        finally:
            await bare.stop()

    run(tmp_path, scene)


def test_a_body_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.web.actions.BODY_S_MAX", 0.1)

    async def scene(site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        writer.write(
            b"POST /api/silences HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in await reader.readline()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(tmp_path, scene)
