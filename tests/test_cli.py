"""What the command line promises whoever starts it: exit codes, and a demo that stays private."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateway.cli.main import main
from gateway.cli.run import plainly_asked
from gateway.config import Config, load
from gateway.demo import FOLDER, demo_config
from gateway.errors import NetworkError, StoreError
from gateway.supervisor import CriticalTaskError


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bogus"], 1, "bogus"),
        (["run", "--nope"], 1, "--nope"),
        (["readings", "--limit", "0"], 1, "--limit"),
        (["check", "no-such.yaml"], 1, "no-such.yaml"),
        (["readings"], 2, "alert_state.db"),
        (["replay", "no-such.csv"], 1, "no-such.csv"),
        (["--version"], 0, "barn-gateway"),
        (["--help"], 0, "replay"),
    ],
)
def test_every_ending_has_the_exit_code_of_its_area(
    arguments: list[str],
    code: int,
    said: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["barn-gateway", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert (caught.value.code, said in out + err) == (code, True), out + err
    assert not any(tmp_path.iterdir())


def test_a_critical_task_ends_the_process_with_the_code_of_its_cause() -> None:
    assert CriticalTaskError("ingest", StoreError("disk gone")).exit_code == 2
    assert CriticalTaskError("look", NetworkError("no socket")).exit_code == 3
    assert CriticalTaskError("ingest", ValueError("a bug")).exit_code == 1


def test_the_demo_sends_nothing_upstream_and_listens_on_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "barn.yaml"
    file.write_text(
        "broker: {host: 0.0.0.0, allow_anonymous: true}\n"
        "service: {health_check_host: 0.0.0.0, allow_anonymous: true}\n"
        "uplink: {enabled: true, host: cloud.example}\n",
        encoding="utf-8",
    )
    demo = demo_config(load(file, {}))
    assert (demo.broker.host, demo.service.health_check_host) == ("127.0.0.1", "127.0.0.1")
    assert not demo.uplink.enabled
    assert Path(demo.database.path).parent == FOLDER
    same = msgspec.structs.asdict(demo_config(Config()))
    assert same["mqtt"] == Config().mqtt


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("run", (None, False)),
        ("run --demo", (None, True)),
        ("run --config a.yaml --demo", (Path("a.yaml"), True)),
        ("run -c a.yaml", (Path("a.yaml"), False)),
        ("run --config", None),
        ("run --config --demo", None),
        ("run --help", None),
        ("run a.yaml", None),
        ("check a.yaml", None),
        ("", None),
    ],
)
def test_a_service_start_is_read_without_typer(words: str, asked: tuple[Path | None, bool] | None) -> None:
    assert plainly_asked(words.split()) == asked


def test_a_running_gateway_does_not_carry_pydantic(tmp_path: Path) -> None:
    """11 MB of RSS for months, loaded to read two options."""
    code = (
        "import sys; sys.argv = ['barn-gateway', 'run', '--config', 'nothing.yaml']\n"
        "from gateway.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'pydantic' in sys.modules)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["1", "False"]
    assert "nothing.yaml" in done.stderr
