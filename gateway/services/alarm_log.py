"""What the log says of alerts and silences, once they are on disk. On the event loop."""

from __future__ import annotations

import logging

from gateway.core.alerts import Change, Move
from gateway.core.instants import iso_utc
from gateway.core.severity import Severity
from gateway.core.silences import Silence
from gateway.store.moves import AUTOMATIC, Author

log = logging.getLogger(__name__)


def log_move(move: Move, author: Author) -> None:
    """One line for a committed move."""
    alert = move.alert
    what = f"{alert.severity.label} {alert.kind} {alert.subject}"
    if move.change in (Change.RAISED, Change.ESCALATED, Change.REPEATED, Change.RENEWED):
        level = logging.INFO if alert.severity is Severity.INFO else logging.WARNING
        sentence = alert.sentence.removeprefix(f"{alert.subject}: ")
        log.log(level, "ALERT %s: %s%s", what, sentence, " (late)" if alert.late else "")
    elif author == AUTOMATIC:
        log.info("ALERT %s %s: %s", move.change.value, what, move.reason)
    else:
        log.info(
            "ALERT %s %s by %s (%s): %s", move.change.value, what, author.who, author.origin, move.reason
        )


def log_silence(silence: Silence) -> None:
    """One line for a silence that began or ended."""
    about = " ".join(part for part in (silence.kind, silence.subject) if part) or "the whole barn"
    if silence.ended_ms is not None:
        log.info("SILENCE ended %d %s: %s", silence.id, about, silence.ended_by or "its time is over")
        return
    log.info(
        "SILENCE %d %s until %s by %s (%s): %s",
        silence.id,
        about,
        iso_utc(silence.until_ms),
        silence.who,
        silence.origin,
        silence.reason or "no reason given",
    )


def one_line(text: str, chars_max: int) -> str:
    """What a person sent, fit for one line of a log and of the audit."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:chars_max]
