"""The words of one language, and what every language must have. Pure; config/languages reads the files."""

from __future__ import annotations

import string
from collections.abc import Mapping

import msgspec

from gateway.core.alerts import HERD_SUFFIX, Change
from gateway.core.severity import Severity

SENTENCE_CHARS_MAX = 300
"""A phrase: the longest of ours has 60 characters, another language takes up to twice as much."""

KINDS = (
    *("fever", "heat_stress", "inactivity", "estrus", "sensor_malfunction", "silence", "silence_herd"),
    *("panic", "sos", "fire", "medical", "emergency_stop"),
    *("detector_failure", "store_damaged", "store_salvaged", "store_budget", "backup_failed"),
    *("farm_register_recovered", "notification_failed"),
)
"""Every kind of trouble the product knows; "fever_herd" and its like are made from them."""
DETAILS = (
    *("single_reading", "repeated_reading", "rejected_reading", "above_own_baseline"),
    *("stuck_accelerometer", "gravity_off", "rejected_temperature", "rejected_values", "frozen_temperature"),
    *("missing_animal", "sensor_gap"),
)
"""Details of findings that have words of their own; others are not shown to people."""


def _none(*keys: str) -> dict[str, frozenset[str]]:
    return dict.fromkeys(keys, frozenset())


_HEADING = frozenset({"severity", "what"})
_COUNTED = frozenset({"n"})

SECTIONS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "language": _none("name", "decimal"),
    "severities": _none(*(severity.label for severity in Severity)),
    "kinds": _none(*KINDS),
    "details": _none(*DETAILS),
    "units": _none("animal", "animals", "readings", "messages"),
    "herd": {"risen": frozenset(), "normal": frozenset(), "compared": frozenset({"word", "rise", "n"})},
    "titles": {
        **{change.value: _HEADING for change in Change},
        "acknowledged_by": _HEADING | {"who"},
        "late": _HEADING,
        "call_at": frozenset({"kind", "who", "place"}),
        "animal": frozenset({"kind", "subject"}),
        "animals": frozenset({"kind"}),
    },
    "figures": {
        "usual": frozenset({"value", "usual"}),
        "lasting": frozenset({"duration"}),
        "moment": frozenset({"year", "month", "day", "time", "zone"}),
        "date": frozenset({"year", "month", "day"}),
    },
    "lines": {
        "original": frozenset({"sentence"}),
        "value": frozenset({"value"}),
        "usual": frozenset({"value"}),
        "usual_of": frozenset({"value", "n"}),
        "deviation": frozenset({"value"}),
        "duration": frozenset({"duration"}),
        "herd": frozenset({"herd"}),
        "confidence": frozenset({"percent"}),
        "quality": frozenset({"percent"}),
        "began": frozenset({"moment"}),
        "ended": frozenset({"moment"}),
        "by": frozenset({"who"}),
        "note": frozenset({"note"}),
        "reminders": _COUNTED,
        "place": frozenset({"place"}),
        "map": frozenset({"link"}),
        "acknowledge": frozenset({"link"}),
        "number": frozenset({"number", "key"}),
    },
    "digest": {
        "title": _COUNTED,
        "why": frozenset(),
        "short": frozenset({"n", "counts", "worst"}),
        "more": _COUNTED,
    },
    "summary": {
        "title": frozenset({"date", "raised", "open"}),
        "short": frozenset({"date", "raised", "open", "animals", "silent"}),
        "raised": _COUNTED,
        "open": _COUNTED,
        "animals": _COUNTED,
        "readings": _COUNTED,
        "rejected": _COUNTED,
        "silent": _COUNTED,
    },
    "chart": _none("nothing"),
}
"""Section → key → the placeholders its phrase must hold, each and no other."""

OPEN_SECTIONS = frozenset({"kinds", "details", "units"})
"""Sections to which a site may add names of its own."""


class Phrases(msgspec.Struct, frozen=True):
    """One language.

    Args:
        code: "en", "de", …
        sections: section → key → phrase; complete, as `SECTIONS` says.
    """

    code: str
    sections: Mapping[str, Mapping[str, str]]

    @property
    def decimal(self) -> str:
        """What stands between the whole and its tenths."""
        return self.sections["language"]["decimal"]

    def say(self, section: str, key: str, /, **values: str) -> str:
        """The phrase with its placeholders filled; values are never taken for templates."""
        return self.sections[section][key].format(**values)

    def word(self, section: str, key: str) -> str | None:
        """A name if the language has one."""
        return self.sections[section].get(key)

    def kind(self, kind: str) -> str:
        """The name of a kind of trouble; an unknown one speaks with its own words."""
        if name := self.word("kinds", kind):
            return name
        if kind.endswith(HERD_SUFFIX):
            return self.say("titles", "animals", kind=self.kind(kind.removesuffix(HERD_SUFFIX)))
        return kind.replace("_", " ")


def phrase_fault(section: str, key: str, text: str) -> str | None:
    """What is wrong with a phrase and the remedy; None if nothing is."""
    if not text.strip():
        return "is empty; write the phrase"
    if len(text) > SENTENCE_CHARS_MAX:
        return f"has {len(text)} characters; at most {SENTENCE_CHARS_MAX}"
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        return "holds a line break or control character; write it in one line"
    wanted = SECTIONS[section].get(key, frozenset())
    try:
        parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError:
        return "has a single { or }; write {{ or }} for the sign itself"
    found = {name for _, name, _, _ in parts if name is not None}
    for _, name, form, conversion in parts:
        if form or conversion:
            return f"writes {{{name}}} with a form of its own; write the name alone"
    if unknown := sorted(found - wanted):
        known = ", ".join(f"{{{name}}}" for name in sorted(wanted)) or "none here"
        return f"has {{{unknown[0]}}}, which is no placeholder; known: {known}"
    if missing := sorted(wanted - found):
        return f"lacks {{{missing[0]}}}; put it where its value belongs"
    return None
