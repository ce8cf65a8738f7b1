"""The service log: document 0's line format, a rotating file, the console (S0-042…046, S0-066).

Records are written by one thread of their own, so that a slow card never stalls the loop.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from gateway.errors import StoreError

QUEUE_MAX = 10_000
"""Records waiting for the card: 10,000 × about 0.5 KB is 5 MB. Beyond it records are dropped and counted."""

_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
_QUIET = ("amqtt", "transitions", "asyncio", "schedule", "aiohttp.access", "mqtt", "aiomqtt")
"""Libraries whose INFO is not for a farmer."""


class _BoundedHandler(logging.handlers.QueueHandler):
    """Drops instead of raising when the writer thread cannot keep up; `flush` waits until all is written."""

    dropped = 0

    def __init__(self) -> None:
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_MAX)
        super().__init__(self._records)

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            _BoundedHandler.dropped += 1

    def flush(self) -> None:
        self._records.join()


class _Lossy(logging.Handler):
    """A sink that a full card or a closed pipe cannot make noisy: the record is counted as dropped.

    The standard library would print a traceback of about 1 KB for each record instead, to a
    journal on the same full card, and raise from `close`, which hides why the gateway ended.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if isinstance(sys.exc_info()[1], OSError):
            _BoundedHandler.dropped += 1
        else:
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # what could not be flushed is lost; the file is closed all the same
            super().close()


class _Console(_Lossy, logging.StreamHandler[TextIO]):
    """The console."""


class _File(_Lossy, logging.handlers.RotatingFileHandler):
    """The rotating file."""


def dropped_records() -> int:
    """Log records lost since start because the disk could not keep up or was full."""
    return _BoundedHandler.dropped


@contextmanager
def service_log(
    *, level: str, log_file: Path | None, max_bytes: int, backup_count: int, console: bool
) -> Iterator[None]:
    """Log for as long as the block runs; everything queued is written before it ends.

    Raises:
        StoreError: the log file cannot be opened.
    """
    formatter = logging.Formatter(_FORMAT, "%Y-%m-%d %H:%M:%S")
    sinks: list[logging.Handler] = []
    if console:
        sinks.append(_Console(sys.stdout))
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            sinks.append(_File(log_file, maxBytes=max_bytes, backupCount=backup_count, encoding="utf-8"))
        except OSError as error:
            raise StoreError(
                f"Cannot open the log file {log_file}: {error.strerror}",
                "set logging.log_file to a place this user may write, or to null",
            ) from error
    for sink in sinks:
        sink.setFormatter(formatter)
    handler = _BoundedHandler()
    listener = logging.handlers.QueueListener(handler.queue, *sinks)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        listener.stop()
        for sink in sinks:
            sink.close()
