"""`device add`, `rotate`, `remove`, `list`: who may speak (decision 34)."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway import provisioning
from gateway.cli import handout
from gateway.cli.options import CONFIG_FILES, ConfigFile, config_file, load_config
from gateway.config import Config
from gateway.core.credentials import ALL, Device, spelled_out
from gateway.core.instants import plain_utc
from gateway.errors import ConfigError, GatewayError
from gateway.provisioning import Login

app = typer.Typer(no_args_is_help=True, help="Who may speak: add devices, give new passwords, put them out.")

SHOWN_IDS = 3
"""Animals of a concentrator in a table; the rest are counted."""


class RoleName(StrEnum):
    """What a device is."""

    SENSOR = "sensor"
    CONCENTRATOR = "concentrator"
    OPERATOR = "operator"


Ids = Annotated[list[str], typer.Argument(help="Ids, or a range of them: COW_001..COW_200.")]
CsvFile = Annotated[
    Path | None,
    typer.Option("--csv", help="Write ids and passwords to this new file, which only you may read."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
WithCode = Annotated[
    bool | None,
    typer.Option("--qr/--no-qr", help="Show a QR code; default: on a terminal.", show_default=False),
]


@app.command("add")
def add(
    ids: Ids,
    *,
    role: Annotated[RoleName, typer.Option(help="What it is.")] = RoleName.SENSOR,
    speaks_for: Annotated[
        str | None,
        typer.Option(help="Of a concentrator: COW_001,COW_002, a range COW_001..COW_200, or all."),
    ] = None,
    label: Annotated[str, typer.Option(help="A note for people.")] = "",
    config: ConfigFile = None,
    csv: CsvFile = None,
    as_json: AsJson = False,
    code: WithCode = None,
) -> None:
    """Register devices; prints each password, which cannot be shown again."""
    settings = _settings(config)
    wanted = _ids(ids)
    animals: tuple[str, ...] | Literal["all"] = ()
    if speaks_for is not None:
        animals = "all" if speaks_for == ALL else tuple(_ids(speaks_for.split(",")))
    _check_place(wanted, csv, as_json=as_json)
    kept = _Kept(settings, csv)
    with kept:
        provisioning.add(settings, wanted, role.value, animals, label, hand=kept.hand, say=_warn)
    kept.tell(as_json=as_json, code=code)


@app.command("rotate")
def rotate(
    ids: Ids, config: ConfigFile = None, csv: CsvFile = None, as_json: AsJson = False, code: WithCode = None
) -> None:
    """Give devices new passwords; the old ones end at once, and so do their connections.

    A client certificate of the device stays good: only `remove` shuts it out.
    """
    settings = _settings(config)
    wanted = _ids(ids)
    _check_place(wanted, csv, as_json=as_json)
    kept = _Kept(settings, csv)
    with kept:
        provisioning.rotate(settings, wanted, hand=kept.hand, say=_warn)
    kept.tell(as_json=as_json, code=code)


@app.command("remove")
def remove(ids: Ids, config: ConfigFile = None) -> None:
    """Put devices out; their connections end."""
    settings = _settings(config)
    wanted = _ids(ids)
    provisioning.remove(settings, wanted, say=_warn)
    for one in wanted:
        print(f"removed: {one}")
    _say_where(settings)


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Who is registered; shows no secrets."""
    devices = provisioning.registered(_settings(config), say=_warn)
    if as_json:
        for device in devices:
            shown = msgspec.to_builtins(device)
            del shown["digest"]
            print(json.dumps(shown, ensure_ascii=False))
    elif not devices:
        print("no devices registered")
    else:
        _print_table(devices)


class _Kept:
    """The logins of one call, and the file they were written to; a call that fails leaves no file."""

    def __init__(self, config: Config, csv: Path | None) -> None:
        self._config = config
        self._csv = csv
        self._door = provisioning.door(config)
        self._pattern = config.mqtt.topic_pattern
        self._logins: list[Login] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._logins and self._csv is not None:
            self._csv.unlink(missing_ok=True)  # passwords that never came into force

    def hand(self, logins: list[Login]) -> None:
        """Before the register is changed: what cannot be kept must not come into force."""
        if self._csv is not None:
            handout.write_csv(self._csv, logins, self._door, self._pattern)
        self._logins = logins

    def tell(self, *, as_json: bool, code: bool | None) -> None:
        if as_json:
            for login in self._logins:
                print(json.dumps(handout.as_object(login, self._door, self._pattern), ensure_ascii=False))
            return
        if self._csv is not None:
            print(f"{len(self._logins)} devices with their passwords: {self._csv} (let nobody else read it)")
        else:
            self._tell_one(self._logins[0], code=sys.stdout.isatty() if code is None else code)
        if self._door.local_only:
            print(f"note: the broker listens on {self._door.host} only; broker.host opens it to the network")
        _say_where(self._config)

    def _tell_one(self, login: Login, *, code: bool) -> None:
        print(f"device    {login.device.id} ({login.device.role})")
        print(f"password  {login.token}    (is not kept; `device rotate` makes a new one)")
        print(f"try it    {handout.trial(login, self._door, self._pattern)}")
        link = handout.uri(login, self._door, self._pattern)
        print(f"uri       {link}")
        if code:
            print(handout.qr(link))


def _settings(given: Path | None) -> Config:
    """The configuration; beside an installed gateway never the built-in one, which has another register."""
    if config_file(given) is None and CONFIG_FILES[-1].parent.is_dir():
        raise ConfigError(
            f"{CONFIG_FILES[-1]} cannot be read", hint="run it with sudo, or name another with --config"
        )
    return load_config(given)


def _ids(words: list[str]) -> list[str]:
    try:
        return spelled_out(words)
    except ValueError as error:
        raise GatewayError(f"{error}; nothing was changed") from None


def _check_place(ids: list[str], csv: Path | None, *, as_json: bool) -> None:
    if len(ids) > 1 and csv is None and not as_json:
        raise GatewayError(
            f"{len(ids)} passwords need a place; nothing was changed",
            "add --csv FILE, or --json for a program",
        )


def _warn(sentence: str) -> None:
    print(f"WARNING - {sentence}", file=sys.stderr)


def _say_where(config: Config) -> None:
    print(f"register  {Path(config.broker.devices).absolute()}; a running gateway follows within 2 seconds")


def _print_table(devices: list[Device]) -> None:
    table = Table("id", "role", "speaks for", "added (UTC)", "password of (UTC)", "label")
    for device in devices:
        ids = device.speaks_for
        more = f" +{len(ids) - SHOWN_IDS}" if len(ids) > SHOWN_IDS else ""
        names = ALL if ids == ALL else " ".join(ids[:SHOWN_IDS]) + more
        times = plain_utc(device.created_ms), plain_utc(device.rotated_ms)
        table.add_row(device.id, device.role, names, *times, device.label)
    console = Console()
    with console.capture() as shown:
        console.print(table)
    print(shown.get(), end="")
