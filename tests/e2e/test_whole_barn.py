"""The main job once through: publish → store → detect → lamp → a real Mosquitto upstream (X-01, X-02)."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, need
from tests.e2e.gateway_process import config_for, running_gateway, until

FEVER = (
    '{"cow_id": "FEVER_TEST", "timestamp": "2025-11-25T14:35:00Z", "temperature": 40.5, '
    '"fxa": 0.01, "mya": 0.01, "rza": 0.01}'
)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Upstream:
    """A real Mosquitto that keeps what its one subscriber missed, and what that one has heard."""

    def __init__(self, home: Path, port: int) -> None:
        home.mkdir()
        self.port = port
        self._heard = home / "heard.txt"
        self._heard.touch()
        self._config = home / "mosquitto.conf"
        self._config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
            f"persistence true\npersistence_location {home}/\n",
            encoding="utf-8",
        )
        with self._broker():  # the subscription is there before the first message
            subprocess.run([*self._listen(), "-E"], check=True, timeout=10)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._broker(), self._heard.open("a", encoding="utf-8") as out:
            subscriber = subprocess.Popen([*self._listen(), "-v"], stdout=out)
            try:
                yield
            finally:
                subscriber.terminate()
                subscriber.wait(timeout=10)

    def heard(self, part_of_topic: str) -> list[dict[str, Any]]:
        lines = self._heard.read_text(encoding="utf-8").splitlines()
        split = (line.partition(" ") for line in lines)
        return [json.loads(payload) for topic, _, payload in split if part_of_topic in topic]

    def _listen(self) -> list[str]:
        session = ("-c", "-i", "cloud", "-q", "1", "-t", "#")
        return [need("mosquitto_sub"), "-h", "127.0.0.1", "-p", str(self.port), *session]

    @contextmanager
    def _broker(self) -> Iterator[None]:
        broker = subprocess.Popen(
            [need("mosquitto"), "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        try:
            until(listening, "mosquitto to listen")
            yield
        finally:
            broker.terminate()
            broker.wait(timeout=10)


def upstream(port: int) -> dict[str, dict[str, object]]:
    quick = {"initial_delay": 0.2, "max_delay": 0.5, "backoff_multiplier": 2}
    return {
        "mqtt": {"reconnect": quick},
        "uplink": {"enabled": True, "host": "127.0.0.1", "port": port, "readings_interval_s": 1},
    }


def test_an_alert_raised_while_the_line_is_down_arrives_upstream(tmp_path: Path) -> None:
    port, http_port, upstream_port = free_ports(3)
    cloud = Upstream(tmp_path / "cloud", upstream_port)
    publish = [need("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(port), "-q", "1"]
    with running_gateway(tmp_path / "barn", port, http_port, **upstream(upstream_port)) as gateway:
        subprocess.run([*publish, "-t", "artemis/sensors/FEVER_TEST", "-m", FEVER], check=True, timeout=10)
        until(lambda: "fever" in gateway.get("/api/alerts"), "the fever alert")
        until(lambda: "amber" in gateway.console(), "the lamp")
        gateway.wait_for_log("Failed to connect to MQTT broker: [Errno 111] Connection refused")
        with cloud.running():
            until(lambda: cloud.heard("/events/alert"), "the alert upstream")
            until(lambda: cloud.heard("/readings/FEVER_TEST"), "the reading upstream")
    (event,) = cloud.heard("/events/alert")
    assert (event["kind"], event["subject"]) == ("fever", "FEVER_TEST")
    assert event["message_id"].split(":")[2] == str(event["seq"])


def test_an_alert_is_raised_once_over_a_restart_and_keeps_its_id(tmp_path: Path) -> None:
    port, http_port, upstream_port = free_ports(3)
    cloud = Upstream(tmp_path / "cloud", upstream_port)
    publish = [need("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(port), "-q", "1"]
    message = [*publish, "-t", "artemis/sensors/FEVER_TEST", "-m", FEVER]
    second = [*publish, "-t", "artemis/sensors/FEVER_TEST", "-m", FEVER.replace("14:35", "14:55")]
    with cloud.running():
        with running_gateway(tmp_path / "barn", port, http_port, **upstream(upstream_port)) as gateway:
            subprocess.run(message, check=True, timeout=10)
            until(lambda: cloud.heard("/events/alert"), "the alert upstream")
            gateway.kill()
        with running_gateway(tmp_path / "barn", port, http_port, **upstream(upstream_port)) as gateway:
            until(lambda: "amber" in gateway.console(), "the lamp after the restart")
            subprocess.run(message, check=True, timeout=10)
            subprocess.run(second, check=True, timeout=10)
            until(lambda: "14:55" in gateway.get("/api/alerts"), "the second reading judged")
    with closing(sqlite3.connect(gateway.store)) as db:
        assert db.execute("SELECT count(*) FROM alerts WHERE cow_id = 'FEVER_TEST'").fetchone() == (1,)
    raised = [event for event in cloud.heard("/events/alert") if event["change"] == "raised"]
    assert len({event["message_id"] for event in raised}) == 1  # sent again only under its own id


def run_gateway_once(home: Path, config: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    (home / "gateway.yaml").write_text(config, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "gateway", "run", "--config", "gateway.yaml"],
        cwd=home,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_config_typo_is_named_with_its_line_and_ends_with_1(tmp_path: Path) -> None:
    done = run_gateway_once(tmp_path, "mqtt:\n  brokr_port: 1\n  qos: 7\n")
    assert done.returncode == 1
    assert "gateway.yaml:2: mqtt.brokr_port" in done.stdout + done.stderr
    assert "broker_port" in done.stdout + done.stderr
    assert "gateway.yaml:3: mqtt.qos" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_corrupt_store_is_named_kept_and_ends_with_2(tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    store = tmp_path / "data" / "alert_state.db"
    store.parent.mkdir()
    store.write_bytes(b"\x00rubbish" * 4096)
    done = run_gateway_once(tmp_path, yaml.safe_dump(config_for(port, http_port)))
    assert done.returncode == 2
    assert "alert_state.db" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert store.read_bytes() == b"\x00rubbish" * 4096


@pytest.mark.parametrize("gap_s", [0.01, 0.2])
def test_an_impatient_second_ctrl_c_does_not_cut_the_orderly_end_short(tmp_path: Path, gap_s: float) -> None:
    port, http_port = free_ports(2)
    with running_gateway(tmp_path, port, http_port) as gateway:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            gateway.process.send_signal(number)
            time.sleep(gap_s)
        assert gateway.process.wait(timeout=35) == 0
        assert "Message stats" in gateway.log()
        assert "Traceback" not in gateway.console()


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_in_use_is_named_and_ends_with_3(tmp_path: Path, which: int) -> None:
    ports = free_ports(2)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", ports[which]))
        squatter.listen()
        done = run_gateway_once(tmp_path, yaml.safe_dump(config_for(*ports)))
    assert done.returncode == 3
    assert str(ports[which]) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_farm_register_falls_back_and_says_so(tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    home = tmp_path / "barn"
    data = home / "data"
    data.mkdir(parents=True)
    (data / "farm.json").write_text('{"animals": {"1": {"cow_id": "COW', encoding="utf-8")
    good = '{"animals": {"1": {"cow_id": "COW_001", "name": "Alma"}}}'
    (data / "farm.json.previous").write_text(good, encoding="utf-8")
    with running_gateway(home, port, http_port) as gateway:
        gateway.wait_for_log("farm.json")
        assert list(data.glob("farm.json.bad-*"))


def test_an_open_door_is_warned_about_at_the_start(tmp_path: Path) -> None:
    """Decision 34."""
    port, http_port = free_ports(2)
    door = {"host": "0.0.0.0", "allow_anonymous": True}
    with running_gateway(tmp_path / "barn", port, http_port, broker=door) as gateway:
        gateway.wait_for_log("everyone who reaches 0.0.0.0 may publish and subscribe")
