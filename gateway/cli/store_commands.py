"""`backup`, `restore`, `verify-store`: what keeps a store beyond the life of its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli.options import ConfigFile, load_config
from gateway.core.instants import plain_utc
from gateway.errors import ChecksFailedError
from gateway.upkeep import back_up, verify
from gateway.upkeep import restore as put_back


def backup(
    config: ConfigFile = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder; default: backup.directory.")] = None,
) -> None:
    """Copy store and farm register, beside a running gateway or at rest."""
    with _bar() as progress:
        made = back_up(load_config(config), to, progress)
    for name in made.given_up:
        print(f"deleted for room: {name}")
    print(f"Backup created: {made.path}")
    if made.farm is not None:
        print(f"farm register: {made.farm}")


def restore(
    file: Annotated[Path, typer.Argument(readable=False, help="A backup: backups/alert_state_….db.")],
    config: ConfigFile = None,
    farm: Annotated[
        Path | None,
        typer.Option(readable=False, help="Farm register; default: the one saved with the backup."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put a backup in the place of the store; the gateway must be stopped. Nothing is deleted."""
    settings = load_config(config)
    if not yes:
        typer.confirm(f"Put {file} in the place of {settings.database.path}?", abort=True)
    done = put_back(settings, file, farm, say=lambda step: print(f"{step} …", flush=True))
    newest = "none" if done.newest_ms is None else f"{plain_utc(done.newest_ms)} UTC"
    print(f"restored {settings.database.path}: {done.readings_n} readings, newest {newest}")
    print(f"new epoch {done.epoch}: receivers take what is sent from now on as new")
    print(f"the store before: {done.aside or 'there was none'}")
    if done.farm is None:
        print(f"farm register: {settings.store.farm_register} stays as it is, none was saved with the backup")
    else:
        print(f"farm register: from {done.farm}; the one before: {done.farm_aside or 'there was none'}")


def verify_store(
    file: Annotated[
        Path | None, typer.Argument(readable=False, help="A store or a backup; default: database.path.")
    ] = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Look at every page, packed hour and reference, beside a running gateway; exit code 0 or 4."""
    path = file or Path(load_config(config).database.path)
    with _bar() as progress:
        faults = verify(path, progress)
    if as_json:
        found = {"file": str(path), "ok": not faults, "faults": msgspec.to_builtins(faults)}
        print(json.dumps(found, ensure_ascii=False))
    elif not faults:
        print(f"{path}: ok")
    else:
        for fault in faults:
            print(f"{fault.place}: {fault.what} ({fault.remedy})")
    if faults:
        raise ChecksFailedError(f"{path}: {len(faults)} fault{'s' * (len(faults) > 1)}")


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("")

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield show
