"""The register's way into the door: what the gateway does when the file changes, breaks, is put right."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from gateway import provisioning, wiring
from gateway.config import Config
from gateway.demo import demo_config
from gateway.drivers.broker import Introduction, Principal
from gateway.drivers.broker.tokens import Anonymous
from gateway.provisioning import Login


def config_at(folder: Path) -> Config:
    broker = msgspec.structs.replace(Config().broker, devices=str(folder / "data" / "devices.json"))
    return Config(mode="production", broker=broker)


def add(config: Config, *ids: str) -> dict[str, str]:
    """Registers sensors as a command does; their tokens."""
    tokens: dict[str, str] = {}

    def hand(logins: list[Login]) -> None:
        tokens.update((login.device.id, login.token) for login in logins)

    provisioning.add(config, ids, "sensor", (), "", hand=hand, say=pytest.fail)
    return tokens


def test_the_door_follows_the_register_and_says_once_when_it_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.admission")
    config = config_at(tmp_path)
    file = Path(config.broker.devices)
    admission = wiring.admission(config)

    def comes_in(one: str, token: str) -> bool:
        who = Introduction(one, one, token.encode(), "192.0.2.9")
        return isinstance(admission.access.authenticate(who), Principal)

    def look() -> bool:
        changes: list[bool] = []
        asyncio.run(admission.look(lambda: changes.append(True)))
        return changes == [True]

    tokens = add(config, "A", "B")
    assert not comes_in("A", tokens["A"])
    assert look()
    assert comes_in("A", tokens["A"])
    assert not comes_in("A", tokens["B"])
    assert not look()

    good = file.read_bytes()
    file.write_bytes(good[:-20])
    for _ in range(3):
        assert not look()
    assert comes_in("A", tokens["A"])

    file.write_bytes(good)
    assert look()
    provisioning.remove(config, ["A"], say=pytest.fail)
    assert look()
    assert not comes_in("A", tokens["A"])
    assert comes_in("B", tokens["B"])

    records = [record for record in caplog.records if record.name == "gateway.admission"]
    assert [record.levelname for record in records] == ["WARNING", "INFO", "ERROR", "INFO", "INFO"]
    assert "No device is registered" in records[0].getMessage()
    assert f"{file}: is damaged" in records[2].getMessage()
    assert records[4].getMessage() == f"Devices registered in {file}: 1"


def test_an_empty_register_is_no_news_where_this_machine_alone_can_connect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = msgspec.structs.replace(config_at(tmp_path), mode="standard")
    wiring.admission(config)
    assert caplog.records == []
    broker = msgspec.structs.replace(config.broker, host="0.0.0.0")
    wiring.admission(msgspec.structs.replace(config, broker=broker))
    assert "No device is registered" in caplog.text


def test_a_gateway_starts_on_a_broken_register_with_the_version_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_at(tmp_path)
    tokens = add(config, "A") | add(config, "B")
    Path(config.broker.devices).write_text("{", encoding="utf-8")
    access = wiring.admission(config).access
    answers = [
        access.authenticate(Introduction(one, one, tokens[one].encode(), "192.0.2.9")) for one in ("A", "B")
    ]
    assert [isinstance(answer, Principal) for answer in answers] == [True, False]
    assert "the version before it is in force" in caplog.text


def test_tokens_are_long_random_and_easy_to_read_out(tmp_path: Path) -> None:
    tokens = add(config_at(tmp_path), *(f"COW_{n:03d}" for n in range(200)))
    assert len(set(tokens.values())) == 200
    signs = set("".join(tokens.values()))
    assert len(provisioning.SIGNS) ** provisioning.SIGNS_PER_TOKEN >= 2**128
    assert signs == set(provisioning.SIGNS)  # 5400 draws of 31 signs: one is missing once in 10^75
    assert not signs & set("ilo01IO/+=-_ ")


def test_the_demo_of_a_production_barn_is_open_to_its_herd_and_has_a_register_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_at(tmp_path)
    mqtt = msgspec.structs.replace(config.mqtt, broker_port=free_port)
    demo = demo_config(msgspec.structs.replace(config, mqtt=mqtt))
    assert wiring.anonymous(demo) is Anonymous.THIS_MACHINE
    assert demo.broker.devices != config.broker.devices
