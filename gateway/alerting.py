"""The alarm and everything between it and people. Built by `app`, which owns its life; runs on the loop.

A finding's way out: Alarm → one transaction → panel, retained topic, open pages, uplink, Notify → phones.
A person's way back: button, page, command line, MQTT command or link → Alarm. A call for help takes a
shorter one: broker → Emergencies → panel, and only then to the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from gateway import wiring
from gateway.config import Config
from gateway.config.languages import load_languages
from gateway.core import links
from gateway.core.alert_event import alert_topic, event_json
from gateway.core.alerts import Move
from gateway.core.emergency import stop_among, stop_state
from gateway.core.messages import RawMessage
from gateway.core.notices import DESTINATION
from gateway.core.topics import Family
from gateway.drivers.broker.embedded import EmbeddedBroker
from gateway.drivers.notifier import Notifier
from gateway.drivers.rasteriser import Rasteriser
from gateway.errors import StoreError
from gateway.farming import Farm
from gateway.ports import Clock, Receipt
from gateway.services.alarm import Alarm
from gateway.services.commands import AlertCommands
from gateway.services.emergencies import Emergencies
from gateway.services.jobs import Jobs
from gateway.services.notify import Notify
from gateway.services.signalling import Signalling
from gateway.store.database import Database
from gateway.store.farm_file import FarmFile
from gateway.store.link_secret import link_secret
from gateway.supervisor import Supervisor

log = logging.getLogger(__name__)

REMIND_S: Final = 5.0
"""How often it is asked which alert nobody has acknowledged for too long, and which silence is over; a look
that finds nothing costs 3 ms with 5000 episodes."""


class Alerting:
    """One alarm, its ways to people and back.

    Args:
        config: the whole configuration.
        clock: the gateway's.
        database: open.
        signalling: of the panel.
        refuse: keeps a message as a dead letter, with the reason, and settles its receipt.
        broker: the broker, which is built behind this, because this takes some of its messages.
        moved: hears of every committed move last; must not block.

    Attributes:
        farm: who is told; looked at by whoever watches files.
        link_secret: signs the links of notifications; set by `restore`.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        database: Database,
        signalling: Signalling,
        refuse: Callable[[RawMessage, str, Receipt], None],
        broker: Callable[[], EmbeddedBroker],
        moved: Callable[[Move], None],
    ) -> None:
        zone = ZoneInfo(config.site.timezone)
        channels = wiring.channels(config)
        phrases = load_languages(Path(config.notify.languages) if config.notify.languages else None)
        self.farm = Farm(FarmFile(Path(config.store.farm_register), phrases))
        self._config = config
        self._database = database
        self._signalling = signalling
        self._broker = broker
        self._moved_on = moved
        self.link_secret = b""
        self.alarm = Alarm(
            clock=clock, database=database, policy=config.alerts, signalling=signalling, published=self._moved
        )
        self.emergencies = Emergencies(
            call=self.alarm.call,
            report=self.alarm.report,
            refuse=refuse,
            repeat_s=config.alerts.call_repeat_s,
        )
        self.commands = AlertCommands(
            alarm=self.alarm,
            database=database,
            clock=clock,
            publish=lambda topic, payload: broker().publish(topic, payload, qos=2),
            zone=zone,
        )
        self.rasteriser = Rasteriser()
        self.notifier = Notifier(channels, self.rasteriser.png)
        self.notify = Notify(
            clock=clock,
            database=database,
            policy=wiring.notify_policy(config, channels),
            contacts=self.farm.contacts,
            groups_of=self.farm.groups_of,
            silences=lambda: self.alarm.silences,
            send=self.notifier.send,
            phrases=phrases,
            zone=zone,
            link=self._link,
            report=self.alarm.report,
            daily_summary=config.notify.daily_summary_local,
        )
        self.destinations = tuple(f"{DESTINATION}{name}" for name in channels)
        """Cursors that hold outbox events in the store."""

    @property
    def take(self) -> Mapping[Family, Callable[[RawMessage, Receipt], None]]:
        """Who takes which of the broker's messages."""
        return {
            Family.CALLS: self.emergencies.accept_call,
            Family.EMERGENCY_STOP: self.emergencies.accept_stop,
            Family.COMMANDS: self.commands.accept,
        }

    @property
    def host_names(self) -> frozenset[str]:
        """By which people reach the pages, besides the machine's own name."""
        name = urlsplit(self._config.notify.link_base or "").hostname
        return frozenset() if name is None else frozenset({name})

    async def restore(self) -> None:
        """Take up where the last run stopped; what is retained of open alerts is made anew (decision 20).

        Raises:
            StoreError: the store cannot be read.
        """
        if self._config.notify.link_base:
            self.link_secret = await self._database.write(link_secret)
        await self.notify.begin()
        await self.alarm.restore()
        broker, alerts = self._broker(), self.alarm.open_alerts
        for alert in alerts:  # known to whoever was told; anew for whoever asks
            broker.retain(alert_topic(alert), event_json(alert), qos=1)
        for topic, payload in stop_state(stop_among(alerts)):
            broker.retain(topic, payload, qos=2)

    def start(self, supervisor: Supervisor, jobs: Jobs) -> None:
        """Begin to hear calls, to remind and to tell people."""
        supervisor.start("emergencies", self.emergencies.run, critical=True)
        supervisor.start("notify", self.notify.run, critical=False)
        supervisor.start("notifier", self._warm, critical=False)
        jobs.every("reminders", REMIND_S, self.alarm.tick)

    async def drain(self) -> None:
        """What was heard reaches the disk and its answer the sender. At stop, while tasks still run."""
        await self.emergencies.drain()
        await self.commands.close()

    async def acknowledge_shown(self) -> None:
        """The button was pressed."""
        try:
            await self.alarm.acknowledge(alert_id=None, who="button", origin="button")
        except StoreError as error:
            log.error("The acknowledgement could not be stored: %s", error)  # noqa: TRY400 - an outage, no bug

    async def test_panel(self) -> None:
        """The button was held."""
        log.info("Panel test: every colour and sound")
        await self._signalling.test()

    def _moved(self, move: Move) -> None:
        """A committed change, to everybody who is here."""
        alert, broker = move.alert, self._broker()
        topic = alert_topic(alert)
        broker.publish(topic, event_json(alert), qos=1, retain=alert.open)
        if not alert.open:
            broker.publish(topic, b"", qos=1, retain=True)
        for stop_topic, payload in stop_state(alert):
            broker.publish(stop_topic, payload, qos=2, retain=True)
        self.emergencies.follow(move)
        self.notify.wake()
        self._moved_on(move)

    def _link(self, alert_id: int, contact: str) -> str:
        """Where this person acknowledges this alert; "" once there is nothing to acknowledge."""
        alert = next((alert for alert in self.alarm.open_alerts if alert.id == alert_id), None)
        base = self._config.notify.link_base
        if alert is None or not base:
            return ""
        return links.address(base, self.link_secret, alert.id, alert.key, contact)

    async def _warm(self) -> None:
        """Where people are to be told, the first alert should not wait for apprise's half second."""
        if not any(contact.addresses for contact in self.farm.contacts()):
            return
        for name, why in (await self.notifier.warm()).items():
            log.warning("Channel %s can send nothing: %s", name, why)
