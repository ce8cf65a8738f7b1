"""`barn-gateway alerts …` as a person types it, against a server and a store that are real."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli.client import base_url
from gateway.cli.main import app
from gateway.config import Config
from gateway.config.schema import Service
from gateway.core.alerts import State
from gateway.errors import ChecksFailedError, ConfigError, GatewayError, NetworkError, StoreError
from tests.web.site import Site, run


async def alerts(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["alerts", *words])


async def done(*words: str) -> str:
    result = await alerts(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


async def refused(kind: type[GatewayError], *words: str) -> str:
    result = await alerts(*words)
    assert type(result.exception) is kind, (result.output, result.exception)
    return str(result.exception)


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Callable[[Site], Awaitable[None]]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "http_proxy", "http://127.0.0.1:9"
    )  # nobody's way to a neighbour leads through a proxy

    async def configured(site: Site) -> None:
        config: dict[str, Any] = {
            "service": {"health_check_port": site.server.port},
            "database": {"path": str(site.barn.path)},
        }
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        await scene(site)

    run(tmp_path, configured)


def test_ack_says_who_was_first_and_ends_with_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(site: Site) -> None:
        number = str(await site.barn.raise_alert())
        assert await done("ack", number, "--by", "Anna", "--note", "vet called") == (
            f"alert {number}: COW_7 fever is acknowledged\n"
        )
        step = site.barn.history(int(number))[-1]
        assert (step.who, step.origin, step.reason) == ("Anna", "cli", "vet called")
        sentence = await refused(ChecksFailedError, "ack", number, "--by", "Ben")
        assert f"alert {number} was acknowledged by Anna (cli) at 2025-11-25 14:30:00 UTC" in sentence
        assert "there is no alert 99" in await refused(ChecksFailedError, "ack", "99")
        assert ChecksFailedError.exit_code == 4

    play(tmp_path, monkeypatch, scene)


def test_close_needs_a_verdict_and_the_login_name_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(site: Site) -> None:
        one, two = await site.barn.raise_alert("COW_1"), await site.barn.raise_alert("COW_2")
        assert "either --resolved or --false" in await refused(ConfigError, "close", str(one))
        assert "either" in await refused(ConfigError, "close", str(one), "--resolved", "--false")
        await done("close", str(one), "--resolved")
        assert site.barn.alert(one).state is State.RESOLVED
        assert site.barn.history(one)[-1].who == getpass.getuser()
        await done("close", str(two), "--false", "--by", "Anna")
        assert site.barn.alert(two).state is State.FALSE_POSITIVE
        assert "characters" in await refused(ConfigError, "ack", "1", "--note", "x" * 201)
        assert "characters" in await refused(ConfigError, "ack", "1", "--by", "x" * 65)

    play(tmp_path, monkeypatch, scene)


def test_show_tells_the_whole_story_also_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(site: Site) -> None:
        number = str(await site.barn.raise_alert())
        await done("ack", number, "--by", "Anna", "--note", "vet called")
        text = await done("show", number)
        for said in ("Anna", "(cli)", "vet", "acknowledged"):
            assert said in text
        story = json.loads(await done("show", number, "--json"))
        assert [step["who"] for step in story["history"]] == ["gateway", "Anna"]
        assert story["key"] == "COW_7/fever/1"
        assert story["told"] == []
        assert "there is no alert 99" in await refused(ChecksFailedError, "show", "99")

    play(tmp_path, monkeypatch, scene)


def test_without_a_word_it_lists_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(site: Site) -> None:
        assert await done() == "no alerts\n"
        await site.barn.raise_alert("COW_1")
        await site.barn.raise_alert("COW_2")
        rows = [json.loads(line) for line in (await done("--json")).splitlines()]
        assert [row["subject"] for row in rows] == ["COW_2", "COW_1"]
        assert len((await done("--json", "-n", "1")).splitlines()) == 1
        assert "COW_1" in await done("--cow", "COW_1")
        misplaced = await refused(ConfigError, "--config", "config/gateway.yaml", "ack", "1")
        assert "write: alerts ack … --config config/gateway.yaml" in misplaced

    play(tmp_path, monkeypatch, scene)


def test_silences_begin_are_listed_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(site: Site) -> None:
        assert await done("silences") == "no silence holds\n"
        made = await done("silence", "--cow", "COW_7", "--kind", "fever", "--hours", "4", "--by", "Anna")
        assert made == "silence 1: COW_7 fever until 2025-11-25 18:30 UTC\n"
        assert "the whole barn" in await done("silence", "--hours", "0.5", "--reason", "fire drill")
        listed = [json.loads(line) for line in (await done("silences", "--json")).splitlines()]
        assert [(one["id"], one["subject"], one["origin"]) for one in listed] == [
            (1, "COW_7", "cli"),
            (2, None, "cli"),
        ]
        assert "fire drill" in await done("silences")
        assert await done("unsilence", "1") == "silence 1 has ended\n"
        assert "no silence 1 holds" in await refused(ChecksFailedError, "unsilence", "1")
        assert "--hours must be" in await refused(ConfigError, "silence", "--hours", "0")
        assert "kind must be" in await refused(ConfigError, "silence", "--hours", "1", "--kind", "No!")
        assert "never silenced" in await refused(ConfigError, "silence", "--hours", "1", "--kind", "panic")

    play(tmp_path, monkeypatch, scene)


def test_a_gateway_that_cannot_write_or_does_not_answer_has_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(site: Site) -> None:
        number = str(await site.barn.raise_alert())
        with site.barn.locked():
            assert "locked" in await refused(StoreError, "ack", number)
        await site.server.stop()
        sentence = await refused(NetworkError, "ack", number)
        assert "no gateway answers at http://127.0.0.1:" in sentence
        assert "systemctl start barn-gateway" in sentence
        assert (StoreError.exit_code, NetworkError.exit_code) == (2, 3)

    play(tmp_path, monkeypatch, scene)


@pytest.mark.parametrize("said", [b"", b"hello\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]"])
def test_another_program_on_the_port_is_no_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    async def scene(site: Site) -> None:
        port = site.server.port
        await site.server.stop()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", port):
            assert "no gateway answers" in await refused(NetworkError, "silences")

    play(tmp_path, monkeypatch, scene)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("192.168.1.5", "http://192.168.1.5:8080"),
    ],
)
def test_the_gateway_is_looked_for_where_it_listens(host: str, url: str) -> None:
    assert base_url(Config(service=Service(health_check_host=host))) == url
