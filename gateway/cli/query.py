"""`readings` and how rows are printed: the store's newest, beside a running gateway (S0-090, S0-091)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.options import ConfigFile, load_config
from gateway.core.alert_event import event_of
from gateway.core.alerts import Alert
from gateway.core.instants import plain_utc
from gateway.core.readings import Reading, wire_fields
from gateway.offline import newest_readings

Row = TypeVar("Row", Reading, Alert)

ROWS_MAX = 10_000
"""Most rows one call prints: 10,000 × about 0.3 KB is 3 MB."""

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=ROWS_MAX, help="Newest rows to show.")]
Cow = Annotated[str | None, typer.Option("--cow", help="Only this animal.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


Columns = dict[str, Callable[[Row], str]]

READING_COLUMNS: Columns[Reading] = {
    "cow": lambda r: r.cow_id,
    "time (UTC)": lambda r: plain_utc(r.timestamp_ms),
    "°C": lambda r: f"{r.temperature_c:.2f}",
    "fxa g": lambda r: f"{r.fxa_g:.3f}",
    "mya g": lambda r: f"{r.mya_g:.3f}",
    "rza g": lambda r: f"{r.rza_g:.3f}",
    "state": lambda r: r.state or "",
    "arrived (UTC)": lambda r: plain_utc(r.received_ms),
}
ALERT_COLUMNS: Columns[Alert] = {
    "id": lambda a: str(a.id),
    "since (UTC)": lambda a: plain_utc(a.onset_ms),
    "severity": lambda a: a.severity.label,
    "state": lambda a: a.state.value + (" (late)" if a.late else ""),
    "subject": lambda a: a.subject,
    "kind": lambda a: a.kind,
    "what": lambda a: a.sentence,
}


def readings(config: ConfigFile = None, cow: Cow = None, limit: Limit = 5, as_json: AsJson = False) -> None:
    """Newest stored readings."""
    rows = newest_readings(load_config(config), cow, limit)
    print_rows(rows, READING_COLUMNS, as_json=as_json, nothing="no readings stored")


def print_rows(rows: Sequence[Row], columns: Columns[Row], *, as_json: bool, nothing: str) -> None:
    """Rows as a table, or as one JSON object a line."""
    if as_json:
        for row in rows:
            print(json.dumps(as_object(row), ensure_ascii=False))
    elif not rows:
        print(nothing)
    else:
        table = Table(*columns)
        for row in rows:
            table.add_row(*(show(row) for show in columns.values()))
        console = Console()
        with console.capture() as shown:  # rich alone would end with 1 when nobody reads on
            console.print(table)
        print(shown.get(), end="")


def as_object(row: Reading | Alert) -> dict[str, Any]:
    """A row as JSON: a reading as it arrived, an alert as the outbox and MQTT show it."""
    return dict(msgspec.to_builtins(event_of(row))) if isinstance(row, Alert) else dict(wire_fields(row))
