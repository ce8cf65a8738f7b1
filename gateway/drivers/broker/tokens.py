"""Devices log in with their token, or with a client certificate of their name. Runs on the event loop.

A login is one HMAC, some microseconds, so it needs no thread and no cache.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final

from gateway.core.credentials import ROLES_OF, Device, Roster, may_hold
from gateway.core.topics import ANONYMOUS_ROLES
from gateway.drivers.broker.access import Introduction, Principal, Refusal

_log = logging.getLogger(__name__)

COMPLAINT_INTERVAL_S: Final = 10.0
"""Between two lines about refused logins: a herd with a wrong list would write one for each try."""
SHOWN_CHARACTERS: Final = 80
"""Of a user name in such a line; it may have 64 KiB."""


class Anonymous(Enum):
    """Who may speak without a credential."""

    NOBODY = "nobody"
    THIS_MACHINE = "this machine"  # a peer with a loopback address: the demo, mosquitto_pub on the Pi
    EVERYONE = "everyone"


class TokenAccess:
    """The devices of a roster, and those who are welcome without a credential.

    One rule for all of them: a credential that is given is checked, and a client that gives none is
    anonymous, where that is allowed. As long as no device is registered there is nothing to check
    against, and a user name makes no difference.

    Args:
        anonymous: who may speak without a credential.
        roster: the devices that may; `use` replaces it.
        monotonic_s: time for the interval between log lines, in seconds.

    Attributes:
        counters: logins by how they ended: `accepted`, `anonymous`, or the refusal in lower case.
    """

    def __init__(
        self,
        anonymous: Anonymous,
        roster: Roster | None = None,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._anonymous = anonymous
        self._roster = roster if roster is not None else Roster()
        self._monotonic_s = monotonic_s
        self._complained_s = float("-inf")
        self._unsaid = 0

    def use(self, roster: Roster) -> None:
        """From now on these devices; those connected are not touched, see `still_valid`."""
        self._roster = roster

    def authenticate(self, who: Introduction) -> Principal | Refusal:
        """Who this is, or the code to refuse it with.

        The credential is looked at first: whoever has none learns nothing about client ids.
        """
        answer = self._identify(who)
        if isinstance(answer, Device):
            if not may_hold(answer.id, who.client_id) and who.client_id:
                return self._refused(
                    who, Refusal.CLIENT_ID, f"the client id must be {answer.id} or {answer.id}/…"
                )
            self.counters["accepted"] += 1
            return principal_of(answer)
        if answer is Refusal.CREDENTIALS:
            return self._refused(who, answer, "user name and password do not fit")
        if not self._welcome(who.address):
            return self._refused(who, Refusal.NOT_AUTHORIZED, _nothing_known(who))
        if self._roster.owner(who.client_id) is not None:
            return self._refused(who, Refusal.CLIENT_ID, "the client id belongs to a registered device")
        self.counters["anonymous"] += 1
        return ANYONE

    def _identify(self, who: Introduction) -> Device | Refusal:
        """The device whose credential was given; NOT_AUTHORIZED where none was."""
        certified = self._roster.get(who.certificate) if who.certificate else None
        if certified is not None and who.username in {None, "", certified.id}:
            return certified
        if not who.username or (not len(self._roster) and self._welcome(who.address)):
            return Refusal.NOT_AUTHORIZED
        return self._roster.check(who.username, who.password or b"") or Refusal.CREDENTIALS

    def _welcome(self, address: str) -> bool:
        if self._anonymous is Anonymous.THIS_MACHINE:
            return is_this_machine(address)
        return self._anonymous is Anonymous.EVERYONE

    def _refused(self, who: Introduction, code: Refusal, why: str) -> Refusal:
        self.counters[code.name.lower()] += 1
        now_s = self._monotonic_s()
        if now_s - self._complained_s < COMPLAINT_INTERVAL_S:
            self._unsaid += 1
            return code
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        name = (who.username or "")[:SHOWN_CHARACTERS]
        _log.warning(
            "Refused MQTT client %r, user %r, at %s: %s%s", who.client_id, name, who.address, why, more
        )
        self._complained_s, self._unsaid = now_s, 0
        return code

    def still_valid(self, principal: Principal, client_id: str) -> bool:
        """Whether the device is registered as it was when it logged in: same token, role, animals.

        Who gave no credential stays as long as its client id belongs to no device.
        """
        if principal.credential is None:
            return self._roster.owner(client_id) is None
        device = self._roster.get(principal.name)
        return device is not None and principal_of(device) == principal

    def may_publish(self, principal: Principal, topic: str) -> bool:  # noqa: ARG002 - the interface
        """Leave it to the route table, which knows roles and the ids spoken for."""
        return True

    def may_subscribe(self, principal: Principal, topic_filter: str) -> bool:  # noqa: ARG002 - the interface
        """Leave it to the route table."""
        return True


ANYONE: Final = Principal("anonymous", ANONYMOUS_ROLES)
"""Who speaks without a credential."""


def principal_of(device: Device) -> Principal:
    """Who a connection of this device speaks for."""
    return Principal(device.id, ROLES_OF[device.role], device.names, device.digest)


def _nothing_known(who: Introduction) -> str:
    """Why a client counts as one without a credential."""
    if who.certificate:
        return f"its certificate names {who.certificate[:SHOWN_CHARACTERS]!r}, which is not registered"
    return "it gave no user name"


def is_this_machine(address: str) -> bool:
    """Whether a peer's address is a loopback one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
