"""The one severity scale (decision 16)."""

from __future__ import annotations

from enum import IntEnum


class Severity(IntEnum):
    """Ranked, so that severities compare; `label` is the word people and messages see."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """Lower-case word: info, warning, critical."""
        return self.name.lower()


_WORDS = {
    "info": Severity.INFO,
    "low": Severity.INFO,
    "warning": Severity.WARNING,
    "medium": Severity.WARNING,
    "high": Severity.WARNING,
    "error": Severity.WARNING,
    "critical": Severity.CRITICAL,
    "emergency": Severity.CRITICAL,
}


def severity_of(word: str) -> Severity | None:
    """Map a sender's word, in any case, to the scale; None for a word nobody documented."""
    return _WORDS.get(word.strip().lower())
