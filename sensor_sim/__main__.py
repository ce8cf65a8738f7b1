"""`barn-sim`: builds herd, wire, player and sink, and owns their lifetimes. One event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from sensor_sim.episodes import in_barn_time
from sensor_sim.errors import SimError, SimNetworkError
from sensor_sim.faults import transmissions
from sensor_sim.herd import Herd
from sensor_sim.options import Options, parse
from sensor_sim.player import Player, Sink, SystemClock
from sensor_sim.sinks import LinesSink, MqttSink
from sensor_sim.times import iso

LOG = logging.getLogger("barn-sim")
DRAIN_S = 30.0
"""How long the end of a run waits for the last PUBACKs: many commit windows of the gateway."""
DRAIN_STOPPED_S = 5.0
"""The same after Ctrl+C, when somebody is waiting."""


def main(arguments: list[str] | None = None) -> int:
    """Run the simulator; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s - %(levelname)s - %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    try:
        options = parse(arguments, SystemClock().wall_ms())
        LOG.setLevel(logging.WARNING if options.quiet else logging.INFO)
        asyncio.run(_run(options))
    except SimError as fault:
        LOG.error("%s", fault)  # noqa: TRY400 (a person reads this; the place in our code does not help)
        return fault.exit_code
    except KeyboardInterrupt:
        LOG.info("Stopped before the broker was reached")
    except BrokenPipeError:
        # Whoever read stdout has gone (`barn-sim … | head`): that is an end, not a fault.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as fault:
        LOG.error("cannot write: %s", fault)  # noqa: TRY400
        return SimError.exit_code
    return 0


async def _run(options: Options) -> None:
    """One run, from the labels to the last PUBACK."""
    episodes = [plan.at(options.start_ms) for plan in options.plans]
    herd = Herd(
        options.cow_ids,
        options.seed,
        episodes=episodes,
        interval_s=options.interval_s,
        gyro=options.gyro,
        state=options.state,
    )
    LOG.info(
        "%d cows, seed %d, from %s, speed %s; %s",
        len(options.cow_ids),
        options.seed,
        iso(options.start_ms),
        "max" if options.speed is None else f"{options.speed:g}",
        ", ".join(in_barn_time(episode, options.start_ms) for episode in episodes) or "nothing goes wrong",
    )
    async with AsyncExitStack() as stack:
        truth = _truth(options.truth, stack)
        for episode in episodes:
            truth(episode.truth())
        sink, mqtt = await _sink(options, stack)
        player = Player(
            sink,
            SystemClock(),
            start_ms=options.start_ms,
            speed=options.speed,
            live=mqtt is not None or options.speed is not None,
            episodes=episodes,
        )
        minutes = None if options.duration_s is None else options.duration_s / 60
        wire = transmissions(
            herd.timed(options.start_ms, minutes),
            options.faults,
            options.seed,
            lambda kind, cow_id, timestamp_ms: truth(
                json.dumps(
                    {"kind": kind, "cow_id": cow_id, "timestamp": iso(timestamp_ms)}, separators=(",", ":")
                )
            ),
        )
        stopped = await _until_stopped(asyncio.create_task(player.play(wire), name="player"))
        if mqtt is not None:
            await _finish(mqtt, stopped=stopped)
        LOG.info("%s after %d messages", "Stopped" if stopped else "Done", player.sent)


async def _sink(options: Options, stack: AsyncExitStack) -> tuple[Sink, MqttSink | None]:
    """The open sink; a second time when it is a broker."""
    if options.sink == "mqtt":
        mqtt = MqttSink(
            options.host,
            options.port,
            connections=options.connections,
            username=options.username,
            password=os.environ.get("BARN_SIM_PASSWORD"),
            wait_when_full=options.speed is None,
            connect_timeout_s=options.connect_timeout_s,
        )
        stack.push_async_callback(mqtt.close)
        await mqtt.open()
        return mqtt, mqtt
    lines = LinesSink.to_file(options.out) if options.out is not None else LinesSink(sys.stdout)
    stack.callback(lines.close)
    return lines, None


def _truth(path: Path | None, stack: AsyncExitStack) -> Callable[[str], None]:
    """A function that writes one label, or swallows it when nobody asked."""
    if path is None:
        return lambda _line: None
    lines = LinesSink.to_file(path)
    stack.callback(lines.close)
    return lines.write


async def _until_stopped(playing: asyncio.Task[None]) -> bool:
    """Wait for the player, or for SIGINT or SIGTERM; True when it was stopped."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, playing.cancel)
    try:
        await playing
    except asyncio.CancelledError:
        return True
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return False


async def _finish(mqtt: MqttSink, *, stopped: bool) -> None:
    """Wait for the last PUBACKs and say what came of it."""
    left = await mqtt.drain(DRAIN_STOPPED_S if stopped else DRAIN_S)
    LOG.info("%d messages acknowledged, %d dropped from a full buffer", mqtt.acknowledged, mqtt.dropped)
    if left or mqtt.dropped:
        text = f"{left} messages not acknowledged, {mqtt.dropped} dropped, broker {mqtt.host}:{mqtt.port}"
        if stopped:
            LOG.warning("%s", text)
        else:
            raise SimNetworkError(text)


if __name__ == "__main__":
    sys.exit(main())
