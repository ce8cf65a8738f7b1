"""The counters behind `Message stats:` and the health pages (S0-083, S2-045). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.messages import Reason


@dataclass(slots=True)
class MessageStats:
    """Counts since start. Every message is valid or invalid; every valid one ends as stored or duplicate.

    `conflicts` are duplicates with other values (decision 8), `flood_dropped` QoS 0
    messages beyond the ingest queue's bound, `storage_errors` readings whose commit
    failed at first (they are tried again until it succeeds).
    """

    total: int = 0
    valid: int = 0
    invalid: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    storage_errors: int = 0
    trimmed: int = 0
    flood_dropped: int = 0
    last_message_ms: int | None = None
    rejected_by_reason: dict[Reason, int] = field(default_factory=dict)

    def reject(self, reason: Reason) -> None:
        """Count one invalid message under its reason."""
        self.invalid += 1
        self.rejected_by_reason[reason] = self.rejected_by_reason.get(reason, 0) + 1

    def line(self) -> str:
        """Document 0's line, verbatim (S0-083)."""
        return (
            f"Message stats: total={self.total}, valid={self.valid}, invalid={self.invalid}, "
            f"stored={self.stored}, duplicates={self.duplicates}, storage_errors={self.storage_errors}"
        )
