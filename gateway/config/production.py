"""What `mode: production` demands (S3-049): everyone proves who they are, and nothing readable leaves.

Topics that others may use are known by name (S3-053).

Pure. Each demand that is not met is a fault of its own, so that one look at the output is enough.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.faults import Contradiction
from gateway.config.listeners import network_hosts
from gateway.config.schema import Config, is_local, is_loopback

_ANY_NAME = ("#", "+")
"""How a filter begins that is no entry of a list of allowed topics (S3-053): its first level may be any."""


def production_faults(config: Config) -> Iterator[Contradiction]:
    """Everything that keeps a production gateway from starting; nothing in any other mode."""
    if config.mode != "production":
        return
    broker, service, uplink = config.broker, config.service, config.uplink
    if broker.allow_anonymous:
        yield Contradiction(
            ("broker.allow_anonymous", "mode"),
            "production lets nobody speak without a password; write false, "
            "and give each device its own: `barn-gateway device add COW_001`",
        )
    for number, topic in enumerate(broker.open_topics):
        if broker.on_network and topic.startswith(_ANY_NAME):
            yield Contradiction(
                (f"broker.open_topics[{number}]", "broker.open_topics", "mode"),
                f'"{topic}" opens topics of any name to those who reach {network_hosts(config)}; production '
                "passes on none but those it knows or you name: [], or a list like [barn/#]",
            )
    if not broker.tls.enabled:
        yield Contradiction(
            ("broker.tls.enabled", "mode"),
            "production demands TLS; write true, and make the certificates: `barn-gateway certificates`",
        )
    if broker.websocket.enabled and not broker.websocket.tls and not is_loopback(broker.websocket_host):
        yield Contradiction(
            ("broker.websocket.tls", "mode"),
            f"browsers would reach {broker.websocket_host} unencrypted; production demands TLS, write true",
        )
    if not is_loopback(broker.host):
        yield Contradiction(
            ("broker.host", "mode"),
            f"passwords and readings would reach {broker.host} unencrypted, and production demands TLS; "
            "set 127.0.0.1",
        )
    if service.enable_health_check and not is_loopback(service.health_check_host):
        yield Contradiction(
            ("service.health_check_host", "mode"),
            "the pages have neither a login nor TLS, which production demands on the network; set 127.0.0.1",
        )
    if uplink.enabled and not uplink.use_tls and not is_local(uplink.host or "127.0.0.1"):
        yield Contradiction(
            ("uplink.use_tls", "uplink.host", "mode"),
            f"production sends nothing unencrypted to {uplink.host}; write use_tls: true",
        )
