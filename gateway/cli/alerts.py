"""`alerts`: lists and shows them; asks the running gateway to acknowledge, end or silence."""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.client import call
from gateway.cli.options import ConfigFile, load_config
from gateway.cli.printing import quiet_when_unread, told_when_full
from gateway.cli.query import ALERT_COLUMNS, AsJson, Cow, Limit, as_object, print_rows
from gateway.config import Config
from gateway.core.alert_commands import HOURS_MAX, NOTE_CHARS_MAX, WHO_CHARS_MAX
from gateway.core.instants import iso_utc, plain_utc
from gateway.errors import ChecksFailedError, ConfigError
from gateway.offline import alert_standing, newest_alerts

Number = Annotated[int, typer.Argument(min=1, max=10**18 - 1, help="The alert's id, as `alerts` lists it.")]
By = Annotated[str, typer.Option("--by", help="Who says so; default: the login name.")]
Note = Annotated[str, typer.Option("--note", help="Why; it stays in the audit.")]

app = typer.Typer(
    invoke_without_command=True, add_completion=False, help="Alerts: list, show, acknowledge, silence."
)


@app.callback()
def alerts(
    context: typer.Context,
    config: ConfigFile = None,
    cow: Cow = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Newest alerts, open and ended; or one of the commands below."""
    if context.invoked_subcommand is None:
        _list(load_config(config), cow, limit, as_json=as_json)
    elif config is not None:
        word = context.invoked_subcommand
        raise ConfigError(f"--config stands before {word}; write: alerts {word} … --config {config}")


@told_when_full
@quiet_when_unread
def _list(config: Config, cow: str | None, limit: int, *, as_json: bool) -> None:
    print_rows(newest_alerts(config, cow, limit), ALERT_COLUMNS, as_json=as_json, nothing="no alerts")


@app.command()
def ack(number: Number, config: ConfigFile = None, by: By = "", note: Note = "") -> None:
    """Acknowledge an alert: its sound stops, its light stays. Exit code 4 if somebody was first."""
    _say(call(load_config(config), "POST", f"/api/alerts/{number}/acknowledge", _word(by, note)))


@app.command()
def close(
    number: Number,
    *,
    config: ConfigFile = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="The trouble is over.")] = False,
    false: Annotated[bool, typer.Option("--false", help="There was no trouble: a false alarm.")] = False,
    by: By = "",
    note: Note = "",
) -> None:
    """End an alert. Exit code 4 if it has ended already."""
    if resolved == false:
        raise ConfigError(f"say how alert {number} ends: either --resolved or --false")
    verdict = "resolve" if resolved else "false_positive"
    _say(call(load_config(config), "POST", f"/api/alerts/{number}/{verdict}", _word(by, note)))


@app.command()
def silence(
    *,
    hours: Annotated[float, typer.Option("--hours", help=f"How long, at most {HOURS_MAX}.")],
    config: ConfigFile = None,
    cow: Annotated[str | None, typer.Option("--cow", help="Only this animal; default: all.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind of alert; default: all.")] = None,
    by: By = "",
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
) -> None:
    """Let nobody be woken for an animal, a kind of alert, or (without both) the barn."""
    if not 0 < hours <= HOURS_MAX:
        raise ConfigError(f"--hours must be more than 0 and at most {HOURS_MAX}, not {hours:g}")
    wish: dict[str, Any] = {"by": _who(by), "hours": hours, "reason": _note(reason), "origin": "cli"}
    wish |= {name: value for name, value in (("subject", cow), ("kind", kind)) if value is not None}
    made = call(load_config(config), "POST", "/api/silences", wish)
    print(f"silence {made['id']}: {_about(made)} until {_plain(made['until'])} UTC")


@app.command()
def unsilence(
    number: Annotated[int, typer.Argument(min=1, max=10**18 - 1, help="As `alerts silences` lists it.")],
    config: ConfigFile = None,
    by: By = "",
) -> None:
    """End a silence before its time."""
    call(load_config(config), "DELETE", f"/api/silences/{number}", _word(by, ""))
    print(f"silence {number} has ended")


@app.command()
def silences(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Silences that hold."""
    _silences(load_config(config), as_json=as_json)


@told_when_full
@quiet_when_unread
def _silences(config: Config, *, as_json: bool) -> None:
    held = call(config, "GET", "/api/silences")
    if as_json:
        for one in held:
            print(json.dumps(one, ensure_ascii=False))
    elif not held:
        print("no silence holds")
    else:
        rows = [
            [
                str(one["id"]),
                _about(one),
                _plain(one["until"]),
                f"{one['who']} ({one['origin']})",
                one["reason"],
            ]
            for one in held
        ]
        _print_table(("id", "about", "until (UTC)", "who", "why"), rows)


@app.command()
def show(number: Number, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """One alert with its history and who was told; reads the store, also without a running gateway."""
    _show(load_config(config), number, as_json=as_json)


@told_when_full
@quiet_when_unread
def _show(config: Config, number: int, *, as_json: bool) -> None:
    found = alert_standing(config, number)
    if found is None:
        raise ChecksFailedError(f"there is no alert {number}", "`barn-gateway alerts` lists them")
    if as_json:
        steps = [
            {
                "at": iso_utc(step.at_ms),
                "state": step.to_state,
                "severity": step.severity.label,
                "who": step.who,
                "origin": step.origin,
                "reason": step.reason,
            }
            for step in found.history
        ]
        told = [
            {"at": iso_utc(one.at_ms), "contact": one.contact, "channel": one.channel, "outcome": one.outcome}
            for one in found.told
        ]
        print(json.dumps({**as_object(found.alert), "history": steps, "told": told}, ensure_ascii=False))
        return
    print_rows([found.alert], ALERT_COLUMNS, as_json=False, nothing="")
    history = [
        [plain_utc(s.at_ms), s.to_state, s.severity.label, f"{s.who} ({s.origin})", s.reason]
        for s in found.history
    ]
    _print_table(("when (UTC)", "state", "severity", "who", "why"), history)
    if found.told:
        told_rows = [[plain_utc(one.at_ms), one.contact, one.channel, one.outcome] for one in found.told]
        _print_table(("told (UTC)", "person", "channel", "outcome"), told_rows)


def _word(by: str, note: str) -> dict[str, Any]:
    return {"by": _who(by), "note": _note(note), "origin": "cli"}


def _who(by: str) -> str:
    if len(by) > WHO_CHARS_MAX:
        raise ConfigError(f"--by has {len(by)} characters, at most {WHO_CHARS_MAX} are kept")
    if by.strip():
        return by
    try:
        return getpass.getuser()[:WHO_CHARS_MAX]
    except (OSError, KeyError):  # an account without a name
        raise ConfigError("this account has no name; say who you are with --by") from None


def _note(text: str) -> str:
    if len(text) > NOTE_CHARS_MAX:
        raise ConfigError(f"the note has {len(text)} characters, at most {NOTE_CHARS_MAX} are kept")
    return text


def _say(alert: dict[str, Any]) -> None:
    """What has become of an alert."""
    print(f"alert {alert['id']}: {alert['cow_id']} {alert['alert_type']} is {alert['status']}")


def _about(silence: dict[str, Any]) -> str:
    return " ".join(part for part in (silence["subject"], silence["kind"]) if part) or "the whole barn"


def _plain(instant: str) -> str:
    return instant[:16].replace("T", " ")


def _print_table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console = Console()
    with console.capture() as shown:  # rich alone would end with 1 when nobody reads on
        console.print(table)
    print(shown.get(), end="")
