"""The composition root: builds every object, wires them, owns every lifetime.

One reading's way: front door → Ingest → Database → Detect → Alarm → panel, web, Forward.
Everything but the store's threads and numpy's worker runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from gateway import facts, wiring
from gateway.alerting import Alerting
from gateway.config import Config
from gateway.core.alerts import Move
from gateway.core.detection import jobs_without_detectors
from gateway.core.findings import told_of_gateway
from gateway.core.topics import Family
from gateway.core.validation import Rules
from gateway.core.windows import Windows
from gateway.drivers.broker.embedded import EmbeddedBroker
from gateway.drivers.broker.probe import answers
from gateway.drivers.clock import SystemClock
from gateway.drivers.systemd import Systemd
from gateway.drivers.uplink_mqtt import MqttUplink
from gateway.opening import Opening
from gateway.ports import Clock
from gateway.services.detect import Detect
from gateway.services.forward import Forward
from gateway.services.housekeep import Housekeep
from gateway.services.ingest import Ingest
from gateway.services.jobs import Jobs
from gateway.services.salvage import Salvage
from gateway.services.signalling import Signalling
from gateway.store.broker_state import load
from gateway.supervisor import Supervisor
from gateway.vitals import SILENCE_S_MAX, Vitals
from gateway.web.server import WebServer
from gateway.web.status import GatewayStatus

log = logging.getLogger(__name__)

DRAIN_S_MAX: Final = 10.0
"""Of the 30 s of a shutdown (decision 32), what readings already here may take to reach the disk."""
FIRST_RUN_S_MAX: Final = 5.0
"""The first detector run: what arrived just before a power cut waits for nobody."""
PULSE_S: Final = 10.0
"""How often the schedule shows that it runs."""
CLOUD: Final = "cloud"
"""The upstream destination's name in the store."""
BACKUP_LOOK_S: Final = 60.0
"""How often it is asked whether a backup is due."""
BACKUP_FIRST_S: Final = 10.0
"""The first time: after the windows have been read, so that the two do not compete for the card."""
HOUSEKEEPING_FIRST_S: Final = 5.0
"""Soon after a start: whether the clock was right is noted before much has arrived."""
HOUSEKEEPING_S: Final = 60.0
"""How often the store is put in order; it has work once an hour."""


class Gateway:
    """A whole gateway; `async with` starts it and stops it in order.

    Args:
        config: a configuration without faults.
        clock: barn time. The uplink and the watchdog live in real time whatever it says.
        panel_line: told one line for each change of lamp and buzzer.
        give_up: ends the process when stopping hangs for 30 s; None = wait for ever.
        own_schedule: False where the caller ticks `jobs` itself (replay).

    Raises:
        GatewayError: from `async with`, when a part cannot start; what was started is closed.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        panel_line: Callable[[str], None] | None = None,
        own_schedule: bool = True,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self.config = config
        self.clock = clock
        self._panel_line = panel_line
        self._own_schedule = own_schedule
        self.supervisor = Supervisor(SystemClock(), give_up=give_up)
        self.systemd = Systemd()
        self._stack = AsyncExitStack()
        self._side_tasks: set[asyncio.Task[Any]] = set()
        self._opened = False
        self.began_s = time.monotonic()
        self.uplink: MqttUplink | None = None
        self.forward: Forward | None = None
        self.web: WebServer | None = None

    # Lifetime ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start everything; readings are accepted when this returns."""
        try:
            self._loop = asyncio.get_running_loop()
            await self._open_store()
            self._build()
            await self._start()
        except BaseException:  # closed in order, then raised again
            await self.supervisor.stop()
            await self._stack.aclose()
            self.supervisor.stopped()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading, commit and acknowledge what is here, let detectors finish, close."""
        self.supervisor.request_stop()
        self.systemd.stopping()
        try:
            await self._drain()
        finally:
            await self.supervisor.stop()  # a detector run that has begun may end by itself
            for task in self._side_tasks:
                task.cancel()
            await asyncio.gather(*self._side_tasks, return_exceptions=True)
            await self._stack.aclose()
            self.ingest.log_stats()
            self.supervisor.stopped()

    async def serve(self) -> None:
        """Return when a stop was asked for (`request_stop`).

        Raises:
            CriticalTaskError: a task the gateway cannot do without has ended.
        """
        self.systemd.ready()
        await self.supervisor.wait()

    def request_stop(self) -> None:
        """Ask for an orderly end; from a signal handler."""
        self.supervisor.request_stop()

    # Building ----------------------------------------------------------------------------------

    async def _open_store(self) -> None:
        config = self.config
        self._stack.callback(self.systemd.close)
        self.panel = wiring.panel(
            config, on_acknowledge=self._button_pressed, on_test=self._button_held, on_change=self._panel_line
        )
        self._stack.callback(self.panel.close)
        log.info("Testing database connection: %s", config.database.path)
        self._opening = Opening(
            config, self.clock, panel=self.panel, systemd=self.systemd, supervisor=self.supervisor
        )
        self.database, register = await self._opening.run()
        self._register_note = register.recovered_from
        register.close()  # commands change it; from here on it is only looked at
        self._stack.push_async_callback(self.database.close)
        log.info("Database connection successful")

    def _build(self) -> None:
        config, clock = self.config, self.clock
        self.signalling = Signalling(self.panel.show, clock)
        self.alerting = Alerting(
            config,
            clock,
            database=self.database,
            signalling=self.signalling,
            refuse=lambda *refused: self.ingest.refuse(*refused),  # noqa: PLW0108 - built below
            broker=lambda: self.broker,
            moved=self._alert_moved,
        )
        self.alarm = self.alerting.alarm
        self.salvage = Salvage(clock=clock, database=self.database, report=self.alarm.report)
        self.windows = Windows(animals_max=config.performance.cache_max_size)
        self.detect = Detect(
            clock=clock,
            windows=self.windows,
            database=self.database,
            policies=config.detectors,
            report=self.alarm.report,
            step_minutes=wiring.step_minutes(config),
        )
        self._stack.callback(self.detect.close)
        self.ingest = Ingest(
            clock=clock,
            database=self.database,
            rules=Rules(timezone=ZoneInfo(config.site.timezone)),
            limits=wiring.ingest_limits(config),
            committed=self.detect.committed,
            rejected=self.detect.rejected,
            store_state=lambda fault: self.vitals.store_state(fault),  # noqa: PLW0108 - built below
            alive=partial(self.supervisor.beat, "ingest"),
            changes=lambda: self.broker.changes(),  # noqa: PLW0108 - the broker is built below, with its `keep`
        )
        self.admission = wiring.admission(config)
        self.broker = EmbeddedBroker(
            routes=wiring.routes(config),
            clock=clock,
            take={Family.READINGS: self.ingest.accept, **self.alerting.take},
            refused=self.ingest.refuse,
            hurry=self.ingest.hurry,
            keep=self.ingest.keep,
            access=self.admission.access,
            limits=wiring.door_limits(config),
        )
        self._stack.push_async_callback(self.ingest.finish)  # behind the broker's goodbyes
        self._stack.push_async_callback(self.broker.close)
        self._build_upkeep()
        if config.uplink.enabled:
            self._build_uplink()
        self.vitals = Vitals(
            clock=clock,
            database=self.database,
            probe=lambda: answers(config.broker.host, self.broker.port),
            supervisor=self.supervisor,
            systemd=self.systemd,
            forward=self.forward,
            changed=self.signalling.health,
            looks=(partial(self.admission.look, self.broker.recheck), self.alerting.farm.look),
        )
        self._opened = True

    def _build_upkeep(self) -> None:
        config, clock = self.config, self.clock
        self.housekeep = Housekeep(
            clock=clock,
            database=self.database,
            policy=config.retention,
            budget_bytes=partial(wiring.store_budget, config),
            destinations=(*((CLOUD,) if config.uplink.enabled else ()), *self.alerting.destinations),
            readings_wanted=config.uplink.enabled and config.uplink.readings,
            report=self.alarm.report,
        )
        self.backups = wiring.backups(config, clock)
        self._stack.push_async_callback(self.backups.close)
        self.jobs = Jobs(clock)

    async def _start(self) -> None:
        config = self.config
        await self._restore_broker()
        await self.alerting.restore()
        await self.salvage.announce(self.alarm.open_alerts)
        await self._report_recovery()
        await self.ingest.restore()
        self.supervisor.start("store", self.database.watch, critical=True)
        await self.detect.begin()  # what is stored from here on is fed to it
        self.supervisor.start("ingest", self.ingest.run, critical=True)
        self.alerting.start(self.supervisor, self.jobs)
        log.info("Initializing MQTTSubscriber...")
        listeners = wiring.listeners(config)
        await self.broker.start(*listeners)
        for listener in listeners:
            log.info("Listening: %s", listener)
        if note := wiring.certificate_note(config, self.clock.now_ms()):
            log.warning("%s", note)
        log.info("Connected to MQTT broker at %s:%d", config.mqtt.broker_host, self.broker.port)
        log.info("Subscribed to topic pattern: %s (QoS %d)", config.mqtt.topic_pattern, config.mqtt.qos)
        if config.service.enable_health_check:
            self.web = WebServer(
                self.status,
                self.database,
                mqtt_monitor=config.service.enable_mqtt_monitor,
                desk=self.alarm,
                link_secret=self.alerting.link_secret,
                names=self.alerting.host_names,
            )
            self._stack.push_async_callback(self.web.stop)
            await self.web.start(config.service.health_check_host, config.service.health_check_port)
        if self.forward is not None:
            self.supervisor.start("forward", self.forward.run, critical=False)
        if self.salvage.wanted:
            self.supervisor.start("salvage", self.salvage.run, critical=False)
        self._schedule()
        self.supervisor.start("vitals", self.vitals.run, critical=True)

    async def _restore_broker(self) -> None:
        """Sessions and retained messages of the last run; clients come in later."""
        state = await self.database.read(partial(load, bounds=wiring.state_bounds(self.config)))
        if state.left_out:
            log.warning("%d rows of kept MQTT sessions and messages make no sense: left out", state.left_out)
        self.broker.restore(state)

    def _build_uplink(self) -> None:
        uplink = self.config.uplink
        self.uplink = MqttUplink(wiring.uplink_target(self.config, self.database.gateway_id))
        self._stack.push_async_callback(self.uplink.close)
        self.forward = Forward(
            clock=SystemClock(),
            database=self.database,
            transport=self.uplink,
            destination=CLOUD,
            topic_prefix=uplink.topic_prefix,
            backoff=wiring.backoff(self.config),
            readings_interval_s=uplink.readings_interval_s if uplink.readings else None,
        )

    def _schedule(self) -> None:
        """Document 0's `detector_schedules` on the schedule library (S0-037…041)."""
        for job, schedule in self.config.detector_schedules.items():
            if not schedule.enabled:
                log.info("Detector schedule %s is disabled", job)
            elif job in jobs_without_detectors():
                log.warning("Detector schedule %s is accepted, but has no detector yet", job)
            else:
                first_s = min(schedule.interval_s, FIRST_RUN_S_MAX)
                self.jobs.every(job, schedule.interval_s, partial(self.detect.run, job), first_s=first_s)
        self.jobs.every("housekeeping", HOUSEKEEPING_S, self.housekeep.run, first_s=HOUSEKEEPING_FIRST_S)
        if self.config.backup.enabled:
            self.jobs.every("backup", BACKUP_LOOK_S, self._back_up, first_s=BACKUP_FIRST_S)
        if self._own_schedule:
            self.jobs.every("pulse", PULSE_S, self._pulse)
            self.supervisor.start("schedule", self._run_schedule, critical=True)
        log.info("DetectorScheduler started successfully")

    async def _back_up(self) -> None:
        finding = await self.backups.tick()
        if finding is not None:
            await self.alarm.report([finding])

    async def _pulse(self) -> None:
        self.supervisor.beat("schedule")

    async def _run_schedule(self) -> None:
        """Windows first, from the store; meanwhile readings are accepted already."""
        await self.detect.rebuild()
        self.supervisor.expect("schedule", SILENCE_S_MAX)
        await self.jobs.run()

    def status(self) -> GatewayStatus:
        """What /health and the page show; never blocks."""
        return facts.of_gateway(self)

    # Wires -------------------------------------------------------------------------------------

    def _alert_moved(self, move: Move) -> None:
        if self.web is not None:
            self.web.live.push(move)
        if self.forward is not None:
            self.forward.wake()

    def _button_pressed(self) -> None:
        """In a gpiozero thread."""
        self._loop.call_soon_threadsafe(self._acknowledge)

    def _button_held(self) -> None:
        """In a gpiozero thread."""
        self._loop.call_soon_threadsafe(lambda: self._spawn(self.alerting.test_panel()))

    def _acknowledge(self) -> None:
        if self._opened:
            self._spawn(self.alerting.acknowledge_shown())
        else:
            self._opening.hush()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    async def _report_recovery(self) -> None:
        """A farm register that was found damaged is a system alert."""
        sentence = self._register_note
        if sentence is None:
            return
        log.warning("%s", sentence)
        await self.alarm.report([told_of_gateway("farm_register_recovered", sentence, self.clock.now_ms())])

    async def _drain(self) -> None:
        """Stop reading sockets, then commit and acknowledge what has been read."""
        await self.broker.stop()
        try:
            async with asyncio.timeout(DRAIN_S_MAX):
                await self.alerting.drain()
                await self.ingest.drain()
        except TimeoutError:
            log.error("The store does not write; unacknowledged readings stay with their senders")  # noqa: TRY400
