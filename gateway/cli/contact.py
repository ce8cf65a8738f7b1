"""`contact add`, `change`, `remove`, `list`: who is told of alerts, and how."""

from __future__ import annotations

import json
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway import farming
from gateway.cli.options import CONFIG_FILES, ConfigFile, config_file, load_config
from gateway.config import Config
from gateway.config.languages import load_languages
from gateway.core.contacts import Address, Contact
from gateway.errors import ConfigError, GatewayError

app = typer.Typer(no_args_is_help=True, help="Who is told of alerts: add people, change them, take them out.")

MASKED = frozenset({"push", "webhook"})
"""Channels whose address is a secret in whole or in part, so that a list shows its beginning only."""


class Least(StrEnum):
    """The severity an address takes at least."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


Name = Annotated[str, typer.Argument(help="The person; stands in the record of who did what.")]
Sms = Annotated[list[str] | None, typer.Option(help="Phone number for text messages: +4915112345678.")]
Email = Annotated[list[str] | None, typer.Option(help="E-mail address.")]
Push = Annotated[
    list[str] | None, typer.Option(help="Address of a push service or chat, as apprise writes it: ntfy://…")
]
Webhook = Annotated[list[str] | None, typer.Option(help="Address that gets each alert as JSON: https://…")]
SmsLeast = Annotated[Least | None, typer.Option("--sms-severity", help="Nothing below is texted.")]
EmailLeast = Annotated[Least | None, typer.Option("--email-severity", help="Nothing below is mailed.")]
PushLeast = Annotated[Least | None, typer.Option("--push-severity", help="Nothing below is pushed.")]
WebhookLeast = Annotated[Least | None, typer.Option("--webhook-severity", help="Nothing below is sent.")]
Rung = Annotated[
    int | None,
    typer.Option(help="1 is told at once, 2 if nobody has acknowledged a critical alert for 30 min, to 9."),
]
Group = Annotated[list[str] | None, typer.Option(help="Animals they look after; without: all.")]
Kind = Annotated[list[str] | None, typer.Option(help="Trouble they are told of (fever, …); without: all.")]
Hours = Annotated[str | None, typer.Option(help="Hours of duty, 06:00-20:00; without: always.")]
Quiet = Annotated[str | None, typer.Option(help="Hours for critical alerts only, 22:00-06:00.")]
Language = Annotated[str | None, typer.Option(help="Of the messages: en, de, …")]
Summary = Annotated[
    bool | None,
    typer.Option(
        "--daily-summary/--no-daily-summary", help="Send the summary of the day.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


class _Wishes(msgspec.Struct, frozen=True):
    """What was given on the command line; None = as it was, empty = none."""

    addresses: dict[str, list[str] | None]
    severities: dict[str, Least | None]
    fields: dict[str, object]

    def applied_to(self, contact: Contact) -> Contact:
        """The contact as wished."""
        fields = {name: value for name, value in self.fields.items() if value is not None}
        addresses = tuple(one for channel in self._channels(contact) for one in self._of(channel, contact))
        return msgspec.structs.replace(contact, addresses=addresses, **fields)

    def _channels(self, contact: Contact) -> list[str]:
        """In the order the contact has them, then the new ones."""
        own = [address.channel for address in contact.addresses]
        return list(dict.fromkeys((*own, *self.addresses)))

    def _of(self, channel: str, contact: Contact) -> list[Address]:
        own = [address for address in contact.addresses if address.channel == channel]
        least, given = self.severities.get(channel), self.addresses.get(channel)
        if given is not None:
            before = own[0].severity if own else Address(channel, "").severity
            own = [Address(channel, _spelled(channel, to), before) for to in given if to]
        if least is None:
            return own
        if not own:
            raise GatewayError(
                f"--{channel}-severity: there is no {channel} address; nothing was changed",
                f"give one with --{channel}",
            )
        return [msgspec.structs.replace(address, severity=least.value) for address in own]


@app.command("add")
def add(
    name: Name,
    *,
    sms: Sms = None,
    email: Email = None,
    push: Push = None,
    webhook: Webhook = None,
    sms_severity: SmsLeast = None,
    email_severity: EmailLeast = None,
    push_severity: PushLeast = None,
    webhook_severity: WebhookLeast = None,
    rung: Rung = None,
    group: Group = None,
    kind: Kind = None,
    hours: Hours = None,
    quiet: Quiet = None,
    language: Language = None,
    daily_summary: Summary = None,
    config: ConfigFile = None,
) -> None:
    """Enter a person. Addresses may be given several times; each takes warnings and worse."""
    settings = _settings(config)
    wishes = _Wishes(
        {"sms": sms, "email": email, "push": push, "webhook": webhook},
        _severities(sms_severity, email_severity, push_severity, webhook_severity),
        {
            "rung": rung,
            "groups": _words(group),
            "kinds": _words(kind),
            "hours": hours,
            "quiet": quiet,
            "language": language,
            "daily_summary": daily_summary,
        },
    )
    new = wishes.applied_to(Contact(name))
    if not new.addresses:
        raise GatewayError(
            f"{name}: without an address nobody can be told; nothing was changed",
            "give --sms, --email, --push or --webhook",
        )
    farming.add(settings, new, languages=load_languages().keys(), say=_warn)
    _tell("added", new, settings)


@app.command("change")
def change(
    name: Name,
    *,
    sms: Sms = None,
    email: Email = None,
    push: Push = None,
    webhook: Webhook = None,
    sms_severity: SmsLeast = None,
    email_severity: EmailLeast = None,
    push_severity: PushLeast = None,
    webhook_severity: WebhookLeast = None,
    rung: Rung = None,
    group: Group = None,
    kind: Kind = None,
    hours: Hours = None,
    quiet: Quiet = None,
    language: Language = None,
    daily_summary: Summary = None,
    config: ConfigFile = None,
) -> None:
    """Change what is given and leave the rest; an empty value takes away: --quiet "", --sms ""."""
    settings = _settings(config)
    wishes = _Wishes(
        {"sms": sms, "email": email, "push": push, "webhook": webhook},
        _severities(sms_severity, email_severity, push_severity, webhook_severity),
        {
            "rung": rung,
            "groups": _words(group),
            "kinds": _words(kind),
            "hours": hours,
            "quiet": quiet,
            "language": language,
            "daily_summary": daily_summary,
        },
    )
    changed = farming.change(settings, name, wishes.applied_to, languages=load_languages().keys(), say=_warn)
    _tell("changed", changed, settings)
    if not changed.addresses:
        _warn(f"{name} has no address left and is told nothing")


@app.command("remove")
def remove(
    names: Annotated[list[str], typer.Argument(help="People, by name.")], config: ConfigFile = None
) -> None:
    """Take people out; they are told nothing any more."""
    settings = _settings(config)
    farming.remove(settings, names, say=_warn)
    for name in names:
        print(f"removed: {name}")
    _say_where(settings)


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Who is told of alerts; of addresses that hold a secret only the beginning. Exit code 1 on a fault."""
    contacts, faults = farming.contacts(_settings(config), say=_warn)
    if as_json:
        for contact in contacts:
            print(json.dumps(_shown(contact), ensure_ascii=False))
    elif not contacts and not faults:
        print("no contacts registered")
    elif contacts:
        _print_table(contacts)
    for fault in faults:
        print(f"ERROR - {fault}", file=sys.stderr)
    if faults:
        raise typer.Exit(GatewayError.exit_code)


def _severities(*given: Least | None) -> dict[str, Least | None]:
    return dict(zip(("sms", "email", "push", "webhook"), given, strict=True))


def _words(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(word for word in given if word)


def _spelled(channel: str, to: str) -> str:
    """A phone number as people write it becomes one a service takes; what is wrong is told later."""
    if channel != "sms":
        return to
    digits = re.sub(r"[\s()/.-]", "", to)
    return "+" + digits.removeprefix("00") if digits.startswith("00") else digits


def masked(address: Address) -> str:
    """An address for a screen: tokens stay out of it, wherever in a URL a service puts them."""
    if address.channel not in MASKED:
        return address.to
    try:
        parts = urlsplit(address.to)
        host = parts.hostname if parts.scheme in {"http", "https"} else None
    except ValueError:
        return "…"
    if not parts.scheme:
        return "…"
    return f"{parts.scheme}://{host}/…" if host else f"{parts.scheme}://…"


def _shown(contact: Contact) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(contact)
    shown["addresses"] = [
        {**msgspec.to_builtins(address), "to": masked(address)} for address in contact.addresses
    ]
    return shown


def _print_table(contacts: list[Contact]) -> None:
    table = Table("name", "rung", "told by", "of", "hours", "quiet", "language")
    for contact in contacts:
        ways = [f"{one.channel} {masked(one)} ({one.severity})" for one in contact.addresses]
        ways += ["daily summary"] if contact.daily_summary else []
        of = [*(f"group {word}" for word in contact.groups), *contact.kinds]
        table.add_row(
            contact.name,
            str(contact.rung),
            "\n".join(ways) or "nothing",
            "\n".join(of) or "everything",
            contact.hours or "always",
            contact.quiet or "none",
            contact.language,
        )
    console = Console(markup=False)
    with console.capture() as shown:
        console.print(table)
    print(shown.get(), end="")


def _settings(given: Path | None) -> Config:
    """The configuration; beside an installed gateway never the built-in one, which has another register."""
    if config_file(given) is None and CONFIG_FILES[-1].parent.is_dir():
        raise ConfigError(
            f"{CONFIG_FILES[-1]} cannot be read", hint="run it with sudo, or name another with --config"
        )
    return load_config(given)


def _warn(sentence: str) -> None:
    print(f"WARNING - {sentence}", file=sys.stderr)


def _tell(done: str, contact: Contact, config: Config) -> None:
    print(f"{done}: {contact.name}")
    for address in contact.addresses:
        print(f"  {address.channel} {masked(address)}: {address.severity} and worse")
    _say_where(config)


def _say_where(config: Config) -> None:
    print(
        f"register  {Path(config.store.farm_register).absolute()}; a running gateway follows within 2 seconds"
    )
