"""The link of a notification: opening it changes nothing, its button does, and only the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.alerts import State
from gateway.core.links import address
from tests.web.site import LINK_SECRET, Site, run


async def link(site: Site, contact: str = "Anna") -> tuple[int, str]:
    number = await site.barn.raise_alert()
    whole = address("http://x", LINK_SECRET, number, site.barn.alert(number).key, contact)
    return number, whole.removeprefix("http://x")


def test_opening_a_link_acknowledges_nothing_however_often(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number, path = await link(site)
        for _ in range(3):
            text = await site.get(path)
            assert "Acknowledge as Anna" in text
            assert text.count("<button") == 1
        async with site.session.head(site.url(path)) as answer:
            assert answer.status == 200
        assert site.barn.alert(number).state is State.ACTIVE

    run(tmp_path, scene)


def test_the_button_acknowledges_as_the_person_it_was_sent_to_from_any_browser(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number, path = await link(site, "Jürgen /../ Ö")
        text = await site.submit(path, {}, 200, Origin="null", Host="proxy.example")
        assert "acknowledged by Jürgen /../ Ö (link)" in text
        assert "<button" not in text
        step = site.barn.history(number)[-1]
        assert (step.who, step.origin) == ("Jürgen /../ Ö", "link")

    run(tmp_path, scene)


def test_who_comes_second_and_who_comes_too_late_is_told_so(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        number, path = await link(site)
        await site.send(f"/api/alerts/{number}/acknowledge", {"by": "Ben"})
        assert "acknowledged by Ben (web)" in await site.get(path)
        assert "acknowledged by Ben (web)" in await site.submit(path, {}, 409)
        await site.send(f"/api/alerts/{number}/resolve", {"by": "Ben"})
        ended = await site.get(path)
        assert "This alert has ended." in ended
        assert "resolved by Ben (web)" in ended
        assert "<button" not in ended
        await site.submit(path, {}, 409)

    run(tmp_path, scene)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda path: path[:-1] + ("A" if path[-1] != "A" else "B"),
        lambda path: path[:-4],
        lambda path: path.replace("/QW5uYQ/", "/QmVu/"),  # Ben
        lambda path: path.replace("/a/1/", "/a/2/"),
        lambda path: path.replace("/a/1/", "/a/999/"),
        lambda path: path.replace("/QW5uYQ/", "/____/"),
    ],
)
def test_a_wrong_link_is_refused_and_tells_nothing(tmp_path: Path, wrong: object) -> None:
    async def scene(site: Site) -> None:
        assert callable(wrong)
        number, path = await link(site)
        await site.barn.raise_alert("COW_8")
        bad = wrong(path)
        assert bad != path
        for text in (await site.get(bad, 403), await site.submit(bad, {}, 403)):
            assert "This link is not valid" in text
            assert "COW_" not in text
        assert site.barn.alert(number).state is State.ACTIVE

    run(tmp_path, scene)
