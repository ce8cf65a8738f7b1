"""Bits flipped in the keys of a store: what the pages' own order proves is believed, the rest is told."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from gateway.core.readings import Reading
from gateway.store import newest, readings, salvage_walk
from gateway.store.database import Database
from gateway.store.salvage import Tally
from gateway.store.salvage_order import JUDGED_TOGETHER, STRAYED, Gap, Order, Row
from gateway.store.salvage_readings import HOT, Source, spans_ms
from gateway.store.salvage_walk import Table, rows
from tests.store import damage
from tests.store.damage import PAGE

T0 = 1_764_028_800_000  # 2025-11-25T00:00:00Z
NOW = T0 + 86_400_000
COWS, MINUTES = 4, 600
BATCH = [
    Reading(f"COW_{cow}", T0 + 60_000 * minute, 38.5, 0.1, 0.2, -0.9, received_ms=T0 + 60_000 * minute + cow)
    for minute in range(MINUTES)
    for cow in range(COWS)
]


class Barn(NamedTuple):
    """A store at rest; where each reading's key stands in the file, by age."""

    data: bytes
    keys: list[int]
    at: list[int]
    leaves: list[int]

    def __repr__(self) -> str:
        return f"Barn({len(self.data)} bytes)"

    def flipped(self, row: int, bit: int) -> tuple[bytes, int]:
        """The file with one bit of a row's key flipped, counted from the lowest; and that key then."""
        byte, place = divmod(bit, 7)  # of a varint of eight bytes, seven bits in each
        data = bytearray(self.data)
        data[self.at[row] + 7 - byte] ^= 1 << place
        return bytes(data), self.keys[row] ^ 1 << bit


@pytest.fixture(scope="module")
def barn(tmp_path_factory: pytest.TempPathFactory) -> Barn:
    path = tmp_path_factory.mktemp("barn") / "store.db"
    database = Database.open(path)
    for n in range(0, len(BATCH), 400):
        database.write_now(partial(readings.append, readings=BATCH[n : n + 400]))
    database.close_now()
    data = path.read_bytes()
    leaves = list(damage.leaves(data, damage.root_of(path, HOT.name)))
    with closing(sqlite3.connect(path)) as db:
        keys = [key for (key,) in db.execute("SELECT key FROM hot_readings ORDER BY key")]
    return Barn(data, keys, [place for leaf in leaves for place in key_places(data, leaf)], leaves)


def key_places(data: bytes, leaf: int) -> list[int]:
    """Where the keys of a leaf begin: each cell holds a length of one byte, then the key."""
    page = damage.page_of(data, leaf)
    cells = [
        int.from_bytes(page[8 + 2 * n : 10 + 2 * n], "big") for n in range(int.from_bytes(page[3:5], "big"))
    ]
    assert all(page[cell] < 0x80 for cell in cells)
    return [(leaf - 1) * PAGE + cell + 1 for cell in cells]


def read(
    path: Path, data: bytes, within: Gap | None = None, table: Table = HOT, *, twice: bool = False
) -> tuple[list[int], list[Gap]]:
    """The keys that a walk believes, and what it tells as lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    lost: list[Gap] = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        found = [row[0] for row in rows(db, table, lost, within)]
    assert len(set(found)) == len(found) or twice
    return found, lost


def untold(barn: Barn, found: list[int], lost: list[Gap]) -> list[int]:
    """Keys that are neither read nor told."""
    missing = sorted(set(barn.keys) - set(found))
    return [key for key in missing if not any(gap.after <= key <= gap.before for gap in lost)]


def test_a_whole_table_is_read_newest_first_and_nothing_is_told(path: Path, barn: Barn) -> None:
    assert read(path, barn.data) == (barn.keys[::-1], [])


@pytest.mark.parametrize("bit", [0, 15, 30, 40, 48, 50, 55])
@pytest.mark.parametrize("row", [0, 1, 700, 2002, 2398, 2399])
def test_one_flipped_bit_of_a_key_costs_that_row_and_its_place_is_told(
    path: Path, barn: Barn, row: int, bit: int
) -> None:
    data, key = barn.flipped(row, bit)
    around = [HOT.keys_from - 1, *barn.keys, HOT.keys_to]
    found, lost = read(path, data)
    if around[row] < key < around[row + 2]:  # still in its place: nothing can prove it wrong
        assert (sorted(found), lost) == (sorted([*barn.keys[:row], key, *barn.keys[row + 1 :]]), [])
        return
    assert set(found) <= set(barn.keys)
    assert len(found) >= len(barn.keys) - 2  # of two that disagree none is believed if either may be right
    assert untold(barn, found, lost) == []


def test_flipped_bits_of_random_keys_lose_nothing_that_is_not_told(path: Path, barn: Barn) -> None:
    dice = random.Random(20_251_125)
    for _ in range(150):
        row, bit = dice.randrange(len(barn.keys)), dice.randrange(56)
        data, key = barn.flipped(row, bit)
        found, lost = read(path, data)
        made_up = set(found) - set(barn.keys)
        if made_up:
            assert made_up == {key}
            around = [HOT.keys_from - 1, *barn.keys, HOT.keys_to]
            assert around[row] < key < around[row + 2], (row, bit)
        assert set(untold(barn, found, lost)) <= ({barn.keys[row]} if made_up else set()), (row, bit)
        assert len(found) >= len(barn.keys) - 4, (row, bit)


def test_flipped_keys_beside_damaged_pages_lose_nothing_that_is_not_told(path: Path, barn: Barn) -> None:
    dice = random.Random(7)
    for case in range(60):
        data = bytearray(barn.data)
        flipped = set()
        for _ in range(3):
            row, bit = dice.randrange(len(barn.keys)), dice.randrange(15, 56)
            data[barn.at[row] + 7 - bit // 7] ^= 1 << bit % 7
            flipped.add(barn.keys[row])
        whole = damage.zeroed(bytes(data), *dice.sample(barn.leaves, 2))
        found, lost = read(path, whole)
        made_up = set(found) - set(barn.keys)
        assert len(made_up) <= 3, case
        assert set(untold(barn, found, lost)) <= (flipped if made_up else set()), case


@pytest.mark.parametrize("row", [100, 1200, 2300])
@pytest.mark.parametrize("bit", [47, 49])
def test_a_part_of_a_table_is_read_past_a_false_key_too(path: Path, barn: Barn, row: int, bit: int) -> None:
    data, _ = barn.flipped(row, bit)
    within = Gap(barn.keys[50], barn.keys[2350])
    found, lost = read(path, data, within)
    assert found == [key for key in reversed(barn.keys[51:2350]) if key != barn.keys[row]]
    assert lost == [Gap(barn.keys[row - 1], barn.keys[row + 1])]


def test_a_page_of_another_place_is_left_out_and_told(path: Path, barn: Barn) -> None:
    data = damage.replaced(barn.data, barn.leaves[20], damage.page_of(barn.data, barn.leaves[5]))
    found, lost = read(path, data)
    rows_of = damage.leaves(data, barn.leaves[20])[barn.leaves[20]]
    assert set(found) <= set(barn.keys)
    assert len(found) == len(barn.keys) - rows_of
    assert untold(barn, found, lost) == []


# --- pages that lead back to where the walk has been -----------------------------------------------


class Met:
    """How many rows the walks of a salvage were given, and by how many statements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = self.statements = 0
        self._select = salvage_walk._select
        monkeypatch.setattr(salvage_walk, "_select", self.select)

    def select(self, *args: Any, **rest: Any) -> Iterator[Row]:
        self.statements += 1
        for row in self._select(*args, **rest):
            self.rows += 1
            assert self.rows <= ENDLESS, "the walk does not end"
            yield row


ENDLESS = 40_000
"""A table of 2,400 rows: ten scans that meet each row twice, and 1,024 more each, are 34,240."""
STATEMENTS_MAX = 4_000
"""450 seeks for each of eight gaps."""


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.soak)])
def test_a_copy_of_any_page_on_any_other_is_walked_in_bounds_and_costs_what_it_covers(
    path: Path, barn: Barn, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    path.write_bytes(barn.data)
    root = damage.root_of(path, HOT.name)
    rows_of = damage.leaves(barn.data, root)
    for covered in (root, *barn.leaves):
        for copied in range(1, len(barn.data) // PAGE + 1):
            if copied == covered or (copied != root and (copied + covered) % every):
                continue
            with monkeypatch.context() as patch:
                met = Met(patch)
                data = damage.replaced(barn.data, covered, damage.page_of(barn.data, copied))
                found, lost = read(path, data)
                assert met.statements <= STATEMENTS_MAX, (covered, copied)
            if covered != root and damage.page_of(barn.data, copied)[0] in {damage.LEAF, damage.INTERIOR}:
                assert set(found) <= set(barn.keys), (covered, copied)
                assert len(found) >= len(barn.keys) - rows_of[covered], (covered, copied)
                assert untold(barn, found, lost) == [], (covered, copied)


@pytest.mark.parametrize("copies", [2, 3, 8])
def test_copies_of_an_inner_page_below_itself_end_the_walk_and_cost_only_what_they_cover(
    path: Path, barn: Barn, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite alone goes down 20 levels, and into each copy on each of them."""
    path.parent.mkdir()
    path.write_bytes(barn.data)
    root = damage.root_of(path, HOT.name)
    covered = barn.leaves[2 :: len(barn.leaves) // copies][:copies]
    data = barn.data
    for leaf in covered:
        data = damage.replaced(data, leaf, damage.page_of(barn.data, root))
    Met(monkeypatch)
    hints = tuple(barn.keys[::20])
    found, lost = read(path, data, table=msgspec.structs.replace(HOT, hints=hints))
    rows_of = damage.leaves(barn.data, root)
    assert len(found) == len(barn.keys) - sum(rows_of[leaf] for leaf in covered)
    assert untold(barn, found, lost) == []


def test_a_page_of_another_place_before_damage_does_not_lead_the_walk_round(
    path: Path, barn: Barn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search for the last key before the damage finds the page it was copied from."""
    data = damage.replaced(barn.data, barn.leaves[5], damage.page_of(barn.data, barn.leaves[15]))
    Met(monkeypatch)
    found, lost = read(path, damage.zeroed(data, barn.leaves[4]))
    assert len(found) >= len(barn.keys) - len(key_places(barn.data, barn.leaves[4])) - len(
        key_places(barn.data, barn.leaves[5])
    )
    assert untold(barn, found, lost) == []


@pytest.mark.parametrize("of", [3, 20])
def test_rows_above_a_page_of_another_place_beside_damage_are_read(path: Path, barn: Barn, of: int) -> None:
    """Walked from above it looks like the next page, and from below the walk seems to meet it.

    Its own rows may come from both places.
    """
    data = damage.replaced(barn.data, barn.leaves[15], damage.page_of(barn.data, barn.leaves[of]))
    found, lost = read(path, damage.zeroed(data, barn.leaves[14]), twice=True)
    first = sum(len(key_places(barn.data, leaf)) for leaf in barn.leaves[:14])
    gone = sum(len(key_places(barn.data, leaf)) for leaf in barn.leaves[14:16])
    assert set(barn.keys) - set(found) == set(barn.keys[first:][:gone])
    assert untold(barn, found, lost) == []


@pytest.mark.parametrize("bit", [40, 47, 50])
def test_the_alert_and_the_backup_get_the_span_of_a_false_key(path: Path, barn: Barn, bit: int) -> None:
    row = 2002
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(barn.flipped(row, bit)[0])
    path.with_name(path.name + ".lock").touch()
    database = Database.open(path, NOW)
    try:
        assert database.recovery is not None
        tally = Tally()
        drain(database, Source.damaged(path.with_name(database.salvage_sources[0]), tally))
        lost_ms = BATCH[row].timestamp_ms
        assert all(after <= lost_ms <= before for after, before in spans_ms(tally))
        assert len(spans_ms(tally)) == 1
        assert len(kept(database)) == len(BATCH) - 1
        database.backups.mkdir(parents=True)
        (database.backups / "alert_state_20251125_120000.db").write_bytes(barn.data)
        backup = Source.backup(database.backups, path, database.gateway_id, tally.lost)
        drain(database, backup)
        assert kept(database) == {(one.cow_id, one.timestamp_ms) for one in BATCH}
    finally:
        database.close_now()


def drain(database: Database, source: Source) -> None:
    source.open()
    while (piece := source.next_piece()) is not None:
        database.write_now(piece)
    source.close()


def kept(database: Database) -> set[tuple[str, int]]:
    found = database.read_now(lambda db: newest.recent(db, None, 10**6))
    return {(one.cow_id, one.timestamp_ms) for one in found}


# --- the order alone -------------------------------------------------------------------------------


def believed(keys: list[int]) -> tuple[list[int], list[Gap]]:
    lost: list[Gap] = []
    order = Order((-1,), (10**6,), (-1,), lost, down=False)
    found: list[Row] = []
    for key in keys:
        found += order.add((key,))
    found += order.rest(complete=True)
    return [key for (key,) in found], lost


@pytest.mark.parametrize(
    ("place", "lie"),
    [
        *[(0, lie) for lie in (90_000, 2 * 10**6, -5)],
        *[
            (place, lie)
            for place in (2, JUDGED_TOGETHER // 2 - 1, JUDGED_TOGETHER // 2, 700, 997)
            for lie in (0, 90_000, 2 * 10**6, -5)
        ],
    ],
)
def test_one_key_out_of_order_is_left_out_wherever_it_stands(place: int, lie: int) -> None:
    keys = list(range(10, 10_010, 10))
    found, lost = believed([*keys[:place], lie, *keys[place + 1 :]])
    assert found == [*keys[:place], *keys[place + 1 :]]
    assert lost == [Gap(keys[place - 1] if place else -1, keys[place + 1])]


def test_of_two_keys_that_disagree_none_is_believed_if_either_may_be_right() -> None:
    assert believed([10, 20, 90, 40]) == ([10, 20], [Gap(20, 10**6)])
    assert believed([10, 20, 35, 31, 40]) == ([10, 20, 40], [Gap(20, 40)])


@pytest.mark.parametrize("rows_n", [STRAYED * 20, JUDGED_TOGETHER * 5])
def test_a_run_of_another_place_does_not_hide_what_follows(rows_n: int) -> None:
    keys = list(range(10, 20_010, 10))
    run = [500_000 + n for n in range(rows_n)]
    found, lost = believed([*keys[:600], *run, *keys[900:]])
    assert set(keys[:600]) | set(keys[900:]) <= set(found)
    assert all(any(gap.after <= key <= gap.before for gap in lost) for key in keys[600:900])
