"""The store: one writer thread with the only writing connection, and a few read-only ones.

Work is a function over a sqlite3 connection. The writer thread ("store-write") runs each piece in
one transaction and answers through a future; whoever wants group commit passes one piece per batch.
Readers run in their own small pool and see what was committed, while the writer goes on.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gateway.errors import StoreError
from gateway.store.chunks import ChunkError
from gateway.store.faults import is_damage, is_store_fault, store_error
from gateway.store.held_store import HeldStore
from gateway.store.links import followed, log_of
from gateway.store.migrations import migrate, migrations
from gateway.store.opening import connect_reader, connect_writer, make_directory
from gateway.store.quarantine import Recovery, note_damage, set_aside_if_damaged, sources_of
from gateway.store.renewal import Identity, settle_identity
from gateway.store.takeover import take_over
from gateway.store.transactions import snapshot, transaction
from gateway.store.writer_lock import WriterLock

T = TypeVar("T")

Connection = sqlite3.Connection
"""What a piece of work gets; services name the type from here, sqlite3 stays in this ring."""

WRITES_WAITING_MAX = 256
"""Pieces of work that may wait for the writer. Ingest, alarm and forward keep one each in flight;
256 × 512 readings × 0.4 KB = 50 MB is the most that could hang on it."""
DAMAGED_CHUNKS_MAX = 1000
"""Packed hours noted as damaged at a time; the others are noted once these are set aside."""
READERS = 2
"""Read-only connections: one for a long chart, one that stays free for short answers."""


class Database:
    """An open store.

    Attributes:
        path: the file itself, on whatever disk it lies.
        named: the path it was opened by, maybe a link; its stem is that of the backups.
        gateway_id: made at first boot, never changes.
        epoch: random, new with every new store file (decision 39).
        identity: both, and what was taken over from a damaged store.
        recovery: what the opening had to do; None usually.
        salvage_sources: names of damaged files beside it whose readings are still to be salvaged.
        backups: the folder with copies of it.
        commits: transactions on disk since it was opened.
        failures: transactions that disk, file or lock refused since it was opened.
        slowest_write_s: the longest that one took, its way to the disk included.
    """

    @classmethod
    def open(
        cls, path: Path, now_ms: int | None = None, backups: Path | None = None, *, timeout_s: float = 5.0
    ) -> Database:
        """Open or create the store, bring its schema up to date and start the writer thread.

        A damaged store is set aside and a new one takes its place at once (`recovery` tells).

        Args:
            path: the file, or a link to it; its directory is created, that of a link's target is not.
            now_ms: UTC epoch milliseconds, names a damaged file `.bad-<time>`; default: now.
            backups: folder whose newest backup fills what a damaged store cannot give; default:
                `backups` beside it.
            timeout_s: how long to wait for a lock that another program holds (S0-035).

        Raises:
            StoreUnavailableError: card full, read-only or failing, or the store is locked: later.
            StoreError: not a store, in use by another gateway, or not writable. Either way the
                file is left as it is.
        """
        make_directory(path)
        folder = path.parent / "backups" if backups is None else backups
        named, path = path, followed(path)
        lock = WriterLock(path)
        log = log_of(path)
        had_log = log.exists()
        stamp_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        try:
            recovery = set_aside_if_damaged(path, lock, timeout_s, stamp_ms)
            db = connect_writer(path, timeout_s)
            try:
                lock.log_opened()
                migrate(db, migrations())
                take_over(db)
                identity = settle_identity(path, db, recovery, folder, named)
                sources = sources_of(db)
            except BaseException:  # closed, then raised again
                db.close()
                raise
        except BaseException as error:  # given back, then raised again
            lock.release(closed=had_log and not log.exists())
            if isinstance(error, sqlite3.Error):
                raise store_error(path, error) from error
            raise
        database = cls(path, db, lock, identity, timeout_s=timeout_s)
        database.recovery = recovery
        database.salvage_sources = sources
        database.backups = folder
        database.named = named
        return database

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        lock: WriterLock,
        identity: Identity,
        *,
        timeout_s: float,
    ) -> None:
        self.path = path
        self.identity = identity
        self.gateway_id = identity.gateway_id
        self.epoch = identity.epoch
        self.recovery: Recovery | None = None
        self.salvage_sources: tuple[str, ...] = ()
        self.backups = path.parent
        self.named = path
        self.commits = 0
        self.failures = 0
        self.slowest_write_s = 0.0
        self._damage: Future[None] = Future()
        self._damaged_chunks: dict[tuple[int, int], str] = {}
        self._lock = lock
        self._timeout_s = timeout_s
        self._writer = writer
        self._closing = threading.Lock()
        self._closed = False
        self._jobs: queue.Queue[_Job | None] = queue.Queue(WRITES_WAITING_MAX)
        self._readers: queue.LifoQueue[sqlite3.Connection | None] = queue.LifoQueue()
        for _ in range(READERS):
            self._readers.put(None)  # connections are made when first wanted
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._thread = threading.Thread(target=self._write_jobs, name="store-write", daemon=True)
        self._thread.start()

    async def watch(self) -> None:
        """Wait for damage that reader or writer meets; runs as long as there is none.

        Raises:
            StoreDamagedError: the store must be closed; its next opening sets it aside.
        """
        await asyncio.shield(asyncio.wrap_future(self._damage))

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction in the writer thread; returns once it is on disk.

        A caller that is cancelled before its turn leaves no trace; after that it is committed.

        Raises:
            StoreError: full, I/O error, read-only, locked …; rolled back, the store stays usable.
                Its message is SQLite's own, its cause the sqlite3 error.
            Exception: whatever `work` raised, after the rollback.
        """
        answer: asyncio.Future[T] = asyncio.wrap_future(self._submit(work))
        return await answer

    def write_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same, blocking: for the command line and for worker threads."""
        answer: Future[T] = self._submit(work)
        return answer.result()

    async def heartbeat(self) -> None:
        """Return when the writer thread has answered; a hung disk is silence (decision 41)."""
        await asyncio.wrap_future(self._submit(None))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` over one snapshot, on a read-only connection in the reader pool.

        Raises:
            StoreError: as for `write`.
        """
        if self._closed:
            raise self._closed_error()
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.read_now, work)

    def read_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same, blocking, in the caller's thread: for the command line and worker threads."""
        db = self._readers.get()
        try:
            if self._closed:
                raise self._closed_error()
            if db is None:
                db = connect_reader(self.path, self._timeout_s)
            with snapshot(db):
                return work(db)
        except ChunkError as error:
            self._note_chunk(error)
            raise
        except sqlite3.Error as error:
            if not is_store_fault(error):
                raise
            raise self._fault(error) from error
        finally:
            self._readers.put(db)

    def damaged_chunks(self) -> list[tuple[tuple[int, int], str]]:
        """(hour, animal) of packed hours that a reader could not read, with the fault.

        For the housekeeping, which sets them aside and forgets them here.
        """
        return list(self._damaged_chunks.items())

    def forget_damaged(self, slice_: tuple[int, int]) -> None:
        """A packed hour is out of the way."""
        self._damaged_chunks.pop(slice_, None)

    def _note_chunk(self, error: ChunkError) -> None:
        if error.slice_ is not None and len(self._damaged_chunks) < DAMAGED_CHUNKS_MAX:
            self._damaged_chunks[error.slice_] = error.message

    def hold_now(self) -> HeldStore:
        """The store as it is now, for several pieces of work; blocking.

        It keeps one of the readers, and the log from being reset, until it is closed; `close` of
        the store waits for that.

        Raises:
            StoreError: as for `write`.
        """
        db = self._readers.get()
        held: HeldStore | None = None
        try:
            if self._closed:
                raise self._closed_error()
            if db is None:
                db = connect_reader(self.path, self._timeout_s)
            held = HeldStore(self.path, db, self._readers.put, self._fault, self._note_chunk)
        except sqlite3.Error as error:
            raise self._fault(error) from error
        finally:
            if held is None:
                self._readers.put(db)
        return held

    @property
    def writes_waiting(self) -> int:
        """Pieces of work in front of the writer, at most WRITES_WAITING_MAX."""
        return self._jobs.qsize()

    def size_bytes(self) -> int:
        """Bytes on disk: the file and its log (S0-105)."""
        names = (self.path.name, self.path.name + "-wal")
        files = (self.path.with_name(name) for name in names)
        return sum(file.stat().st_size for file in files if file.exists())

    async def close(self) -> None:
        """Finish what waits, then close. Idempotent."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """The same, blocking."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        self._pool.shutdown(wait=True)
        for _ in range(READERS):
            db = self._readers.get()
            if db is not None:
                db.close()
        for _ in range(READERS):
            self._readers.put(None)  # whoever still waits for one wakes and is told
        # The last connection folds the log into the file; if it cannot, the log stays valid.
        self._lock.log_closing()
        self._writer.close()
        self._lock.release(closed=True)

    def _submit(self, work: Callable[[sqlite3.Connection], Any] | None) -> Future[Any]:
        job = _Job(work)
        with self._closing:
            if self._closed:
                raise self._closed_error()
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise StoreError(
                    f"{self.path}: {WRITES_WAITING_MAX} writes wait for the disk already",
                    "the card is too slow or hangs; check dmesg",
                ) from None
        return job.answer

    def _fault(self, error: sqlite3.Error) -> StoreError:
        """The error to tell; damage is noted beside the store and ends `watch`."""
        fault = store_error(self.path, error)
        if is_damage(error):
            with self._closing:
                first = not (self._damage.done() or self._closed)
                if first:
                    note_damage(self.path, self.epoch, str(error))
                    self._damage.set_exception(fault)
        return fault

    def _closed_error(self) -> StoreError:
        return StoreError(f"{self.path}: the store is closed")

    def _write_jobs(self) -> None:
        """The writer thread: one job after the other until the closing mark."""
        while (job := self._jobs.get()) is not None:
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                result = None if job.work is None else self._transact(job.work)
            except BaseException as error:  # noqa: BLE001 - belongs to the caller, whatever it is
                job.answer.set_exception(error)
            else:
                job.answer.set_result(result)
            del job  # or the last batch would stay in memory until the next one

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        began_s = time.perf_counter()
        try:
            with transaction(self._writer):
                result = work(self._writer)
        except sqlite3.Error as error:
            if not is_store_fault(error):
                raise
            self.failures += 1
            raise self._fault(error) from error
        self.commits += 1
        self.slowest_write_s = max(self.slowest_write_s, time.perf_counter() - began_s)
        return result


class _Job:
    """One piece of work and the future its caller waits on; no work = answer only."""

    __slots__ = ("answer", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any] | None) -> None:
        self.work = work
        self.answer: Future[Any] = Future()
