"""The JSON of /health and /api: facts → plain objects. Pure; the server does the reading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core.alerts import Alert, State
from gateway.core.instants import iso_utc
from gateway.core.readings import Reading, wire_fields
from gateway.core.validation import COW_ID
from gateway.web.status import GatewayStatus, judge

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
"""Rows in one answer: 1000 x at most 0.5 KB = 500 KB, encoded in about 10 ms."""

ALERT_STATES = ("open", *(state.value for state in State))


class BadParameterError(Exception):
    """A query parameter cannot be used; the text says which, and what would be right."""


def limit_of(query: Mapping[str, str]) -> int:
    """`limit`, 1 to `LIMIT_MAX`, by default `LIMIT_DEFAULT`."""
    text = query.get("limit", str(LIMIT_DEFAULT))
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise BadParameterError(f"limit must be a whole number from 1 to {LIMIT_MAX}, not {text[:40]!r}")


def state_of(query: Mapping[str, str]) -> str | None:
    """`state` of an alert; None for all."""
    text = query.get("state")
    if text is None or text in ALERT_STATES:
        return text
    raise BadParameterError(f"state must be one of {', '.join(ALERT_STATES)}, not {text[:40]!r}")


def cow_id_of(query: Mapping[str, str]) -> str | None:
    """`cow_id`; None for all animals."""
    text = query.get("cow_id")
    if text is None or COW_ID.fullmatch(text):
        return text
    raise BadParameterError(f"cow_id must be 1 to 64 letters, digits or any of _ . : -, not {text[:80]!r}")


def only_known(query: Mapping[str, str], *known: str) -> None:
    """A misspelt parameter is told, not ignored."""
    for name in query:
        if name not in known:
            raise BadParameterError(f"there is no parameter {name[:40]!r}, only {', '.join(known)}")


def health_object(status: GatewayStatus) -> dict[str, Any]:
    """GET /health (S0-117)."""
    verdict = judge(status)
    uplink = status.uplink
    messages = status.messages
    return {
        "status": verdict.health.value,
        "reasons": list(verdict.reasons),
        "version": status.version,
        "gateway_id": status.gateway_id,
        "time": iso_utc(status.now_ms),
        "uptime_s": round(status.uptime_s, 1),
        "broker": {
            "listening": status.broker.listening,
            "port": status.broker.port,
            "connections": status.broker.connections,
        },
        "store": {
            "path": str(status.store.path),
            "bytes": status.store.size_bytes,
            "writable": status.store.writable,
            "last_commit": _iso(status.store.last_commit_ms),
            "used_bytes": status.store.used_bytes,
            "budget_bytes": status.store.budget_bytes,
            "dropped": status.store.dropped,
            "backup": None if status.store.backup is None else str(status.store.backup),
        },
        "messages": {
            "total": messages.total,
            "valid": messages.valid,
            "invalid": messages.invalid,
            "stored": messages.stored,
            "duplicates": messages.duplicates,
            "storage_errors": messages.storage_errors,
            "last": _iso(messages.last_message_ms),
        },
        "detectors": {
            job.job: {"last_run": _iso(job.last_run_ms), "runs": job.runs, "failures": job.failures}
            for job in status.detectors
        },
        "uplink": None
        if uplink is None
        else {"connected": uplink.connected, "pending": uplink.pending, "target": uplink.target},
        "clock": {"trusted": status.clock_trusted},
        "panel": status.panel,
        "counters": status.counters,
    }


def mqtt_monitor_object(status: GatewayStatus) -> dict[str, Any]:
    """GET /health/mqtt-monitor: exactly the five fields of S2-045."""
    return {
        "status": "healthy" if status.broker.listening else "unhealthy",
        "broker_connected": status.broker.listening,
        "last_message_time": _iso(status.messages.last_message_ms),
        "messages_processed": status.messages.total,
        "errors_count": status.messages.invalid + status.messages.storage_errors,
    }


def reading_object(reading: Reading) -> dict[str, Any]:
    """A reading under the field names it arrived with; null = the collar did not send it."""
    return {**wire_fields(reading), "received_at": iso_utc(reading.received_ms)}


def alert_object(alert: Alert) -> dict[str, Any]:
    """An alert under the column names of the store's `alerts`."""
    evidence = alert.evidence
    return {
        "id": alert.id,
        "cow_id": alert.subject,
        "alert_type": alert.kind,
        "episode": alert.episode,
        "severity": alert.severity.label,
        "status": alert.state.value,
        "timestamp": iso_utc(alert.onset_ms),
        "last_seen": iso_utc(alert.last_seen_ms),
        "raised_at": iso_utc(alert.raised_ms),
        "ended_at": _iso(alert.ended_ms),
        "confidence": alert.confidence,
        "message": alert.sentence,
        "detail": alert.detail,
        "late": alert.late,
        "evidence": {
            "value": evidence.value,
            "unit": evidence.unit,
            "baseline": evidence.baseline,
            "deviation": evidence.deviation,
            "duration_min": evidence.duration_min,
            "reference_n": evidence.reference_n,
            "herd": evidence.herd,
            "quality": evidence.quality,
        },
    }


def worst_first(alerts: Sequence[Alert]) -> list[Alert]:
    """Open alerts by severity, then the oldest first: it has waited longest."""
    return sorted(alerts, key=lambda alert: (-alert.severity, alert.raised_ms, alert.id))


def _iso(instant_ms: int | None) -> str | None:
    return None if instant_ms is None else iso_utc(instant_ms)
