"""Tells systemd how the process is doing (sd_notify). Called on the event loop; never blocks.

The protocol is one datagram per message to the socket named in NOTIFY_SOCKET; without that
variable (a laptop, a container) every call does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Systemd:
    """The service manager's ear.

    Args:
        environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(0)
        self.unsent = 0
        """Messages the socket did not take (manager gone or its queue full)."""
        self.watchdog_s = _watchdog_s(environ)
        """Seconds after which systemd kills a silent process; None if it does not watch."""

    def ready(self) -> None:
        """Start-up is done: units ordered after this one may start."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Still alive; send it at most every `watchdog_s` / 2."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.splitlines()))

    def close(self) -> None:
        """Release the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            # The barn must go on without its service manager; the figure shows in the status.
            self.unsent += 1


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    owner = environ.get("WATCHDOG_PID", "")
    if owner and owner != str(os.getpid()):
        return None  # the variable was inherited; somebody else is watched
    interval_us = environ.get("WATCHDOG_USEC", "")
    return int(interval_us) / 1e6 if interval_us.isdecimal() and int(interval_us) else None
