"""Alerts in words: a text message, a letter, several in one, and the day. Pure.

Whoever reads it may have been asleep a minute ago: what matters comes first, in his own
language and with his own clock's time; the detector's sentence follows as it was written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo

from gateway.core.alert_event import AlertEvent
from gateway.core.alerts import CALLS, ENDED, NOT_ANIMALS, Change, State
from gateway.core.day_summary import DaySummary
from gateway.core.figures import evidence_lines, gist, local_date, local_moment
from gateway.core.phrases import Phrases
from gateway.core.places import map_link, place_in
from gateway.core.routing import ENDS, TROUBLE
from gateway.core.severity import Severity
from gateway.core.texts import cut, for_telephone, one_line

SHORT_CHARS_MAX = 160
"""One text message (S3-037); counted in characters."""
GIST_CHARS_MIN = 40
"""So much of what happened must stay beside a link; a link that leaves less is left out."""
TITLE_CHARS_MAX = 150
"""A subject line; longer ones are folded by mail programs and cut by phones."""
LINES_MAX = 20
"""Lines of a list in one message: a screen of a phone, scrolled twice."""

_NUMBERED = re.compile(r"([A-Za-z]+)[-_ ]?#?([0-9]+)", re.ASCII)


def title(event: AlertEvent, phrases: Phrases) -> str:
    """`CRITICAL fever COW_042`: what happened, how bad, who; one line of at most 150 characters."""
    severity, what = phrases.say("severities", event.severity), _what(event, phrases)
    change = event.change or Change.RAISED.value
    if event.late and change in {Change.RAISED, Change.ESCALATED}:
        change = "late"
    if change == Change.ACKNOWLEDGED and event.who:
        text = phrases.say(
            "titles", "acknowledged_by", severity=severity, what=what, who=one_line(event.who, 40)
        )
    else:
        text = phrases.say("titles", change, severity=severity, what=what)
    return one_line(text, TITLE_CHARS_MAX)


def short(event: AlertEvent, phrases: Phrases, link: str = "") -> str:
    """At most 160 characters: what matters, the numbers, `#17`, and the link when it fits.

    A call for help that says where from has the form of S3-037: `🚨 PANIC: Guard #101 at
    12.97°N, 77.59°E #17`. Everything else keeps to the telephone's own alphabet where the
    language allows it, so that it costs one message.
    """
    place = place_in(event.detail)
    if event.kind in CALLS and place is not None and _wants_hands(event):
        kind = phrases.kind(event.kind).upper()
        text = phrases.say("titles", "call_at", kind=kind, who=_caller(event.subject), place=str(place))
    else:
        text = for_telephone(title(event, phrases))
        if more := for_telephone(_gist(event, phrases)):
            text += f": {more}"
    number = f" #{event.id}"
    tail = f"{number} {link}" if link and _wants_hands(event) else number
    if len(tail) + min(len(text), GIST_CHARS_MIN) > SHORT_CHARS_MAX:
        tail = number
    return cut(text, SHORT_CHARS_MAX - len(tail)) + tail


def full(event: AlertEvent, phrases: Phrases, *, link: str = "", zone: tzinfo) -> tuple[str, str]:
    """Title and body: the same in a line, the detector's sentence, numbers, times, links.

    Args:
        event: one move of one alert.
        phrases: the language.
        link: where it can be acknowledged; "" if there is no such page.
        zone: the site's; all times are given in it.
    """
    say = phrases.say
    lines = []
    if more := _gist(event, phrases, original=False):
        lines += [f"{_what(event, phrases)}: {more}"]
    if event.sentence:
        lines += [say("lines", "original", sentence=one_line(event.sentence))]
    lines += [""] if lines else []
    place = place_in(event.detail)
    if place is not None:
        lines += [say("lines", "place", place=str(place)), say("lines", "map", link=map_link(place))]
    lines += evidence_lines(event.evidence, event.confidence, phrases)
    lines += [say("lines", "began", moment=local_moment(event.onset, phrases, zone))]
    if event.ended is not None:
        lines += [say("lines", "ended", moment=local_moment(event.ended, phrases, zone))]
    if event.who:
        lines += [say("lines", "by", who=one_line(event.who))]
    if note := _note(event):
        lines += [say("lines", "note", note=note)]
    if event.reminders > 0 and event.change == Change.REPEATED:
        lines += [say("lines", "reminders", n=str(event.reminders))]
    if link and _wants_hands(event):
        lines += ["", say("lines", "acknowledge", link=link)]
    lines += ["", say("lines", "number", number=str(event.id), key=event.key)]
    return title(event, phrases), "\n".join(map(one_line, lines))


def digest(events: Sequence[AlertEvent], phrases: Phrases, zone: tzinfo) -> tuple[str, str]:
    """Several events in one message: counts, then the worst first, at most 20 lines.

    Of each alert only its newest event is told: an alert that came and went is one line.

    Args:
        events: in the order of the outbox.
        phrases: the language.
        zone: the site's.
    """
    alerts = _newest_of_each(events)
    lines = [phrases.say("digest", "why"), ""]
    lines += _counts(Counter((event.severity, event.kind) for event in alerts), phrases)
    lines += [""]
    for event in alerts[:LINES_MAX]:
        more = for_telephone(_gist(event, phrases))
        text = f"{title(event, phrases)}: {more}" if more else title(event, phrases)
        lines.append(
            f"{local_moment(event.changed, phrases, zone)}  {cut(text, TITLE_CHARS_MAX)} #{event.id}"
        )
    if (left := len(alerts) - LINES_MAX) > 0:
        lines.append(phrases.say("digest", "more", n=str(left)))
    return phrases.say("digest", "title", n=str(len(alerts))), "\n".join(lines)


def digest_short(events: Sequence[AlertEvent], phrases: Phrases) -> str:
    """The same in at most 160 characters: how many of each severity, and the worst one."""
    alerts = _newest_of_each(events)
    by_severity = Counter(event.severity for event in alerts)
    counts = ", ".join(
        f"{phrases.say('severities', severity.label)} {by_severity[severity.label]}"
        for severity in sorted(Severity, reverse=True)
        if by_severity[severity.label]
    )
    worst = f"{title(alerts[0], phrases)} #{alerts[0].id}" if alerts else "-"
    text = phrases.say("digest", "short", n=str(len(alerts)), counts=counts or "-", worst=worst)
    return cut(for_telephone(text), SHORT_CHARS_MAX)


def summary(day: DaySummary, phrases: Phrases, zone: tzinfo) -> tuple[str, str]:
    """The day: what was raised, what is open, who was seen and who is silent."""

    def line(key: str, n: int) -> str:
        return phrases.say("summary", key, n=str(n))

    raised_n = sum(one.n for one in day.raised)
    counts = Counter({(one.severity, one.kind): one.n for one in day.raised})
    lines = [line("raised", raised_n), *(f"  {text}" for text in _counts(counts, phrases))]
    lines += [line("open", len(day.open_now))]
    worst_first = sorted(day.open_now, key=_urgency, reverse=True)
    lines += [f"  {title(event, phrases)} #{event.id}" for event in worst_first[:LINES_MAX]]
    if (left := len(worst_first) - LINES_MAX) > 0:
        lines += [f"  {phrases.say('digest', 'more', n=str(left))}"]
    lines += [line("animals", day.animals_n), line("readings", day.readings_n)]
    lines += [line("rejected", day.rejected_n), line("silent", len(day.silent))]
    if day.silent:
        lines += [f"  {one_line(', '.join(day.silent[:LINES_MAX]))}"]
        if (left := len(day.silent) - LINES_MAX) > 0:
            lines += [f"  {phrases.say('digest', 'more', n=str(left))}"]
    heading = phrases.say(
        "summary",
        "title",
        date=local_date(day.from_ms, phrases, zone),
        raised=str(raised_n),
        open=str(len(day.open_now)),
    )
    return heading, "\n".join(lines)


def summary_short(day: DaySummary, phrases: Phrases, zone: tzinfo) -> str:
    """The day in at most 160 characters."""
    text = phrases.say(
        "summary",
        "short",
        date=local_date(day.from_ms, phrases, zone),
        raised=str(sum(one.n for one in day.raised)),
        open=str(len(day.open_now)),
        animals=str(day.animals_n),
        silent=str(len(day.silent)),
    )
    return cut(for_telephone(text), SHORT_CHARS_MAX)


def _wants_hands(event: AlertEvent) -> bool:
    """Whether somebody has yet to see to it; a state without a change counts by itself."""
    return event.change in TROUBLE if event.change else event.state == State.ACTIVE


def _what(event: AlertEvent, phrases: Phrases) -> str:
    """`fever COW_042`; of herd, gateway and barn the kind alone, which says it."""
    kind = phrases.kind(event.kind)
    if event.subject in NOT_ANIMALS:
        return one_line(kind)
    subject = _caller(event.subject) if event.kind in CALLS else event.subject
    return one_line(phrases.say("titles", "animal", kind=kind, subject=subject))


def _caller(subject: str) -> str:
    """Who calls, as people say it: guard-101 is `Guard #101`."""
    found = _NUMBERED.fullmatch(subject)
    return f"{found[1].capitalize()} #{found[2]}" if found else one_line(subject)


def _gist(event: AlertEvent, phrases: Phrases, *, original: bool = True) -> str:
    """What happened in half a line, without the title's words.

    Args:
        event: the event.
        phrases: the language.
        original: whether the detector's own sentence may stand in where there are no numbers.
    """
    if event.change == Change.ACKNOWLEDGED or event.change in ENDS:
        return _note(event)
    if event.cow_id is not None:
        detail = phrases.word("details", event.detail) or ""
        if told := ", ".join(filter(None, (detail, gist(event.evidence, phrases)))):
            return one_line(told)
    return one_line(event.sentence.removeprefix(f"{event.subject}: ")) if original else ""


def _note(event: AlertEvent) -> str:
    """What a person wrote when they moved it."""
    return one_line(event.reason) if event.who else ""


def _newest_of_each(events: Iterable[AlertEvent]) -> list[AlertEvent]:
    """The newest event of each alert, the worst first."""
    newest = {event.key: event for event in events}
    return sorted(newest.values(), key=_urgency, reverse=True)


def _urgency(event: AlertEvent) -> tuple[int, bool, bool, str, int]:
    """How bad, whether it still goes on, whether nobody has seen it, how new."""
    severity = Severity[event.severity.upper()]
    return (severity, event.state not in ENDED, event.state == State.ACTIVE, event.raised, event.id)


def _counts(counts: Mapping[tuple[str, str], int], phrases: Phrases) -> list[str]:
    """A line a severity, the worst first: `CRITICAL: fever 2; panic 1`; most frequent first."""
    lines = []
    for severity in sorted(Severity, reverse=True):
        kinds = [(kind, n) for (label, kind), n in counts.items() if label == severity.label]
        if kinds:
            kinds.sort(key=lambda pair: (-pair[1], pair[0]))
            listed = "; ".join(f"{phrases.kind(kind)} {n}" for kind, n in kinds)
            lines.append(one_line(f"{phrases.say('severities', severity.label)}: {listed}"))
    return lines
