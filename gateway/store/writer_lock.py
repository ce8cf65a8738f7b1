"""One gateway writes a store: an advisory lock beside it. Used in the thread that opens and closes.

What the lock file says when it is taken tells how the last run ended: nothing after a clean close,
a process id after a crash, and the mark `log` too if that process had a write-ahead log open.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from gateway.errors import StoreError
from gateway.store.faults import file_error

if sys.platform != "win32":
    import fcntl

_LOG_OPEN = "log"


class WriterLock:
    """Advisory lock on `<path>.lock`. Freed by the kernel when we die.

    Attributes:
        was_here: the file lay beside the store before: a gateway has used this path.
        crashed: the last holder did not close the store.
        log_expected: it had a log open then, which must still be there.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreUnavailableError: the card is full, read-only or failing.
            StoreError: another process (or this one) has the store open, or the directory
                cannot be written.
        """
        self._path = path.with_name(path.name + ".lock")
        self.was_here = self._path.exists()
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            hint = "the gateway's user must be able to write the directory"
            raise file_error(self._path, error, hint) from error
        self._found = os.pread(self._fd, 40, 0).decode("ascii", "replace")
        words = self._found.split()
        try:
            if sys.platform != "win32":
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"{path}: already in use by another gateway (pid {words[0] if words else 'unknown'})",
                "stop it first, or give this one its own database.path",
            ) from error
        self.crashed = bool(words)
        self.log_expected = _LOG_OPEN in words
        # The mark stays until the log is opened: a crash in between must not hide the first.
        self._write(f"{os.getpid()} {_LOG_OPEN if self.log_expected else ''}\n")

    def log_opened(self) -> None:
        """From now on a log lies beside the store until it is closed cleanly."""
        self._write(f"{os.getpid()} {_LOG_OPEN}\n")

    def log_closing(self) -> None:
        """SQLite folds the log into the file and removes it next."""
        self._write(f"{os.getpid()}\n")

    def release(self, *, closed: bool) -> None:
        """Free the lock. The file stays: deleting it would race with the next gateway.

        Args:
            closed: the store was open and has been closed. Otherwise everything is as it was before:
                the same words, and no lock file beside a file that is not ours.
        """
        if self._fd < 0:
            return
        self._write("" if closed else self._found)
        if not (closed or self.was_here):
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._fd)
        self._fd = -1

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the words are missing
            os.pwrite(self._fd, text.encode(), 0)
            os.ftruncate(self._fd, len(text))
