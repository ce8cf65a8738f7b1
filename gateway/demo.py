"""`run --demo`: a private gateway on a faster clock, and a simulated herd as a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import Config
from gateway.config.schema import BrokerTls, BrokerWebsocket
from gateway.drivers.clock import ScaledClock
from gateway.errors import NetworkError

FOLDER: Final = Path("data/demo")
SPEED: Final = 60
PAST_H: Final = 6
"""It starts six barn hours ago, a barn hour a minute: caught up with today after six minutes."""


def demo_config(config: Config) -> Config:
    """The same gateway for this machine alone, on a store of its own, made anew.

    An old fever's cooldown would hide the next one, and no simulated fever may reach a real
    receiver or a barn's network.

    Raises:
        NetworkError: the broker's port is taken, perhaps by a running demo, whose store stays.
    """
    _refuse_a_second_demo(config.broker_port)
    shutil.rmtree(FOLDER, ignore_errors=True)
    replace = msgspec.structs.replace
    return replace(
        config,
        mode="standard",  # the simulated herd has no passwords
        broker=replace(
            config.broker,
            host="127.0.0.1",
            devices=str(FOLDER / "devices.json"),
            tls=BrokerTls(),
            websocket=BrokerWebsocket(),
        ),
        service=replace(config.service, health_check_host="127.0.0.1"),
        uplink=replace(config.uplink, enabled=False),
        database=replace(config.database, path=str(FOLDER / "alert_state.db")),
        store=replace(config.store, farm_register=str(FOLDER / "farm.json")),
        backup=replace(config.backup, enabled=False),  # a barn's backups are not the place for a demo's
        logging=replace(config.logging, log_file=str(FOLDER / "realtime_service.log")),
    )


def _refuse_a_second_demo(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise NetworkError(
                f"Something listens on 127.0.0.1:{port} already, perhaps another demo",
                "stop it, or choose another mqtt.broker_port",
            )


def demo_clock() -> ScaledClock:
    """Barn time, fast until it has caught up with today."""
    return ScaledClock(int((time.time() - PAST_H * 3600) * 1000), SPEED)


@asynccontextmanager
async def simulated_herd(port: int, start_ms: int) -> AsyncIterator[None]:
    """`barn-sim` for as long as the block runs; the wire format is the only bond."""
    start = datetime.fromtimestamp(start_ms / 1000, UTC).isoformat()
    herd = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sensor_sim", "--port", str(port), "--scenario", "demo", "--quiet"),
        *("--speed", str(SPEED), "--start", start, "--duration", "forever"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # Ctrl+C is the gateway's to handle
    )
    try:
        yield
    finally:
        if herd.returncode is None:
            herd.terminate()
        await herd.wait()
