"""The `backup` section: its time of day is the trap of YAML (02:00 is 120 in base 60)."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest

from gateway.config import load
from gateway.demo import demo_config
from gateway.errors import ConfigError
from gateway.wiring import private_config


def config(tmp_path: Path, at: str) -> Path:
    file = tmp_path / "barn.yaml"
    file.write_text(f"backup:\n  directory: /media/stick\n  at: {at}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("written", "meant"),
    [('"02:00"', time(2, 0)), ("'23:59'", time(23, 59)), ("02:00", time(2, 0)), ("00:30", time(0, 30))],
)
def test_a_time_of_day_is_what_a_person_reads(tmp_path: Path, written: str, meant: time) -> None:
    found = load(config(tmp_path, written), {}).backup
    assert (found.at_local, found.directory, found.enabled, found.keep_days) == (
        meant,
        "/media/stick",
        True,
        7,
    )


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("120", 'write "120" with the quotes'),
        ("2:00", 'at: "2:00" is no time of day; write it like "02:00", in quotes'),
        ("24:00", 'at: "24:00" is no time of day'),
        ('"02:00:00"', 'at: "02:00:00" is no time of day'),
        ("noon", 'at: "noon" is no time of day'),
        ("null", "has no value"),
    ],
)
def test_what_is_no_time_of_day_is_refused_with_its_place_and_remedy(
    tmp_path: Path, written: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config(tmp_path, written), {})
    (fault,) = caught.value.faults
    assert "backup" in fault
    assert remedy in fault


def test_a_demo_and_a_replay_leave_the_barns_backups_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not private_config(tmp_path).backup.enabled
    file = tmp_path / "barn.yaml"
    file.write_text("mqtt: {broker_port: 1}\n", encoding="utf-8")
    assert not demo_config(load(file, {})).backup.enabled
