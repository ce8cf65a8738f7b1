"""What can be wrong and what is unwise about the TLS and WebSocket listeners. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.config.faults import Contradiction
from gateway.config.schema import Config, is_loopback


def listener_faults(config: Config) -> Iterator[Contradiction]:
    """Everything about them that must stop the start."""
    tls, websocket = config.broker.tls, config.broker.websocket
    if tls.client_ca is not None and tls.client_certificates == "none":
        yield Contradiction(
            ("broker.tls.client_ca", "broker.tls.client_certificates"),
            "has no effect while client certificates are not asked for; write optional or required",
        )
    for number, origin in enumerate(websocket.origins):
        why = _origin_fault(origin)
        if why:
            yield Contradiction((f"broker.websocket.origins[{number}]",), f'"{origin}" {why}')
    yield from _ports(config)


def _ports(config: Config) -> Iterator[Contradiction]:
    """Two listeners on one port, whatever their addresses: 0.0.0.0 takes them all."""
    taken = {config.broker_port: "mqtt.broker_port"}
    service = config.service
    if service.enable_health_check:
        taken.setdefault(service.health_check_port, "service.health_check_port")
    for key, section in (("broker.tls", config.broker.tls), ("broker.websocket", config.broker.websocket)):
        if not section.enabled:
            continue
        if section.port in taken:
            yield Contradiction(
                (f"{key}.port", taken[section.port]), f"{section.port} is {taken[section.port]} too"
            )
        taken.setdefault(section.port, f"{key}.port")


def _origin_fault(origin: str) -> str | None:
    """Why a browser would never name a page's origin like this."""
    if origin == "null":
        return None
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return "is no origin; write it like https://farm.example"
    shown = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in {"http", "https"} or not parts.hostname or origin != shown or "@" in parts.netloc:
        return "is no origin; write scheme and host alone, like https://farm.example"
    if origin != origin.lower() or port == {"http": 80, "https": 443}[parts.scheme]:
        return "is not how a browser writes it: in small letters, without the scheme's own port"
    return None


def network_hosts(config: Config) -> str:
    """The addresses at which other machines reach the broker, each once; empty without one."""
    broker = config.broker
    hosts = [broker.host]
    hosts += [broker.tls_host] if broker.tls.enabled else []
    hosts += [broker.websocket_host] if broker.websocket.enabled else []
    return ", ".join(dict.fromkeys(host for host in hosts if not is_loopback(host)))


def listener_warnings(config: Config) -> Iterator[Contradiction]:
    """What works and should still be known."""
    broker = config.broker
    if broker.websocket.enabled and not broker.websocket.tls and not is_loopback(broker.websocket_host):
        yield Contradiction(
            ("broker.websocket.tls",),
            f"browsers send readings and passwords to {broker.websocket_host} unencrypted; "
            "true uses the certificate of broker.tls",
        )
