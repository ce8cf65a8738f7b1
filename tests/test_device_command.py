"""`barn-gateway device …` as a person types it; the register it changes is the real one."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import segno
import yaml
from typer.testing import CliRunner, Result

from gateway.cli import handout
from gateway.cli.device import CONFIG_FILES
from gateway.cli.main import app
from gateway.core.credentials import Device
from gateway.core.messages import RawMessage
from gateway.core.readings import Reading
from gateway.core.validation import Rules, parse
from gateway.errors import GatewayError
from gateway.provisioning import Door, Login
from gateway.store.devices import DeviceFile

TOKEN = "s3n6bfy4w83428qa7ju7wyzg4hm"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    configure(tmp_path, {})
    return tmp_path


def configure(home: Path, config: dict[str, Any]) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def device(*words: str) -> Result:
    return CliRunner().invoke(app, ["device", *words])


def done(*words: str) -> str:
    result = device(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refusal(*words: str) -> str:
    result = device(*words)
    assert isinstance(result.exception, GatewayError), (result.output, result.exception)
    return str(result.exception)


def lets_in(home: Path, one: str, token: str) -> bool:
    roster = DeviceFile(home / "data" / "devices.json").look().content
    assert roster is not None
    return roster.check(one, token.encode()) is not None


def password_in(text: str) -> str:
    match = re.search(r"^password +(\S+)", text, re.MULTILINE)
    assert match is not None, text
    return match[1]


def test_add_prints_a_password_that_works_and_a_line_to_try_it(home: Path) -> None:
    configure(home, {"broker": {"port": 18830}})
    shown = done("add", "COW_001")
    token = password_in(shown)
    assert lets_in(home, "COW_001", token)
    (line,) = (line.split(maxsplit=2)[2] for line in shown.splitlines() if line.startswith("try it"))
    words = shlex.split(line)
    assert words[:-1] == [
        *("mosquitto_pub", "-h", "127.0.0.1", "-p", "18830", "-i", "COW_001", "-u", "COW_001", "-P", token),
        *("-q", "1", "-t", "artemis/sensors/COW_001", "-m"),
    ]
    message = RawMessage(
        "artemis/sensors/COW_001", words[-1].encode(), "COW_001", 2**41, 0.0, 1, retain=False
    )
    assert isinstance(parse(message, Rules(), clock_trusted=False), Reading)
    assert "the broker listens on 127.0.0.1 only" in shown
    assert str(home / "data" / "devices.json") in shown


def test_a_new_password_ends_the_old_one_and_a_removed_device_has_none(home: Path) -> None:
    first = password_in(done("add", "COW_001"))
    second = password_in(done("rotate", "COW_001"))
    assert (lets_in(home, "COW_001", first), lets_in(home, "COW_001", second)) == (False, True)
    assert "removed: COW_001" in done("remove", "COW_001")
    assert not lets_in(home, "COW_001", second)


def test_a_list_shows_who_is_registered_and_no_secret(home: Path) -> None:
    assert done("list") == "no devices registered\n"
    assert not (home / "data").exists()  # looking makes nothing
    tokens = [password_in(done("add", "COW_001", "--label", "Liesl"))]
    tokens.append(
        password_in(done("add", "BASE", "--role", "concentrator", "--speaks-for", "COW_001..COW_020,X"))
    )
    table, rows = done("list"), [json.loads(line) for line in done("list", "--json").splitlines()]
    assert [(row["id"], row["role"], row["label"]) for row in rows] == [
        ("COW_001", "sensor", "Liesl"),
        ("BASE", "concentrator", ""),
    ]
    assert rows[1]["speaks_for"] == [*(f"COW_{n:03d}" for n in range(1, 21)), "X"]
    assert "+18" in table
    register = (home / "data" / "devices.json").read_text(encoding="utf-8")
    secrets = [*tokens, *re.findall(r"[0-9a-f]{64}", register)]
    assert len(secrets) == 5  # two tokens, two digests, the key
    assert not [secret for secret in secrets if secret in table or secret in json.dumps(rows)]


def test_two_hundred_collars_are_one_command_and_one_file_for_its_owner(home: Path) -> None:
    assert "200 devices with their passwords: collars.csv" in done(
        "add", "COW_001..COW_200", "--csv", "collars.csv"
    )
    file = home / "collars.csv"
    assert file.stat().st_mode & 0o777 == 0o600
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert [row["id"] for row in rows] == [f"COW_{n:03d}" for n in range(1, 201)]
    assert lets_in(home, "COW_200", rows[199]["password"])
    assert "collars.csv: is there already" in refusal("rotate", "COW_001..COW_200", "--csv", "collars.csv")
    assert lets_in(home, "COW_200", rows[199]["password"])
    done("rotate", "COW_001..COW_200", "--csv", "new.csv")
    assert not lets_in(home, "COW_200", rows[199]["password"])


def test_what_is_refused_changes_nothing_and_leaves_no_file(home: Path) -> None:
    done("add", "COW_002")
    register = home / "data" / "devices.json"
    before = register.read_bytes()
    for words, sentence in (
        (("add", "COW_001..COW_003", "--csv", "x.csv"), "COW_002: registered already; nothing was changed"),
        (("add", "A", "B"), "2 passwords need a place"),
        (("add", "A/B"), "'A/B' is no device id"),
        (("add", "BASE", "--role", "concentrator"), "a concentrator needs speaks_for"),
        (("add", "A", "--speaks-for", "all"), "only a concentrator speaks for others"),
        (("rotate", "COW_002", "NOBODY", "--csv", "x.csv"), "NOBODY: not registered; nothing was changed"),
        (("remove", "COW_002", "NOBODY"), "NOBODY: not registered; nothing was changed"),
        (("add", "A", "--csv", "no/such/folder.csv"), "No such file or directory; nothing was changed"),
    ):
        assert sentence in refusal(*words)
        assert register.read_bytes() == before, words
        assert sorted(p.name for p in home.iterdir()) == ["config", "data"], words


def test_a_register_that_refuses_leaves_no_list_of_passwords_that_never_came_into_force(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("add", "A")
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "devices.json":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert "No space left on device" in refusal("add", "C1..C9", "--csv", "x.csv")
    assert not (home / "x.csv").exists()


def test_the_code_is_black_on_white_and_holds_the_uri(home: Path) -> None:
    shown = done("add", "COW_001", "--qr")
    (link,) = (line.split()[1] for line in shown.splitlines() if line.startswith("uri"))
    rows = [line for line in shown.splitlines() if line.startswith(handout.WHITE_ON_BLACK)]
    drawn = [row.removeprefix(handout.WHITE_ON_BLACK).removesuffix(handout.PLAIN) for row in rows]
    halves = {" ": (1, 1), "\u2580": (0, 1), "\u2584": (1, 0), "\u2588": (0, 0)}  # 1 = dark
    matrix = [[halves[sign][half] for sign in row] for row in drawn for half in (0, 1)]
    expected = [list(map(int, row)) for row in segno.make(link, error="m").matrix_iter(border=4)]
    assert matrix[: len(expected)] == expected
    assert "\x1b" not in done("add", "COW_002")  # no terminal, no code unless asked for


@pytest.mark.parametrize(
    ("fields", "door", "expected"),
    [
        ({}, Door("192.0.2.7", 1883), "mqtt://A:1:t@192.0.2.7:1883/artemis/sensors/A:1"),
        ({}, Door("barn.local", 8883, tls=True), "mqtts://A:1:t@barn.local:8883/artemis/sensors/A:1"),
        ({"role": "operator"}, Door("fd00::7", 8883, tls=True), "mqtts://A:1:t@[fd00::7]:8883/"),
        ({"role": "concentrator", "speaks_for": "all"}, Door("h", 1), "mqtt://A:1:t@h:1/"),
    ],
)
def test_the_uri_says_where_who_and_what(fields: dict[str, Any], door: Door, expected: str) -> None:
    login = Login(Device(**{"id": "A:1", "role": "sensor", "digest": "0" * 64} | fields), "t")
    parts = urlsplit(handout.uri(login, door, "artemis/sensors/+"))
    assert (unquote(str(parts.username)), parts.password, parts.hostname, parts.port) == (
        *("A:1", "t"),
        *(door.host, door.port),
    )
    assert unquote(parts.geturl()) == expected


def test_the_line_to_try_knows_tls_and_shows_an_operator_alerts() -> None:
    phone = Login(Device(id="P", role="operator", digest="0" * 64), "t")
    assert handout.trial(phone, Door("h", 8883, tls=True, ca_file="/etc/x y/ca.crt"), "a/+") == (
        "mosquitto_sub -h h -p 8883 --cafile '/etc/x y/ca.crt' -i P -u P -P t -q 1 -v -t artemis/alerts/+/+"
    )
    base = Login(Device(id="B", role="concentrator", digest="0" * 64, speaks_for=("C7",)), "t")
    assert " --tls-use-os-certs " in handout.trial(base, Door("h", 8883, tls=True), "a/+")
    assert " -t a/C7 " in handout.trial(base, Door("h", 1883), "a/+")


def test_a_broker_on_all_addresses_is_named_by_one_that_others_can_reach(home: Path) -> None:
    configure(home, {"broker": {"host": "0.0.0.0"}})
    told = json.loads(done("add", "COW_001", "--json"))
    assert told["host"] not in {"0.0.0.0", ""}
    assert (told["port"], told["tls"], told["speaks_for"]) == (1883, False, [])
    assert lets_in(home, "COW_001", told["password"])


def test_beside_an_installed_gateway_that_cannot_be_read_no_other_register_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    installed = tmp_path / "etc" / "barn-gateway" / "gateway.yaml"
    monkeypatch.setattr("gateway.cli.device.CONFIG_FILES", (*CONFIG_FILES[:-1], installed))
    done("list")
    installed.parent.mkdir(parents=True)
    assert "run it with sudo" in refusal("add", "COW_001")
    assert not (tmp_path / "data").exists()
