"""What happens when a command's output finds no reader, or no room."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from gateway.errors import StoreError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

Command = ParamSpec("Command")


def quiet_when_unread(command: Callable[Command, None]) -> Callable[Command, None]:
    """End a command that prints rows without a word when nobody reads on (`| head`): that is no fault."""

    @functools.wraps(command)
    def quietly(*args: Command.args, **kwargs: Command.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_unwritten()
            raise typer.Exit from None

    return quietly


def told_when_full(command: Callable[Command, None]) -> Callable[Command, None]:
    """End a command whose output finds no room (`> /media/stick/all.csv`) with a sentence and code 2."""

    @functools.wraps(command)
    def telling(*args: Command.args, **kwargs: Command.kwargs) -> None:
        try:
            try:
                command(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in _NO_ROOM or error.filename is not None:
                raise
            _drop_unwritten()
            raise StoreError(
                f"standard output: {error.strerror}; what was printed is not complete",
                "free space there, or write to another disk",
            ) from error

    return telling


def _drop_unwritten() -> None:
    """What is still buffered goes nowhere; otherwise Python's own flush at exit would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
