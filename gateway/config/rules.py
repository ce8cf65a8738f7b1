"""What single keys cannot say: pairs that contradict each other, and what is unwise.

Pure but for the time zone database, which belongs to the machine.
"""

from __future__ import annotations

import ipaddress
import zoneinfo
from collections.abc import Collection, Iterator

from gateway.config.faults import Contradiction
from gateway.config.listeners import listener_faults, listener_warnings, network_hosts
from gateway.config.production import production_faults
from gateway.config.schema import Config, is_local, is_loopback
from gateway.core.topics import ALERTS_PATTERN, covers, filter_fault, size_fault, topic_fault

STANDARD_PORT = 1883


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Everything that must stop the start."""
    yield from _site(config)
    yield from _mqtt(config)
    yield from _broker(config)
    yield from _listener_hosts(config)
    yield from listener_faults(config)
    yield from _topics(config)
    yield from _files(config)
    yield from _service(config)
    yield from _uplink(config)
    yield from _panel(config)
    yield from production_faults(config)


def _site(config: Config) -> Iterator[Contradiction]:
    zone = config.site.timezone
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if zone != "UTC":  # a machine without the database still knows UTC
            yield Contradiction(
                ("site.timezone",),
                f'"{zone}" is no time zone this machine knows; write one like Europe/Berlin',
            )


def _mqtt(config: Config) -> Iterator[Contradiction]:
    mqtt = config.mqtt
    if not is_local(mqtt.broker_host):
        yield Contradiction(
            ("mqtt.broker_host",),
            f'"{mqtt.broker_host}" is another machine, and this version cannot read from a broker elsewhere; '
            "write localhost and let the sensors connect to this gateway",
        )
    if mqtt.reconnect.max_delay_s < mqtt.reconnect.initial_delay_s:
        yield Contradiction(
            ("mqtt.reconnect.max_delay", "mqtt.reconnect.initial_delay"), "is shorter than initial_delay"
        )
    yield from _credentials("mqtt", mqtt.username, mqtt.password)
    if mqtt.ca_certs and not mqtt.use_tls:
        yield Contradiction(("mqtt.ca_certs", "mqtt.use_tls"), "has no effect without use_tls: true")
    if not is_local(mqtt.broker_host):
        return
    if mqtt.use_tls and not is_loopback(config.broker.host):
        yield Contradiction(
            ("mqtt.use_tls", "broker.host"),
            "the listener of broker.host is the unencrypted one; write broker.tls.enabled: true and "
            "broker.host: 127.0.0.1, or remove this key to accept readings in the clear knowingly",
        )
    if mqtt.username and config.broker.allow_anonymous and config.broker.on_network:
        yield Contradiction(
            ("mqtt.username", "broker.allow_anonymous"),
            "asks for passwords, and broker.allow_anonymous lets everyone in without; "
            "write broker.allow_anonymous: false, or remove this key to accept an open broker knowingly",
        )


def _credentials(section: str, username: str | None, password: str | None) -> Iterator[Contradiction]:
    if (username is None) != (password is None):
        given, absent = ("username", "password") if password is None else ("password", "username")
        yield Contradiction(
            (f"{section}.{given}", f"{section}.{absent}"), f"is set without {absent}; set both or none"
        )


def _address_fault(host: str) -> str | None:
    """Why a listening address is none; a name could resolve to anything."""
    if host == "localhost":
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f'"{host}" is no address of this machine; write 127.0.0.1, 0.0.0.0 or one of its IP addresses'
    return None


def _broker(config: Config) -> Iterator[Contradiction]:
    broker = config.broker
    fault = _address_fault(broker.host)
    if fault:
        yield Contradiction(("broker.host",), fault)
    if broker.port not in {None, config.mqtt.broker_port} and config.mqtt.broker_port != STANDARD_PORT:
        yield Contradiction(
            ("broker.port", "mqtt.broker_port"),
            f"differs from mqtt.broker_port ({config.mqtt.broker_port}); keep one of the two",
        )


def _listener_hosts(config: Config) -> Iterator[Contradiction]:
    for key, host in (("tls", config.broker.tls.host), ("websocket", config.broker.websocket.host)):
        fault = _address_fault(host) if host is not None else None
        if fault:
            yield Contradiction((f"broker.{key}.host",), fault)


def _topics(config: Config) -> Iterator[Contradiction]:
    pattern = config.mqtt.topic_pattern
    fault = filter_fault(pattern) or size_fault(pattern)
    if fault is None and (pattern.count("+") != 1 or not pattern.endswith("/+")):
        fault = "it must end in /+ (the cow_id) and have no other wildcard"
    if fault is None and covers(ALERTS_PATTERN, pattern):
        fault = f"{ALERTS_PATTERN} is kept for what the gateway says; use another"
    if fault:
        yield Contradiction(("mqtt.topic_pattern",), f'"{pattern}": {fault}')
    for key in ("open_topics", "denied_topics"):
        for number, topic in enumerate(getattr(config.broker, key)):
            wrong = (filter_fault(topic) or size_fault(topic)) if isinstance(topic, str) else None
            if wrong:
                yield Contradiction((f"broker.{key}[{number}]",), f'"{topic}": {wrong}')
    prefix = config.uplink.topic_prefix
    if topic_fault(prefix) or prefix.startswith(("$", "/")) or prefix.endswith("/"):
        yield Contradiction(
            ("uplink.topic_prefix",), f'"{prefix}" must be plain levels like artemis/upstream, without + # $'
        )


def _files(config: Config) -> Iterator[Contradiction]:
    if not config.database.enable_wal:
        yield Contradiction(
            ("database.enable_wal",), "the store always uses WAL mode; write true or remove the key"
        )
    seen: dict[str, str] = {}
    for path, file in (
        ("database.path", config.database.path),
        ("store.farm_register", config.store.farm_register),
        ("broker.devices", config.broker.devices),
        ("logging.log_file", config.logging.log_file),
    ):
        if file is None:
            continue
        if file in seen:
            yield Contradiction((path, seen[file]), f"names the same file as {seen[file]}")
        seen.setdefault(file, path)


def _service(config: Config) -> Iterator[Contradiction]:
    service = config.service
    if not service.enable_health_check:
        return
    fault = _address_fault(service.health_check_host)
    if fault:
        yield Contradiction(("service.health_check_host",), fault)
    elif not is_loopback(service.health_check_host) and not service.allow_anonymous:
        yield Contradiction(
            ("service.health_check_host", "service.allow_anonymous"),
            f"{service.health_check_host} is reachable from the network and the pages have no login yet; "
            "set 127.0.0.1, or write service.allow_anonymous: true if everyone there may see them",
        )
    if service.health_check_port == config.broker_port:
        yield Contradiction(
            ("service.health_check_port", "mqtt.broker_port", "broker.port"),
            f"{service.health_check_port} is the broker's port too; give each its own",
        )


def _uplink(config: Config) -> Iterator[Contradiction]:
    uplink = config.uplink
    yield from _credentials("uplink", uplink.username, uplink.password)
    if uplink.ca_certs and not uplink.use_tls:
        yield Contradiction(("uplink.ca_certs", "uplink.use_tls"), "has no effect without use_tls: true")
    if not uplink.enabled:
        return
    if uplink.host is None:
        yield Contradiction(("uplink.host", "uplink.enabled"), "is missing, and uplink.enabled is true")
    elif is_local(uplink.host) and uplink.port == config.broker_port:
        yield Contradiction(
            ("uplink.port", "uplink.host", "mqtt.broker_port", "broker.port"),
            "is this gateway's own broker; it would send to itself",
        )


def _panel(config: Config) -> Iterator[Contradiction]:
    seen: dict[int, str] = {}
    for key, pin in config.panel.wired.items():
        if pin in seen:
            yield Contradiction((f"panel.{key}", f"panel.{seen[pin]}"), f"uses pin {pin} like {seen[pin]}")
        seen.setdefault(pin, key)


def warnings(config: Config, jobs_without_detectors: Collection[str] = ()) -> Iterator[Contradiction]:
    """What works and should still be known; said by `check` and at every start.

    Args:
        config: a configuration without faults.
        jobs_without_detectors: names of `detector_schedules` that this version accepts and
            has no detector for; app.py knows them from DETECTORS.
    """
    broker, mqtt, uplink = config.broker, config.mqtt, config.uplink
    yield from listener_warnings(config)
    for job, schedule in config.detector_schedules.items():
        if job in jobs_without_detectors and schedule.enabled:
            yield Contradiction(
                (f"detector_schedules.{job}",), "accepted, but this version has no detector for it yet"
            )
    yield from _network_warnings(config)
    if mqtt.use_tls and is_loopback(broker.host) and not broker.tls.enabled:
        yield Contradiction(
            ("mqtt.use_tls",),
            f"has no effect: {broker.host}:{config.broker_port} is unencrypted; TLS is broker.tls",
        )
    if mqtt.username:
        yield Contradiction(
            ("mqtt.username",),
            "is what `barn-gateway import` logs in with; sensors get theirs from `barn-gateway device add`",
        )
    if not is_loopback(mqtt.broker_host) and is_loopback(broker.host):
        yield Contradiction(
            ("mqtt.broker_host",), f"means this machine; the listening address is broker.host ({broker.host})"
        )
    if not is_loopback(config.service.health_check_host):
        yield Contradiction(
            ("service.allow_anonymous",),
            f"everyone who reaches {config.service.health_check_host} may see the pages",
        )
    if uplink.enabled and uplink.password and not uplink.use_tls and not is_local(uplink.host or ""):
        yield Contradiction(("uplink.use_tls",), f"the password goes to {uplink.host} unencrypted")


def _network_warnings(config: Config) -> Iterator[Contradiction]:
    """What others on the network may do with the broker, by whichever of its listeners (decision 34)."""
    broker, hosts = config.broker, network_hosts(config)
    if hosts and broker.allow_anonymous:
        yield Contradiction(
            ("broker.allow_anonymous",), f"everyone who reaches {hosts} may publish and subscribe"
        )
    if not is_loopback(broker.host):
        yield Contradiction(
            ("broker.host",),
            f"who listens on the network of {broker.host} can read passwords and readings",
        )
    if hosts and broker.open_topics:
        yield Contradiction(
            ("broker.open_topics",),
            f"lets those who reach {hosts} use topics the gateway does not know; [] leaves its own only",
        )
