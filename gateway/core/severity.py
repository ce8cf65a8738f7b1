"""The one severity scale (decision 16)."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Severity(IntEnum):
    """Ranked, so that severities compare; `label` is the word people and messages see."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """Lower-case word: info, warning, critical."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Self:
        """The severity that a sender's word means, in any case; blanks and hyphens count as _.

        Raises:
            ValueError: a word that means none; names those that do.
        """
        rank = _WORDS.get("_".join(word.lower().replace("-", " ").split()))
        if rank is None:
            raise ValueError(f"{word!r} is no severity; known: {', '.join(_WORDS)}")
        return cls(rank)


_WORDS = {
    "info": Severity.INFO,
    "low": Severity.INFO,
    "warning": Severity.WARNING,
    "medium": Severity.WARNING,
    "high": Severity.WARNING,
    "error": Severity.WARNING,
    "critical": Severity.CRITICAL,
    "emergency": Severity.CRITICAL,
    "geofence_violation": Severity.CRITICAL,
    "panic": Severity.CRITICAL,
    "sos": Severity.CRITICAL,
    "fire": Severity.CRITICAL,
    "medical": Severity.CRITICAL,
}
"""Decision 16: levels of other systems, and kinds that are critical whatever level they come with."""
