"""Whether a request was made by a page of this machine, or by a program, and not by a stranger's page. Pure.

A browser lets any page on earth send requests to any address, the barn's included, and says where
the page came from. And a stranger's name may point at the barn for a moment (DNS rebinding): then
page and target have the same name, which is why the name itself must be one no stranger can hold.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{0,15})://(.{1,262})")
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_FORM_TYPES = frozenset({"", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a form of a stranger's page may send without asking; "" because a request may leave it out."""


def own_host(host: str, machine: str, names: Collection[str] = ()) -> bool:
    """Whether a `Host` header names this machine in a way no stranger can imitate.

    Args:
        host: the header's value, with or without a port.
        machine: the host name of this machine.
        names: further names that are known to lead here.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower()
    short = machine.lower().partition(".")[0]
    if name in {"localhost", short, f"{short}.local", machine.lower(), *(known.lower() for known in names)}:
        return bool(name)
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def same_host(origin: str, host: str, machine: str) -> bool:
    """Whether a page came from the host it now talks to, at any port, and that host is this machine."""
    page, here = _place(origin), _HOST.fullmatch(host)
    return page is not None and here is not None and page[0] == here[1].lower() and own_host(host, machine)


def change_refusal(headers: Mapping[str, str], machine: str, names: Collection[str] = ()) -> str | None:
    """Why a request that changes something is refused, by where it comes from; None if it is not.

    Args:
        headers: of the request; looked up as `Host`, `Origin`, `Sec-Fetch-Site`, `Content-Type`.
        machine: the host name of this machine.
        names: further names that are known to lead here.
    """
    host = headers.get("Host", "")
    if not own_host(host, machine, names):
        return (
            f"{host[:64]!r} is no name of this machine: open the page by its address, as localhost "
            f"or as {machine.lower().partition('.')[0]}.local"
        )
    site = headers.get("Sec-Fetch-Site")
    if site is not None and site != "same-origin":
        return "only a page of this gateway may change something here"
    origin = headers.get("Origin")
    if origin is not None:
        return (
            None if _same_origin(origin, host) else f"a page of {origin[:64]!r} may not change anything here"
        )
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if site is None and kind in _FORM_TYPES:
        return "a form must say where it comes from (Origin); a program sends Content-Type: application/json"
    return None


def _same_origin(origin: str, host: str) -> bool:
    """Host and port are equal; the scheme may be a proxy's."""
    page, here = _place(origin), _HOST.fullmatch(host)
    if page is None or here is None or page[0] != here[1].lower():
        return False
    default = _DEFAULT_PORTS.get(page[1])
    return (page[2] or default) == (here[2] or default)


def _place(origin: str) -> tuple[str, str, str | None] | None:
    """Host, scheme and port of an origin."""
    found = _ORIGIN.fullmatch(origin.strip())
    place = None if found is None else _HOST.fullmatch(found[2])
    return None if found is None or place is None else (place[1].lower(), found[1], place[2])
