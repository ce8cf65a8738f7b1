"""Certificates of this gateway, made by hand: what `barn-gateway certificates` does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.config import Config
from gateway.drivers.certificates import Authority, Issued, Made, machine_names
from gateway.errors import ConfigError


def folder_of(config: Config) -> Path:
    """Where the configuration expects the server's certificate.

    Raises:
        ConfigError: it names files that are not the gateway's own.
    """
    certificate, key = Path(config.broker.tls.certificate), Path(config.broker.tls.key)
    if (certificate.name, key.name) != ("server.crt", "server.key") or certificate.parent != key.parent:
        raise ConfigError(
            f"broker.tls.certificate names {certificate}, which is not the gateway's own to make",
            hint="name a folder for those: --folder certificates",
        )
    return certificate.parent


def ensure(folder: Path, names: Sequence[str], *, renew: bool) -> Made:
    """Authority and server certificate for this machine's names and `names`; only what is missing or due.

    Raises:
        ConfigError: a file there is not what it should be; says which.
    """
    return Authority(folder, datetime.now(UTC)).ensure([*machine_names(), *names], renew=renew)


def issue(folder: Path, device: str, out: Path) -> Issued:
    """A client certificate for a device, signed by the authority in `folder`.

    Raises:
        ConfigError: no such id, no authority, or the files are there already.
    """
    return Authority(folder, datetime.now(UTC)).issue(device, out)
