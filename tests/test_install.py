"""install.sh in a scratch root, the unit, the lock files, make and .ci/run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml

from gateway.config import Config, load

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "systemd" / "barn-gateway.service"
LOCKS = [ROOT / "requirements.lock", ROOT / "requirements-dev.lock"]

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux") and not os.environ.get("CI"), reason="installs on Linux"
)


def need(tool: str) -> str:
    """Path of a tool; in CI a missing one is a failure, elsewhere a skip."""
    found = shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{tool} is not installed")
    assert found
    return found


@pytest.fixture
def barn(tmp_path: Path) -> Path:
    """A root directory of a 64-bit Raspberry Pi OS, as far as install.sh looks."""
    (tmp_path / "etc").mkdir()
    os_release(tmp_path, "debian", "12")
    return tmp_path


def os_release(root: Path, name: str, version: str) -> None:
    (root / "etc" / "os-release").write_text(
        f'NAME="x"\nID={name}\nVERSION_ID="{version}"\n', encoding="utf-8"
    )


def install(*arguments: str | Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "install.sh"), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHON": sys.executable},
    )


def contents(root: Path) -> dict[str, tuple[bytes, int, float]]:
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime)
        for path in root.rglob("*")
        if path.is_file()
    }


@linux_only
def test_a_dry_run_prints_every_step_and_changes_nothing(barn: Path) -> None:
    before = contents(barn)
    done = install("--dry-run", "--root", barn)
    assert done.returncode == 0, done.stderr
    assert contents(barn) == before
    for step in (
        f"would write: {barn}/etc/barn-gateway/gateway.yaml",
        "-m venv",
        "--require-hashes -r",
        "--no-deps --no-build-isolation",
        "bin/barn-gateway check ",
        f"bin/barn-gateway certificates --folder {barn}/etc/barn-gateway/certificates",
        f"would run: mv -fT {barn}/opt/barn-gateway/current.new",
        f"would run: ln -sfn /opt/barn-gateway/current/bin/barn-gateway {barn}/usr/local/bin/barn-gateway",
        f"would write: {barn}/etc/systemd/system/barn-gateway.service",
        "nothing was changed",
    ):
        assert step in done.stdout


@linux_only
def test_a_dry_run_of_the_real_thing_needs_no_root() -> None:
    done = install("--dry-run")
    assert done.returncode == 0, done.stderr
    for step in ("systemctl daemon-reload", "systemctl enable --quiet barn-gateway", "nothing was changed"):
        assert step in done.stdout


@linux_only
def test_a_second_run_changes_nothing(barn: Path) -> None:
    first = install("--root", barn, "--no-venv")
    assert first.returncode == 0, first.stderr
    after = contents(barn)
    assert set(after) == {
        "etc/os-release",
        "etc/barn-gateway/gateway.yaml",
        "etc/systemd/system/barn-gateway.service",
    }
    assert after["etc/barn-gateway/gateway.yaml"][1] & 0o777 == 0o640
    second = install("--root", barn, "--no-venv")
    assert second.returncode == 0
    assert contents(barn) == after
    assert "nothing to do: everything is as it should be" in second.stdout
    assert "wrote:" not in second.stdout


@linux_only
def test_the_configuration_for_a_pi_is_closed_and_sound(barn: Path) -> None:
    """S0-110, decisions 23 and 34."""
    install("--root", barn, "--no-venv")
    expected = Config()
    changed = {
        "broker": msgspec.structs.replace(
            expected.broker,
            open_topics=(),
            devices="/var/lib/barn-gateway/data/devices.json",
            tls=msgspec.structs.replace(
                expected.broker.tls,
                enabled=True,
                host="0.0.0.0",
                certificate="/etc/barn-gateway/certificates/server.crt",
                key="/etc/barn-gateway/certificates/server.key",
            ),
        ),
        "database": msgspec.structs.replace(
            expected.database, path="/var/lib/barn-gateway/data/alert_state.db"
        ),
        "store": msgspec.structs.replace(
            expected.store, farm_register="/var/lib/barn-gateway/data/farm.json"
        ),
        "backup": msgspec.structs.replace(expected.backup, directory="/var/lib/barn-gateway/backups"),
        "logging": msgspec.structs.replace(
            expected.logging, log_file="/var/log/barn-gateway/realtime_service.log"
        ),
    }
    found = load(barn / "etc/barn-gateway/gateway.yaml", {})
    assert found == msgspec.structs.replace(expected, **changed)
    assert found.broker.host == "127.0.0.1"


@linux_only
def test_the_plain_port_is_on_the_network_only_if_asked(barn: Path) -> None:
    done = install("--root", barn, "--no-venv", "--listen", "192.0.2.10")
    assert done.returncode == 0, done.stderr
    assert "at 192.0.2.10:1883 readings and passwords travel unencrypted" in done.stdout
    broker = yaml.safe_load((barn / "etc/barn-gateway/gateway.yaml").read_text(encoding="utf-8"))["broker"]
    assert (broker["host"], broker["allow_anonymous"], broker["tls"]["port"]) == ("192.0.2.10", False, 8883)


@linux_only
def test_an_open_broker_must_be_asked_for_by_name(barn: Path) -> None:
    done = install("--root", barn, "--no-venv", "--listen", "192.0.2.10", "--allow-anonymous")
    assert done.returncode == 0, done.stderr
    assert "warning: everyone who reaches 192.0.2.10:1883 may publish" in done.stdout
    config = load(barn / "etc/barn-gateway/gateway.yaml", {})
    assert (config.broker.host, config.broker.allow_anonymous) == ("192.0.2.10", True)
    assert (config.service.health_check_host, config.service.allow_anonymous) == ("127.0.0.1", False)


@linux_only
def test_certificates_are_made_once_and_only_root_signs(barn: Path) -> None:
    """Decision 34. The program of this checkout stands in the place of the installed one."""
    program = barn / "opt/barn-gateway/releases/stand-in/bin/barn-gateway"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m gateway "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    (barn / "opt/barn-gateway/current").symlink_to("releases/stand-in")
    script = (ROOT / "install.sh").read_text(encoding="utf-8")
    only = re.sub(r"(?m)^if \$UNINSTALL; .*$", "make_certificates; $CHANGED && say restart", script)

    def make() -> str:
        return subprocess.run(
            ["bash", "-c", only, "install.sh", "--root", str(barn), "--listen", "192.0.2.10"],
            check=False, capture_output=True, text=True, timeout=60, cwd=barn,
        ).stdout  # fmt: skip

    folder = barn / "etc/barn-gateway/certificates"
    (barn / "etc/barn-gateway").mkdir()
    first = make()
    assert "192.0.2.10" in first
    assert "restart" in first
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o640}
    before = contents(folder)
    second = make()
    assert "nothing to do" in second
    assert "restart" not in second.splitlines()
    assert contents(folder) == before


@linux_only
def test_a_configuration_that_is_there_is_never_overwritten(barn: Path) -> None:
    install("--root", barn, "--no-venv")
    mine = barn / "etc/barn-gateway/gateway.yaml"
    mine.write_text("mqtt:\n  broker_port: 1999\n", encoding="utf-8")
    done = install("--root", barn, "--no-venv")
    assert f"kept: {mine} is yours" in done.stdout
    assert load(mine, {}).mqtt.broker_port == 1999
    assert load(mine.with_name("gateway.yaml.new"), {}).mqtt.broker_port == 1883
    again = install("--root", barn, "--no-venv")
    assert "nothing to do" in again.stdout


@linux_only
def test_uninstall_keeps_data_and_purge_does_not(barn: Path) -> None:
    install("--root", barn, "--no-venv")
    for path in (
        "var/lib/barn-gateway/data/alert_state.db",
        "var/log/barn-gateway/x.log",
        "opt/barn-gateway/x",
    ):
        (barn / path).parent.mkdir(parents=True)
        (barn / path).touch()
    dry = install("--root", barn, "--uninstall", "--purge", "--dry-run")
    assert dry.returncode == 0
    assert (barn / "opt/barn-gateway/x").exists()
    done = install("--root", barn, "--uninstall")
    assert done.returncode == 0, done.stderr
    kept = set(contents(barn))
    assert kept == {
        "etc/os-release",
        "etc/barn-gateway/gateway.yaml",
        "var/lib/barn-gateway/data/alert_state.db",
        "var/log/barn-gateway/x.log",
    }
    assert install("--root", barn, "--uninstall").returncode == 0
    assert install("--root", barn, "--uninstall", "--purge").returncode == 0
    assert set(contents(barn)) == {"etc/os-release"}


@linux_only
@pytest.mark.parametrize(
    ("name", "version", "wanted"),
    [("raspbian", "12", "32-bit"), ("debian", "11", "debian 11"), ("ubuntu", "24.04", "ubuntu 24.04")],
)
def test_other_systems_are_refused_before_anything_happens(
    barn: Path, name: str, version: str, wanted: str
) -> None:
    os_release(barn, name, version)
    before = contents(barn)
    done = install("--root", barn, "--no-venv")
    assert done.returncode == 1
    assert wanted in done.stderr
    assert contents(barn) == before
    dry = install("--root", barn, "--dry-run")
    assert dry.returncode == 0
    assert "would stop:" in dry.stdout


@linux_only
@pytest.mark.parametrize(
    "arguments",
    [
        ["--purge"],
        ["--frob"],
        ["--listen"],
        ["--listen", "a;b", "--allow-anonymous"],
        ["--root", "/nowhere/at/all"],
        ["--allow-anonymous"],
    ],
)
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    done = install("--dry-run", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("install.sh: ")


@linux_only
def test_an_old_python_is_refused(barn: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "install.sh"), "--root", str(barn), "--no-venv"],
        check=False, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHON": str(old)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "older than 3.11" in done.stderr


@linux_only
@pytest.mark.soak
def test_the_whole_program_below_a_root(barn: Path) -> None:
    """Builds the real environment from the lock: minutes and a registry."""
    done = install("--root", barn, timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    program = barn / "opt/barn-gateway/current/bin/barn-gateway"
    config = barn / "etc/barn-gateway/gateway.yaml"
    assert subprocess.run([program, "check", config], check=False, timeout=60).returncode == 0
    assert "nothing to do" in install("--root", barn).stdout
    config.write_text("mqtt:\n  qos: 7\n", encoding="utf-8")
    refused = install("--root", barn)
    assert refused.returncode == 1
    assert "mqtt.qos: 7 is out of range" in refused.stdout


def test_the_shell_scripts_are_clean() -> None:
    done = subprocess.run(
        [need("shellcheck"), "install.sh", ".ci/run"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert os.access(ROOT / "install.sh", os.X_OK)
    assert os.access(ROOT / ".ci/run", os.X_OK)


def unit_values(key: str) -> list[str]:
    return [line.split("=", 1)[1] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]


def test_the_unit_is_verified_by_systemd(tmp_path: Path) -> None:
    """S0-079, S0-115. The program is not installed here, so /bin/true stands in its place."""
    text = re.sub(r"(?m)^(Exec\w+=-?)/opt/\S+", r"\1/bin/true", UNIT.read_text(encoding="utf-8"))
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [need("systemd-analyze"), "verify", str(tmp_path / UNIT.name)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_says_what_the_gateway_relies_on() -> None:
    for key, value in {
        "Type": "notify",
        "User": "barn-gateway",
        "Restart": "on-failure",
        "RestartSec": "10",
        "TimeoutStopSec": "35",
        "SupplementaryGroups": "gpio",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "WorkingDirectory": "/var/lib/barn-gateway",
    }.items():
        assert unit_values(key) == [value]
    assert int(unit_values("WatchdogSec")[0]) <= 60
    assert "LG_WD=/run/barn-gateway" in unit_values("Environment")
    assert "panel-off" in unit_values("ExecStopPost")[0]
    assert unit_values("DeviceAllow") == ["char-gpiochip rw"]


@pytest.mark.parametrize("lock", [*LOCKS, ROOT / "requirements-mutants.lock"], ids=lambda lock: lock.name)
def test_every_dependency_is_pinned_by_hash_and_no_address_is_named(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    for needle in ("://", "index-url", "find-links", "file:", "/opt", "/tmp", "/root", "/home", " @ "):
        assert needle not in text, needle
    assert text.startswith("# This file was autogenerated by uv via the following command:\n#    make lock\n")
    blocks = re.split(r"(?m)^(?=[a-zA-Z0-9])", text)[1:]
    assert len(blocks) > 20
    for block in blocks:
        assert re.match(r"[a-zA-Z0-9._-]+==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def pins(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"(?m)^([a-zA-Z0-9._-]+)==(\S+)", lock.read_text(encoding="utf-8")))


def test_the_locks_agree_with_each_other_and_with_pyproject() -> None:
    runtime, development = map(pins, LOCKS)
    assert runtime < development
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for lock, wanted in ((runtime, project["dependencies"] + extras["build"]), (development, extras["dev"])):
        locked = {name for name, _ in lock}
        for requirement in wanted:
            name = re.split(r"[^a-zA-Z0-9._-]", requirement, maxsplit=1)[0].lower()
            assert name in locked


def test_make_names_the_remedy_when_python_is_too_old(tmp_path: Path) -> None:
    make = need("make")
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "requirements-dev.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for value, wanted in ((str(old), "older than Python 3.11"), ("", "needs Python 3.11 or newer")):
        done = subprocess.run(
            [make, "-C", str(tmp_path), "run", f"PYTHON={value}"],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode != 0
        assert wanted in done.stderr
        assert "make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_run_and_make_test_are_the_two_commands() -> None:
    make = need("make")

    def recipe(target: str) -> str:
        outside_make = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        return subprocess.run(
            [make, "-n", "-o", ".venv/.runtime", "-o", ".venv/.dev", target],
            check=True, capture_output=True, text=True, cwd=ROOT, timeout=60, env=outside_make,
        ).stdout  # fmt: skip

    assert recipe("run").splitlines()[-1] == ".venv/bin/barn-gateway run --demo "
    assert 'pytest -m "not rig and not soak and not bench' in recipe("test")
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")
