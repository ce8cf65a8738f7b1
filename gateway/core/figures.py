"""Numbers, durations and moments as the people of one language read them. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo

from gateway.core.detectors.wording import lasting
from gateway.core.findings import Evidence
from gateway.core.phrases import Phrases

DECIMALS = {"°C": 1, "g": 2, "animal": 0, "animals": 0, "readings": 0, "messages": 0}
"""What a person can use; a collar's thermometer is good to 0.1 °C."""
MINUTES = "min"
MINUTES_MAX = 10 * 366 * 24 * 60
"""Ten years; a longer duration is a fault of a clock and would only fill the line."""

_HERD = re.compile(r"herd (has risen|normal) \(([+-]?\d+\.\d) °C, (\d+) animals\)")
_NOT_WORTH_TELLING = re.compile(
    r"herd (unknown\b.*|heard)|judged alone|\d+ animals? at once|\d+ of \d+ silent"
)


def quantity(value: float, unit: str, phrases: Phrases, *, sign: str = "") -> str:
    """A value with its unit, `39.8 °C`; minutes as a duration.

    Args:
        value: finite.
        unit: as in `Evidence.unit`.
        phrases: the language.
        sign: "+" to write the sign of a difference, also of a positive one.
    """
    if unit == MINUTES:
        return (sign if value >= 0 else "-") + duration(abs(value))
    decimals = DECIMALS.get(unit, 2)
    shown = f"{value:{sign}.{decimals}f}" if abs(value) < 1e9 else f"{value:{sign}.2e}"
    return f"{shown.replace('.', phrases.decimal)} {phrases.word('units', unit) or unit}".rstrip()


def duration(minutes: float) -> str:
    """`11 min`, `2 h 5 min`."""
    return lasting(min(max(minutes, 0.0), MINUTES_MAX))


def percent(share: float) -> str:
    """`85 %` of a share from 0 to 1."""
    return f"{round(100 * min(max(share, 0.0), 1.0))} %"


def local_moment(iso: str, phrases: Phrases, zone: tzinfo) -> str:
    """An event's ISO instant as date and time at the site, with the zone's name."""
    at = datetime.fromisoformat(iso).astimezone(zone)
    return phrases.say("figures", "moment", time=f"{at:%H:%M}", zone=at.tzname() or "", **_date(at))


def local_date(at_ms: int, phrases: Phrases, zone: tzinfo) -> str:
    """The date at the site."""
    return phrases.say("figures", "date", **_date(datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(zone)))


def herd_words(phrase: str, phrases: Phrases) -> str:
    """What the herd did meanwhile; "" where the detector could not say, its own words where they are new."""
    if found := _HERD.fullmatch(phrase):
        word, rise_c, n = found.groups()
        rise = quantity(float(rise_c), "°C", phrases, sign="+")
        key = "normal" if word == "normal" else "risen"
        return phrases.say("herd", "compared", word=phrases.say("herd", key), rise=rise, n=n)
    return "" if _NOT_WORTH_TELLING.fullmatch(phrase) else phrase


def evidence_lines(evidence: Evidence, confidence: float, phrases: Phrases) -> list[str]:
    """The numbers behind an alert, one a line; what is not known has no line."""
    unit, lines = evidence.unit, []
    measured = evidence.value is not None and math.isfinite(evidence.value)
    if evidence.value is not None and measured:
        lines.append(phrases.say("lines", "value", value=quantity(evidence.value, unit, phrases)))
    if evidence.baseline is not None and math.isfinite(evidence.baseline):
        usual = quantity(evidence.baseline, unit, phrases)
        n = evidence.reference_n
        lines.append(
            phrases.say("lines", "usual_of", value=usual, n=str(n))
            if n > 0
            else phrases.say("lines", "usual", value=usual)
        )
    if evidence.deviation is not None and math.isfinite(evidence.deviation):
        value = quantity(evidence.deviation, unit, phrases, sign="+")
        lines.append(phrases.say("lines", "deviation", value=value))
    minutes = evidence.duration_min
    if minutes is not None and math.isfinite(minutes) and not (unit == MINUTES and measured):
        lines.append(phrases.say("lines", "duration", duration=duration(minutes)))
    if herd := herd_words(evidence.herd, phrases):
        lines.append(phrases.say("lines", "herd", herd=herd))
    if math.isfinite(confidence) and (measured or confidence < 1):
        lines.append(phrases.say("lines", "confidence", percent=percent(confidence)))
    if measured and math.isfinite(evidence.quality):
        lines.append(phrases.say("lines", "quality", percent=percent(evidence.quality)))
    return lines


def gist(evidence: Evidence, phrases: Phrases) -> str:
    """The numbers in half a line: `40.6 °C (usual 38.6 °C), for 12 min`; "" without a value."""
    value, unit = evidence.value, evidence.unit
    if value is None or not math.isfinite(value):
        return ""
    text = quantity(value, unit, phrases)
    if evidence.baseline is not None and math.isfinite(evidence.baseline):
        usual = quantity(evidence.baseline, unit, phrases)
        text = phrases.say("figures", "usual", value=text, usual=usual)
    minutes = evidence.duration_min
    if minutes and math.isfinite(minutes) and round(minutes) > 0 and unit != MINUTES:
        text += f", {phrases.say('figures', 'lasting', duration=duration(minutes))}"
    return text


def _date(at: datetime) -> dict[str, str]:
    return {"year": f"{at.year:04d}", "month": f"{at.month:02d}", "day": f"{at.day:02d}"}
