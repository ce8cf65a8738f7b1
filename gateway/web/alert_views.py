"""Alerts and silences → HTML: cards with their forms, the page of one alert, the page of a link.

Pure; everything that came from outside is escaped. Forms work without scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gateway.core.alert_commands import HOURS_MAX, NOTE_CHARS_MAX, WHO_CHARS_MAX
from gateway.core.alerts import NEVER_SILENCED, Alert, State
from gateway.core.silences import Silence
from gateway.store.alerts import Transition
from gateway.store.standing import Standing, Told
from gateway.web.layout import ago, document, moment, words

_VERBS = {
    State.ACKNOWLEDGED: "acknowledged",
    State.RESOLVED: "resolved",
    State.FALSE_POSITIVE: "called a false alarm",
}


def card(standing: Standing, now_ms: int, name: str | None) -> str:
    """One alert.

    Args:
        standing: the alert, and who has acknowledged or ended it.
        now_ms: the gateway's clock.
        name: fills the form's name field; None = no form.
    """
    alert = standing.alert
    look = alert.severity.label if alert.open else "ended"
    facts = [f"since {moment(alert.onset_ms)} ({ago(alert.onset_ms, now_ms)})"]
    facts.append(words(alert.state.value))
    facts.append(f"confidence {alert.confidence:.0%}")
    if alert.late:
        facts.append("late")
    if alert.ended_ms is not None:
        facts.append(f"ended {ago(alert.ended_ms, now_ms)}")
    heading = f"{escape(alert.subject)} · {escape(words(alert.kind))}"
    if alert.id:
        heading = f'<a href="/alerts/{alert.id}">{heading}</a>'
    step = standing.decided
    by = "" if step is None else f"<p>{escape(_decision(step, alert, now_ms))}</p>\n"
    form = "" if name is None or not alert.open else f"{say_form(alert, name)}\n"
    return f"""<article class="card {look}" id="alert-{alert.id}">
<h3><span class="word">{alert.severity.label}</span> {heading}</h3>
<p>{escape(alert.sentence)}</p>
<p class="quiet">{escape(" · ".join(facts))}</p>
{by}{form}</article>"""


def say_form(alert: Alert, name: str) -> str:
    """What a person may say about an open alert."""
    buttons = [("resolve", "Resolved"), ("false_positive", "False alarm")]
    if alert.state is State.ACTIVE:
        buttons.insert(0, ("acknowledge", "Acknowledge"))
    looks = ' class="first"', "", ""
    made = "\n".join(
        f'<button formaction="/api/alerts/{alert.id}/{action}"{look}>{word}</button>'
        for (action, word), look in zip(buttons, looks, strict=False)
    )
    return f"""<form id="say-{alert.id}" method="post" action="/api/alerts/{alert.id}/{buttons[0][0]}">
{_name_field(name)}
<label>Note <input name="note" maxlength="{NOTE_CHARS_MAX}" autocomplete="off"></label>
{made}
</form>"""


def silences_section(silences: Sequence[Silence], now_ms: int, name: str | None) -> str:
    """Those that hold, each with its end."""
    rows = "\n".join(_silence(silence, now_ms, name) for silence in silences)
    more = (
        '<p><a href="/silences">Silence an animal, a kind of alert or the barn</a></p>'
        if name is not None
        else ""
    )
    if not rows and not more:
        return ""
    return f"<section>\n<h2>Silences <small>{len(silences)}</small></h2>\n{rows}\n{more}\n</section>"


def silences_page(silences: Sequence[Silence], now_ms: int, name: str) -> str:
    """All that hold and the form for another one."""
    form = f"""<section class="card" id="new-silence">
<h2>New silence</h2>
<p>Nobody is woken or written to; alerts are raised, shown and lit as ever.
Calls for help are never silenced.</p>
{silence_form(name)}
</section>"""
    held = silences_section(silences, now_ms, None) or '<p class="quiet">No silence holds.</p>'
    return document("Silences", f"{form}\n{held}", footer=_BACK)


def silence_form(name: str, subject: str = "", kind: str = "") -> str:
    """Asks for a silence, of one animal and kind if they are given."""
    return f"""<form id="silence" method="post" action="/api/silences">
<label>Animal (empty = all) <input name="subject" value="{escape(subject)}" maxlength="64"></label>
<label>Kind (empty = all) <input name="kind" value="{escape(kind)}" maxlength="64"></label>
<label>Hours
<input name="hours" type="number" min="0.1" max="{HOURS_MAX}" step="any" value="4" required></label>
{_name_field(name)}
<label>Why <input name="reason" maxlength="{NOTE_CHARS_MAX}" autocomplete="off"></label>
<button class="first">Silence</button>
</form>"""


def alert_page(standing: Standing, now_ms: int, name: str | None) -> str:
    """One alert with its history."""
    alert = standing.alert
    parts = [card(standing, now_ms, name), _history(standing.history), _told(standing.told)]
    if name is not None and alert.open and alert.kind not in NEVER_SILENCED:
        form = silence_form(name, alert.subject, alert.kind)
        parts.append(f'<section class="card"><h2>Silence</h2>\n{form}\n</section>')
    return document(
        f"{alert.subject} {words(alert.kind)}", "\n".join(part for part in parts if part), footer=_BACK
    )


def link_page(standing: Standing, contact: str, now_ms: int, path: str) -> str:
    """What the link of a notification shows: the alert, and one button while there is something to do.

    Args:
        standing: the alert.
        contact: the person the link was sent to.
        now_ms: the gateway's clock.
        path: where the button leads; the link itself.
    """
    alert = standing.alert
    button = ""
    if alert.state is State.ACTIVE:
        button = f"""<form id="link" method="post" action="{escape(path)}">
<button class="first">Acknowledge as {escape(contact)}</button>
</form>"""
    elif not alert.open:
        button = "<p><strong>This alert has ended.</strong></p>"
    return document(f"{alert.subject} {words(alert.kind)}", f"{card(standing, now_ms, None)}\n{button}")


_BACK = '<a href="/">status page</a>'


def _decision(step: Transition, alert: Alert, now_ms: int) -> str:
    why = f": {step.reason}" if step.reason else ""
    return f"{_VERBS[alert.state]} by {step.who} ({step.origin}) {ago(step.at_ms, now_ms)}{why}"


def _name_field(name: str) -> str:
    return (
        f'<label>Your name <input name="by" value="{escape(name)}" maxlength="{WHO_CHARS_MAX}" '
        'required autocomplete="name"></label>'
    )


def _silence(silence: Silence, now_ms: int, name: str | None) -> str:
    about = (
        " · ".join(part for part in (silence.subject, words(silence.kind or "")) if part) or "the whole barn"
    )
    why = f": {silence.reason}" if silence.reason else ""
    form = ""
    if name is not None:
        form = f"""
<form id="end-{silence.id}" method="post" action="/api/silences/{silence.id}/end">
{_name_field(name)}
<button>End it now</button>
</form>"""
    return f"""<article class="card" id="silence-{silence.id}">
<h3>{escape(about)}</h3>
<p>silent until {moment(silence.until_ms)}, by {escape(silence.who)} ({escape(silence.origin)}) \
{ago(silence.from_ms, now_ms)}{escape(why)}</p>{form}
</article>"""


def _history(steps: Sequence[Transition]) -> str:
    rows = [
        (
            moment(step.at_ms),
            words(step.to_state),
            step.severity.label,
            f"{step.who} ({step.origin})",
            step.reason,
        )
        for step in steps
    ]
    return _table("History", ("When", "State", "Severity", "Who", "Why"), rows)


def _told(told: Sequence[Told]) -> str:
    rows = [(moment(one.at_ms), one.contact, one.channel, one.outcome) for one in told]
    return _table("Who was told", ("When", "Person", "Channel", "Outcome"), rows) if rows else ""


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"""<section>
<h2>{title}</h2>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
</section>"""
