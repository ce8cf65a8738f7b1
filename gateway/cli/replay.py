"""`replay FILE`: a recording through a private gateway, with a progress bar."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli.query import ALERT_COLUMNS, as_object, print_rows
from gateway.replay import read_recording
from gateway.replay import replay as run_replay
from gateway.wiring import private_config


def replay(
    file: Annotated[
        Path, typer.Argument(readable=False, help="CSV with document 0's fields; other columns are ignored.")
    ],
    temperature: Annotated[
        float, typer.Option(min=35.0, max=42.0, help="°C, where the recording has no temperature.")
    ] = 38.6,
    store: Annotated[Path | None, typer.Option(help="Keep the private store in this new folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Push a recording through a private gateway and print the alerts it raises."""
    messages = read_recording(file, temperature)
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="barn-replay-") as scratch,
        Progress(console=console, disable=not console.is_terminal and as_json) as bar,
    ):
        task = bar.add_task(f"replaying {file.name}", total=len(messages))
        result = asyncio.run(
            run_replay(
                messages,
                private_config(store or Path(scratch)),
                progress=lambda done: bar.update(task, completed=done),
            )
        )
    if as_json:
        counts = {name: getattr(result, name) for name in ("sent", "stored", "rejected", "duplicates")}
        print(json.dumps({**counts, "alerts": [as_object(a) for a in result.alerts]}, ensure_ascii=False))
        return
    print(
        f"{result.sent} messages sent, {result.stored} stored, {result.rejected} rejected, "
        f"{result.duplicates} duplicates, {len(result.alerts)} alerts"
    )
    print_rows(result.alerts, ALERT_COLUMNS, as_json=False, nothing="no alerts")
