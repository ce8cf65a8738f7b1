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
