"""Document 0, chapter Testing, items 1–7 as written, on the real process (S0-081…093).

Its commands name no port, so they go to 1883; where something else holds that port, a
wrapper named like the client adds `-p`. The second half repeats them with random values.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import need
from tests.e2e.gateway_process import GatewayProcess, running_gateway, until

PUBLISH_VALID = """mosquitto_pub -h localhost -t "artemis/sensors/TEST_COW_001" -m '{
  "cow_id": "TEST_COW_001",
  "timestamp": "2025-11-25T14:30:00Z",
  "temperature": 38.5,
  "fxa": -0.04,
  "mya": 0.01,
  "rza": -0.88,
  "sxg": -2.88,
  "lyg": 0.14,
  "dzg": 1.87
}'
"""
PUBLISH_INVALID = """# Missing required field (temperature)
mosquitto_pub -h localhost -t "artemis/sensors/TEST_COW_002" -m '{
  "cow_id": "TEST_COW_002",
  "timestamp": "2025-11-25T14:31:00Z",
  "fxa": -0.04,
  "mya": 0.01,
  "rza": -0.88
}'

# Invalid temperature range
mosquitto_pub -h localhost -t "artemis/sensors/TEST_COW_003" -m '{
  "cow_id": "TEST_COW_003",
  "timestamp": "2025-11-25T14:32:00Z",
  "temperature": 50.0,
  "fxa": -0.04,
  "mya": 0.01,
  "rza": -0.88
}'
"""
PUBLISH_FEVER = """mosquitto_pub -h localhost -t "artemis/sensors/FEVER_TEST" -m '{
  "cow_id": "FEVER_TEST",
  "timestamp": "2025-11-25T14:35:00Z",
  "temperature": 40.5,
  "fxa": 0.01,
  "mya": 0.01,
  "rza": 0.01
}'
"""
QUERIES = """# Check raw sensor data
sqlite3 data/alert_state.db "SELECT * FROM sensor_data WHERE cow_id='TEST_COW_001' ORDER BY timestamp DESC LIMIT 5;"

# Check alerts
sqlite3 data/alert_state.db "SELECT * FROM alerts WHERE cow_id='FEVER_TEST' ORDER BY timestamp DESC LIMIT 5;"
"""  # noqa: E501 - the document's own lines
INTEGRATION_SCRIPT = """import time
import json
import paho.mqtt.client as mqtt
from datetime import datetime

# MQTT settings
broker = "localhost"
port = 1883
topic_base = "artemis/sensors"

# Create test message
def create_test_message(cow_id, temp=38.5):
    return {
        "cow_id": cow_id,
        "timestamp": datetime.utcnow().isoformat() + "Z",
        "temperature": temp,
        "fxa": -0.04,
        "mya": 0.01,
        "rza": -0.88
    }

# Publish test messages
client = mqtt.Client()
client.connect(broker, port)

for i in range(10):
    cow_id = f"TEST_COW_{i:03d}"
    message = create_test_message(cow_id, temp=38.0 + i * 0.1)
    topic = f"{topic_base}/{cow_id}"

    client.publish(topic, json.dumps(message))
    print(f"Published message for {cow_id}")
    time.sleep(1)

client.disconnect()
print("Test complete")
"""
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - (INFO|WARNING|ERROR) - .")


class Shell:
    """Runs the document's command lines in the gateway's directory."""

    def __init__(self, gateway: GatewayProcess, path: str) -> None:
        self.gateway = gateway
        self.env = {**os.environ, "PATH": path}

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", commands],
            cwd=self.gateway.home,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def first_line(self, listen: str, publish: str) -> str:
        """Publish until the listener, which takes a moment to subscribe, has heard a line."""
        heard = self.gateway.home / "heard.txt"
        with heard.open("w", encoding="utf-8") as out:
            listener = subprocess.Popen(
                ["bash", "-ec", f"exec {listen}"], cwd=self.gateway.home, env=self.env, stdout=out
            )
        try:

            def line() -> str:
                self.run(publish)
                return heard.read_text(encoding="utf-8").partition("\n")[0]

            return str(until(line, f"{listen} to hear something"))
        finally:
            listener.terminate()
            listener.wait(timeout=5)


def _port_1883_is_free() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 1883))
        except OSError:
            return False
    return True


@pytest.fixture
def shell(tmp_path: Path, free_port: int) -> Iterator[Shell]:
    clients = {name: need(name) for name in ("mosquitto_pub", "mosquitto_sub")}
    need("sqlite3")
    port, path = 1883, os.environ["PATH"]
    if not _port_1883_is_free():
        wrappers = tmp_path / "bin"
        wrappers.mkdir()
        port, path = free_port, f"{wrappers}:{path}"
        for name, real in clients.items():
            wrapper = wrappers / name
            wrapper.write_text(f'#!/bin/sh\nexec {real} -p {port} "$@"\n', encoding="utf-8")
            wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http_port = probe.getsockname()[1]
    with running_gateway(tmp_path / "barn", port, http_port) as gateway:
        yield Shell(gateway, path)


def test_items_1_to_6_as_written(shell: Shell) -> None:
    gateway = shell.gateway

    # 2. One valid message, and the statistics line (S0-082, S0-083).
    shell.run(PUBLISH_VALID)
    gateway.wait_for_log(
        " - INFO - Message stats: total=1, valid=1, invalid=0, stored=1, duplicates=0, storage_errors=0"
    )

    # 3. Two invalid messages and their lines (S0-084…087).
    shell.run(PUBLISH_INVALID)
    gateway.wait_for_log(" - ERROR - Missing required fields for cow_id=TEST_COW_002: temperature\n")
    gateway.wait_for_log(
        " - ERROR - Temperature out of range for cow_id=TEST_COW_003: 50.0°C (valid range: 35.0-42.0°C)\n"
    )

    # 1. Broker loopback (S0-081).
    hello = 'mosquitto_pub -h localhost -t "test/topic" -m "Hello MQTT"'
    assert shell.first_line('mosquitto_sub -h localhost -t "test/topic" -v', hello) == "test/topic Hello MQTT"

    # 4. Watch all sensor messages (S0-088). The message itself is a duplicate by now.
    watch = 'mosquitto_sub -h localhost -t "artemis/sensors/#" -v'
    assert shell.first_line(watch, PUBLISH_VALID) == "artemis/sensors/TEST_COW_001 {"

    # 5. One fever message raises the alert within one detector interval and lights the lamp (S0-089).
    shell.run(PUBLISH_FEVER)
    until(lambda: "fever" in gateway.get("/api/alerts"), "the fever alert")
    until(lambda: "amber" in gateway.console(), "the lamp to turn amber")

    # 6. Both queries on the running file (S0-090…092).
    readings, alerts = shell.run(QUERIES).splitlines()
    assert "TEST_COW_001|2025-11-25T14:30:00Z|38.5|-0.04|0.01|-0.88|-2.88|0.14|1.87" in readings
    assert "FEVER_TEST|2025-11-25T14:35:00Z|fever|" in alerts
    assert "warning" in alerts

    assert gateway.stop() == 0
    assert all(LINE.match(line) for line in gateway.log().splitlines())
    assert "Traceback" not in gateway.console()
    assert "Message stats: total=" in gateway.log().splitlines()[-2] + gateway.log().splitlines()[-1]


@pytest.mark.rig
def test_item_7_the_python_script(shell: Shell) -> None:
    gateway = shell.gateway
    script = INTEGRATION_SCRIPT.replace("port = 1883", f"port = {gateway.port}")
    (gateway.home / "test_mqtt_integration.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "test_mqtt_integration.py"],
        cwd=gateway.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    expected = [f"Published message for TEST_COW_{i:03d}" for i in range(10)]
    assert done.stdout.splitlines() == [*expected, "Test complete"]
    query = 'sqlite3 data/alert_state.db "SELECT cow_id, temperature FROM sensor_data ORDER BY cow_id;"'
    rows = [f"TEST_COW_{i:03d}|{38.0 + i * 0.1:.1f}" for i in range(10)]
    until(lambda: shell.run(query).splitlines() == rows, "ten stored readings")
    assert gateway.get("/api/alerts") == "[]"


@pytest.mark.rig
def test_the_same_with_random_ids_dates_and_values(shell: Shell) -> None:
    gateway = shell.gateway
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    dice = random.Random(seed)
    cow, missing, wrong, hot = dice.sample([f"HERD_{dice.choice('ABC')}_{n}" for n in range(1000)], 4)
    moment = datetime(2001, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(24 * 365 * 86400))

    def publish(cow_id: str, **changes: object) -> None:
        fields: dict[str, object] = {
            "cow_id": cow_id,
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "temperature": round(dice.uniform(38.0, 39.3), 2),
            "fxa": round(dice.uniform(-0.3, 0.3), 2),
            "mya": round(dice.uniform(-0.3, 0.3), 2),
            "rza": round(dice.uniform(-1.0, -0.8), 2),
            **changes,
        }
        message = json.dumps({name: value for name, value in fields.items() if value is not None})
        shell.run(
            f"mosquitto_pub -h localhost -q {dice.randrange(3)} -t artemis/sensors/{cow_id} -m '{message}'"
        )

    temperature = round(dice.uniform(38.0, 39.3), 2)
    publish(cow, temperature=temperature)
    publish(cow, temperature=temperature)
    publish(missing, rza=None)
    too_hot = round(dice.uniform(44.5, 90.0), 1)
    publish(wrong, temperature=too_hot)
    publish(hot, temperature=round(dice.uniform(40.5, 42.0), 2))

    gateway.wait_for_log(f" - ERROR - Missing required fields for cow_id={missing}: rza\n")
    gateway.wait_for_log(
        f" - ERROR - Temperature out of range for cow_id={wrong}: {too_hot}°C (valid range: 35.0-42.0°C)\n"
    )
    gateway.wait_for_log(
        "Message stats: total=5, valid=3, invalid=2, stored=2, duplicates=1, storage_errors=0"
    )
    iso = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    row = shell.run(f"sqlite3 data/alert_state.db \"SELECT * FROM sensor_data WHERE cow_id='{cow}';\"")
    assert f"{cow}|{iso}|{temperature}|" in row
    until(lambda: hot in gateway.get("/api/alerts?limit=10"), "the fever alert")
    alerts = shell.run("sqlite3 data/alert_state.db 'SELECT cow_id, timestamp, alert_type FROM alerts;'")
    assert alerts.splitlines() == [f"{hot}|{iso}|fever"]
