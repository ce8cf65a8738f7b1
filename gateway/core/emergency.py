"""Calls for help and the emergency stop: from whatever was sent to a finding (S3-067, S4-056). Pure.

Nothing is ever rejected here: a panic button with a broken clock, a dead GPS or a firmware fault is
still somebody who needs help. What cannot be understood is said to be so in the sentence.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.core.alerts import CALLS, EMERGENCY_STOP, Alert
from gateway.core.findings import Evidence, Finding
from gateway.core.instants import MS_PER_MINUTE, iso_utc
from gateway.core.severity import Severity

STOP_TOPICS: Final = ("safety/emergency_stop", "lawnberry/safety/emergency_stop")
"""Where the stop is pressed, and where the gateway's own state is retained while it holds."""
STOP_SUBJECT: Final = "barn"
STOP_RESET: Final = "the emergency stop is reset by a person: page, button or `barn-gateway alerts close`"
"""Said to whoever tries to lift it with an empty message."""

SUBJECT_CHARS_MAX: Final = 64
"""As an animal's id (decision 9)."""
MESSAGE_CHARS_MAX: Final = 200
"""Of what the sender wrote: more than fits on a telephone's lock screen."""
WORD_CHARS_MAX: Final = 16
"""Of the sender's own severity; the longest known one has 9."""
SENTENCE_CHARS_MAX: Final = 480
"""EMERGENCY STOP (14), by and a name (4 + 64), a message (2 + 200), a place (4 + 24), a severity
(15 + 16), a clock (17 + 24): 384, and room for an unknown sender's client id (10 + 64)."""
CONTENT_BYTES_MAX: Final = 64 * 1024
"""Unpacked (decision 26 allows 1 MiB): a call says little, and 64 KiB take below 1 ms to read."""
CLOCK_OFF_MS: Final = 5 * MS_PER_MINUTE
"""A device's clock may be wrong by this much before it is worth a word (decision 7: 5 min)."""
DEGREE_DIGITS: Final = 6
"""0.000001° is 0.1 m."""
EPOCH_SECONDS_MAX: Final = 1e11
"""A larger number is milliseconds: in seconds it would be the year 5138."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.:-]")
_GZIP = b"\x1f\x8b"
_MESSAGES = ("message", "reason", "text", "description", "note")
_SENDERS = ("who", "by", "sender", "source", "user", "operator", "device_id")
_PLACES = ("location", "position", "gps")
_TIMES = ("timestamp", "time", "ts")
_INSIDE = ("payload", "data", "metadata")
"""Where an envelope keeps what it is about (S4-054: sender and payload)."""


def read_call(topic: str, payload: bytes, received_ms: int, client_id: str) -> Finding:
    """A call for help, whatever was sent.

    Args:
        topic: `…/{kind}/{who}`; a kind that is none of `CALLS` counts as panic.
        payload: JSON as in S3-067, any other JSON, plain text, packed with gzip, nothing, or rubbish.
        received_ms: arrival, UTC epoch ms: when it happened, whatever the sender's clock says.
        client_id: of the connection; named where the topic names nobody.
    """
    levels = topic.split("/")
    kind = levels[-2] if len(levels) > 1 and levels[-2] in CALLS else "panic"
    subject = _UNSAFE.sub("_", levels[-1][:SUBJECT_CHARS_MAX]) or "unknown"
    said = _Said(payload)
    place = said.place()
    sentence = f"{kind.upper()} from {subject}"
    if subject == "unknown":
        sentence += f" (client {_one_line(client_id, SUBJECT_CHARS_MAX) or 'without id'})"
    if message := said.message():
        sentence += f": {message}"
    if place is not None:
        sentence += f", at {place[0]}, {place[1]}"
    if word := said.milder_severity():
        sentence += f" (sender says: {word})"
    if clock := said.clock_off(received_ms):
        sentence += f" (its clock says {clock})"
    detail = f"lat={place[0]} lon={place[1]}" if place is not None else ""
    return _critical(subject, kind, sentence, received_ms, detail)


def read_stop(payload: bytes, received_ms: int, client_id: str) -> Finding:
    """Somebody, or a machine, stops the barn. Any payload does; an empty one never comes here.

    Args:
        payload: JSON (also in an envelope: sender, payload), plain text that says why, or rubbish.
        received_ms: arrival, UTC epoch ms.
        client_id: who did it, where the payload names nobody.
    """
    said = _Said(payload)
    who = said.text_of(_SENDERS, SUBJECT_CHARS_MAX) or _one_line(client_id, SUBJECT_CHARS_MAX) or "unknown"
    reason = said.message()
    sentence = f"EMERGENCY STOP by {who}" + (f": {reason}" if reason else "")
    return _critical(STOP_SUBJECT, EMERGENCY_STOP, sentence, received_ms, "")


class StopState(msgspec.Struct, frozen=True):
    """What the gateway retains on `STOP_TOPICS` while the stop holds; the topics are empty otherwise.

    Args:
        since: ISO 8601, UTC.
        message: who and why, one sentence.
        reset: how it ends.
    """

    alert_type: str
    severity: str
    active: bool
    alert_id: int
    since: str
    message: str
    reset: str


def stop_among(alerts: Iterable[Alert]) -> Alert | None:
    """The stop that holds, of open alerts."""
    return next((alert for alert in alerts if alert.kind == EMERGENCY_STOP), None)


def stop_state(alert: Alert | None) -> list[tuple[str, bytes]]:
    """What is to be retained on which topic, after a move of this alert.

    Args:
        alert: of any kind; None = the barn is not stopped, as at a start without such an alert.

    Returns:
        (topic, payload) of both topics, an empty payload to clear them; nothing for other alerts.
    """
    if alert is None or (alert.kind == EMERGENCY_STOP and not alert.open):
        return [(topic, b"") for topic in STOP_TOPICS]
    if alert.kind != EMERGENCY_STOP:
        return []
    state = StopState(
        alert_type=EMERGENCY_STOP,
        severity=alert.severity.label,
        active=True,
        alert_id=alert.id,
        since=iso_utc(alert.onset_ms),
        message=alert.sentence,
        reset=STOP_RESET,
    )
    return [(topic, msgspec.json.encode(state)) for topic in STOP_TOPICS]


def _critical(subject: str, kind: str, sentence: str, at_ms: int, detail: str) -> Finding:
    return Finding(
        subject=subject,
        kind=kind,
        present=True,
        severity=Severity.CRITICAL,
        at_ms=at_ms,
        onset_ms=at_ms,
        confidence=1.0,
        sentence=sentence,
        evidence=Evidence(herd=""),
        detail=detail,
    )


class _Said:
    """What a payload says, as far as it can be understood.

    Args:
        payload: as it came.
    """

    def __init__(self, payload: bytes) -> None:
        self._objects: list[dict[str, Any]] = []
        self._text = ""
        content = _unpacked(payload)
        try:
            value = msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self._text = _plain(content)
            if payload and not self._text and content.strip():
                self._text = f"(message unreadable, {len(payload)} bytes)"
            return
        if isinstance(value, str):
            self._text = value
        elif isinstance(value, dict):
            inside = [value.get(name) for name in _INSIDE]
            self._objects = [one for one in (value, *inside) if isinstance(one, dict)]

    def _values(self, names: Sequence[str]) -> Iterator[Any]:
        for name in names:
            for one in self._objects:
                if name in one:
                    yield one[name]

    def text_of(self, names: Sequence[str], chars_max: int) -> str:
        """The first of these fields that holds a text, as one line."""
        lines = (_one_line(value, chars_max) for value in self._values(names) if isinstance(value, str))
        return next(filter(None, lines), "")

    def message(self) -> str:
        """What the sender wrote, as one line; "" if nothing."""
        return self.text_of((*_MESSAGES, *_INSIDE), MESSAGE_CHARS_MAX) or _one_line(
            self._text, MESSAGE_CHARS_MAX
        )

    def milder_severity(self) -> str:
        """The sender's own word, if it is not "critical" (decision 16: kept, and not obeyed)."""
        word = self.text_of(("severity",), WORD_CHARS_MAX)
        return "" if word.lower() == Severity.CRITICAL.label else word

    def place(self) -> tuple[str, str] | None:
        """Latitude and longitude in degrees, as text; None unless both are plausible.

        0, 0 is what receivers send that have no fix, and lies in the Gulf of Guinea.
        """
        nested = [value for value in self._values(_PLACES) if isinstance(value, dict)]
        for one in (*nested, *self._objects):
            lat = _degrees(one, ("lat", "latitude"), 90)
            lon = _degrees(one, ("lon", "longitude", "lng"), 180)
            if lat is not None and lon is not None and (lat or lon):
                return _digits(lat), _digits(lon)
        return None

    def clock_off(self, received_ms: int) -> str:
        """The sender's own time stamp, if it is far from the arrival."""
        for value in self._values(_TIMES):
            at_ms = _instant_ms(value)
            if at_ms is not None:
                return iso_utc(at_ms) if abs(at_ms - received_ms) > CLOCK_OFF_MS else ""
        return ""


def _unpacked(payload: bytes) -> bytes:
    """Without gzip, as much as is looked at."""
    if not payload.startswith(_GZIP):
        return payload[:CONTENT_BYTES_MAX]
    try:
        return zlib.decompressobj(wbits=31).decompress(payload, CONTENT_BYTES_MAX)
    except zlib.error:
        return payload[:CONTENT_BYTES_MAX]


def _plain(content: bytes) -> str:
    """Text that is no JSON; "" if it does not look like text."""
    text = content[: 4 * MESSAGE_CHARS_MAX].decode("utf-8", errors="replace")
    odd = sum(1 for c in text if c == "\ufffd" or not (c.isprintable() or c.isspace()))
    return text if odd * 4 <= len(text) else ""


def _one_line(text: str, chars_max: int) -> str:
    """Fit for one line of a log, a page and a message."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * chars_max])
    return " ".join(printable.split())[:chars_max].rstrip()


def _degrees(one: dict[str, Any], names: Sequence[str], most: float) -> float | None:
    """A coordinate as a number, or as a number in a text."""
    for name in names:
        value = one.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        try:
            degrees = float(value)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(degrees) and abs(degrees) <= most:
            return round(degrees, DEGREE_DIGITS) + 0.0  # -0.0 becomes 0.0
    return None


def _digits(degrees: float) -> str:
    return f"{degrees:.{DEGREE_DIGITS}f}".rstrip("0").rstrip(".")


def _instant_ms(value: object) -> int | None:
    """A time stamp in ISO 8601 (without a zone UTC) or as epoch seconds or milliseconds."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value[:SUBJECT_CHARS_MAX])
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
            moment = datetime.fromtimestamp(seconds / (1000 if seconds > EPOCH_SECONDS_MAX else 1), UTC)
        else:
            return None
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None
