"""The command line as a user types it: demo, replay, check, readings, alerts; exit codes 0, 1, 2, 3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.store.database import Database
from tests.conftest import ROOT, SHARED_DATA
from tests.e2e.gateway_process import config_for, until
from tests.e2e.test_whole_barn import free_ports
from tests.store.test_store_backup import fill

HEIFER = SHARED_DATA / "neck_imu_heifer_24h" / "gateway_replay_1min.csv"
HEADER = "timestamp,cow_id,temperature,fxa,mya,rza\n"


def gateway(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def minutes(count: int, **hot: float) -> str:
    """A calm cow, one line a minute; `hot` sets temperatures by minute (m20=40.8)."""
    temperatures = [hot.get(f"m{m}", 38.6) for m in range(count)]
    lines = [f"2024-05-01T10:{m:02d}:00Z,COW_1,{t},{m % 5 / 10},0.1,-0.9" for m, t in enumerate(temperatures)]
    return HEADER + "\n".join(lines) + "\n"


@pytest.mark.skipif(not HEIFER.exists(), reason="the heifer's recording is not part of the repository")
@pytest.mark.rig
def test_a_real_heifers_day_raises_her_two_gaps_and_nothing_else(tmp_path: Path) -> None:
    done = gateway(tmp_path, "replay", str(HEIFER), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["sent"], result["stored"], result["rejected"]) == (1404, 1404, 0)
    found = [(a["kind"], a["detail"], a["onset"], a["evidence"]["duration_min"]) for a in result["alerts"]]
    assert found == [
        ("silence", "sensor_gap", "2020-08-15T00:58:00Z", 11.0),
        ("silence", "sensor_gap", "2020-08-15T20:45:00Z", 11.0),
    ]


def test_a_recorded_fever_is_found_kept_and_listed(tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text(minutes(40, m20=40.8, m21=40.9), encoding="utf-8")
    done = gateway(tmp_path, "replay", "day.csv", "--store", "kept", "--json")
    assert done.returncode == 0, done.stderr
    assert [(a["kind"], a["severity"]) for a in json.loads(done.stdout)["alerts"]] == [("fever", "critical")]

    (tmp_path / "kept.yaml").write_text("database: {path: kept/alert_state.db}\n", encoding="utf-8")
    listed = gateway(tmp_path, "alerts", "--config", "kept.yaml", "--json")
    assert [json.loads(line)["subject"] for line in listed.stdout.splitlines()] == ["COW_1"]
    newest = gateway(tmp_path, "readings", "--config", "kept.yaml", "--cow", "COW_1", "-n", "2", "--json")
    times = [json.loads(line)["timestamp"] for line in newest.stdout.splitlines()]
    assert times == ["2024-05-01T10:39:00Z", "2024-05-01T10:38:00Z"]
    assert "COW_1" in gateway(tmp_path, "readings", "--config", "kept.yaml").stdout


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (HEADER, "has no rows"),
        ("timestamp,cow_id\n", "day.csv:1: columns missing: fxa, mya, rza"),
        (HEADER + "2024-05-01T10:00:00Z,COW_1,38.6,x,0,0\n", "day.csv:2: fxa 'x' is no number"),
        (HEADER + "yesterday,COW_1,38.6,0,0,0\n", "day.csv:2: timestamp 'yesterday'"),
        (HEADER + ",COW_1,38.6,0,0,0\n", "day.csv:2: the columns cow_id and timestamp"),
    ],
)
def test_a_bad_recording_is_named_with_its_line(tmp_path: Path, content: str, names: str) -> None:
    (tmp_path / "day.csv").write_text(content, encoding="utf-8")
    done = gateway(tmp_path, "replay", "day.csv")
    assert done.returncode == 1
    assert names in done.stderr
    assert "Traceback" not in done.stderr


def test_check_lists_faults_and_says_which_schedules_have_no_detector_yet(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("{}\n", encoding="utf-8")
    good = gateway(tmp_path, "check", "good.yaml")
    assert good.returncode == 0
    assert "detector_schedules.estrus_detection: accepted, but this version has no detector" in good.stdout
    (tmp_path / "bad.yaml").write_text("mqtt:\n  qos: 7\nsite:\n  timezon: UTC\n", encoding="utf-8")
    bad = gateway(tmp_path, "check", "bad.yaml")
    assert bad.returncode == 1
    assert "bad.yaml:2: mqtt.qos" in bad.stdout
    assert "bad.yaml:4: site.timezon" in bad.stdout
    assert gateway(tmp_path, "check", "missing.yaml").returncode == 1


def test_the_shipped_configuration_has_no_fault() -> None:
    assert gateway(ROOT, "check", "config/gateway.yaml").returncode == 0


@pytest.mark.parametrize("command", ["readings", "alerts"])
def test_a_store_that_is_not_there_ends_with_2(tmp_path: Path, command: str) -> None:
    done = gateway(tmp_path, command)
    assert done.returncode == 2
    assert "alert_state.db" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize(
    "command",
    [
        ["export", "--format", "jsonl"],
        ["export"],
        ["readings"],
        ["verify-store"],
        ["backup", "--to", "saved"],
    ],
    ids=" ".join,
)
def test_output_that_finds_no_room_ends_with_a_sentence_and_2(tmp_path: Path, command: list[str]) -> None:
    db = Database.open(tmp_path / "data" / "alert_state.db")
    fill(db, 300)
    db.close_now()
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("ERROR - standard output: No space left on device")
    if command[0] == "backup":
        assert len(list((tmp_path / "saved").glob("alert_state_*.db"))) == 1


@pytest.mark.rig
def test_the_demo_shows_a_fever_within_a_minute(tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    config: dict[str, Any] = config_for(port, http_port)
    del config["detector_schedules"]  # the demo runs on the documented two minutes
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    console = tmp_path / "console.txt"
    with console.open("w", encoding="utf-8") as out:
        began_s = time.monotonic()
        demo = subprocess.Popen(
            [sys.executable, "-m", "gateway", "run", "--demo", "--config", "gateway.yaml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: "PANEL red" in console.read_text(encoding="utf-8"), "the fever", 60)
            print(f"fever after {time.monotonic() - began_s:.0f} s")
            demo.send_signal(signal.SIGINT)
            assert demo.wait(timeout=35) == 0
        finally:
            if demo.poll() is None:
                demo.kill()
                demo.wait()
    said = console.read_text(encoding="utf-8")
    assert "fever COW_003" in said
    assert "Traceback" not in said
