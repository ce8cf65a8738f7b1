"""What can be configured: sections, types, units, bounds and defaults.

Keys are document 0's where it has them (decision 37); field names add the unit where the
key lacks it. The defaults here and the example in config/gateway.yaml are kept equal by a
test. To add a section that lives in core (a detector's policy), name its struct as a
field: `convert` walks any frozen msgspec struct, and reports what its `__post_init__`
raises as ValueError.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import time
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta, field

from gateway.core.alerts import AlertPolicy
from gateway.core.detection import Policies
from gateway.core.retention import RetentionPolicy
from gateway.core.rhythms import Patterns

Port = Annotated[int, Meta(ge=1, le=65535)]
Pin = Annotated[int, Meta(ge=2, le=27)]
"""BCM number on the 40-pin header; 0 and 1 belong to the HAT's identification."""
Text = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
"""Waiting times; more than a day is a typing mistake."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Whether document 0's `broker_host` means this machine, hence the embedded broker."""
    return is_loopback(host) or host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The farm. `timezone` is where timestamps without a zone belong (decision 7)."""

    timezone: Text = "UTC"


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """Waits between attempts: first, longest, and the factor between (S0-031..033)."""

    initial_delay_s: Seconds = field(default=5.0, name="initial_delay")
    max_delay_s: Seconds = field(default=60.0, name="max_delay")
    backoff_multiplier: Annotated[float, Meta(ge=1, le=10)] = 2.0


class Mqtt(msgspec.Struct, frozen=True, kw_only=True):
    """Document 0's broker settings (S0-024..033, S0-047).

    A local `broker_host` means the embedded broker, which listens on `broker_port`.
    `keepalive` (seconds) and `reconnect` are the uplink's. `client_id`, `qos` and TLS are accepted and
    have no effect: the gateway is the broker itself. `username` and `password` are what
    `barn-gateway import` logs in with; sensors have credentials of their own (`barn-gateway device`).
    """

    broker_host: Text = "localhost"
    broker_port: Port = 1883
    topic_pattern: Text = "artemis/sensors/+"
    client_id: Annotated[str, Meta(min_length=1, max_length=128)] = "artemis_subscriber"
    keepalive_s: Annotated[int, Meta(ge=5, le=65535)] = field(default=60, name="keepalive")
    qos: Annotated[int, Meta(ge=0, le=2)] = 1
    username: Text | None = None
    password: Text | None = None
    use_tls: bool = False
    ca_certs: Text | None = None
    reconnect: Reconnect = Reconnect()


class BrokerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the front door (decision 24); named as in drivers/broker."""

    packet_size_max: Annotated[int, Meta(ge=1024, le=1_048_576)] = 65_536
    connections_max: Annotated[int, Meta(ge=1, le=10_000)] = 2000
    connections_per_address_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    connect_timeout_s: Seconds = 10.0


class BrokerTls(msgspec.Struct, frozen=True, kw_only=True):
    """The encrypted listener. `host` None = `broker.host`; `client_ca` None = ca.crt beside `certificate`."""

    enabled: bool = False
    host: Text | None = None
    port: Port = 8883
    certificate: Text = "certificates/server.crt"
    key: Text = "certificates/server.key"
    client_certificates: Literal["none", "optional", "required"] = "none"
    client_ca: Text | None = None


class BrokerWebsocket(msgspec.Struct, frozen=True, kw_only=True):
    """The listener for browsers. `host` None = `broker.host`; `tls` uses the certificate of `broker.tls`.

    `origins`: pages that may connect besides those of this machine itself.
    """

    enabled: bool = False
    host: Text | None = None
    port: Port = 9001
    tls: bool = False
    origins: tuple[str, ...] = ()


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """The embedded broker's door (decisions 23 and 34). `port` None = `mqtt.broker_port`.

    `devices` is the register of who may speak. Without a credential may speak: nobody in `mode:
    production`, everyone with `allow_anonymous`, otherwise peers with a loopback address.
    """

    host: Text = "127.0.0.1"
    port: Port | None = None
    allow_anonymous: bool = False
    devices: Text = "data/devices.json"
    open_topics: tuple[str, ...] = ("#",)
    denied_topics: tuple[str, ...] = ("test/nosubscribe",)
    limits: BrokerLimits = BrokerLimits()
    tls: BrokerTls = BrokerTls()
    websocket: BrokerWebsocket = BrokerWebsocket()

    @property
    def on_network(self) -> bool:
        """Whether other machines can reach one of the listeners."""
        hosts = [self.host]
        hosts += [self.tls_host] if self.tls.enabled else []
        hosts += [self.websocket_host] if self.websocket.enabled else []
        return not all(is_loopback(host) for host in hosts)

    @property
    def tls_host(self) -> str:
        """The address of the encrypted listener."""
        return self.tls.host or self.host

    @property
    def websocket_host(self) -> str:
        """The address of the listener for browsers."""
        return self.websocket.host or self.host


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """The store's file (S0-034..036). `timeout` is seconds to wait for a lock."""

    path: Text = "data/alert_state.db"
    timeout_s: Seconds = field(default=5.0, name="timeout")
    enable_wal: bool = True


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """How often readings reach the disk, and where the farm register lies."""

    commit_window_ms: Annotated[int, Meta(ge=1, le=10_000)] = 500
    farm_register: Text = "data/farm.json"


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """The nightly backup (S0-111..114): where, when (the site's local time), and for how long."""

    enabled: bool = True
    directory: Text = "backups"
    at: Text = "02:00"
    keep_days: Annotated[int, Meta(ge=1, le=366)] = 7

    def __post_init__(self) -> None:
        """A time that is none would be found out at night."""
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", self.at, re.ASCII):
            raise ValueError(f'at: "{self.at}" is no time of day; write it like "02:00", in quotes')

    @property
    def at_local(self) -> time:
        """`at` as a time of day."""
        return time.fromisoformat(self.at)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """How often one job runs: minutes or hours, not both (S0-037..041)."""

    ALTERNATIVES: ClassVar[tuple[tuple[str, ...], ...]] = (("interval_minutes", "interval_hours"),)

    interval_minutes: Annotated[float, Meta(gt=0, le=10_080)] | None = None  # up to a week
    interval_hours: Annotated[float, Meta(gt=0, le=168)] | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        """A job without an interval would never run."""
        if self.interval_minutes is None and self.interval_hours is None:
            raise ValueError("needs interval_minutes or interval_hours")

    @property
    def interval_s(self) -> float:
        """Seconds between two runs."""
        return (self.interval_minutes or 0.0) * 60.0 + (self.interval_hours or 0.0) * 3600.0


class DetectorSchedules(msgspec.Struct, frozen=True, kw_only=True):
    """Document 0's four jobs with its intervals."""

    immediate_detection: Schedule = Schedule(interval_minutes=2)
    inactivity_detection: Schedule = Schedule(interval_minutes=30)
    health_scoring: Schedule = Schedule(interval_minutes=15)
    estrus_detection: Schedule = Schedule(interval_hours=6)

    def items(self) -> tuple[tuple[str, Schedule], ...]:
        """(job, schedule), in the order of the file."""
        return tuple((name, getattr(self, name)) for name in self.__struct_fields__)


class Logging(msgspec.Struct, frozen=True, kw_only=True):
    """Document 0's log settings (S0-042..046). `log_file` None = no file."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_file: Text | None = "logs/realtime_service.log"
    max_bytes: Annotated[int, Meta(gt=0)] = 10_485_760
    backup_count: Annotated[int, Meta(ge=0, le=1000)] = 5
    log_to_console: bool = True


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP side (S0-048, S2-009): /health, the status page, /health/mqtt-monitor."""

    enable_health_check: bool = True
    health_check_host: Text = "127.0.0.1"
    health_check_port: Port = 8080
    allow_anonymous: bool = False
    enable_mqtt_monitor: bool = True


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on memory (S0-049, S0-050).

    `max_queue_size`: QoS 0 messages that may wait for the disk, about 500 bytes each.
    `cache_max_size`: animals the detectors watch, about 25 kB of memory each; readings of
    further ones (up to 5000 animals) are stored, and /health says that nobody watches them.
    """

    max_queue_size: Annotated[int, Meta(ge=100, le=1_000_000)] = 10_000
    cache_max_size: Annotated[int, Meta(ge=1, le=5000)] = 5000


class Uplink(msgspec.Struct, frozen=True, kw_only=True):
    """The MQTT broker upstream that gets alerts and, if wanted, readings."""

    enabled: bool = False
    host: Text | None = None
    port: Port = 1883
    username: Text | None = None
    password: Text | None = None
    use_tls: bool = False
    ca_certs: Text | None = None
    topic_prefix: Text = "artemis/upstream"
    readings: bool = True
    readings_interval_s: Seconds = 300.0


class PanelPins(msgspec.Struct, frozen=True, kw_only=True):
    """Lamp, buzzer and button; pins are BCM numbers, None = not wired.

    `lamp`: an RGB one, three plain ones in the same colours, or a single one on `red_pin`.
    `buzzer`: active = has a pitch of its own, tonal = plays the pitch it is given.
    `active_high` is the lamp's, and the buzzer's unless `buzzer_active_high` says otherwise.
    """

    driver: Literal["auto", "gpio", "mock", "off"] = "auto"
    lamp: Literal["rgb", "three", "one"] = "rgb"
    red_pin: Pin = 17
    green_pin: Pin = 27
    blue_pin: Pin = 22
    active_high: bool = True
    buzzer: Literal["active", "tonal"] = "active"
    buzzer_pin: Pin | None = 23
    buzzer_active_high: bool | None = None
    button_pin: Pin | None = 24
    patterns: Patterns = Patterns()

    @property
    def buzzer_sounds_high(self) -> bool:
        """Whether a high level makes the buzzer sound."""
        return self.active_high if self.buzzer_active_high is None else self.buzzer_active_high

    @property
    def wired(self) -> dict[str, int]:
        """Key → pin, of all that is used."""
        lamp = ("red_pin",) if self.lamp == "one" else ("red_pin", "green_pin", "blue_pin")
        keys = (*lamp, "buzzer_pin", "button_pin")
        return {key: pin for key in keys if (pin := getattr(self, key)) is not None}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration. `mode: production` demands authentication and encryption (S3-049)."""

    mode: Literal["standard", "production"] = "standard"
    site: Site = Site()
    mqtt: Mqtt = Mqtt()
    broker: Broker = Broker()
    database: Database = Database()
    store: Store = Store()
    backup: Backup = Backup()
    detector_schedules: DetectorSchedules = DetectorSchedules()
    logging: Logging = Logging()
    service: Service = Service()
    performance: Performance = Performance()
    uplink: Uplink = Uplink()
    panel: PanelPins = PanelPins()
    retention: RetentionPolicy = RetentionPolicy()
    alerts: AlertPolicy = AlertPolicy()
    detectors: Policies = Policies()

    @property
    def broker_port(self) -> int:
        """The port the embedded broker listens on."""
        return self.broker.port or self.mqtt.broker_port
