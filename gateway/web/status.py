"""What the gateway knows about itself, and the word for it. Filled by `app`, shown by the server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from gateway.core.message_stats import MessageStats


class Health(StrEnum):
    """The word in /health. Degraded still does its job, or says itself why it cannot."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class BrokerStatus(msgspec.Struct, frozen=True):
    """The broker inside the process."""

    listening: bool
    port: int
    connections: int


class StoreStatus(msgspec.Struct, frozen=True):
    """The store file.

    Args:
        path: the file.
        size_bytes: of the file and its log.
        writable: whether the last commit went through.
        last_commit_ms: UTC epoch milliseconds, None before the first.
        used_bytes: of the file, what is not free room.
        budget_bytes: the most it may use; 0 before it was looked at.
        dropped: what retention let go since the store was made, by kind.
        backup: the newest backup this run has made.
        fault: why it cannot be opened for now; None once it is open. The broker waits for it.
    """

    path: Path
    size_bytes: int
    writable: bool
    last_commit_ms: int | None = None
    used_bytes: int = 0
    budget_bytes: int = 0
    dropped: dict[str, int] = {}
    backup: Path | None = None
    fault: str | None = None


class DetectorStatus(msgspec.Struct, frozen=True):
    """One entry of the detector schedule. `last_run_ms` is None before the first run.

    `failures` counts since the start; `failing` is the last run's.
    """

    job: str
    runs: int = 0
    failures: int = 0
    failing: bool = False
    last_run_ms: int | None = None


class UplinkStatus(msgspec.Struct, frozen=True):
    """The way upstream; it connects when there is something to send.

    Args:
        connected: a connection is open now.
        down: the last attempt to send found the line or the destination down.
        pending: events it has not acknowledged.
        target: host and port.
    """

    connected: bool
    down: bool
    pending: int
    target: str = ""


class GatewayStatus(msgspec.Struct, frozen=True):
    """All facts at one moment.

    Args:
        now_ms: the gateway's clock, UTC epoch milliseconds.
        panel: the label of the signal lamp and buzzer show.
        uplink: None when none is configured.
        silent: critical tasks or threads that do not answer; each makes the gateway unhealthy.
        troubles: one sentence for each thing that works worse than it should.
        counters: what each part has done, and met at its bounds, since the start.
    """

    gateway_id: str
    version: str
    now_ms: int
    uptime_s: float
    broker: BrokerStatus
    store: StoreStatus
    messages: MessageStats
    panel: str
    clock_trusted: bool
    detectors: tuple[DetectorStatus, ...] = ()
    uplink: UplinkStatus | None = None
    silent: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    counters: dict[str, dict[str, int]] = {}


class Verdict(msgspec.Struct, frozen=True):
    """The word and why."""

    health: Health
    reasons: tuple[str, ...] = ()


def judge(status: GatewayStatus) -> Verdict:
    """Facts → word.

    A store that cannot write is degraded, not unhealthy: a monitor that restarts what is
    unhealthy would restart for ever, and a restart frees no card (decision 41).
    """
    grave = [f"{name} does not answer" for name in status.silent]
    if not status.broker.listening and status.store.fault is None:
        grave.append("the broker does not listen")
    slight = list(status.troubles)
    if status.store.fault is not None:
        slight.append(
            f"the store cannot be opened, nothing is acknowledged until it can: {status.store.fault}"
        )
    elif not status.store.writable:
        slight.append(f"the store {status.store.path} cannot be written; free some space or check the card")
    if status.uplink is not None and status.uplink.down:
        slight.append(f"the uplink is down, {status.uplink.pending} events wait")
    if not status.clock_trusted:
        slight.append("the clock is not set")
    slight.extend(
        f"the last run of {job.job} failed, {job.failures} in all" for job in status.detectors if job.failing
    )
    if grave:
        return Verdict(Health.UNHEALTHY, (*grave, *slight))
    return Verdict(Health.DEGRADED if slight else Health.HEALTHY, tuple(slight))
