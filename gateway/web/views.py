"""The status page: facts → HTML. Pure; everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import msgspec

from gateway.core.alerts import Alert
from gateway.core.instants import iso_utc
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.core.signals import shown
from gateway.core.silences import Silence
from gateway.store.standing import Standing
from gateway.web.alert_views import card, silences_section
from gateway.web.api import worst_first
from gateway.web.layout import ago, document, moment, span, words
from gateway.web.status import GatewayStatus, Health, judge

ANIMALS_SHOWN = 500
"""Rows on the page: 500 x 0.4 KB = 200 KB, what a phone still shows at once; the API has the rest."""

ENDED_SHOWN = 10
"""Alerts that are over, below the open ones."""

_HEALTH_WORDS = {
    Health.HEALTHY: "The gateway is well",
    Health.DEGRADED: "Working, but not at its best",
    Health.UNHEALTHY: "Not working",
}


class Page(msgspec.Struct, frozen=True):
    """Everything the page shows.

    Args:
        readings: the newest one of each animal, at most `ANIMALS_SHOWN`.
        animals: how many animals have ever sent a reading.
        ended: newest first.
        standings: who has acknowledged or ended those alerts, by their row number.
        silences: those that hold.
        name: fills the name fields of the forms; None = nothing can be done here now.
    """

    status: GatewayStatus
    open_alerts: Sequence[Alert]
    ended: Sequence[Alert]
    readings: Sequence[Reading]
    animals: int
    standings: Mapping[int, Standing] = {}
    silences: Sequence[Silence] = ()
    name: str | None = None


def page(facts: Page) -> str:
    """The whole document."""
    status = facts.status
    main = (
        _health(status),
        _alerts(facts),
        silences_section(facts.silences, status.now_ms, facts.name),
        _animals(facts),
        _counts(status),
    )
    return document(
        _title(facts),
        "\n".join(part for part in main if part),
        header=f'<p class="quiet">{escape(status.gateway_id)} · {_clock(status)}</p>',
        footer=f"""Version {escape(status.version)} · running for {span(status.uptime_s)} ·
<a href="/health">health</a> · <a href="/api/alerts">alerts</a> · <a href="/api/animals">animals</a>""",
        refreshed=True,
    )


def _title(facts: Page) -> str:
    """The tab's text says it too, so that a glance at it is enough."""
    worst = max((alert.severity for alert in facts.open_alerts), default=None)
    if worst is None:
        return "Barn Gateway"
    return f"({len(facts.open_alerts)} {worst.label}) Barn Gateway"


def _clock(status: GatewayStatus) -> str:
    text = f"{moment(status.now_ms)}"
    return text if status.clock_trusted else f"{text} (clock not set)"


def _health(status: GatewayStatus) -> str:
    verdict = judge(status)
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return f"""<section class="card {verdict.health.value}">
<h2>{_HEALTH_WORDS[verdict.health]}</h2>
<p>Lamp and buzzer: <strong>{escape(status.panel)}</strong></p>
{f"<ul>{reasons}</ul>" if reasons else ""}
</section>"""


def _alerts(facts: Page) -> str:
    """What the panel shows comes first, then the worst; those that are over last."""
    first = shown(facts.open_alerts)
    ordered = [] if first is None else [first]
    ordered += [alert for alert in worst_first(facts.open_alerts) if alert is not first]
    ordered += facts.ended[:ENDED_SHOWN]
    rows = [
        card(facts.standings.get(alert.id, Standing(alert, ())), facts.status.now_ms, facts.name)
        for alert in ordered
    ]
    body = "\n".join(rows) if rows else '<p class="quiet">No alerts yet.</p>'
    return f"<section>\n<h2>Alerts <small>{len(facts.open_alerts)} open</small></h2>\n{body}\n</section>"


def _animals(facts: Page) -> str:
    if not facts.readings:
        return '<section>\n<h2>Animals</h2>\n<p class="quiet">No reading has arrived yet.</p>\n</section>'
    troubled: dict[str, Severity] = {}
    for alert in facts.open_alerts:
        troubled[alert.subject] = max(alert.severity, troubled.get(alert.subject, Severity.INFO))
    rows = "\n".join(
        _animal(reading, troubled.get(reading.cow_id), facts.status) for reading in facts.readings
    )
    hidden = facts.animals - len(facts.readings)
    more = (
        f'<p class="quiet">and {hidden} more: <a href="/api/animals?limit=1000">all</a></p>'
        if hidden > 0
        else ""
    )
    return f"""<section>
<h2>Animals <small>{facts.animals}</small></h2>
<div class="wide"><table>
<thead><tr><th>Animal</th><th>Reading</th><th>°C</th><th>State</th><th>Alert</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
{more}
</section>"""


def _animal(reading: Reading, severity: Severity | None, status: GatewayStatus) -> str:
    word = "" if severity is None else f'<span class="word">{severity.label}</span>'
    look = "" if severity is None else f' class="{severity.label}"'
    return (
        f"<tr{look}><td>{escape(reading.cow_id)}</td>"
        f'<td title="{iso_utc(reading.timestamp_ms)}">{ago(reading.timestamp_ms, status.now_ms)}</td>'
        f"<td>{reading.temperature_c:.1f}</td>"
        f"<td>{escape(reading.state or '–')}</td><td>{word}</td></tr>"
    )


def _counts(status: GatewayStatus) -> str:
    messages, store = status.messages, status.store
    rows: list[tuple[str, str]] = [
        ("Messages", f"{messages.total:,}"),
        ("Valid", f"{messages.valid:,}"),
        ("Invalid", f"{messages.invalid:,}"),
        ("Stored", f"{messages.stored:,}"),
        ("Duplicates", f"{messages.duplicates:,}"),
        ("Storage errors", f"{messages.storage_errors:,}"),
        ("Connections", f"{status.broker.connections:,} on port {status.broker.port}"),
        ("Store", f"{store.size_bytes / 1e6:,.1f} MB in {store.path}"),
        ("Uplink", _uplink(status)),
    ]
    rows += [
        (words(job.job), "not run yet" if job.last_run_ms is None else ago(job.last_run_ms, status.now_ms))
        for job in status.detectors
    ]
    cells = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f"<section>\n<h2>Figures</h2>\n<dl>\n{cells}\n</dl>\n</section>"


def _uplink(status: GatewayStatus) -> str:
    if status.uplink is None:
        return "none"
    return f"{'connected' if status.uplink.connected else 'down'}, {status.uplink.pending:,} waiting"
