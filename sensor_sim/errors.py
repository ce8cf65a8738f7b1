"""Faults that end the simulator, each with its exit code: 1 usage or file, 3 network."""

from __future__ import annotations

from typing import ClassVar


class SimError(Exception):
    """The run cannot be done as asked; the text names the option or file and the remedy."""

    exit_code: ClassVar[int] = 1


class SimNetworkError(SimError):
    """The broker was not reached, or did not take everything."""

    exit_code = 3
