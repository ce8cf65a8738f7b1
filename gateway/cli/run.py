"""`run`: the service until Ctrl+C or SIGTERM, with document 0's banner and lines (S0-063…076)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway import __version__
from gateway.app import Gateway
from gateway.cli.options import ConfigFile, config_file, load_noted_config
from gateway.config import Config
from gateway.demo import demo_clock, demo_config, simulated_herd
from gateway.errors import GatewayError
from gateway.opening import StopAskedError
from gateway.wiring import machine_clock, service_log

log = logging.getLogger(__name__)

RULE: Final = "=" * 70
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
EXAMPLE_QUERY: Final = "SELECT * FROM sensor_data LIMIT 5;"


def run(
    config: ConfigFile = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="A private gateway with a simulated herd, at 60 times speed.")
    ] = False,
) -> None:
    """Run the gateway until Ctrl+C or SIGTERM."""
    _say(RULE, f"  Realtime Livestock Health Monitoring Service v{__version__}", RULE, "")
    _say(f"Loading configuration from: {config_file(config) or 'built-in defaults'}")
    loaded = load_noted_config(config)
    settings, notes = loaded.config, loaded.notes
    _say("Configuration loaded successfully", "")
    if demo:
        settings, notes = demo_config(settings), ()
    with service_log(settings):
        for note in notes:
            log.warning("%s", note)
        try:
            asyncio.run(_serve(settings, demo=demo))
        except StopAskedError as end:
            log.info("%s", end)
        except GatewayError as error:
            log.critical("%s", error)
            raise


def plainly_asked(arguments: list[str]) -> tuple[Path | None, bool] | None:
    """`run` with its options as a service gives them: configuration file, and whether it is the demo.

    Read here, because the process lives for months: typer loads pydantic to read them, 11 MB of RSS.

    Returns:
        None for another command, `--help`, and whatever typer should answer.
    """
    if arguments[:1] != ["run"]:
        return None
    file: Path | None = None
    demo = False
    words = iter(arguments[1:])
    for word in words:
        if word == "--demo":
            demo = True
            continue
        value = next(words, "") if word in {"--config", "-c"} else ""
        if not value or value.startswith("-"):
            return None
        file = Path(value)
    return file, demo


async def _serve(config: Config, *, demo: bool) -> None:
    clock = demo_clock() if demo else machine_clock()
    loop = asyncio.get_running_loop()
    try:
        gateway = Gateway(config, clock, panel_line=_say, give_up=_give_up)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, gateway.request_stop)
        async with gateway:
            _say_running(gateway, demo=demo)
            herd = simulated_herd(gateway.broker.port, clock.now_ms()) if demo else contextlib.nullcontext()
            async with herd:
                await gateway.serve()
    finally:  # only now, and then ignored: an impatient second Ctrl+C must not cut the orderly end short
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _give_up() -> None:
    """Stopping hung for 30 s (decision 32); what was acknowledged is on disk."""
    os._exit(GatewayError.exit_code)


def _say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def _say_running(gateway: Gateway, *, demo: bool) -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()  # the log is written by a thread of its own
    _say(RULE, "Service is now running - Press Ctrl+C to stop", RULE, "", "✓ Service running successfully")
    if gateway.web is not None:
        _say(f"  Status page: http://127.0.0.1:{gateway.web.port}/")
    if demo:
        _say(
            f"  Readings:    sqlite3 {gateway.config.database.path} '{EXAMPLE_QUERY}'",
            f"  Log:         tail -f {gateway.config.logging.log_file}",
            "  Watch for:   COW_003 gets a fever, COW_005's collar sticks, COW_007 falls silent",
        )
    _say("  Press Ctrl+C to stop...")
