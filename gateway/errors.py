"""Faults an operator can act on. Importable by every ring.

Each carries one sentence that names the place, a hint that names the remedy, and the
exit code of the command line: 1 configuration, 2 store, 3 network, 4 checks failed.
Expected outcomes (a rejected message, a line that is down) are values, not exceptions.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of all faults with a remedy.

    Args:
        message: what is wrong, and where.
        hint: what the operator can do about it; empty if the message says it.
    """

    exit_code: int = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(GatewayError):
    """The configuration cannot be used; `faults` lists every reason, one line each."""

    exit_code = 1

    def __init__(self, message: str, faults: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint)
        self.faults = faults


class StoreError(GatewayError):
    """The store or the farm register cannot be opened or written."""

    exit_code = 2


class NetworkError(GatewayError):
    """A socket cannot be opened or a peer not be reached."""

    exit_code = 3


class ChecksFailedError(GatewayError):
    """A check ran and its answer is no."""

    exit_code = 4
