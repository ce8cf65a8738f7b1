"""The series behind an alert as a picture: SVG text, for page, letter and print. Pure.

Readable in black and white: the series is a solid line, what is usual a dashed one, the beginning
of the alert a dotted upright with a triangle on top. No scripts, nothing from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from itertools import pairwise

import msgspec

from gateway.core.instants import MS_PER_MINUTE
from gateway.core.texts import cut, one_line
from gateway.core.time_axis import Tick, ticks

WIDTH = 640
HEIGHT = 240
"""Pixels; a mail's width and a third of a phone's screen."""
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 30, 36
PLOT_WIDTH = WIDTH - LEFT - RIGHT
PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
POINTS_MAX = 2 * PLOT_WIDTH
"""Points drawn: the lowest and the highest of each column of pixels, so that no peak is lost.
2 × 568 = 1136 of at most 13 characters are 15 KB of text."""
GAP_STEPS = 3.0
"""Three readings in a row lost are a gap (decision 6)."""
GAP_MS_MIN = 10 * MS_PER_MINUTE
"""Decision 6: 10 minutes."""
ALONE_MS = 60 * MS_PER_MINUTE
"""What is shown around one lone reading."""
VALUE_MAX = 1e9
"""Larger values are drawn at the edge; no sensor of a barn measures them."""
TITLE_CHARS_MAX = 76
"""At 7.5 pixels a character they fill the width."""
UNIT_CHARS_MAX = 8
"""As wide as the room left of the axis."""
Y_TICKS = 4
FONT = "DejaVu Sans, sans-serif"

_HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" font-size="11" fill="#000">'
)
_FIRST_MS, _LAST_MS = 0, 253_370_764_800_000
"""1970 to 9999: what lies outside has no date on any axis."""


class Series(msgspec.Struct, frozen=True):
    """Values over time.

    Args:
        t_ms: UTC epoch ms, in any order.
        values: one for each; None or NaN where there is none: the line has a gap there.

    Raises:
        ValueError: not as many values as times.
    """

    t_ms: tuple[int, ...]
    values: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.t_ms) != len(self.values):
            raise ValueError(f"{len(self.t_ms)} times and {len(self.values)} values; give one for each")


class _Frame(msgspec.Struct, frozen=True):
    """What the picture spans."""

    t0_ms: int
    t1_ms: int
    low: float
    high: float

    def x(self, t_ms: float) -> float:
        return LEFT + PLOT_WIDTH * (t_ms - self.t0_ms) / (self.t1_ms - self.t0_ms)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return TOP + PLOT_HEIGHT * (1 - min(max(share, 0.0), 1.0))


class _Point(msgspec.Struct, frozen=True):
    t_ms: int
    value: float
    begins: bool  # a gap lies before it


def chart(
    series: Series,
    *,
    title: str,
    unit: str,
    baseline: float | None,
    mark_ms: int | None,
    zone: tzinfo,
    nothing: str = "no readings",
) -> str:
    """The series as one SVG document, 640 × 240.

    Args:
        series: the values.
        title: above the picture; one line.
        unit: of the values, above the axis.
        baseline: what is usual: a dashed line; None = unknown.
        mark_ms: when the alert began, UTC epoch ms; not drawn outside of the series.
        zone: the site's; the axis shows its clock.
        nothing: what is written where there is no value.
    """
    points = _points(series)
    parts = [
        _HEAD,
        f"<title>{_escaped(one_line(title))}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 16, cut(one_line(title), TITLE_CHARS_MAX), 'font-size="12" font-weight="bold"'),
    ]
    if not points:
        parts.append(_box())
        middle = 'text-anchor="middle"'
        parts.append(_text(LEFT + PLOT_WIDTH / 2, TOP + PLOT_HEIGHT / 2, one_line(nothing, 60), middle))
        return "\n".join([*parts, "</svg>\n"])
    usual = _clamped(baseline) if baseline is not None and math.isfinite(baseline) else None
    frame = _frame(points, usual)
    parts += _y_axis(frame, one_line(unit, UNIT_CHARS_MAX))
    parts += _x_axis(frame, zone)
    parts.append(_box())
    if usual is not None:
        y = frame.y(usual)
        parts.append(_line((LEFT, y, WIDTH - RIGHT, y), "#000", 'stroke-dasharray="7 4"'))
    parts += _curve(_drawn(points, frame), frame)
    if mark_ms is not None and frame.t0_ms <= mark_ms <= frame.t1_ms:
        parts += _mark(frame.x(mark_ms))
    return "\n".join([*parts, "</svg>\n"])


def _points(series: Series) -> list[_Point]:
    """The values that are there, by time, each with whether the line breaks before it."""
    pairs = sorted(zip(series.t_ms, series.values, strict=True), key=lambda pair: pair[0])
    known = [t for t, value in pairs if _finite(value)]
    steps = sorted(b - a for a, b in pairwise(known))
    gap_ms = max(GAP_MS_MIN, GAP_STEPS * steps[len(steps) // 2]) if steps else GAP_MS_MIN
    points: list[_Point] = []
    broken = True
    for t, value in pairs:
        if value is None or not math.isfinite(value) or not _FIRST_MS <= t <= _LAST_MS:
            broken = True
            continue
        begins = broken or t - points[-1].t_ms > gap_ms
        points.append(_Point(t, _clamped(value), begins))
        broken = False
    return points


def _drawn(points: list[_Point], frame: _Frame) -> list[_Point]:
    """At most `POINTS_MAX`: of each column of pixels the lowest and the highest, in their order."""
    if len(points) <= POINTS_MAX:
        return points
    columns: dict[int, list[_Point]] = {}
    for point in points:
        columns.setdefault(min(int(frame.x(point.t_ms)) - LEFT, PLOT_WIDTH - 1), []).append(point)
    drawn: list[_Point] = []
    for column in columns.values():
        ends = {min(column, key=lambda p: p.value), max(column, key=lambda p: p.value)}
        first, *rest = sorted(ends, key=lambda p: p.t_ms)
        drawn.append(msgspec.structs.replace(first, begins=column[0].begins))
        drawn += [msgspec.structs.replace(point, begins=False) for point in rest]
    return drawn


def _frame(points: Sequence[_Point], usual: float | None) -> _Frame:
    values = [point.value for point in points] + ([usual] if usual is not None else [])
    low, high = min(values), max(values)
    pad = max(0.06 * (high - low), 1e-6 * max(abs(low), abs(high)), 1e-3)
    if high == low:
        pad = max(0.5, 1e-3 * abs(high))
    t0_ms, t1_ms = points[0].t_ms, points[-1].t_ms
    if t0_ms == t1_ms:
        t0_ms, t1_ms = t0_ms - ALONE_MS // 2, t1_ms + ALONE_MS // 2
    return _Frame(t0_ms, t1_ms, low - pad, high + pad)


def _curve(points: Sequence[_Point], frame: _Frame) -> list[str]:
    """A line for each run without a gap; a run of one point is a dot."""
    runs: list[list[_Point]] = []
    for point in points:
        if point.begins or not runs:
            runs.append([])
        runs[-1].append(point)
    parts = []
    for run in runs:
        if len(run) == 1:
            parts.append(
                f'<circle cx="{frame.x(run[0].t_ms):.1f}" cy="{frame.y(run[0].value):.1f}" r="2.5"/>'
            )
            continue
        path = " ".join(f"{frame.x(point.t_ms):.1f},{frame.y(point.value):.1f}" for point in run)
        parts.append(f'<polyline points="{path}" fill="none" stroke="#000" stroke-width="1.5"/>')
    return parts


def _mark(x: float) -> list[str]:
    triangle = f'<path d="M{x - 6:.1f} {TOP - 9} h12 l-6 9 z"/>'
    return [
        _line((x, TOP, x, TOP + PLOT_HEIGHT), "#000", 'stroke-width="1.2" stroke-dasharray="1.5 3"'),
        triangle,
    ]


def _y_axis(frame: _Frame, unit: str) -> list[str]:
    step = _round_step((frame.high - frame.low) / Y_TICKS)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    parts = [_text(LEFT - 6, 16, unit, 'text-anchor="end"')] if unit else []
    first = math.ceil(frame.low / step)
    for number in range(first, math.floor(frame.high / step) + 1):
        value = number * step
        y = frame.y(value)
        label = f"{value + 0.0:.{decimals}f}" if abs(value) < 1e5 else f"{value:.2g}"
        parts.append(_line((LEFT, y, WIDTH - RIGHT, y), "#ccc"))
        parts.append(_text(LEFT - 6, y + 4, label, 'text-anchor="end"'))
    return parts


def _x_axis(frame: _Frame, zone: tzinfo) -> list[str]:
    parts = []
    below = TOP + PLOT_HEIGHT
    for tick in _apart(ticks(frame.t0_ms, frame.t1_ms, zone), frame):
        x = frame.x(tick.t_ms)
        parts.append(_line((x, TOP, x, below), "#e4e4e4"))
        parts.append(_line((x, below, x, below + 4), "#000"))
        parts.append(_text(x, below + 16, tick.label, 'text-anchor="middle"'))
    day = datetime.fromtimestamp(frame.t0_ms / 1000, UTC).astimezone(zone)
    last = datetime.fromtimestamp(frame.t1_ms / 1000, UTC).astimezone(zone)
    parts.append(_text(LEFT, below + 31, f"{day:%Y-%m-%d %H:%M}"))
    parts.append(
        _text(WIDTH - RIGHT, below + 31, f"{last:%Y-%m-%d %H:%M} {last.tzname()}", 'text-anchor="end"')
    )
    return parts


def _apart(found: Iterable[Tick], frame: _Frame) -> list[Tick]:
    """The ticks whose labels lie inside the picture and not on each other."""
    kept: list[Tick] = []
    for tick in found:
        x = frame.x(tick.t_ms)
        half = 3.5 * len(tick.label)
        left = frame.x(kept[-1].t_ms) + 3.5 * len(kept[-1].label) + 6 if kept else LEFT - 16
        if x - half >= left and x + half <= WIDTH:
            kept.append(tick)
    return kept


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough), 10.0 * power)


def _box() -> str:
    size = f'width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"'
    return f'<rect x="{LEFT}" y="{TOP}" {size} fill="none" stroke="#000"/>'


def _line(ends: tuple[float, float, float, float], colour: str, more: str = "") -> str:
    x1, y1, x2, y2 = ends
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" {more}/>'.replace(" />", "/>")


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{_escaped(text)}</text>'.replace(" >", ">", 1)


def _escaped(text: str) -> str:
    """Text that XML may hold: marks escaped, signs no XML may hold left out."""
    allowed = "".join(
        c for c in text if c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and ord(c) & 0xFFFE != 0xFFFE
    )
    return allowed.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _clamped(value: float) -> float:
    return min(max(value, -VALUE_MAX), VALUE_MAX)
