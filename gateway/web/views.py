"""The status page: facts → HTML, without scripts. Pure; everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

from gateway.core.alerts import Alert, State
from gateway.core.instants import iso_utc
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.web.api import worst_first
from gateway.web.status import GatewayStatus, Health, judge

ANIMALS_SHOWN = 500
"""Rows on the page: 500 x 0.4 KB = 200 KB, what a phone still shows at once; the API has the rest."""

ENDED_SHOWN = 10
"""Alerts that are over, below the open ones."""

REFRESH_S = 5

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
    """

    status: GatewayStatus
    open_alerts: Sequence[Alert]
    ended: Sequence[Alert]
    readings: Sequence[Reading]
    animals: int


def page(facts: Page) -> str:
    """The whole document."""
    status = facts.status
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}">
<title>{escape(_title(facts))}</title>
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header><h1>Barn Gateway</h1><p class="quiet">{escape(status.gateway_id)} · {_clock(status)}</p></header>
<main>
{_health(status)}
{_alerts(facts)}
{_animals(facts)}
{_counts(status)}
</main>
<footer class="quiet">Version {escape(status.version)} · running for {span(status.uptime_s)} ·
<a href="/health">health</a> · <a href="/api/alerts">alerts</a> · <a href="/api/animals">animals</a></footer>
</body>
</html>
"""


def span(seconds: float) -> str:
    """A duration in the one unit people would use: `12 s`, `5 min`, `3 h`, `9 days`."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def ago(then_ms: int, now_ms: int) -> str:
    """How long before now; an instant ahead of it says so (a collar's clock may be wrong)."""
    seconds = (now_ms - then_ms) / 1000
    return f"{span(seconds)} ago" if seconds > -1 else f"{span(-seconds)} ahead"


def _title(facts: Page) -> str:
    """The tab's text says it too, so that a glance at it is enough."""
    worst = max((alert.severity for alert in facts.open_alerts), default=None)
    if worst is None:
        return "Barn Gateway"
    return f"({len(facts.open_alerts)} {worst.label}) Barn Gateway"


def _clock(status: GatewayStatus) -> str:
    text = f"{_moment(status.now_ms)}"
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
    now_ms = facts.status.now_ms
    rows = [_alert(alert, now_ms) for alert in worst_first(facts.open_alerts)]
    rows += [_alert(alert, now_ms) for alert in facts.ended[:ENDED_SHOWN]]
    body = "\n".join(rows) if rows else '<p class="quiet">No alerts yet.</p>'
    return f"<section>\n<h2>Alerts <small>{len(facts.open_alerts)} open</small></h2>\n{body}\n</section>"


def _alert(alert: Alert, now_ms: int) -> str:
    ended = alert.state in {State.RESOLVED, State.FALSE_POSITIVE}
    look = "ended" if ended else alert.severity.label
    facts = [f"since {_moment(alert.onset_ms)} ({ago(alert.onset_ms, now_ms)})"]
    facts.append(alert.state.value.replace("_", " "))
    facts.append(f"confidence {alert.confidence:.0%}")
    if alert.late:
        facts.append("late")
    if alert.ended_ms is not None:
        facts.append(f"ended {ago(alert.ended_ms, now_ms)}")
    heading = f"{escape(alert.subject)} · {escape(_words(alert.kind))}"
    return f"""<article class="card {look}">
<h3><span class="word">{alert.severity.label}</span> {heading}</h3>
<p>{escape(alert.sentence)}</p>
<p class="quiet">{escape(" · ".join(facts))}</p>
</article>"""


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
        (_words(job.job), "not run yet" if job.last_run_ms is None else ago(job.last_run_ms, status.now_ms))
        for job in status.detectors
    ]
    cells = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f"<section>\n<h2>Figures</h2>\n<dl>\n{cells}\n</dl>\n</section>"


def _uplink(status: GatewayStatus) -> str:
    if status.uplink is None:
        return "none"
    return f"{'connected' if status.uplink.connected else 'down'}, {status.uplink.pending:,} waiting"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _moment(instant_ms: int) -> str:
    """`2025-11-25 14:30 UTC`."""
    return f"{iso_utc(instant_ms - instant_ms % 60_000)[:16].replace('T', ' ')} UTC"
