"""What every command understands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.config import Config, Loaded, load_noted

CONFIG_FILES = (
    Path("config/gateway.yaml"),
    Path("config/realtime_config.yaml"),
    Path("/etc/barn-gateway/gateway.yaml"),
)
"""Looked for in this order without `--config`; the second is document 0's name, the third a Pi's."""

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", readable=False, help="Configuration file; default: config/gateway.yaml."),
]


def config_file(given: Path | None) -> Path | None:
    """The file to load: the one asked for, else the first that exists, else None."""
    if given is not None:
        return given
    return next((file for file in CONFIG_FILES if _is_there(file)), None)


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except PermissionError:  # a Pi's folder, looked at without sudo
        return False


def load_config(given: Path | None) -> Config:
    """The configuration of this call.

    Raises:
        ConfigError: every fault of the file.
    """
    return load_noted_config(given).config


def load_noted_config(given: Path | None) -> Loaded:
    """The configuration of this call and what is unwise about it.

    Raises:
        ConfigError: every fault of the file.
    """
    file = config_file(given)
    return load_noted(file) if file is not None else Loaded(Config(), ())
