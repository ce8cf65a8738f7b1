"""Who may speak: what the broker asks about clients, and what it tells of them. Called on the loop."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import IntEnum
from typing import Protocol

import msgspec

from gateway.core.topics import ANONYMOUS_ROLES


class Introduction(msgspec.Struct, frozen=True):
    """What a CONNECT says about who speaks.

    Args:
        client_id: of the session.
        username: None without one.
        password: None without one.
        address: of the peer.
        certificate: common name of the client certificate that TLS has verified; None without one.
    """

    client_id: str
    username: str | None
    password: bytes | None
    address: str
    certificate: str | None = None


class Principal(msgspec.Struct, frozen=True):
    """Who a connection speaks for.

    Args:
        name: of the device or person.
        roles: compared with the rows of the route table.
        speaks_for: ids it may use where a row's topic names a device; None = any.
        credential: what it has logged in with, so that a change of it can be noticed; None = nothing.
    """

    name: str
    roles: frozenset[str]
    speaks_for: frozenset[str] | None = None
    credential: str | None = None


class Refusal(IntEnum):
    """Why nobody was let in; the value is the return code of the CONNACK (3.2.2.3)."""

    CLIENT_ID = 2  # it belongs to another device
    CREDENTIALS = 4  # user name and password do not fit
    NOT_AUTHORIZED = 5  # there were none, and nobody is welcome without


class Access(Protocol):
    """Decides about clients, after the route table has decided about topics.

    A publish or a subscription needs both: a role that its row names, and the consent of
    `may_publish` or `may_subscribe`.
    """

    def authenticate(
        self, who: Introduction
    ) -> Principal | Refusal | Awaitable[Principal | Refusal | None] | None:
        """Who this is, or why not; None leaves the reason to the door. Slow work belongs in an awaitable."""
        ...

    def still_valid(self, principal: Principal, client_id: str) -> bool:
        """Whether it would be let in again as it is. Asked of every connection when credentials change."""
        ...

    def may_publish(self, principal: Principal, topic: str) -> bool:
        """Whether it may publish on `topic`. Asked for every message; must be fast."""
        ...

    def may_subscribe(self, principal: Principal, topic_filter: str) -> bool:
        """Whether it may subscribe to `topic_filter`."""
        ...


class AnonymousAccess:
    """Everyone is welcome, as sensor and as operator: a broker on its own. The gateway uses `TokenAccess`."""

    _anyone = Principal("anonymous", ANONYMOUS_ROLES)

    def authenticate(self, who: Introduction) -> Principal:  # noqa: ARG002 - the interface
        """Accept anyone, with or without a password."""
        return self._anyone

    def still_valid(self, principal: Principal, client_id: str) -> bool:  # noqa: ARG002 - the interface
        """Nobody is ever put out."""
        return True

    def may_publish(self, principal: Principal, topic: str) -> bool:  # noqa: ARG002 - the interface
        """Leave it to the route table."""
        return True

    def may_subscribe(self, principal: Principal, topic_filter: str) -> bool:  # noqa: ARG002 - the interface
        """Leave it to the route table."""
        return True
