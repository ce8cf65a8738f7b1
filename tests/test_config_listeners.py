"""The sections broker.tls and broker.websocket: what they refuse, and what becomes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway import wiring
from gateway.cli.main import app
from gateway.config import load
from gateway.config.loader import read
from gateway.demo import demo_config
from gateway.errors import ConfigError


def config_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("broker: {tls: {host: barn}}", 'broker.tls.host: "barn" is no address of this machine'),
        ("broker: {websocket: {host: barn}}", 'broker.websocket.host: "barn" is no address'),
        ("broker: {tls: {enabled: true, port: 1883}}", "broker.tls.port: 1883 is mqtt.broker_port too"),
        (
            "broker: {websocket: {enabled: true, port: 8080}}",
            "broker.websocket.port: 8080 is service.health_check_port too",
        ),
        (
            "broker: {tls: {enabled: true, port: 9001}, websocket: {enabled: true}}",
            "broker.websocket.port: 9001 is broker.tls.port too",
        ),
        ("broker: {tls: {client_ca: ca.crt}}", "broker.tls.client_ca: has no effect while"),
        ("broker: {websocket: {origins: [farm.example]}}", "broker.websocket.origins[0]"),
        ("broker: {websocket: {origins: ['https://farm.example/x']}}", "scheme and host alone"),
        ("broker: {websocket: {origins: ['https://Farm.example']}}", "small letters"),
        ("broker: {websocket: {origins: ['https://farm.example:443']}}", "without the scheme's own port"),
        ("broker: {websocket: {origins: ['http://farm.example:x']}}", "is no origin"),
    ],
)
def test_a_contradiction_is_named_with_its_place(tmp_path: Path, text: str, wanted: str) -> None:
    faults = [str(fault) for fault in read(config_file(tmp_path, text), {}).faults]
    assert len(faults) == 1, faults
    assert wanted in faults[0]


@pytest.mark.parametrize("origin", ["https://farm.example", "http://farm.example:8080", "null"])
def test_an_origin_as_browsers_write_it_is_accepted(tmp_path: Path, origin: str) -> None:
    text = f"broker: {{websocket: {{enabled: true, origins: ['{origin}']}}}}"
    assert load(config_file(tmp_path, text), {}).broker.websocket.origins == (origin,)


def test_browsers_on_the_network_without_tls_are_warned_about(tmp_path: Path) -> None:
    text = "broker: {websocket: {enabled: true, host: 192.0.2.1}}"
    notes = [str(note) for note in read(config_file(tmp_path, text), {}).notes]
    assert any("broker.websocket.tls" in note and "unencrypted" in note for note in notes)


def test_each_section_becomes_a_listener_and_its_certificate_is_read_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["certificates", "--folder", str(tmp_path), "--name", "barn.example"])
    assert done.exit_code == 0, done.output
    assert "fingerprint: SHA-256 " in done.output
    assert "barn.example" in done.output
    again = CliRunner().invoke(app, ["certificates", "--folder", str(tmp_path)])
    assert "nothing to do" in again.output
    text = (
        f"broker: {{tls: {{enabled: true, certificate: {tmp_path}/server.crt, key: {tmp_path}/server.key, "
        "client_certificates: optional}, websocket: {enabled: true, tls: true, host: 127.0.0.2}}"
    )
    config = load(config_file(tmp_path, text), {})
    plain, tls, websocket = wiring.listeners(config)
    assert [str(one) for one in (plain, tls, websocket)] == [
        "mqtt://127.0.0.1:1883",
        "mqtts://127.0.0.1:8883",
        "wss://127.0.0.2:9001",
    ]
    assert tls.tls is websocket.tls is not None
    at = {year: int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000) for year in (2026, 2090)}
    assert wiring.certificate_note(config, at[2026]) is None
    note = wiring.certificate_note(config, at[2090])
    assert note is not None
    assert "expired on" in note
    assert "barn-gateway certificates" in note


def test_a_device_certificate_comes_with_a_line_to_try_it(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["certificates", "--folder", str(tmp_path)])
    done = CliRunner().invoke(
        app, ["certificates", "--folder", str(tmp_path), "--device", "COW_001", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "mosquitto_pub -h localhost -p 8883 --cafile" in done.output
    assert (tmp_path / "COW_001.crt").exists()


def test_a_foreign_certificate_is_not_the_commands_to_make(tmp_path: Path) -> None:
    file = config_file(tmp_path, "broker: {tls: {certificate: /etc/ssl/mine.pem}}")
    done = CliRunner().invoke(app, ["certificates", "--config", str(file)])
    assert isinstance(done.exception, ConfigError)
    assert "--folder" in done.exception.hint


def test_a_listener_without_its_certificate_says_how_to_get_one(tmp_path: Path) -> None:
    text = f"broker: {{tls: {{enabled: true, certificate: {tmp_path}/server.crt}}}}"
    with pytest.raises(ConfigError, match=r"server\.crt does not exist") as caught:
        wiring.listeners(load(config_file(tmp_path, text), {}))
    assert "barn-gateway certificates" in caught.value.hint


def test_the_demo_opens_no_listener_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        f"mqtt: {{broker_port: {free_port}}}\n"
        "broker: {tls: {enabled: true, host: 0.0.0.0}, websocket: {enabled: true, host: 0.0.0.0}}"
    )
    config = demo_config(load(config_file(tmp_path, text), {}))
    assert [str(one) for one in wiring.listeners(config)] == [f"mqtt://127.0.0.1:{free_port}"]
