"""From what a channel has to send to a letter in the reader's language. Runs in the channel's task.

The chart behind an alert is read and drawn in a reader thread of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from gateway.core import wording
from gateway.core.alert_event import AlertEvent
from gateway.core.chart import Series, chart
from gateway.core.day_summary import DaySummary
from gateway.core.instants import DAY_MS
from gateway.core.letters import Letter
from gateway.core.notices import Sending
from gateway.core.outbox import message_id
from gateway.core.phrases import Phrases
from gateway.store import history
from gateway.store.chunks import ChunkError
from gateway.store.database import Connection, Database

CHART_BEFORE_MS = DAY_MS
"""What was before the trouble began, so that the eye has something to compare with."""
CHART_SPAN_MS_MAX = 3 * DAY_MS
"""Of a trouble that has lasted for days the newest three are drawn."""
CHART_POINTS_MAX = 600
"""A point each 5 min while the trouble is younger than a day, each 15 min after that; one for each pixel."""
DEFAULT_LANGUAGE = "en"

_TEMPERATURE = ("temperature_c", "°C")
_MOTION = ("motion_g", "g")
CHANNEL_OF: Mapping[str, tuple[str, str]] = {
    "fever": _TEMPERATURE,
    "heat_stress": _TEMPERATURE,
    "inactivity": _MOTION,
    "estrus": _MOTION,
    "sensor_malfunction": _MOTION,
}
"""Kind of trouble → the channel that shows it, and its unit."""


class LetterWriter:
    """Writes letters.

    Args:
        database: names the gateway and holds the series.
        phrases: by language; "en" is always there.
        zone: the site's.
        link: alert id and contact → address that acknowledges it; "" = none.
    """

    def __init__(
        self,
        *,
        database: Database,
        phrases: Mapping[str, Phrases],
        zone: ZoneInfo,
        link: Callable[[int, str], str],
    ) -> None:
        self._database = database
        self._phrases = phrases
        self._zone = zone
        self._link = link

    def message_id(self, sending: Sending) -> str:
        """The same whenever the same letter is written again (decision 39)."""
        stem = message_id(self._database.gateway_id, self._database.epoch, sending.seq)
        return f"{stem}/digest" if sending.digest else stem

    async def write(self, channel: str, sending: Sending, now_ms: int, *, short: bool) -> Letter:
        """The letter, in the short or the full form.

        Raises:
            StoreError: the series cannot be read.
            msgspec.DecodeError: a summary that is none (damage).
        """
        phrases = self._phrases.get(sending.contact.language) or self._phrases[DEFAULT_LANGUAGE]
        title, body = self._words(sending, phrases, short=short)
        svg = None
        event = sending.items[-1].event
        if event is not None and not sending.digest and not short:
            svg = await self._picture(event, phrases, title, now_ms)
        return Letter(
            channel=channel,
            to=sending.address.to,
            contact=sending.contact.name,
            message_id=self.message_id(sending),
            title=title,
            body=body,
            severity=event.severity if event is not None and not sending.digest else "info",
            svg=svg,
            fields=_fields(sending, event),
        )

    def _words(self, sending: Sending, phrases: Phrases, *, short: bool) -> tuple[str, str]:
        events = [item.event for item in sending.items if item.event is not None]
        if sending.digest:
            if short:
                return "", wording.digest_short(events, phrases)
            return wording.digest(events, phrases, self._zone)
        if not events:
            day = msgspec.json.decode(sending.items[-1].payload, type=DaySummary)
            if short:
                return "", wording.summary_short(day, phrases, self._zone)
            return wording.summary(day, phrases, self._zone)
        link = self._link(events[-1].id, sending.contact.name)
        if short:
            return "", wording.short(events[-1], phrases, link)
        return wording.full(events[-1], phrases, link=link, zone=self._zone)

    async def _picture(self, event: AlertEvent, phrases: Phrases, title: str, now_ms: int) -> str | None:
        """24 h before it began until now; None where there is nothing to draw."""
        shown = CHANNEL_OF.get(event.kind)
        if shown is None or event.cow_id is None:
            return None
        cow_id, (channel, unit) = event.cow_id, shown
        mark_ms = round(datetime.fromisoformat(event.onset).timestamp() * 1000)
        from_ms = max(mark_ms - CHART_BEFORE_MS, now_ms - CHART_SPAN_MS_MAX)
        # Only a baseline in the unit of the chart is a line of the chart.
        baseline = event.evidence.baseline if event.evidence.unit == unit else None

        def draw(db: Connection) -> str | None:
            try:
                table = history.points(db, [cow_id], from_ms, now_ms, [channel], points_max=CHART_POINTS_MAX)
            except ChunkError:  # the housekeeping tells of it
                return None
            if len(table.timestamp_ms) < 2:
                return None
            series = Series(tuple(table.timestamp_ms.tolist()), tuple(table.values[channel].tolist()))
            return chart(
                series,
                title=title,
                unit=unit,
                baseline=baseline,
                mark_ms=mark_ms,
                zone=self._zone,
                nothing=phrases.say("chart", "nothing"),
            )

        return await self._database.read(draw)


def _fields(sending: Sending, event: AlertEvent | None) -> dict[str, str]:
    """Facts for machines."""
    facts = {"contact": sending.contact.name}
    if sending.digest:
        return facts | {"events": str(len(sending.items)), "kind": "digest"}
    if event is None:
        return facts | {"kind": "summary"}
    plain = {
        name: str(value)
        for name in event.__struct_fields__
        if isinstance(value := getattr(event, name), str | int | float) and not isinstance(value, bool)
    }
    return facts | plain | {"late": "true" if event.late else "false"}
