"""What each section of the configuration means for the part it configures.

Used by the roots (`app`, `replay`, `cli`) when they build; nothing here runs afterwards.
"""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.admission import Admission
from gateway.config import Config
from gateway.config import schema as sections
from gateway.core.broker_state import StateBounds
from gateway.core.delivery import BackoffPolicy
from gateway.core.notices import ChannelForm, NotifyPolicy
from gateway.core.retention import part_bytes
from gateway.core.routes import default_routes
from gateway.core.topics import RouteTable
from gateway.drivers import logfile, panel_pins
from gateway.drivers import panel as panel_driver
from gateway.drivers.broker import limits
from gateway.drivers.broker.limits import DoorLimits
from gateway.drivers.broker.listeners import Listener
from gateway.drivers.broker.tls import server_context, valid_until
from gateway.drivers.broker.tokens import Anonymous, TokenAccess
from gateway.drivers.clock import SystemClock
from gateway.drivers.notify_urls import Channel, channels_of
from gateway.drivers.uplink_mqtt import UplinkTarget
from gateway.ports import Clock, Panel
from gateway.services.backups import Backups
from gateway.services.ingest import IngestLimits
from gateway.store.devices import DeviceFile

CERTIFICATE_NOTE_DAYS = 60
"""Before the end of the server certificate: two visits of somebody who looks after the barn."""


def routes(config: Config) -> RouteTable:
    """The route table with the site's open and denied topics; rates hold once others can reach the broker."""
    return RouteTable(
        default_routes(config.mqtt.topic_pattern),
        config.broker.open_topics,
        config.broker.denied_topics,
        limited=config.broker.on_network,
    )


def ingest_limits(config: Config) -> IngestLimits:
    """Bounds of the group commit."""
    return IngestLimits(
        commit_window_s=config.store.commit_window_ms / 1000,
        queue_max=config.performance.max_queue_size,
    )


def store_budget(config: Config) -> int:
    """Bytes the store may use, of the partition it lies on; half of them where its backups lie there too."""
    total_bytes = shutil.disk_usage(_store_folder(config)).total
    return part_bytes(config.retention, total_bytes, shared=_on_one_partition(config))


def backup_room(config: Config) -> int:
    """Bytes all backups may use, of the partition they lie on; the store's other half where that is one."""
    total_bytes = shutil.disk_usage(_backup_folder(config)).total
    return part_bytes(config.retention, total_bytes, shared=_on_one_partition(config))


def _on_one_partition(config: Config) -> bool:
    store, backups = _store_folder(config), _backup_folder(config)
    return config.backup.enabled and store.stat().st_dev == backups.stat().st_dev


def _store_folder(config: Config) -> Path:
    return Path(config.database.path).resolve().parent


def _backup_folder(config: Config) -> Path:
    """The folder, or what is there of the path to it."""
    folder = Path(config.backup.directory).resolve()
    return next(place for place in (folder, *folder.parents) if place.exists())


def backups(config: Config, clock: Clock) -> Backups:
    """The nightly backup; only its `tick` starts one."""
    return Backups(
        clock=clock,
        store=Path(config.database.path),
        farm=Path(config.store.farm_register),
        folder=Path(config.backup.directory),
        zone=ZoneInfo(config.site.timezone),
        room_bytes=partial(backup_room, config),
        at=config.backup.at_local,
        keep_days=config.backup.keep_days,
    )


def step_minutes(config: Config) -> int:
    """Minutes of data time the detectors judge at once: their own interval (decision 5)."""
    return max(1, round(config.detector_schedules.immediate_detection.interval_s / 60))


def uplink_target(config: Config, gateway_id: str) -> UplinkTarget:
    """Where the uplink goes; the gateway's id is its client id."""
    uplink = config.uplink
    return UplinkTarget(
        host=uplink.host or "127.0.0.1",
        port=uplink.port,
        client_id=gateway_id,
        username=uplink.username,
        password=uplink.password,
        tls=uplink.use_tls,
        ca_certs=Path(uplink.ca_certs) if uplink.ca_certs else None,
        keepalive_s=config.mqtt.keepalive_s,
    )


def backoff(config: Config) -> BackoffPolicy:
    """Waits between attempts while the line is down (S0-031…033)."""
    reconnect = config.mqtt.reconnect
    return BackoffPolicy(reconnect.initial_delay_s, reconnect.max_delay_s, reconnect.backoff_multiplier)


def panel(
    config: Config,
    *,
    on_acknowledge: Callable[[], None],
    on_test: Callable[[], None] | None = None,
    on_change: Callable[[str], None] | None,
) -> Panel:
    """Lamp and buzzer of this machine; `off` only remembers what it would show."""
    if config.panel.driver == "off":
        return panel_driver.RecorderPanel(patterns=config.panel.patterns)
    return panel_driver.make(
        config.panel.driver,
        pins(config),
        patterns=config.panel.patterns,
        on_acknowledge=on_acknowledge,
        on_test=on_test,
        on_change=on_change,
    )


def pins(config: Config) -> panel_pins.Pins:
    """How lamp, buzzer and button are wired."""
    panel = config.panel
    plain = panel.lamp == "one"
    return panel_pins.Pins(
        lamp=panel.red_pin if plain else (panel.red_pin, panel.green_pin, panel.blue_pin),
        buzzer=panel.buzzer_pin,
        button=panel.button_pin,
        tonal=panel.buzzer == "tonal",
        lamp_active_high=panel.active_high,
        buzzer_active_high=panel.buzzer_sounds_high,
    )


def channels(config: Config) -> dict[str, Channel]:
    """The ways to people: those of the configuration, and those that need no entry in it."""
    own = {name: Channel(one.url, short=one.form == "short") for name, one in config.notify.channels.items()}
    return channels_of(own, os.environ)


def notify_policy(config: Config, ways: Mapping[str, Channel]) -> NotifyPolicy:
    """What the notification service keeps to."""
    forms = {name: ChannelForm(short=way.short) for name, way in ways.items()}
    return NotifyPolicy(forms, config.notify.stale_min)


def listeners(config: Config) -> tuple[Listener, ...]:
    """Where the broker listens; the first is the plain one.

    Raises:
        ConfigError: a certificate or a key cannot be used; says which.
    """
    broker, websocket = config.broker, config.broker.websocket
    found = [Listener(broker.host, config.broker_port)]
    context = _tls_context(config)
    if broker.tls.enabled:
        found.append(Listener(broker.tls_host, broker.tls.port, tls=context))
    if websocket.enabled:
        found.append(
            Listener(
                broker.websocket_host,
                websocket.port,
                tls=context if websocket.tls else None,
                websocket=True,
                origins=frozenset(websocket.origins),
            )
        )
    return tuple(found)


def _tls_context(config: Config) -> ssl.SSLContext | None:
    """One for all listeners that encrypt; None where none does."""
    tls, websocket = config.broker.tls, config.broker.websocket
    if not tls.enabled and not (websocket.enabled and websocket.tls):
        return None
    certificate = Path(tls.certificate)
    client_ca = Path(tls.client_ca) if tls.client_ca else certificate.with_name("ca.crt")
    return server_context(
        certificate,
        Path(tls.key),
        client_ca=None if tls.client_certificates == "none" else client_ca,
        client_certificates=tls.client_certificates,
    )


def certificate_note(config: Config, now_ms: int) -> str | None:
    """What is to be said about the end of the server certificate, at a start; None if there is time."""
    if _tls_context(config) is None:
        return None
    certificate = Path(config.broker.tls.certificate)
    until = valid_until(certificate)
    left_days = (until.timestamp() - now_ms / 1000) / 86400
    if left_days > CERTIFICATE_NOTE_DAYS:
        return None
    verb = "expires" if left_days > 0 else "expired"
    return f"{certificate} {verb} on {until:%Y-%m-%d}; `barn-gateway certificates` renews the gateway's own"


def admission(config: Config) -> Admission:
    """Who may speak; reads the device register."""
    welcome = anonymous(config)
    needed = welcome is Anonymous.NOBODY or (welcome is Anonymous.THIS_MACHINE and config.broker.on_network)
    return Admission(DeviceFile(Path(config.broker.devices)), TokenAccess(welcome), needed=needed)


def anonymous(config: Config) -> Anonymous:
    """Who may speak without a credential: nobody, this machine, or everyone (decision 34)."""
    if config.mode == "production":
        return Anonymous.NOBODY
    return Anonymous.EVERYONE if config.broker.allow_anonymous else Anonymous.THIS_MACHINE


def door_limits(config: Config) -> DoorLimits:
    """Bounds of the front door."""
    wanted = config.broker.limits
    return DoorLimits(
        packet_size_max=wanted.packet_size_max,
        connections_max=wanted.connections_max,
        connections_per_address_max=wanted.connections_per_address_max,
        connect_timeout_s=wanted.connect_timeout_s,
    )


def state_bounds(config: Config) -> StateBounds:
    """What the broker keeps at most, and so what is read back."""
    return StateBounds(
        sessions=door_limits(config).sessions_max,
        filters=limits.FILTERS_PER_CLIENT_MAX,
        waiting=limits.BACKLOG_MESSAGES_MAX + limits.DELIVERY_IN_FLIGHT_MAX,
        waiting_bytes=limits.BACKLOG_BYTES_MAX,
        ids=limits.QOS2_IDS_PER_CLIENT_MAX,
        retained=limits.RETAINED_MESSAGES_MAX,
        retained_bytes=limits.RETAINED_BYTES_MAX,
    )


def machine_clock() -> Clock:
    """The machine's own time, for a gateway in a barn."""
    return SystemClock()


def panel_off(config: Config) -> None:
    """Lamp and buzzer off, whatever state a killed gateway left the pins in.

    Raises:
        ConfigError: a pin cannot be driven; names it.
    """
    panel_pins.all_pins_off(pins(config))


def service_log(config: Config) -> AbstractContextManager[None]:
    """The log of the `logging` section, for as long as the block runs."""
    section = config.logging
    return logfile.service_log(
        level=section.level,
        log_file=Path(section.log_file) if section.log_file else None,
        max_bytes=section.max_bytes,
        backup_count=section.backup_count,
        console=section.log_to_console,
    )


def private_config(folder: Path) -> Config:
    """A gateway of its own for a recording: any free port, no page, no pins, its store in `folder`."""
    return Config(
        mqtt=sections.Mqtt(broker_port=0),
        broker=sections.Broker(devices=str(folder / "devices.json")),
        database=sections.Database(path=str(folder / "alert_state.db")),
        store=sections.Store(commit_window_ms=1, farm_register=str(folder / "farm.json")),
        backup=sections.Backup(enabled=False),
        service=sections.Service(enable_health_check=False),
        panel=sections.PanelPins(driver="mock"),
    )
