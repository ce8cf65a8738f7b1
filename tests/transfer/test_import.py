"""Import into a resting store: formats, rows good and bad, what is remembered, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gateway.errors import ConfigError, StoreError
from gateway.transfer.importing import BATCH_BYTES_MAX, BATCH_ROWS_MAX, batches
from gateway.transfer.ledger import FILES_MAX, Ledger, Progress
from gateway.transfer.rejects import RejectedRow, RejectFile
from gateway.transfer.sources import LINE_BYTES_MAX, Options, Position, Row, open_source
from tests.conftest import SHARED_DATA
from tests.transfer.conftest import Barn

HEADER = "cow_id,timestamp,temperature,fxa,mya,rza,sxg,lyg,dzg,state,motion_intensity\n"
HEIFER = SHARED_DATA / "neck_imu_heifer_24h" / "gateway_replay_1min.csv"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def day(count: int, first: int = 0) -> str:
    """Rows of one calm cow, one a minute."""
    return "".join(
        f"COW_1,2025-05-0{1 + m // 1440}T{m // 60 % 24:02d}:{m % 60:02d}:00Z,38.{m % 10},0.1,0.2,-0.9,,,,,\n"
        for m in range(first, first + count)
    )


def line_of(**other: object) -> str:
    fields = {
        "cow_id": "C",
        "timestamp": "2025-05-01T10:00:00Z",
        "temperature": 38,
        "fxa": 0,
        "mya": 0,
        "rza": 0,
    }
    return json.dumps({**fields, **other})


def rejected(file: Path) -> list[tuple[int, str, str]]:
    lines = file.with_name(file.name + ".rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["line"], row["reason"], row["text"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("row", "reason", "text"),
    [
        (",2025-05-01T10:00:00Z,38.6,0,0,0", "missing_field", "Missing required fields for cow_id=: cow_id"),
        (
            "COW_1,2025-05-01T10:00:00Z,,0,,0",
            "missing_field",
            "Missing required fields for cow_id=COW_1: temperature, mya",
        ),
        (
            "COW 1,2025-05-01T10:00:00Z,38.6,0,0,0",
            "bad_cow_id",
            "Invalid cow_id COW 1: must be 1-64 letters, digits or one of _ . : -",
        ),
        (
            "COW_1,yesterday,38.6,0,0,0",
            "bad_timestamp",
            (
                "Invalid timestamp for cow_id=COW_1: yesterday "
                "(expected ISO 8601 date and time, e.g. 2025-11-19T14:30:00Z)"
            ),
        ),
        (
            "COW_1,1999-12-31T23:59:59Z,38.6,0,0,0",
            "timestamp_too_old",
            (
                "Timestamp too old for cow_id=COW_1: 1999-12-31T23:59:59Z "
                "(earliest accepted: 2000-01-01T00:00:00Z)"
            ),
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,42.5,0,0,0",
            "temperature_out_of_range",
            "Temperature out of range for cow_id=COW_1: 42.5°C (valid range: 35.0-42.0°C)",
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,38.6,0,-2.1,0",
            "acceleration_out_of_range",
            "Acceleration out of range for cow_id=COW_1: mya=-2.1g (valid range: -2.0-2.0g)",
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,warm,0,0,0",
            "bad_type",
            "Invalid temperature for cow_id=COW_1: warm is not a finite number",
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,38.6,nan,0,0",
            "bad_type",
            "Invalid fxa for cow_id=COW_1: nan is not a finite number",
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,3_8.6,0,0,0",
            "bad_type",
            "Invalid temperature for cow_id=COW_1: 3_8.6 is not a finite number",
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,38,6,0.1,0.2,-0.9",
            "acceleration_out_of_range",
            "Acceleration out of range for cow_id=COW_1: fxa=6.0g (valid range: -2.0-2.0g)",
        ),
        (
            "COW_1,2025-05-01T10:00:00Z,38,6,0,1,0,2,0,1,0,9,lying,5",
            "bad_row",
            "The line has 14 cells, the header 11; is a comma in a number?",
        ),
        ('COW_1,"2025-05-01', "bad_row", "The line is no CSV row: unexpected end of data"),
        (b"COW_\xff,2025-05-01T10:00:00Z,38.6,0,0,0", "not_utf8", "Payload is not UTF-8 text: byte 4 of 37"),
        (
            "x" * (LINE_BYTES_MAX + 500_000),
            "line_too_long",
            "The line is longer than 65536 bytes; a reading has about 200",
        ),
    ],
)
def test_a_bad_row_is_named_kept_and_passed_over(
    barn: Barn, tmp_path: Path, row: str | bytes, reason: str, text: str
) -> None:
    raw = row if isinstance(row, bytes) else row.encode()
    file = write(tmp_path / "day.csv", (HEADER + day(1)).encode() + raw + b"\n" + day(1, 1).encode())
    (done,) = barn.load(file)
    assert rejected(file) == [(3, reason, text)]
    assert barn.said[-1] == f"{file}:3: {text}"
    assert (done.counts.read, done.counts.stored, done.counts.rejected) == (3, 2, {reason: 1})
    kept = json.loads(file.with_name("day.csv.rejected.jsonl").read_text(encoding="utf-8"))
    assert (
        kept["original"].encode("utf-8")
        == raw[: LINE_BYTES_MAX + 1].decode("utf-8", "backslashreplace").encode()
    )


@pytest.mark.parametrize(
    ("line", "reason", "text"),
    [
        ("{", "not_json_object", "Payload is not valid JSON: "),
        ("[1]", "not_json_object", "Payload is not a JSON object but a list"),
        (
            '{"cow_id": 7}',
            "missing_field",
            "Missing required fields for cow_id=: timestamp, temperature, fxa",
        ),
        (
            line_of(temperature="38"),
            "bad_type",
            "Invalid temperature for cow_id=C: 38 is not a finite number",
        ),
    ],
)
def test_a_bad_json_line_is_named_kept_and_passed_over(
    barn: Barn, tmp_path: Path, line: str, reason: str, text: str
) -> None:
    good = line_of(timestamp="2025-05-01T11:00:00Z", sxg=None)
    file = write(tmp_path / "day.jsonl", f"{good}\n{line}\n\n{good}\n")
    (done,) = barn.load(file)
    ((number, why, sentence),) = rejected(file)
    assert (number, why, sentence.startswith(text)) == (2, reason, True), sentence
    assert (done.counts.read, done.counts.stored, done.counts.duplicates) == (3, 1, 1)


def test_the_same_readings_in_every_format_are_the_same_readings(barn: Barn, tmp_path: Path) -> None:
    row = ("COW_1", "2025-05-01T10:00:00.250Z", 38.57, -0.041, 0.012, -0.883, -2.88, 0.14, 1.87, "lying", 0.5)
    names = HEADER.strip().split(",")
    comma = HEADER + ",".join(map(str, row)) + "\n"
    wire = json.dumps(dict(zip(names, row, strict=True)))
    files = [
        write(tmp_path / "plain.csv", comma),
        write(
            tmp_path / "excel.csv", b"\xef\xbb\xbf" + comma.replace(",", ";").replace("\n", "\r\n").encode()
        ),
        write(tmp_path / "quoted.csv", '"note",' + comma.replace("\nCOW_1", '\n"a, b",COW_1')),
        write(tmp_path / "packed.csv.gz", gzip.compress(comma.encode())),
        write(tmp_path / "lines.jsonl", wire + "\n"),
        write(tmp_path / "marked.ndjson", b"\xef\xbb\xbf" + wire.encode()),
        write(tmp_path / "lines.ndjson.gz", gzip.compress(wire.encode())),
    ]
    done = barn.load(*files)
    assert [one.counts.stored for one in done] == [1, 0, 0, 0, 0, 0, 0]
    assert [one.counts.duplicates for one in done] == [0, 1, 1, 1, 1, 1, 1]
    (reading,) = barn.readings()
    assert (reading.timestamp_ms, reading.temperature_c, reading.sxg_dps, reading.state) == (
        1_746_093_600_250,
        38.57,
        -2.88,
        "lying",
    )


def test_a_time_without_a_zone_is_the_sites(tmp_path: Path) -> None:
    barn = Barn(tmp_path / "barn", timezone="Europe/Berlin")
    barn.load(write(tmp_path / "day.csv", HEADER + "COW_1,2025-05-01 12:00,38.6,0,0,0,,,,,\n"))
    assert [reading.timestamp_ms for reading in barn.readings()] == [1_746_093_600_000]


def test_a_dropped_optional_value_is_counted_and_kept(barn: Barn, tmp_path: Path) -> None:
    file = write(tmp_path / "day.csv", HEADER + "COW_1,2025-05-01T10:00:00Z,38.6,0,0,0,9999,,,flying,\n")
    (done,) = barn.load(file)
    assert (done.counts.stored, done.counts.trimmed, done.counts.rejected) == (1, 1, {})
    assert rejected(file) == [
        (2, "optional_fields_dropped", "Dropped optional fields for cow_id=COW_1: sxg=9999.0, state=flying")
    ]


def test_another_value_for_the_same_instant_is_a_conflict_and_the_first_one_stays(
    barn: Barn, tmp_path: Path
) -> None:
    barn.load(write(tmp_path / "a.csv", HEADER + "COW_1,2025-05-01T10:00:00Z,38.6,0,0,0,,,,,\n"))
    (done,) = barn.load(write(tmp_path / "b.csv", HEADER + "COW_1,2025-05-01T10:00:00Z,39.9,0,0,0,,,,,\n"))
    assert (done.counts.stored, done.counts.conflicts) == (0, 1)
    assert [reading.temperature_c for reading in barn.readings()] == [38.6]


def test_ghost_ids_are_bounded_as_in_the_gateway(barn: Barn, tmp_path: Path) -> None:
    rows = "".join(f"C{n},2025-05-01T10:00:00Z,38.6,0,0,0,,,,,\n" for n in range(5001))
    file = write(tmp_path / "ghosts.csv", HEADER + rows)
    (done,) = barn.load(file)
    assert done.counts.stored == 5000
    assert rejected(file) == [
        (
            5002,
            "too_many_animals",
            (
                "Too many animals: cow_id=C5000 would be number 5001 "
                "(limit 5000; check for collars that invent ids)"
            ),
        )
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("day.csv", b"", "day.csv:1: is empty (expected readings, one a line)"),
        ("day.csv", b"\x7fELF\x00\x00\x01", "day.csv:1: is a binary file (expected CSV or JSON lines"),
        ("day.jsonl", b"SQLite format 3\x00", "day.jsonl:1: is a binary file"),
        ("day.csv", "cow_id,fxa\n".encode("utf-16"), 'day.csv:1: is UTF-16 (save it as "CSV UTF-8")'),
        ("day.csv", b"cow_id;temp\xe9rature\n", "day.csv:1: is not a CSV file in UTF-8"),
        (
            "day.csv",
            HEADER.encode(),
            "day.csv:2: has no rows (expected one reading a line below the header line)",
        ),
        (
            "day.csv",
            b"cow,timestamp,temprature,fxa,mya,rza\n",
            (
                "day.csv:1: columns missing: cow_id (is it 'cow'?), temperature (is it 'temprature'?) "
                "(the first line names the columns: cow_id,timestamp,temperature,fxa,mya,rza,sxg"
            ),
        ),
        (
            "day.csv",
            b"cow_id,timestamp,fxa,mya,rza\n",
            "day.csv:1: columns missing: temperature (--temperature 38.6 stands in",
        ),
        ("day.csv", b"cow_id,timestamp,temperature,fxa,fxa,mya,rza\n", "day.csv:1: columns given twice: fxa"),
        ("day.txt", b"x", "day.txt has no suffix that tells its format (.csv, .jsonl, .ndjson, each also"),
    ],
)
def test_a_file_that_is_no_recording_is_named_with_the_remedy(
    barn: Barn, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    good = write(tmp_path / "good.csv", HEADER + day(2))
    bad = write(tmp_path / name, content)
    with pytest.raises(ConfigError) as caught:
        barn.load(good, bad)
    assert says in str(caught.value)
    assert "has no rows" in says or not Path(barn.config.database.path).exists(), (
        "begun before all were looked at"
    )


def test_a_missing_file_and_a_folder_are_named(barn: Barn, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read .*none\.csv: No such file or directory"):
        barn.load(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(
        ConfigError, match=r"folder\.csv is a directory \(name the files in it, e\.g\. with \*\.csv\)"
    ):
        barn.load(tmp_path / "folder.csv")


def test_a_packed_file_that_is_cut_off_keeps_what_came_before_and_names_the_place(
    barn: Barn, tmp_path: Path
) -> None:
    packed = gzip.compress((HEADER + day(3000)).encode())
    file = write(tmp_path / "day.csv.gz", packed[: len(packed) // 2])
    with pytest.raises(ConfigError, match=r"day\.csv\.gz:\d+: cannot be read on: Compressed file ended"):
        barn.load(file)
    kept = len(barn.readings())
    assert kept >= BATCH_ROWS_MAX
    (done,) = barn.load(write(tmp_path / "day.csv.gz", packed))
    assert (done.counts.read, done.counts.duplicates, done.counts.stored) == (3000, kept, 3000 - kept)


def test_a_finished_file_is_not_read_again_unless_asked(barn: Barn, tmp_path: Path) -> None:
    file = write(tmp_path / "day.csv", HEADER + day(5) + "COW_1,,,,,\n")
    assert [one.skipped for one in barn.load(file)] == [False]
    (again,) = barn.load(file)
    assert (again.skipped, again.counts.read, again.counts.rejected_rows) == (True, 6, 1)
    (restarted,) = barn.load(file, restart=True)
    assert (restarted.skipped, restarted.counts.duplicates, restarted.counts.stored) == (False, 5, 0)
    assert len(rejected(file)) == 1
    assert file.with_name("day.csv.rejected.jsonl.previous").exists()


def test_a_file_that_has_grown_or_a_store_that_was_replaced_is_read(barn: Barn, tmp_path: Path) -> None:
    file = write(tmp_path / "day.csv", HEADER + day(5))
    barn.load(file)
    write(file, HEADER + day(8))
    assert [(one.counts.stored, one.counts.duplicates) for one in barn.load(file)] == [(3, 5)]
    for part in Path(barn.config.database.path).parent.glob("alert_state.db*"):
        part.unlink()
    assert [one.counts.stored for one in barn.load(file)] == [8]


def test_a_folder_that_cannot_be_written_has_its_rejected_rows_beside_the_store(
    barn: Barn, tmp_path: Path
) -> None:
    file = write(tmp_path / "day.csv", HEADER + day(1) + "COW_1,,,,,\n")
    (tmp_path / "day.csv.rejected.jsonl.previous").mkdir()
    write(tmp_path / "day.csv.rejected.jsonl", "of another day\n")  # may not replace a folder
    (done,) = barn.load(file)
    assert done.rejected_file == Path(barn.config.database.path).parent / "day.csv.rejected.jsonl"
    assert (tmp_path / "day.csv.rejected.jsonl").read_text() == "of another day\n"


def test_a_damaged_memory_is_said_and_costs_only_time(barn: Barn, tmp_path: Path) -> None:
    file = write(tmp_path / "day.csv", HEADER + day(5))
    barn.load(file)
    memory = Path(barn.config.database.path).parent / "imports.json"
    memory.write_bytes(memory.read_bytes()[:50])
    (done,) = barn.load(file)
    assert any("imports.json" in line and "nothing is stored twice" in line for line in barn.said)
    assert (done.counts.duplicates, done.counts.stored) == (5, 0)


def test_only_the_last_hundred_files_are_remembered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for n in range(FILES_MAX + 5):
        ledger.save(Progress(f"key{n}", "x.csv", Position(n, n)))
    again = Ledger(tmp_path)
    assert again.find("key4") is None
    assert again.find("key5") is not None
    assert again.find(f"key{FILES_MAX + 4}") == Progress(f"key{FILES_MAX + 4}", "x.csv", Position(104, 104))
    assert [path.name for path in tmp_path.iterdir()] == ["imports.json"]


def test_a_batch_is_bounded_in_rows_and_in_bytes() -> None:
    short = [len(batch) for batch in batches(Row(n, n, b"x" * 80) for n in range(2500))]
    assert short == [BATCH_ROWS_MAX, BATCH_ROWS_MAX, 500]
    long = [len(batch) for batch in batches(Row(n, n, b"x" * LINE_BYTES_MAX) for n in range(40))]
    assert long == [BATCH_BYTES_MAX // LINE_BYTES_MAX] * 2 + [8]
    assert list(batches([])) == []


@pytest.mark.parametrize("name", ["day.csv", "day.csv.gz", "day.jsonl"])
def test_reading_goes_on_at_any_line(tmp_path: Path, name: str) -> None:
    text = HEADER + day(3) + "\n" + day(4, 3)
    if "json" in name:
        text = "".join(f'{{"cow_id": "C{n}"}}\n' for n in range(7))
    file = write(tmp_path / name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    with open_source(str(file), Options()) as source:
        rows = list(source.rows(Position()))
    assert len(rows) == 7
    for n, row in enumerate(rows):
        with open_source(str(file), Options()) as source:
            assert list(source.rows(Position(row.end, row.line))) == rows[n + 1 :]


def test_a_store_that_is_no_store_is_not_taken_for_one_in_use(barn: Barn, tmp_path: Path) -> None:
    store = Path(barn.config.database.path)
    store.parent.mkdir(parents=True)
    store.write_bytes(b"not a database at all")
    with pytest.raises(StoreError, match="file is not a database"):
        barn.load(write(tmp_path / "day.csv", HEADER + day(1)))


@pytest.mark.skipif(not HEIFER.exists(), reason="the heifer's recording is not part of the repository")
def test_a_real_heifers_day_is_imported_whole(barn: Barn) -> None:
    (done,) = barn.load(HEIFER, options=Options(temperature_c=38.6))
    assert (done.counts.read, done.counts.stored, done.counts.rejected) == (1404, 1404, {})
    assert {reading.temperature_c for reading in barn.readings()} == {38.6}


def test_rejected_rows_behind_the_last_durable_batch_are_written_again_not_twice(tmp_path: Path) -> None:
    def row(line: int) -> RejectedRow:
        return RejectedRow("bad_type", "why", "day.csv", line, "original")

    first = RejectFile(tmp_path / "day.csv", tmp_path)
    first.add(row(2))
    first.sync()
    durable_bytes = first.size_bytes
    first.add(row(5))
    first.close()  # killed here: line 5 is in the file, its batch is not in the store
    second = RejectFile(
        tmp_path / "day.csv",
        tmp_path,
        resume=str(tmp_path / "day.csv.rejected.jsonl"),
        size_bytes=durable_bytes,
    )
    second.add(row(5))
    second.add(row(9))
    second.close()
    assert [line for line, _, _ in rejected(tmp_path / "day.csv")] == [2, 5, 9]
    assert second.size_bytes == (tmp_path / "day.csv.rejected.jsonl").stat().st_size


def test_rejected_rows_that_were_taken_away_meanwhile_are_kept_in_a_new_file(tmp_path: Path) -> None:
    rejects = RejectFile(tmp_path / "day.csv", tmp_path, resume=str(tmp_path / "gone.jsonl"), size_bytes=500)
    rejects.add(RejectedRow("bad_type", "why", "day.csv", 7, "original"))
    rejects.close()
    assert [line for line, _, _ in rejected(tmp_path / "day.csv")] == [7]
    assert rejects.size_bytes == (tmp_path / "day.csv.rejected.jsonl").stat().st_size
