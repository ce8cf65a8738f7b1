"""Devices on the real process: what `device add` prints logs in; what is rotated or removed is put out."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.e2e.gateway_process import GatewayProcess, running_gateway, until
from tests.e2e.test_commands import gateway
from tests.e2e.test_whole_barn import free_ports

HEADER = "timestamp,cow_id,temperature,fxa,mya,rza\n"


def command(barn: GatewayProcess, *words: str) -> str:
    done = gateway(barn.home, *words, "--config", "gateway.yaml")
    assert done.returncode == 0, done.stderr
    return done.stdout


def added(barn: GatewayProcess, one: str, *words: str) -> tuple[str, list[str]]:
    """Its password and the printed line."""
    told = json.loads(command(barn, "device", "add", one, "--json", *words))
    return told["password"], shlex.split(told["try"])


def code_of(words: list[str]) -> int:
    return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode


def stored(barn: GatewayProcess) -> list[str]:
    rows = command(barn, "readings", "--json", "--limit", "100").splitlines()
    return sorted({json.loads(row)["cow_id"] for row in rows})


def connections(barn: GatewayProcess) -> int:
    return int(barn.health()["broker"]["connections"])


@pytest.mark.rig
def test_in_production_a_device_lives_from_its_adding_to_its_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3-049, decision 34: nobody without a password, and every change within seconds, without a restart."""
    pub, sub = need("mosquitto_pub"), need("mosquitto_sub")
    port, http_port = free_ports(2)
    with running_gateway(tmp_path, port, http_port, mode="production") as barn:
        assert "No device is registered" in barn.console()
        anyone = [pub, "-h", "127.0.0.1", "-p", str(port), "-t", "artemis/sensors/COW_001", "-m", "x"]
        assert code_of(anyone) != 0  # not even this machine

        token, line = added(barn, "COW_001")
        until(lambda: code_of(line) == 0, "the new device to be let in")
        assert stored(barn) == ["COW_001"]

        with subprocess.Popen(
            [sub, *line[1:5], "-i", "COW_001/ear", *line[7:11], "-t", "artemis/alerts/COW_001/+"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as ear:
            try:
                until(lambda: connections(barn) == 1, "the subscriber")
                command(barn, "device", "rotate", "COW_001", "--json")
                said, _ = ear.communicate(timeout=30)  # put out, it tries again with its old password
            finally:
                ear.kill()
        assert "bad user name or password" in said.lower()
        assert code_of(line) != 0

        (tmp_path / "old.csv").write_text(
            HEADER + "2026-01-01T10:00:00Z,COW_7,38.6,0,0,1\n", encoding="utf-8"
        )
        password, _ = added(barn, "IMPORT", "--role", "concentrator", "--speaks-for", "all")
        monkeypatch.setenv("MQTT_USERNAME", "IMPORT")
        monkeypatch.setenv("MQTT_PASSWORD", password)
        until(
            lambda: gateway(tmp_path, "import", "old.csv", "--config", "gateway.yaml").returncode == 0,
            "import",
        )
        assert stored(barn) == ["COW_001", "COW_7"]

        command(barn, "device", "remove", "COW_001", "IMPORT")
        barn.wait_for_log("No device is registered")
        assert not [secret for secret in (token, password) if secret in barn.log() + barn.console()]


def test_production_without_its_demands_ends_with_1_and_names_them_all(tmp_path: Path) -> None:
    """S3-049: fail fast."""
    (tmp_path / "open.yaml").write_text(
        "mode: production\nbroker:\n  host: 0.0.0.0\n  allow_anonymous: true\n", encoding="utf-8"
    )
    done = gateway(tmp_path, "run", "--config", "open.yaml")
    assert done.returncode == 1
    assert "open.yaml:3: broker.host: " in done.stderr
    assert "open.yaml:4: broker.allow_anonymous: " in done.stderr
    assert not (tmp_path / "data").exists()
