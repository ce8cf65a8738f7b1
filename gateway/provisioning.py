"""What a command may do with the device register, beside a running gateway or without. Main thread.

A token exists in two places: here, once, for whoever asked, and in the device. The register keeps
its digest. A gateway that runs sees a change within two seconds.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from gateway.config import Config, is_loopback
from gateway.core.credentials import Device, Role, device_fault, token_digest
from gateway.errors import GatewayError
from gateway.store.devices import DeviceRegister

SIGNS: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Nothing that is mistaken for another when it is read out or typed (no i, l, o, 0, 1), nothing that a
shell or a URI treats specially. 31 signs."""
SIGNS_PER_TOKEN: Final = 27
"""27 × log2(31) = 133 bits; 128 are wanted."""
NAMED_MAX: Final = 5
"""Ids spelled out in one error."""


class Login(msgspec.Struct, frozen=True):
    """A device and the token it was just given."""

    device: Device
    token: str


class Door(msgspec.Struct, frozen=True):
    """Where devices reach the broker.

    Args:
        host: name or address to connect to.
        port: TCP port.
        tls: whether that listener speaks TLS.
        ca_file: certificate of the authority that has signed the server's; None = the system's.
        local_only: nothing but this machine can reach it.
    """

    host: str
    port: int
    tls: bool = False
    ca_file: str | None = None
    local_only: bool = False


Say = Callable[[str], None]
Hand = Callable[[list[Login]], None]


def door(config: Config) -> Door:
    """The listener a device should use: the encrypted one, where there is one."""
    broker = config.broker
    if not broker.tls.enabled:
        host = _reachable(broker.host)
        return Door(host, config.broker_port, local_only=is_loopback(host))
    host = _reachable(broker.tls_host)
    own = Path(broker.tls.certificate).with_name("ca.crt")  # as `barn-gateway certificates` lays it
    ca_file = str(own) if own.exists() else None
    return Door(host, broker.tls.port, tls=True, ca_file=ca_file, local_only=is_loopback(host))


def _reachable(host: str) -> str:
    return _address_of_this_machine() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


def add(
    config: Config,
    ids: Sequence[str],
    role: Role,
    speaks_for: tuple[str, ...] | Literal["all"],
    label: str,
    *,
    hand: Hand,
    say: Say,
) -> None:
    """Register new devices, all or none.

    Args:
        config: names the register.
        ids: new ones.
        role: of all of them.
        speaks_for: of concentrators.
        label: a note for people.
        hand: gets the tokens before they are in force, so that none is in force that nobody has.
        say: gets a sentence where the register had to be recovered.

    Raises:
        GatewayError: one of them is registered already, or what is wanted contradicts itself.
        StoreError: the register cannot be used; nothing is changed then.
    """
    with _changing(config, say) as register:
        known = {device.id for device in register.devices()}
        taken = [one for one in ids if one in known]
        if taken:
            raise GatewayError(
                f"{_names(taken)}: registered already; nothing was changed",
                "`barn-gateway device rotate` gives a new password",
            )
        key, now_ms = register.key(), _now_ms()
        logins = [
            _login(
                key,
                Device(id=one, role=role, digest="", speaks_for=speaks_for, created_ms=now_ms, label=label),
            )
            for one in ids
        ]
        fault = next(filter(None, (device_fault(login.device) for login in logins)), None)
        if fault is not None:
            raise GatewayError(fault)
        hand(logins)
        register.add([login.device for login in logins])


def rotate(config: Config, ids: Sequence[str], *, hand: Hand, say: Say) -> None:
    """Give devices new tokens, all or none; the old ones end, and so do their connections.

    Raises:
        GatewayError: one of them is not registered.
        StoreError: the register cannot be used; nothing is changed then.
    """
    with _changing(config, say) as register:
        devices = _registered(register, ids)
        key = register.key()
        logins = [_login(key, device) for device in devices]
        hand(logins)
        register.change(login.device for login in logins)


def remove(config: Config, ids: Sequence[str], *, say: Say) -> None:
    """Put devices out, all or none; their connections end.

    Raises:
        GatewayError: one of them is not registered.
        StoreError: the register cannot be used; nothing is changed then.
    """
    with _changing(config, say) as register:
        _registered(register, ids)
        register.remove(ids)


def registered(config: Config, *, say: Say) -> list[Device]:
    """All devices, in the order they were added.

    Raises:
        StoreError: the register cannot be used.
    """
    if not _path(config).parent.is_dir():
        return []
    with _changing(config, say) as register:
        return register.devices()


def _path(config: Config) -> Path:
    return Path(config.broker.devices)


@contextmanager
def _changing(config: Config, say: Say) -> Iterator[DeviceRegister]:
    """The register, open for this command; tells what had to be recovered."""
    with DeviceRegister.changing(_path(config)) as register:
        if register.recovered_from is not None:
            say(register.recovered_from)
        yield register


def _registered(register: DeviceRegister, ids: Sequence[str]) -> list[Device]:
    by_id = {device.id: device for device in register.devices()}
    unknown = [one for one in ids if one not in by_id]
    if unknown:
        raise GatewayError(
            f"{_names(unknown)}: not registered; nothing was changed",
            "`barn-gateway device list` shows who is",
        )
    return [by_id[one] for one in ids]


def _login(key: bytes, device: Device) -> Login:
    token = "".join(secrets.choice(SIGNS) for _ in range(SIGNS_PER_TOKEN))
    digest = token_digest(key, device.id, token.encode()).hex()
    return Login(msgspec.structs.replace(device, digest=digest, rotated_ms=_now_ms()), token)


def _names(ids: Sequence[str]) -> str:
    more = len(ids) - NAMED_MAX
    return ", ".join(ids[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _address_of_this_machine() -> str:
    """The one it would be reached at from the network; its name where there is no network.

    Connecting a datagram socket chooses a route and sends nothing; 192.0.2.1 is nobody's (RFC 5737).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
