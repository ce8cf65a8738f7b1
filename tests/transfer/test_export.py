"""Export, and the way back: what was exported and imported again is what was stored."""

from __future__ import annotations

import gzip
import json
import os
import resource
import tempfile
from datetime import UTC
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.readings import Reading
from gateway.core.timespan import instant_ms
from gateway.core.validation import STATES
from gateway.errors import ConfigError, StoreError
from gateway.store import readings
from gateway.store.database import Database
from gateway.transfer.exporting import Selection, export
from tests.transfer.conftest import Barn, sent_part

NOON_MS = 1_762_776_000_000  # 2025-11-10T12:00:00Z
FULL = Reading("COW_2", NOON_MS + 250, 38.57, -0.041, 0.012, -0.883, -2.88, 0.14, 1.87, "lying", 0.523)
BARE = Reading("COW_1", NOON_MS, 38.6, 0.0, 2.0, -2.0)
LATER = Reading("COW_1", NOON_MS + 3_600_000, 42.0, 0.001, 0.1, -1.0, state="ruminating")


def store(barn: Barn, *rows: Reading) -> None:
    database = Database.open(Path(barn.config.database.path))
    database.write_now(lambda db: readings.append(db, rows))
    database.close_now()


def test_an_export_has_document_0s_columns_utc_times_and_empty_cells(barn: Barn, tmp_path: Path) -> None:
    store(barn, LATER, FULL, BARE)
    assert export(barn.config, Selection(), tmp_path / "out.csv", None).rows == 3
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines() == [
        "cow_id,timestamp,temperature,fxa,mya,rza,sxg,lyg,dzg,state,motion_intensity",
        "COW_1,2025-11-10T12:00:00Z,38.6,0.0,2.0,-2.0,,,,,",
        "COW_2,2025-11-10T12:00:00.250Z,38.57,-0.041,0.012,-0.883,-2.88,0.14,1.87,lying,0.523",
        "COW_1,2025-11-10T13:00:00Z,42.0,0.001,0.1,-1.0,,,,ruminating,",
    ]


def test_json_lines_leave_out_what_was_not_sent(barn: Barn, tmp_path: Path) -> None:
    store(barn, BARE)
    export(barn.config, Selection(), tmp_path / "out.jsonl", None)
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8")) == {
        "cow_id": "COW_1",
        "timestamp": "2025-11-10T12:00:00Z",
        "temperature": 38.6,
        "fxa": 0.0,
        "mya": 2.0,
        "rza": -2.0,
    }


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (Selection(), 3),
        (Selection(from_ms=NOON_MS + 1), 2),
        (Selection(to_ms=NOON_MS + 3_600_000), 2),
        (Selection(from_ms=NOON_MS, to_ms=NOON_MS), 0),
        (Selection(cow_ids=("COW_1",)), 2),
        (Selection(cow_ids=("COW_1", "COW_2"), from_ms=NOON_MS + 250, to_ms=NOON_MS + 251), 1),
    ],
)
def test_span_and_animals_select(barn: Barn, tmp_path: Path, selection: Selection, rows: int) -> None:
    store(barn, FULL, BARE, LATER)
    assert export(barn.config, selection, tmp_path / "out.csv.gz", None).rows == rows
    text = gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode()
    assert len(text.splitlines()) == 1 + rows


def test_what_cannot_be_exported_is_named_and_leaves_no_file(barn: Barn, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        export(barn.config, Selection(), tmp_path / "out.csv", None)
    store(barn, FULL)
    with pytest.raises(ConfigError, match="no readings of COW_9"):
        export(barn.config, Selection(cow_ids=("COW_2", "COW_9")), tmp_path / "out.csv", None)
    with pytest.raises(ConfigError, match=r"Cannot write .*out\.csv: No such file or directory"):
        export(barn.config, Selection(), tmp_path / "none" / "out.csv", None)
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(ConfigError, match=r"Cannot write .*taken\.csv: it is a folder"):
        export(barn.config, Selection(), tmp_path / "taken.csv", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["barn", "taken.csv"]


def test_links_are_followed_and_pipes_and_devices_are_not_replaced(barn: Barn, tmp_path: Path) -> None:
    store(barn, FULL)
    (tmp_path / "link.csv").symlink_to(tmp_path / "far.csv")
    export(barn.config, Selection(), tmp_path / "link.csv", None)
    assert (tmp_path / "link.csv").is_symlink()
    assert len((tmp_path / "far.csv").read_bytes().splitlines()) == 2
    os.mkfifo(tmp_path / "pipe.csv")
    for output in (tmp_path / "pipe.csv", Path()):
        with pytest.raises(ConfigError, match="it is a folder, a pipe or a device"):
            export(barn.config, Selection(), output, None)
    assert (tmp_path / "pipe.csv").is_fifo()


def test_a_disk_that_takes_no_more_leaves_the_export_before_in_place(barn: Barn, tmp_path: Path) -> None:
    store(barn, *(msgspec.structs.replace(FULL, timestamp_ms=NOON_MS + n * 60_000) for n in range(3000)))
    (tmp_path / "out.csv").write_text("yesterday's\n", encoding="utf-8")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # 3000 readings are 240 KB
    try:
        with pytest.raises(ConfigError, match=r"Cannot write .*out\.csv: File too large"):
            export(barn.config, Selection(), tmp_path / "out.csv", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "yesterday's\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["barn", "out.csv"]


def scaled(low: int, high: int, per_unit: int) -> st.SearchStrategy[float]:
    return st.integers(low * per_unit, high * per_unit).map(lambda value: value / per_unit)


READINGS = st.builds(
    Reading,
    cow_id=st.from_regex(r"[A-Za-z0-9_.:-]{1,12}", fullmatch=True),
    timestamp_ms=st.integers(946_684_800_000, NOON_MS),
    temperature_c=scaled(35, 42, 100),
    fxa_g=scaled(-2, 2, 1000),
    mya_g=scaled(-2, 2, 1000),
    rza_g=scaled(-2, 2, 1000),
    sxg_dps=st.none() | scaled(-2000, 2000, 100),
    lyg_dps=st.none() | scaled(-2000, 2000, 100),
    dzg_dps=st.none() | scaled(-2000, 2000, 100),
    state=st.none() | st.sampled_from(sorted(STATES)),
    motion_intensity=st.none() | scaled(0, 100, 1000),
)


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(READINGS, min_size=1, max_size=30, unique_by=lambda r: (r.cow_id, r.timestamp_ms)))
@pytest.mark.parametrize("suffix", [".csv", ".jsonl.gz"])
def test_what_is_exported_and_imported_is_what_was_stored(rows: list[Reading], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = Barn(Path(folder, "a")), Barn(Path(folder, "b"))
        store(first, *rows)
        file = Path(folder, f"out{suffix}")
        assert export(first.config, Selection(), file, None).rows == len(rows)
        (done,) = second.load(file)
        assert (done.counts.stored, done.counts.rejected, done.counts.trimmed) == (len(rows), {}, 0)

        def by_key(reading: Reading) -> tuple[int, str]:
            return reading.timestamp_ms, reading.cow_id

        assert sorted(second.readings(), key=by_key) == sorted(map(sent_part, rows), key=by_key)
        (back,) = first.load(file)
        assert (back.counts.stored, back.counts.duplicates, back.counts.conflicts) == (0, len(rows), 0)


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("now", NOON_MS),
        ("-90s", NOON_MS - 90_000),
        ("-30m", NOON_MS - 1_800_000),
        ("-6h", NOON_MS - 21_600_000),
        ("-1.5d", NOON_MS - 129_600_000),
        ("-2w", NOON_MS - 1_209_600_000),
        ("2025-11-10T12:00:00Z", NOON_MS),
        ("2025-11-10T13:00:00.5+01:00", NOON_MS + 500),
        ("2025-11-10", NOON_MS - 43_200_000),
        # What lies outside of the years 1 to 9999 could not be shown.
        ("-99999999999999999999d", -62_135_596_800_000),
        (f"-{'9' * 400}d", -62_135_596_800_000),
        ("0001-01-01T00:00:00+14:00", -62_135_596_800_000),
        ("9999-12-31T23:59:59-14:00", 253_402_300_799_999),
    ],
)
def test_a_moment_as_a_person_types_it(text: str, expected_ms: int) -> None:
    assert instant_ms(text, NOON_MS, UTC) == expected_ms


@pytest.mark.parametrize("text", ["", "-7", "7d", "-7x", "yesterday", "-infd", "-nand"])
def test_what_is_no_moment_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: write 2025-11-25T14:30:00Z, -7d, -6h or now"):
        instant_ms(text, NOON_MS, UTC)
