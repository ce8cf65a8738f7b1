"""Lines that fit: one line of anything, a cut at a word, and text that a telephone need not widen. Pure."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "..."
"""Three dots and not the one sign for them: that one is outside the telephone's alphabet."""
LINE_CHARS_MAX = 1000
"""A detector's sentence has under 400; 7 animals named in a herd event 600."""

_BREAKS = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# fmt: off
_TYPOGRAPHY = str.maketrans({
    "°": "", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "≥": ">=", "≤": "<=", "²": "2", "µ": "u",
    "“": '"', "”": '"', "„": '"', "’": "'", "‘": "'", "·": "-", "\u00a0": " ", "\u202f": " ",
})
# fmt: on


def one_line(text: str, chars_max: int = LINE_CHARS_MAX) -> str:
    """The text without breaks, control characters and double spaces, cut to `chars_max`."""
    visible = "".join(
        " " if unicodedata.category(char) in _BREAKS else char for char in text[: 4 * chars_max]
    )
    return cut(" ".join(visible.split()), chars_max)


def cut(text: str, chars_max: int) -> str:
    """At most `chars_max` characters, cut at a word with "..."; a single long word is cut within."""
    if len(text) <= chars_max:
        return text
    if chars_max <= len(ELLIPSIS):
        return text[:chars_max]
    room = chars_max - len(ELLIPSIS)
    whole = text[:room] if text[room] == " " else text[:room].rpartition(" ")[0]
    kept = whole if len(whole) >= room // 2 else text[:room]
    return kept.rstrip(" ,;:-") + ELLIPSIS


def for_telephone(text: str) -> str:
    """Typographic signs in letters of GSM 03.38, in which a text message holds 160 characters.

    One character outside of it makes the message UCS-2: 70 characters a part, and each part is
    paid for. Letters of other languages stay; they cannot be done without.
    """
    return text.translate(_TYPOGRAPHY)
