"""Import and export as a user types them: cut short, beside a running gateway, into a closed pipe."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli.main import main
from gateway.config import schema as sections
from gateway.errors import NetworkError, StoreError
from gateway.store.writer_lock import WriterLock
from tests.conftest import ROOT
from tests.e2e.gateway_process import running_gateway, until
from tests.e2e.test_whole_barn import free_ports
from tests.transfer.conftest import Barn

HEADER = "cow_id,timestamp,temperature,fxa,mya,rza,sxg,lyg,dzg,state,motion_intensity\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"}


def gateway(home: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=home,
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def herd(minutes: int) -> str:
    """Ten cows, a reading a minute each, in 2025; some fields missing, as collars do."""
    rows = []
    for m in range(minutes):
        for cow in range(10):
            time = f"2025-05-{1 + m // 1440:02d}T{m // 60 % 24:02d}:{m % 60:02d}:{cow:02d}.5Z"
            state = ("lying", "walking", "")[(m + cow) % 3]
            rows.append(f"COW_{cow},{time},38.{m % 100:02d},0.{m % 10},-0.1,-0.9,{cow}.25,,,{state},\n")
    return HEADER + "".join(rows)


def stored(home: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "data" / "alert_state.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        columns = HEADER.strip()
        return db.execute(f"SELECT {columns} FROM sensor_data ORDER BY timestamp_ms, cow_id").fetchall()


def position(home: Path) -> dict[str, Any]:
    """What is remembered of the one file; empty before its first durable batch."""
    try:
        files = json.loads((home / "data" / "imports.json").read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return {}
    return dict(files[0])


@pytest.mark.parametrize(
    ("minutes", "kills"),
    [(3000, 1), pytest.param(20_000, 10, marks=pytest.mark.soak)],
    ids=["once", "ten times"],
)
def test_an_import_that_is_killed_goes_on_and_stores_every_row_once(
    tmp_path: Path, minutes: int, kills: int
) -> None:
    (tmp_path / "herd.csv").write_text(herd(minutes).replace("38.07", "48.07", 5), encoding="utf-8")
    lines = [0]
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "import", "herd.csv"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

        def moved(so_far: int = lines[-1]) -> bool:
            return bool(position(tmp_path).get("position", {}).get("line", 0) > so_far)

        until(moved, "a durable batch")
        process.kill()
        process.communicate()
        found = position(tmp_path)
        assert not found["finished"], "over before it was killed"
        lines.append(found["position"]["line"])
    last = gateway(tmp_path, "import", "herd.csv")
    assert last.returncode == 4, last.stderr
    assert f"herd.csv: going on after line {lines[-1]}" in last.stderr
    assert "5 temperature_out_of_range" in last.stderr
    assert f"{minutes * 10} read" in last.stdout
    rows = stored(tmp_path)
    assert len(rows) == minutes * 10 - 5
    assert max(Counter(row[:2] for row in rows).values()) == 1
    kept = [json.loads(line) for line in (tmp_path / "herd.csv.rejected.jsonl").read_text().splitlines()]
    assert sorted(row["line"] for row in kept) == sorted({row["line"] for row in kept})
    assert len(kept) == 5


def test_ctrl_c_stops_between_two_batches_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "herd.csv").write_text(herd(6000), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "import", "herd.csv"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: position(tmp_path), "a durable batch")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Stopped. The same command goes on where this one has stopped." in said
    assert "Traceback" not in said
    found = position(tmp_path)
    assert not found["finished"]
    assert len(stored(tmp_path)) in {found["counts"]["stored"], found["counts"]["stored"] + 1000}


def test_a_card_that_is_full_stops_the_import_and_more_room_lets_it_go_on(tmp_path: Path) -> None:
    (tmp_path / "herd.csv").write_text(herd(1500), encoding="utf-8")
    barn = Barn(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        with pytest.raises(StoreError):
            barn.load(tmp_path / "herd.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    there = len(stored(tmp_path))
    assert there == position(tmp_path)["counts"]["stored"]
    assert 0 < there < 15_000
    (done,) = barn.load(tmp_path / "herd.csv")
    assert (done.counts.read, done.counts.stored, done.counts.duplicates) == (15_000, 15_000, 0)
    assert len(stored(tmp_path)) == 15_000


@pytest.mark.rig
def test_a_running_gateway_and_a_resting_store_end_up_with_the_same_readings(tmp_path: Path) -> None:
    text = herd(120) + "COW_1,2025-05-01T10:00:00Z,48.6,0,0,0,,,,,\n" + "COW_1,,,,,\n"
    for home in ("running", "resting"):
        (tmp_path / home).mkdir()
        (tmp_path / home / "herd.csv").write_text(text, encoding="utf-8")
    running, resting = tmp_path / "running", tmp_path / "resting"
    port, http_port = free_ports(2)
    with running_gateway(running, port, http_port) as process:
        done = gateway(running, "import", "herd.csv", "--config", "gateway.yaml")
        assert done.returncode == 4, done.stderr
        assert (
            f"A gateway runs on data/alert_state.db: readings go to it over MQTT at 127.0.0.1:{port}"
            in done.stderr
        )
        assert len(done.stderr.splitlines()) == 4, done.stderr  # where to, two bad rows, the end
        assert "1202 read, 1200 acknowledged by the gateway (stored now or before), 2 rejected" in done.stdout
        exported = gateway(running, "export", "--config", "gateway.yaml", "--cow", "COW_3")
        assert exported.stdout.count("\n") == 121
        process.stop()
        process.wait_for_log("total=1200, valid=1200, invalid=0, stored=1200, duplicates=0")
    barn = Barn(resting)
    (direct,) = barn.load(resting / "herd.csv")
    assert barn.said[0].startswith("No gateway runs on ")
    assert (direct.counts.read, direct.counts.stored, direct.counts.rejected_rows) == (1202, 1200, 2)
    assert stored(running) == stored(resting)
    kept = (running / "herd.csv.rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in kept] == [1202, 1203]


@pytest.mark.soak
def test_a_gateway_killed_during_an_import_and_started_again_has_every_row_once(tmp_path: Path) -> None:
    (tmp_path / "herd.csv").write_text(herd(1000), encoding="utf-8")
    port, http_port = free_ports(2)
    with running_gateway(tmp_path, port, http_port) as barn:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "import", "herd.csv", "--config", "gateway.yaml"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(lambda: position(tmp_path), "the first durable batch")
        barn.kill()
    assert process.poll() is None, "over before the gateway was killed"
    with running_gateway(tmp_path, port, http_port):
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len({row[:2] for row in stored(tmp_path)}) == len(stored(tmp_path)) == 10_000


def test_a_store_in_use_whose_broker_is_not_there_or_another_one_is_refused(tmp_path: Path) -> None:
    port, http_port, nobody = free_ports(3)
    (tmp_path / "herd.csv").write_text(herd(4), encoding="utf-8")
    barn = Barn(tmp_path / "mine")
    lock = None
    try:
        with running_gateway(tmp_path / "other", port, http_port):
            barn.load(tmp_path / "herd.csv")
            (tmp_path / "herd.csv").write_text(herd(5).replace(".5Z", ".6Z"), encoding="utf-8")
            lock = WriterLock(Path(barn.config.database.path))
            for number, says in (
                (nobody, f"pid {os.getpid()}.*, and nobody takes readings at 127.0.0.1:{nobody}"),
                (port, f"127.0.0.1:{port} acknowledged a reading that is not in "),
            ):
                barn.config = msgspec.structs.replace(barn.config, broker=sections.Broker(port=number))
                with pytest.raises(NetworkError, match=says):
                    barn.load(tmp_path / "herd.csv")
        assert len(stored(tmp_path / "other")) == 1, "it went on after the first"
    finally:
        if lock is not None:
            lock.release(closed=True)
    assert len(stored(tmp_path / "mine")) == 40


def test_what_one_command_prints_another_takes_from_its_standard_input(tmp_path: Path) -> None:
    (tmp_path / "herd.csv").write_text(herd(30), encoding="utf-8")
    Barn(tmp_path).load(tmp_path / "herd.csv")
    newest = gateway(tmp_path, "readings", "-n", "300", "--json").stdout
    again = gateway(tmp_path, "import", "-", "--format", "jsonl", stdin=newest)
    assert "-: 300 read, 0 stored, 300 duplicates, 0 conflicts, 0 rejected" in again.stdout
    some = gateway(tmp_path, "export", "--to", "2025-05-01T00:10Z", "--cow", "COW_3", "--cow", "COW_4").stdout
    assert some.splitlines()[1] == "COW_3,2025-05-01T00:00:03.500Z,38.0,0.0,-0.1,-0.9,3.25,,,lying,"
    assert len(some.splitlines()) == 21


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["import", "none.csv"], 1, "Cannot read none.csv: No such file or directory"),
        (["import", "."], 1, ". is a directory (name the files in it, e.g. with *.csv)"),
        (["import", "-"], 1, "standard input has no suffix that tells its format"),
        (["import"], 1, "FILE"),
        (["import", "bad.csv"], 1, "bad.csv:1: columns missing: timestamp (is it 'timestmp'?)"),
        (["export"], 2, "there is no store"),
        (["export", "--from", "yesterday"], 1, "--from: 'yesterday' is no time"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_one_sentence(
    tmp_path: Path,
    arguments: list[str],
    code: int,
    says: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.csv").write_text("cow_id,timestmp,temperature,fxa,mya,rza\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["barn-gateway", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    err = capsys.readouterr().err
    assert (caught.value.code, says in err) == (code, True), err
    assert not (tmp_path / "data").exists()


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "herd.csv").write_text(herd(300), encoding="utf-8")
    Barn(tmp_path).load(tmp_path / "herd.csv")
    buffered = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    for command in ("export", "readings"):  # much at once, and little that waits for the last flush
        reading, writing = os.pipe()
        os.close(reading)  # whoever was to read is gone before the first byte
        try:
            done = subprocess.run(
                [sys.executable, "-m", "gateway", *command.split()],
                cwd=tmp_path,
                env=buffered,
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(writing)
        assert (command, done.returncode, done.stderr) == (command, 0, "")


IMPORT_AND_TELL_PEAK = """
import sys
from gateway.cli.main import main
sys.argv = ["barn-gateway", "import", "herd.csv"]
try:
    main()
finally:
    print(open("/proc/self/status").read())
"""


@pytest.mark.soak
def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    peaks_kb = []
    for name, minutes in (("small", 2000), ("large", 40_000)):
        home = tmp_path / name
        home.mkdir()
        with (home / "herd.csv").open("w", encoding="utf-8") as file:
            file.write(HEADER)
            for month in range(1, 1 + -(-minutes // 40_000)):
                text = herd(min(minutes, 40_000)).removeprefix(HEADER)
                file.write(text.replace("2025-05", f"2025-{month:02d}"))
        done = subprocess.run(
            [sys.executable, "-c", IMPORT_AND_TELL_PEAK],
            cwd=home,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks_kb.append(int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]))
        print(done.stdout.splitlines()[0], f"{peaks_kb[-1] / 1024:.0f} MB")
    assert peaks_kb[1] - peaks_kb[0] < 20 * 1024, peaks_kb
