"""The command: files, exit codes, and errors that name the option."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sensor_sim.__main__ import main
from sensor_sim.options import parse

NOW_MS = 1_763_553_605_000  # 2025-11-19T12:00:05Z
DAY = ["--start", "2025-11-19T00:00:00Z", "--duration", "2h", "--speed", "max", "--cows", "5", "--quiet"]


def test_a_file_is_byte_identical_at_any_time_and_equals_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    faults = ["--drop", "0.05", "--duplicate", "0.05", "--late", "0.05", "--fever", "COW_002@+20m"]
    for name in ("one", "two"):
        assert (
            main([*DAY, *faults, "--out", str(tmp_path / name), "--truth", str(tmp_path / f"{name}.t")]) == 0
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one.t").read_bytes() == (tmp_path / "two.t").read_bytes()
    assert main([*DAY, *faults, "--sink", "stdout"]) == 0
    assert capfd.readouterr().out == (tmp_path / "one").read_text()
    truth = [json.loads(line) for line in (tmp_path / "one.t").read_text().splitlines()]
    assert truth[0]["kind"] == "fever"
    assert {label["kind"] for label in truth} == {"fever", "drop", "duplicate", "late"}


def test_speed_does_not_change_the_bytes(tmp_path: Path):
    fast = ["--start", "2025-11-19T00:00:00Z", "--duration", "10m", "--quiet", "--cows", "3"]
    assert main([*fast, "--speed", "max", "--out", str(tmp_path / "max")]) == 0
    assert main([*fast, "--speed", "6000", "--out", str(tmp_path / "6000")]) == 0
    assert (tmp_path / "max").read_bytes() == (tmp_path / "6000").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--speed", "fast"], "--speed 'fast'"),
        (["--cows", "0"], "1 to 5000"),
        (["--cows", "many"], "--cows"),
        (["--port", "70000"], "--port 70000"),
        (["--start", "2099-01-01T00:00:00Z"], "lies in the future"),
        (["--start", "soon"], "--start 'soon'"),
        (["--duration", "6"], "'6' is no duration"),
        (["--duration", "5s"], "at least 1m"),
        (["--speed", "max", "--sink", "stdout"], "--duration"),
        (["--sink", "jsonl"], "--out FILE"),
        (["--sink", "stdout", "--out", "x"], "--out is for"),
        (["--drop", "2"], "--drop 2.0"),
        (["--fever", "COW_003"], "--fever 'COW_003'"),
        (["--stuck", "COW_044@+3m"], "COW_044 is not in the herd"),
        (["--scenario", "demo", "--cows", "2"], "at least 3 cows"),
        (["--interval", "0"], "interval"),
        (["--seed", "-1"], "seed"),
        (["--frobnicate"], "--frobnicate"),
        ([*DAY, "--out", "/nowhere/at/all"], "cannot write /nowhere/at/all"),
    ],
)
def test_wrong_options_exit_1_with_one_clear_line(
    arguments: list[str], text: str, caplog: pytest.LogCaptureFixture
):
    assert main(arguments) == 1
    assert len(caplog.records) == 1
    assert text in caplog.records[0].getMessage()


def test_help_names_every_option_and_exit_codes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for word in (
        "--fever",
        "--silent",
        "--scenario",
        "--truth",
        "--connections",
        "exit codes",
        "COW_003@+20m",
    ):
        assert word in text


def test_starts_default_to_now_in_real_time_and_to_the_past_when_faster():
    assert parse([], NOW_MS).start_ms == NOW_MS - 5_000
    assert parse(["--speed", "60"], NOW_MS).start_ms == NOW_MS - 5_000 - 6 * 3_600_000
    past = parse(["--speed", "max", "--duration", "1d", "--out", "x"], NOW_MS)
    assert past.start_ms == NOW_MS - 5_000 - 24 * 3_600_000
    assert parse(["--start", "-2h"], NOW_MS).start_ms == NOW_MS - 5_000 - 2 * 3_600_000


def test_a_reader_that_leaves_ends_the_run_quietly():
    command = f"{sys.executable} -m sensor_sim {' '.join(DAY)} --sink stdout --duration 2d | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


def test_ctrl_c_stops_a_run_cleanly():
    process = subprocess.Popen(
        [sys.executable, "-m", "sensor_sim", "--sink", "stdout", "--speed", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "12 cows, seed 1" in process.stderr.readline()
    assert process.stdout is not None
    process.terminate() if process.stdout.readline() else None
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert re.search(r"Stopped after \d+ messages", errors)


def test_a_live_run_sends_nothing_from_the_future():
    before_ms = time.time_ns() // 1_000_000
    done = subprocess.run(
        [sys.executable, "-m", "sensor_sim", "--sink", "stdout", "--speed", "100000", "--start", "-1d",
         "--duration", "23h", "--cows", "2", "--quiet"],
        capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    newest = json.loads(done.stdout.splitlines()[-1])["timestamp"]
    assert newest < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before_ms / 1000))
