"""Asks the running gateway to do something, over its own HTTP API."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Final

from gateway.config import Config
from gateway.errors import ChecksFailedError, ConfigError, GatewayError, NetworkError, StoreError

ANSWER_S_MAX: Final = 35.0
"""A dying card takes up to 30 s for a commit; what was asked for would still happen."""
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""An alert with five years of history is far below."""

_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - to be told from real addresses
_FAULTS: Final[dict[int, type[GatewayError]]] = {
    400: ConfigError,
    404: ChecksFailedError,
    409: ChecksFailedError,
    503: StoreError,
}


def call(config: Config, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send one request and return the JSON of the answer.

    Raises:
        NetworkError: no gateway answers there, or it answers nonsense.
        ChecksFailedError: somebody was first, or there is no such thing.
        StoreError: the gateway cannot write.
        ConfigError: what is asked for makes no sense; says which part.
    """
    url = base_url(config) + path
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - http, by the line above
        url, data=data, method=method, headers={"Content-Type": "application/json"}
    )
    # No proxy of the environment: the gateway is this machine or its neighbour.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_S_MAX) as answer:
            return json.loads(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        raise _fault(error, url) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NetworkError(
            f"no gateway answers at {url}: {reason}",
            "start it (`systemctl start barn-gateway`), or give --config of the one that runs; "
            "service.enable_health_check must be true",
        ) from error


def base_url(config: Config) -> str:
    """Where the gateway of this configuration listens, as this machine reaches it."""
    host = config.service.health_check_host.strip("[]")
    if host in _ANY:
        host = "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{config.service.health_check_port}"


def _fault(error: urllib.error.HTTPError, url: str) -> GatewayError:
    with error:
        try:
            sentence = str(json.loads(error.read(ANSWER_BYTES_MAX))["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return NetworkError(
                f"{url} answered {error.code} {error.reason}", "is it another program's port?"
            )
    return _FAULTS.get(error.code, NetworkError)(sentence)
