"""The live stream over real sockets: every move reaches every page, and no page holds up the others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.core.alerts import Change, Move
from gateway.web import live
from gateway.web.server import CONNECTIONS_MAX
from tests.web.site import Site, run


def move(site: Site, number: int, change: Change = Change.ACKNOWLEDGED, **fields: Any) -> Move:
    alert = msgspec.structs.replace(site.barn.alert(number), **fields)
    return Move(alert, "active", change, "seen")


async def listen(site: Site) -> aiohttp.ClientResponse:
    answer = await site.session.get(site.url("/live"))
    assert answer.status == 200
    assert answer.content_type == "text/event-stream"
    assert await answer.content.readuntil(b"\n\n") == b"retry: 2000\n\n"
    return answer


async def event(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event; heartbeats are passed over."""
    while True:
        text = (await answer.content.readuntil(b"\n\n")).decode()
        if text.startswith("event: alert\ndata: "):
            found: dict[str, Any] = json.loads(text.removeprefix("event: alert\ndata: "))
            return found


def test_every_page_hears_of_every_committed_move(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        pages = [await listen(site) for _ in range(3)]
        site.server.live.push(move(site, number))
        site.server.live.push(move(site, number, Change.RESOLVED))
        for page in pages:
            first, second = await event(page), await event(page)
            assert (first["id"], first["change"], second["change"]) == (number, "acknowledged", "resolved")
            assert first["schema"] == "artemis.alert/1"
            page.close()

    run(tmp_path, scene)


def test_an_acknowledgement_reaches_an_open_page(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        site.barn.alarm.told = lambda alert: site.server.live.push(  # type: ignore[method-assign]
            Move(alert, "active", Change.ACKNOWLEDGED, "seen")
        )
        site.barn.alarm._published = site.barn.alarm.told
        page = await listen(site)
        await site.send(f"/api/alerts/{number}/acknowledge", {"by": "Anna"})
        assert (await event(page))["state"] == "acknowledged"
        page.close()

    run(tmp_path, scene)


def test_a_silent_barn_is_told_from_a_dead_line(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.server.live._heartbeat_s = 0.02
        page = await listen(site)
        assert await page.content.readuntil(b"\n\n") == b":\n\n"
        assert await page.content.readuntil(b"\n\n") == b":\n\n"
        page.close()

    run(tmp_path, scene)


def test_listeners_are_bounded_below_the_connections_and_a_place_is_free_again(tmp_path: Path) -> None:
    assert live.CLIENTS_MAX < CONNECTIONS_MAX

    async def scene(site: Site) -> None:
        site.server.live._clients_max = 2
        pages = [await listen(site) for _ in range(2)]
        assert "2 pages listen already" in await site.get("/live", 503)
        assert site.server.live.counters.refused == 1
        pages[0].close()
        while site.server.live.pages_n == 2:  # noqa: ASYNC110 - the loop closes the socket
            await asyncio.sleep(0)
        pages.append(await listen(site))
        for page in pages:
            page.close()

    run(tmp_path, scene)


def test_a_page_that_does_not_keep_up_loses_what_is_superseded_and_then_its_place(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number = await site.barn.raise_alert()
        slow = await listen(site)
        counters = site.server.live.counters
        for n in range(live.QUEUE_MAX + 10):
            site.server.live.push(move(site, number, confidence=n / 1000))  # the loop has no turn meanwhile
        assert counters.dropped == 0
        assert counters.conflated > 0
        while (last := await event(slow))["confidence"] < (live.QUEUE_MAX + 9) / 1000:
            pass
        assert last["confidence"] == (live.QUEUE_MAX + 9) / 1000, "the newest is never lost"
        for n in range(live.QUEUE_MAX + 1):
            site.server.live.push(move(site, number, episode=n + 1))
        assert counters.dropped == 1
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
            await slow.content.readuntil(b"never said")
        assert site.server.live.pages_n == 0
        slow.close()

    run(tmp_path, scene)


def test_a_page_that_reads_nothing_is_given_up_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.server.live._send_s_max = 0.2
        number = await site.barn.raise_alert()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port, limit=1024)
        writer.write(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        good = await listen(site)
        big = move(site, number, sentence="x" * 60_000)
        n = 0
        while site.server.live.pages_n > 1:
            site.server.live.push(big)
            n += 1
            assert (await event(good))["id"] == number
        assert n > 10, "it was only given up when its buffers were full"
        good.close()
        writer.transport.abort()

    run(tmp_path, scene)


def test_stop_ends_all_streams_at_once(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        pages = [await listen(site) for _ in range(3)]
        await site.server.stop()
        for page in pages:
            with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
                await event(page)
            page.close()
        assert site.server.live.pages_n == 0

    run(tmp_path, scene)
