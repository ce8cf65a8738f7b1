"""The rows of the route table (decision 23); `core/topics` says what they mean. Pure."""

from __future__ import annotations

from typing import Final

from gateway.core.alert_event import ALERT_TOPICS
from gateway.core.alerts import CALLS
from gateway.core.emergency import STOP_RESET, STOP_TOPICS
from gateway.core.rates import Rate
from gateway.core.topics import (
    CLIENT_ROLES,
    ROLE_CONCENTRATOR,
    ROLE_GATEWAY,
    ROLE_OPERATOR,
    ROLE_SENSOR,
    SENSOR_RATE,
    Family,
    Route,
)

# Closed as a whole: a message on any topic below would look like an alert of the gateway.
ALERTS_PATTERN: Final = f"{ALERT_TOPICS}#"
COMMANDS_TOPIC: Final = "artemis/commands/alerts"
RESPONSES_TOPIC: Final = "artemis/responses/alerts"

# 64 KiB a packet from sensors (decision 24), and from everybody else here.
PAYLOAD_BYTES_MAX: Final = 64 * 1024

COMMAND_RATE: Final = Rate(per_min=60, burst=60)
"""Of people and their programs (decision 24); a minute's worth at once."""


def default_routes(sensor_pattern: str = "artemis/sensors/+") -> tuple[Route, ...]:
    """Neck sensors in, alerts out; calls for help, the emergency stop, and what people do about alerts.

    What belongs to the gateway comes first, so that no `sensor_pattern` opens it.

    Args:
        sensor_pattern: with one `+`, which is the cow_id.
    """
    levels = sensor_pattern.split("/")
    return (
        Route(
            name="alerts",
            pattern=ALERTS_PATTERN,
            qos=1,
            retain=True,
            size_max=PAYLOAD_BYTES_MAX,
            family=None,
            publishers=frozenset({ROLE_GATEWAY}),
            subscribers=CLIENT_ROLES,
            summary="Open alerts, retained: artemis/alerts/{subject}/{kind}; empty when the alert has ended.",
            owner_level=2,
        ),
        *(_call(kind) for kind in sorted(CALLS)),
        *(_stop(topic) for topic in STOP_TOPICS),
        Route(
            name="alert_commands",
            pattern=COMMANDS_TOPIC,
            qos=2,
            retain=False,
            size_max=PAYLOAD_BYTES_MAX,
            family=Family.COMMANDS,
            publishers=frozenset({ROLE_OPERATOR}),
            subscribers=frozenset({ROLE_OPERATOR}),
            summary=f"What people do about alerts, one JSON object each; answered on {RESPONSES_TOPIC}.",
            rate=COMMAND_RATE,
            client_retains=False,
        ),
        Route(
            name="alert_responses",
            pattern=RESPONSES_TOPIC,
            qos=2,
            retain=False,
            size_max=PAYLOAD_BYTES_MAX,
            family=None,
            publishers=frozenset({ROLE_GATEWAY}),
            subscribers=frozenset({ROLE_OPERATOR}),
            summary=f"The gateway's answer to each command on {COMMANDS_TOPIC}.",
        ),
        Route(
            name="sensors",
            pattern=sensor_pattern,
            qos=1,
            retain=False,
            size_max=PAYLOAD_BYTES_MAX,
            family=Family.READINGS,
            publishers=frozenset({ROLE_SENSOR, ROLE_CONCENTRATOR}),
            subscribers=CLIENT_ROLES,
            summary="Neck sensor readings, one JSON object each; the last level is the cow_id.",
            owner_level=levels.index("+") if "+" in levels else None,
            rate=SENSOR_RATE,
        ),
    )


def _call(kind: str) -> Route:
    """A call for help. Its last level names nobody the client must speak for: whoever calls is served."""
    return Route(
        name=kind,
        pattern=f"alert/{kind}/+",
        qos=2,
        retain=False,
        size_max=PAYLOAD_BYTES_MAX,
        family=Family.CALLS,
        publishers=CLIENT_ROLES,
        subscribers=CLIENT_ROLES,
        summary=f"A call for help ({kind}); the last level says who calls. Any payload counts, also none.",
        client_retains=False,
    )


def _stop(topic: str) -> Route:
    """The emergency stop. What is retained here is the gateway's word, so that nobody else lifts it."""
    return Route(
        name=topic.replace("/", "_"),
        pattern=topic,
        qos=2,
        retain=True,
        size_max=PAYLOAD_BYTES_MAX,
        family=Family.EMERGENCY_STOP,
        publishers=CLIENT_ROLES,
        subscribers=CLIENT_ROLES,
        summary="Stops the barn; the gateway's own state is retained here until a person resets it.",
        client_retains=False,
        empty_refusal=STOP_RESET,
    )
