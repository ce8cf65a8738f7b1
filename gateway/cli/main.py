"""`barn-gateway run`, what looks into a store, and what keeps it: see `barn-gateway --help`.

Exit codes: 0 ok, 1 configuration, 2 store, 3 network, 4 checks failed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import (
    alerts,
    certificates,
    contact,
    device,
    panel,
    query,
    replay,
    run,
    store_commands,
    transfer,
)
from gateway.cli.check import run_check
from gateway.cli.options import CONFIG_FILES, config_file
from gateway.cli.printing import quiet_when_unread, told_when_full
from gateway.core.detection import jobs_without_detectors
from gateway.errors import ConfigError, GatewayError

TYPER_USAGE_ERROR = 2
"""What typer ends with when a command or an option is wrong; 2 is the store's code here."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The barn gateway: broker, store, detectors, light and sound, uplink in one process.",
)
app.command("run")(run.run)
app.command("readings")(told_when_full(quiet_when_unread(query.readings)))
app.add_typer(alerts.app, name="alerts")
app.command("import")(transfer.import_)
app.command("export")(told_when_full(quiet_when_unread(transfer.export)))
app.command("backup")(told_when_full(store_commands.backup))
app.command("restore")(store_commands.restore)
app.command("verify-store")(told_when_full(store_commands.verify_store))
app.command("replay")(replay.replay)
app.command("panel-off")(panel.panel_off)
app.add_typer(device.app, name="device")
app.add_typer(contact.app, name="contact")
app.command("certificates")(certificates.certificates)


@app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(readable=False, help="Default: config/gateway.yaml.")] = None,
) -> None:
    """Every fault of a configuration file at once, with its line; exit code 0 or 1."""
    chosen = config_file(file) or CONFIG_FILES[0]
    raise typer.Exit(run_check(chosen, jobs_without_detectors=jobs_without_detectors()))


def _version(*, wanted: bool) -> None:
    if wanted:
        print(f"barn-gateway {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=lambda on: _version(wanted=on)),
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run a command; a fault becomes one sentence on stderr and its exit code."""
    try:
        asked = run.plainly_asked(sys.argv[1:])
        if asked is not None:
            run.run(*asked)
        else:
            app()
    except SystemExit as end:
        if end.code == TYPER_USAGE_ERROR:
            sys.exit(ConfigError.exit_code)
        raise
    except GatewayError as error:
        print(f"ERROR - {error}", file=sys.stderr)
        if isinstance(error, ConfigError):
            for fault in error.faults:
                print(f"  {fault}", file=sys.stderr)
        sys.exit(error.exit_code)
