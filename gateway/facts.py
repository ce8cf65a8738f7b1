"""What /health and the status page show, gathered from the parts. On the event loop; never blocks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import __version__
from gateway.core.message_stats import MessageStats
from gateway.web.status import BrokerStatus, DetectorStatus, GatewayStatus, StoreStatus, UplinkStatus

if TYPE_CHECKING:
    from gateway.alerting import Alerting
    from gateway.app import Gateway
    from gateway.opening import Opening


def of_gateway(gateway: Gateway) -> GatewayStatus:
    """A gateway whose parts all run."""
    database, ingest, signal = gateway.database, gateway.ingest, gateway.signalling.signal
    return GatewayStatus(
        gateway_id=database.gateway_id,
        version=__version__,
        now_ms=gateway.clock.now_ms(),
        uptime_s=time.monotonic() - gateway.began_s,
        broker=BrokerStatus(
            listening=gateway.broker.port != 0,
            port=gateway.broker.port,
            connections=gateway.broker.connections,
        ),
        store=StoreStatus(
            path=database.path,
            size_bytes=gateway.vitals.store_bytes,
            writable=gateway.vitals.store_fault is None,
            last_commit_ms=ingest.last_commit_ms,
            used_bytes=gateway.housekeep.size.used_bytes,
            budget_bytes=gateway.housekeep.budget_bytes,
            dropped=gateway.housekeep.dropped,
            backup=gateway.backups.last_path,
        ),
        messages=ingest.stats,
        panel=signal.label if signal else "",
        clock_trusted=gateway.clock.trusted(),
        detectors=_detectors(gateway),
        uplink=_uplink(gateway),
        silent=gateway.supervisor.silent(),
        troubles=_troubles(gateway),
        counters=_counters(gateway),
    )


def of_opening(opening: Opening, fault: str, panel: str) -> GatewayStatus:
    """A gateway that waits for a store it can use; nothing else runs yet."""
    path = Path(opening.config.database.path)
    return GatewayStatus(
        gateway_id="",
        version=__version__,
        now_ms=opening.clock.now_ms(),
        uptime_s=time.monotonic() - opening.began_s,
        broker=BrokerStatus(listening=False, port=0, connections=0),
        store=StoreStatus(path=path, size_bytes=0, writable=False, fault=fault),
        messages=MessageStats(),
        panel=panel,
        clock_trusted=opening.clock.trusted(),
    )


def _counters(gateway: Gateway) -> dict[str, dict[str, int]]:
    database, windows, backups = gateway.database, gateway.windows, gateway.backups
    found = {
        "store": {
            "commits": database.commits,
            "failures": database.failures,
            "writes_waiting": database.writes_waiting,
            "slowest_write_ms": round(database.slowest_write_s * 1000),
        },
        "broker": {**gateway.broker.gauges, **gateway.broker.counters},
        "logins": dict(gateway.admission.access.counters),
        "housekeeping": dict(gateway.housekeep.counters),
        "backups": {"done": backups.done, "failed": backups.failed, "given_up": backups.given_up},
        "detectors": dict(gateway.detect.counters),
        "windows": {
            "animals": len(windows),
            "animals_refused": windows.animals_refused,
            "late_refused": windows.late_refused,
        },
    }
    found |= _alerting(gateway.alerting)
    if gateway.web is not None:
        live = gateway.web.live
        found["web"] = {"refused": gateway.web.refused}
        found["live"] = {**msgspec.structs.asdict(live.counters), "pages": live.pages_n}
    if gateway.forward is not None:
        found["uplink"] = msgspec.structs.asdict(gateway.forward.counts)
    return found


def _alerting(alerting: Alerting) -> dict[str, dict[str, int]]:
    alarm, notifier = alerting.alarm, alerting.notifier
    found = {
        "alerts": {
            **alarm.counters.moves,
            **{f"passed_over_{why}": n for why, n in alarm.counters.passed_over.items()},
            "store_failures": alarm.counters.store_failures,
            "waiting": alarm.waiting_n,
            "waiting_dropped": alarm.counters.waiting_dropped,
            "silences": len(alarm.silences),
        },
        "calls": {
            **msgspec.structs.asdict(alerting.emergencies.counters),
            "waiting": alerting.emergencies.waiting_n,
        },
        "commands": msgspec.structs.asdict(alerting.commands.counters),
        "notifier": {**msgspec.structs.asdict(notifier.counts), "hung": notifier.hung_n},
        "pictures": msgspec.structs.asdict(alerting.rasteriser.counts),
    }
    for name, channel in alerting.notify.channels.items():
        found[f"notify_{name}"] = {
            **msgspec.structs.asdict(channel.counts),
            "waiting": channel.waiting_n,
            "held": channel.held_n,
        }
    return found


def _detectors(gateway: Gateway) -> tuple[DetectorStatus, ...]:
    jobs = gateway.jobs
    return tuple(
        DetectorStatus(
            name, jobs.runs[name], jobs.failures[name], name in jobs.failing, jobs.last_run_ms.get(name)
        )
        for name, _ in gateway.config.detector_schedules.items()
        if name in jobs.names
    )


def _uplink(gateway: Gateway) -> UplinkStatus | None:
    if gateway.forward is None or gateway.uplink is None:
        return None
    uplink = gateway.config.uplink
    return UplinkStatus(
        connected=gateway.uplink.connected,
        down=gateway.forward.down,
        pending=gateway.vitals.pending_n,
        target=f"{uplink.host}:{uplink.port}",
    )


def _troubles(gateway: Gateway) -> tuple[str, ...]:
    troubles = [f"task {name} was restarted: {why}" for name, why in gateway.supervisor.faults.items()]
    troubles += [f"channel {name} does not take messages" for name in gateway.alerting.notify.down]
    if gateway.vitals.broker_fault:
        troubles.append(gateway.vitals.broker_fault)
    if gateway.backups.last_error:
        troubles.append(f"the last backup failed: {gateway.backups.last_error}")
    if gateway.windows.animals_refused:
        troubles.append(
            f"more animals than performance.cache_max_size ({gateway.config.performance.cache_max_size}): "
            "the newest are stored, but no detector watches them"
        )
    return tuple(troubles)
