"""The picture of a series: well-formed, inside its frame, true to the values, on the site's clock."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
import zlib
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    POINTS_MAX,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    chart,
)
from gateway.core.time_axis import TICKS_MAX, ticks

SVG = "{http://www.w3.org/2000/svg}"
BERLIN = ZoneInfo("Europe/Berlin")
MINUTE_MS = 60_000
NOON_MS = 1_764_068_400_000  # 2025-11-25 12:00 in Berlin


def series(*values: float | None, step_ms: int = MINUTE_MS) -> Series:
    return Series(tuple(NOON_MS + i * step_ms for i in range(len(values))), values)


def picture(
    data: Series,
    *,
    baseline: float | None = None,
    mark_ms: int | None = None,
    zone: ZoneInfo = BERLIN,
    **more: str,
) -> ET.Element:
    words = {"title": "fever COW_042", "unit": "°C", **more}
    text = chart(data, baseline=baseline, mark_ms=mark_ms, zone=zone, **words)
    return ET.fromstring(text)  # our own text


def runs(root: ET.Element) -> list[list[tuple[float, float]]]:
    """The lines drawn, each as its points."""
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]
        for line in root.iter(f"{SVG}polyline")
    ]


def labels(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def y_of(root: ET.Element, label: str) -> float:
    """Where a label of the y axis stands (4 pixels below its line)."""
    return next(float(text.attrib["y"]) - 4 for text in root.iter(f"{SVG}text") if text.text == label)


def dashed(root: ET.Element) -> list[float]:
    return [float(e.attrib["y1"]) for e in root.iter(f"{SVG}line") if e.get("stroke-dasharray") == "7 4"]


def coordinates(root: ET.Element) -> tuple[list[float], list[float]]:
    xs, ys = [], []
    for element in root.iter():
        xs += [float(element.attrib[key]) for key in ("x", "x1", "x2", "cx") if key in element.attrib]
        ys += [float(element.attrib[key]) for key in ("y", "y1", "y2", "cy") if key in element.attrib]
    for run in runs(root):
        xs += [x for x, _ in run]
        ys += [y for _, y in run]
    return xs, ys


def test_known_values_lie_where_the_axis_says() -> None:
    root = picture(series(38.0, 39.0, 40.0, 41.0))
    (run,) = runs(root)
    assert [y for _, y in run] == pytest.approx([y_of(root, str(c)) for c in (38, 39, 40, 41)], abs=0.11)
    assert [x for x, _ in run] == pytest.approx([LEFT + PLOT_WIDTH * i / 3 for i in range(4)], abs=0.11)
    assert all(above[1] > below[1] for above, below in pairwise(run)), "warmer is higher"


def test_what_is_usual_is_a_dashed_line_at_its_value() -> None:
    root = picture(series(38.0, 40.0), baseline=39.0)
    assert dashed(root) == pytest.approx([y_of(root, "39")], abs=0.11)
    assert dashed(picture(series(38.0, 40.0))) == []
    assert dashed(picture(series(38.0, 40.0), baseline=float("nan"))) == []


def test_what_is_usual_is_in_the_picture_even_if_no_value_was() -> None:
    root = picture(series(40.0, 41.0), baseline=38.0)
    assert TOP < dashed(root)[0] < HEIGHT - BOTTOM
    assert dashed(root)[0] > max(y for _, y in runs(root)[0])


@pytest.mark.parametrize("gap", [None, float("nan"), float("inf"), float("-inf")])
def test_where_nothing_was_measured_the_line_is_broken(gap: float | None) -> None:
    root = picture(series(38.0, 38.1, gap, gap, 38.2, 38.3, 38.4))
    assert [len(run) for run in runs(root)] == [2, 3]


def test_where_nothing_arrived_the_line_is_broken() -> None:
    t_ms = tuple(NOON_MS + i * MINUTE_MS for i in (0, 1, 2, 9, 10, 30, 31))
    assert [len(run) for run in runs(picture(Series(t_ms, (38.0,) * 7)))] == [5, 2]


def test_a_slow_rhythm_is_no_gap() -> None:
    assert len(runs(picture(series(*[38.0, 38.5] * 12, step_ms=60 * MINUTE_MS)))) == 1


def test_a_point_between_two_gaps_is_a_dot() -> None:
    root = picture(series(38.0, 38.1, None, 40.0, None, 38.2, 38.3))
    (dot,) = root.iter(f"{SVG}circle")
    assert (float(dot.attrib["cx"]), float(dot.attrib["cy"])) == pytest.approx(
        (LEFT + PLOT_WIDTH / 2, y_of(root, "40")), abs=0.11
    )


def test_one_reading_stands_in_the_middle_of_an_hour() -> None:
    root = picture(series(39.0))
    (dot,) = root.iter(f"{SVG}circle")
    assert float(dot.attrib["cx"]) == LEFT + PLOT_WIDTH / 2
    assert float(dot.attrib["cy"]) == TOP + PLOT_HEIGHT / 2
    assert "12:00" in labels(root)
    assert "2025-11-25 11:30" in labels(root)


def test_a_constant_value_is_a_level_line() -> None:
    (run,) = runs(picture(series(*[38.5] * 5)))
    assert {y for _, y in run} == {TOP + PLOT_HEIGHT / 2}


@pytest.mark.parametrize("data", [Series((), ()), series(None, None), series(float("nan"))])
def test_without_values_the_picture_says_so(data: Series) -> None:
    root = picture(data, baseline=38.6, mark_ms=NOON_MS, nothing="keine Messungen")
    assert labels(root) == ["fever COW_042", "keine Messungen"]


def test_the_beginning_of_the_alert_is_marked() -> None:
    root = picture(series(*[38.0] * 11), mark_ms=NOON_MS + 5 * MINUTE_MS)
    (upright,) = [e for e in root.iter(f"{SVG}line") if e.get("stroke-dasharray") == "1.5 3"]
    assert float(upright.attrib["x1"]) == float(upright.attrib["x2"]) == LEFT + PLOT_WIDTH / 2
    (triangle,) = root.iter(f"{SVG}path")
    assert triangle.attrib["d"].startswith(f"M{LEFT + PLOT_WIDTH / 2 - 6:.1f} ")


def test_a_beginning_outside_of_the_series_is_not_marked() -> None:
    assert list(picture(series(38.0, 38.1), mark_ms=NOON_MS - 1).iter(f"{SVG}path")) == []


def test_values_come_in_any_order() -> None:
    forward = series(38.0, 39.0, 40.0)
    backward = Series(forward.t_ms[::-1], forward.values[::-1])
    assert runs(picture(backward)) == runs(picture(forward))


def test_as_many_values_as_times() -> None:
    with pytest.raises(ValueError, match="2 times and 1 values"):
        Series((1, 2), (38.0,))


def test_a_month_of_minutes_is_drawn_with_its_peaks() -> None:
    n = 30 * 1440
    values = [38.0 + (i * 7919 % 100) / 100 for i in range(n)]
    values[12_345], values[23_456] = 43.0, 33.0
    text = chart(series(*values), title="", unit="°C", baseline=None, mark_ms=None, zone=BERLIN)
    root = ET.fromstring(text)
    points = [point for run in runs(root) for point in run]
    assert len(runs(root)) == 1
    assert len(points) <= POINTS_MAX
    assert len(text) < 30_000
    whole = runs(picture(series(33.0, 43.0)))[0]
    assert (max(y for _, y in points), min(y for _, y in points)) == (whole[0][1], whole[1][1])


def test_a_gap_is_still_a_gap_in_a_month() -> None:
    values: list[float | None] = [38.0 + i % 2 for i in range(30 * 1440)]
    values[10_000:12_000] = [None] * 2000
    assert len(runs(picture(series(*values)))) == 2


def test_the_text_of_others_is_no_markup() -> None:
    root = picture(series(38.0), title='</text><script>alert("1")</script>&\x00\x1b\ufffe', unit="<&>")
    assert not [e for e in root.iter() if "script" in e.tag]
    assert '</text><script>alert("1")</script>&' in labels(root)
    assert "<&>" in labels(root)


def test_nothing_is_loaded_or_run() -> None:
    text = chart(series(38.0, 39.0), title="t", unit="g", baseline=1.0, mark_ms=NOON_MS, zone=BERLIN)
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"href|<script|<image|<style|url\(|\son\w+=", text)


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60)
@given(
    points=st.lists(st.tuples(st.integers(0, 4_102_444_800_000), st.none() | finite), max_size=40),
    baseline=st.none() | finite,
    mark_ms=st.none() | st.integers(0, 4_102_444_800_000),
    title=st.text(max_size=100),
    unit=st.text(max_size=30),
    zone=st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "Pacific/Apia", "UTC"]),
)
def test_any_values_make_a_picture_inside_its_frame(
    *,
    points: list[tuple[int, float | None]],
    baseline: float | None,
    mark_ms: int | None,
    title: str,
    unit: str,
    zone: str,
) -> None:
    data = Series(tuple(t for t, _ in points), tuple(v for _, v in points))
    root = picture(data, baseline=baseline, mark_ms=mark_ms, title=title, unit=unit, zone=ZoneInfo(zone))
    xs, ys = coordinates(root)
    assert all(0 <= x <= WIDTH for x in xs)
    assert all(0 <= y <= HEIGHT for y in ys)
    for run in runs(root):
        assert all(
            LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for x, y in run
        )


# --- the time axis ---------------------------------------------------------------------------


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def marks(begin: str, end: str, zone: ZoneInfo = BERLIN) -> str:
    return " ".join(tick.label for tick in ticks(ms(begin), ms(end), zone))


@pytest.mark.parametrize(
    ("begin", "end", "labels_"),
    [
        ("2025-11-25T10:58", "2025-11-25T11:05", "11:58 11:59 12:00 12:01 12:02 12:03 12:04 12:05"),
        ("2025-11-25T10:58", "2025-11-25T12:10", "12:00 12:10 12:20 12:30 12:40 12:50 13:00 13:10"),
        ("2025-11-25T10:58", "2025-11-25T18:58", "12:00 13:00 14:00 15:00 16:00 17:00 18:00 19:00"),
        ("2025-11-24T22:30", "2025-11-25T22:30", "11-25 03:00 06:00 09:00 12:00 15:00 18:00 21:00"),
        ("2025-11-20T12:00", "2025-11-26T12:00", "11-21 11-22 11-23 11-24 11-25 11-26"),
        # the night the clocks go forward: 02:00 does not exist; the day is an hour shorter
        ("2025-03-29T22:30", "2025-03-30T04:30", "03-30 01:00 03:00 04:00 05:00 06:00"),
        # the night they go back: 02:00 comes twice, the first has the mark
        ("2025-10-25T21:30", "2025-10-26T03:30", "10-26 01:00 02:00 03:00 04:00"),
        ("2025-03-29T12:00", "2025-03-31T12:00", "18:00 03-30 06:00 12:00 18:00 03-31 06:00 12:00"),
    ],
)
def test_marks_are_at_round_times_of_the_sites_clock(begin: str, end: str, labels_: str) -> None:
    assert marks(begin, end) == labels_


def test_marks_stand_at_their_instants_over_a_change_of_the_clock() -> None:
    found = ticks(ms("2025-03-29T22:30"), ms("2025-03-30T04:30"), BERLIN)
    assert [tick.t_ms for tick in found if tick.label in {"01:00", "03:00"}] == [
        ms("2025-03-30T00:00"),
        ms("2025-03-30T01:00"),
    ]


def test_a_zone_of_half_hours_has_round_marks_of_its_own() -> None:
    assert marks("2025-11-25T00:00", "2025-11-25T06:00", ZoneInfo("Asia/Kolkata")).startswith("06:00 07:00")


@settings(max_examples=60)
@given(st.integers(0, 4_102_444_800_000), st.integers(1, 4_102_444_800_000))
def test_marks_are_few_in_order_and_within(begin_ms: int, span_ms: int) -> None:
    found = [tick.t_ms for tick in ticks(begin_ms, begin_ms + span_ms, BERLIN)]
    assert len(found) <= TICKS_MAX + 2
    assert found == sorted(set(found))
    assert all(begin_ms <= t <= begin_ms + span_ms for t in found)


# --- as a picture of dots --------------------------------------------------------------------


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and the raw rows of a PNG with 8 bits a channel."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    return width, height, zlib.decompress(data)


def test_a_rasteriser_makes_a_picture_of_it() -> None:
    resvg = pytest.importorskip("resvg_py")
    full = chart(series(38.0, 41.0, 39.0), title="t", unit="g", baseline=None, mark_ms=None, zone=BERLIN)
    bare = chart(Series((), ()), title="", unit="", baseline=None, mark_ms=None, zone=BERLIN, nothing="")
    drawn, empty = (pixels(resvg.svg_to_bytes(svg_string=svg)) for svg in (full, bare))
    assert drawn[:2] == empty[:2] == (WIDTH, HEIGHT)
    assert drawn[2].count(0) != empty[2].count(0)
    assert len(set(drawn[2])) > 10
