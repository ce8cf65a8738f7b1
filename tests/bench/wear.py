"""`python -m tests.bench wear`: what a barn's day costs the card, at the block layer of an ext4.

The day is simulated (nobody waits), the commits are real: each is one write-ahead-log append with its
fdatasync, cut as ingest cuts them. Housekeeping runs at its hours. The store holds more than two days
before the measured hours begin, so that every hour packs one. The measured hours are extrapolated to
a day; `--hours 24` measures a whole one. Beside it, with the same readings and commits, the stores
that were not chosen.

Not in these figures: ext4's own journal, which notes the log's new modification time every five
seconds in real time. `--paced SECONDS` measures it, at real pace.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bench.barn_day import HOUR_MS, START_MS, arrivals, commits
from tests.bench.block_device import Card, format_card, mounted, why_not
from tests.bench.stores import CowFirstStore, GatewayStore, Store, TinyDbStore

ANIMALS = 200
FILLED_H = 49
"""Hours stored before measuring begins: packing (48 h behind arrival) runs in every measured hour."""
FILL_WINDOW_MS = 60_000
"""The fill is not measured and may be coarse."""
FRAMES_COMMITS = 600
CARD_BYTES = 512 * 1024 * 1024
TINY_FILLED, TINY_COMMITS = 2000, 50
"""TinyDB writes its whole file with each insert, so both are small and said."""
TARGET_GB = {500: 2.0, 5000: 0.3}
TARGET_REST_BYTES, TARGET_DELETE_S = 12.0, 0.2


class Wear(NamedTuple):
    """One store under one commit window; bytes are the block layer's."""

    commits: int
    readings: int
    written_bytes: int
    hours: float
    took_s: float
    frames: Counter[str]
    """Log frames of an average commit, by table; empty for a store without such a log."""
    rest_bytes_per_reading: float
    delete_day_s: float

    @property
    def per_reading(self) -> float:
        return self.written_bytes / self.readings

    @property
    def gb_a_day(self) -> float:
        return self.written_bytes * 24 / self.hours / 1e9


def wear(make: Callable[[Path], Store], window_ms: int, hours: int, filled_h: int = FILLED_H) -> Wear:
    """Fill, measure `hours` hours, then look at the log, at rest, and at deleting the first day."""
    with _card() as card:
        store = make(card.mount / "data")
        try:
            for hour in range(filled_h):
                _hour(store, hour, FILL_WINDOW_MS)
            before, began = card.written_bytes(), time.monotonic()
            done = [_hour(store, hour, window_ms) for hour in range(filled_h, filled_h + hours)]
            written, took_s = card.written_bytes() - before, time.monotonic() - began
            batches = commits(arrivals(ANIMALS, filled_h + hours, 1), window_ms)
            frames = store.frames([next(batches) for _ in range(FRAMES_COMMITS)])
            rest_bytes, readings = store.at_rest(START_MS + (filled_h + hours + 100) * HOUR_MS)
            delete_day_s = store.delete_first_day()
        finally:
            store.close()
    count, total = (sum(column) for column in zip(*done, strict=True))
    return Wear(count, total, written, hours, took_s, frames, rest_bytes / readings, delete_day_s)


def _hour(store: Store, hour: int, window_ms: int) -> tuple[int, int]:
    """One hour of the barn and the housekeeping at its end; returns commits and readings."""
    count = total = 0
    for batch in commits(arrivals(ANIMALS, hour, 1), window_ms):
        store.put(batch)
        count, total = count + 1, total + len(batch)
    store.hour_passed(START_MS + (hour + 1) * HOUR_MS)
    return count, total


def tiny_wear() -> Wear:
    """TinyDB's default storage with a few documents, one insert a commit of the 500 ms window."""
    with _card() as card:
        store = TinyDbStore(card.mount / "data")
        batches = commits(arrivals(ANIMALS, 0, 1), 500)
        filled = 0
        fill = []
        while filled < TINY_FILLED:
            fill.extend(next(batches))
            filled = len(fill)
        store.put(fill)
        before, began = card.written_bytes(), time.monotonic()
        measured = [next(batches) for _ in range(TINY_COMMITS)]
        for batch in measured:
            store.put(batch)
        written, took_s = card.written_bytes() - before, time.monotonic() - began
        total = sum(map(len, measured))
        rest_bytes, readings = store.at_rest(0)
        delete_day_s = store.delete_first_day()
        store.close()
    hours = total / (ANIMALS * 60)
    return Wear(TINY_COMMITS, total, written, hours, took_s, Counter(), rest_bytes / readings, delete_day_s)


def paced(window_ms: int, seconds: int) -> tuple[float, int]:
    """(GB a day, commits) at the barn's real pace: with what ext4 writes by the clock."""
    with _card() as card:
        store = GatewayStore(card.mount / "data")
        try:
            _hour(store, 0, FILL_WINDOW_MS)
            _hour(store, 1, FILL_WINDOW_MS)
            before, began, count = card.written_bytes(), time.monotonic(), 0
            from_ms = START_MS + 2 * HOUR_MS
            for batch in commits(arrivals(ANIMALS, 2, 1), window_ms):
                due_s = (batch[0].received_ms + window_ms - from_ms) / 1000
                if due_s > seconds:
                    break
                time.sleep(max(0.0, due_s - (time.monotonic() - began)))
                store.put(batch)
                count += 1
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            written = card.traffic().written_bytes - before  # no sync: the clock's own writes only
        finally:
            store.close()
    return written * 86_400 / seconds / 1e9, count


class _card:  # noqa: N801 - a context manager used like a function
    """A formatted, mounted card that is gone afterwards."""

    def __enter__(self) -> Card:
        self._home = tempfile.TemporaryDirectory()
        image = Path(self._home.name) / "card.img"
        format_card(image, CARD_BYTES)
        self._mounted = mounted(image, Path(self._home.name) / "mount")
        return self._mounted.__enter__()

    def __exit__(self, *fault: object) -> None:
        try:
            self._mounted.__exit__(None, None, None)
        finally:
            self._home.cleanup()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench wear", description=__doc__)
    parser.add_argument("--hours", type=int, default=3, help="hours measured, of a day's 24")
    parser.add_argument("--paced", type=int, default=0, metavar="SECONDS", help="also at real pace")
    options = parser.parse_args(arguments)
    why = why_not()
    if why is not None:
        print(f"wear: left out, because {why}")
        return
    hours = options.hours
    scale = "measured" if hours == 24 else f"{hours} hours measured, x 24/{hours}"
    print(
        f"wear: {ANIMALS} animals, one reading a minute, synchronous=FULL, ext4 on a loop device; "
        f"{FILLED_H} h stored before; {scale}"
    )
    rows: list[tuple[str, Wear]] = []
    for window_ms, target_gb in TARGET_GB.items():
        mine = wear(GatewayStore, window_ms, hours)
        rows.append((f"gateway, {window_ms} ms", mine))
        print(
            f"  window {window_ms} ms: {mine.gb_a_day:.2f} GB a day (target {target_gb}), "
            f"{mine.commits * 24 // hours} commits a day of {mine.readings / mine.commits:.1f} readings, "
            f"{mine.written_bytes / mine.commits / 1000:.1f} KB each"
        )
        named = ", ".join(f"{name} {n / FRAMES_COMMITS:.2f}" for name, n in mine.frames.most_common(8))
        print(f"    log frames a commit: {mine.frames.total() / FRAMES_COMMITS:.2f} ({named})")
        if options.paced:
            gb, count = paced(window_ms, options.paced)
            print(f"    at real pace for {options.paced} s: {gb:.2f} GB a day ({count} commits)")
        rows.append((f"key (cow, ts), {window_ms} ms", wear(CowFirstStore, window_ms, hours)))
    rows.append((f"TinyDB, 500 ms, {TINY_FILLED} documents stored", tiny_wear()))
    print(f"  {'store':45}{'device bytes':>14}{'bytes at rest':>15}{'delete a day':>14}   GB a day")
    for name, one in rows:
        print(
            f"  {name:45}{one.per_reading:14,.0f}{one.rest_bytes_per_reading:15.1f}"
            f"{one.delete_day_s:12.3f} s   {one.gb_a_day:8.2f}"
        )
    print(f"  per reading; targets at rest {TARGET_REST_BYTES:.0f}, delete a day {TARGET_DELETE_S} s")


if __name__ == "__main__":
    main()
