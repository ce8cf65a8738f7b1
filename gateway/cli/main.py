"""`barn-gateway run | check | readings | alerts | replay | panel-off`.

Exit codes: 0 ok, 1 configuration, 2 store, 3 network, 4 checks failed.
"""

from __future__ import annotations

import sys

import typer

from gateway import __version__
from gateway.cli import check, panel, query, replay, run
from gateway.errors import ConfigError, GatewayError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The barn gateway: broker, store, detectors, light and sound, uplink in one process.",
)
app.command("run")(run.run)
app.command("check")(check.check)
app.command("readings")(query.readings)
app.command("alerts")(query.alerts)
app.command("replay")(replay.replay)
app.command("panel-off")(panel.panel_off)


def _version(*, wanted: bool) -> None:
    if wanted:
        print(f"barn-gateway {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=lambda v: _version(wanted=v)),
) -> None:
    """Options before the command."""


def main() -> None:
    """Run a command; a fault becomes one sentence on stderr and its exit code."""
    try:
        app()
    except GatewayError as error:
        print(f"ERROR - {error}", file=sys.stderr)
        if isinstance(error, ConfigError):
            for fault in error.faults:
                print(f"  {fault}", file=sys.stderr)
        sys.exit(error.exit_code)
