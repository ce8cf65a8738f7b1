"""Who is told of an alert event, at which address. Pure; quiet hours are kept by the caller.

An animal's alert goes to those who look after one of its groups; what concerns everybody (herd,
gateway, barn, a call for help) goes to all. The ladder of contacts is climbed by reminders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import time

from gateway.core.alert_event import AlertEvent
from gateway.core.alerts import CALLS, HERD_SUFFIX, Change
from gateway.core.contacts import Address, Contact, on_duty
from gateway.core.severity import Severity

TROUBLE = frozenset({Change.RAISED, Change.ESCALATED, Change.REPEATED, Change.RENEWED})
"""Somebody has to act."""
ENDS = frozenset({Change.RESOLVED, Change.FALSE_POSITIVE})

Addressees = list[tuple[Contact, Address]]


def wakes(event: AlertEvent) -> bool:
    """Whether the event may reach people in their quiet hours: critical news somebody has to act on."""
    return event.change in TROUBLE and _severity(event.severity) is Severity.CRITICAL and not event.late


def addressees(
    event: AlertEvent, contacts: Iterable[Contact], groups_of_subject: tuple[str, ...], local: time
) -> Addressees:
    """Everyone who is told, lowest rung first; each address once, even if two contacts share it.

    Trouble is told to the rungs 1 to 1 + reminders. A critical one is never told to nobody: with
    nobody there on duty the ladder is climbed to the first rung that has somebody; with nobody on
    duty at all it goes to the lowest rung, whatever the hours, groups and kinds.
    The end is told for warning and critical, an acknowledgement for critical and not to whoever
    gave it. Updates and what a herd event speaks for are told to nobody.

    Args:
        event: one move of one alert.
        contacts: without fault (`contact_fault`).
        groups_of_subject: groups the animal is in; empty for what is no animal.
        local: time of day at the site.
    """
    if not _told(event):
        return []
    everyone = sorted(contacts, key=lambda contact: contact.rung)
    fitting = [contact for contact in everyone if _concerned(contact, event, groups_of_subject)]
    present = [contact for contact in fitting if on_duty(contact, local)]
    severity = _severity(event.severity)
    told = _of(present, severity, lambda contact: contact.rung <= 1 + event.reminders)
    if not told and severity is Severity.CRITICAL and event.change in TROUBLE:
        told = _lowest(present) or _lowest(fitting) or _lowest(everyone)
    if event.change == Change.ACKNOWLEDGED:
        told = [(contact, address) for contact, address in told if contact.name != event.who]
    return told


def _told(event: AlertEvent) -> bool:
    """Whether the move is for people at all."""
    if event.folded_into:
        return False
    if event.change in ENDS:
        return event.severity != Severity.INFO.label
    if event.change == Change.ACKNOWLEDGED:
        return event.severity == Severity.CRITICAL.label
    return event.change in TROUBLE


def _concerned(contact: Contact, event: AlertEvent, groups_of_subject: tuple[str, ...]) -> bool:
    kinds = {event.kind, event.kind.removesuffix(HERD_SUFFIX)}
    if contact.kinds and kinds.isdisjoint(contact.kinds):
        return False
    concerns_all = event.cow_id is None or event.kind in CALLS
    return concerns_all or not contact.groups or not set(contact.groups).isdisjoint(groups_of_subject)


def _of(contacts: Iterable[Contact], severity: Severity, may: Callable[[Contact], bool]) -> Addressees:
    """The addresses that take the severity, each once."""
    found: dict[tuple[str, str], tuple[Contact, Address]] = {}
    for contact in contacts:
        for address in contact.addresses if may(contact) else ():
            if severity >= _severity(address.severity):
                found.setdefault((address.channel, address.to), (contact, address))
    return list(found.values())


def _lowest(contacts: Sequence[Contact]) -> Addressees:
    """Everyone who can be reached on the lowest rung that has somebody."""
    lowest = min((contact.rung for contact in contacts if contact.addresses), default=0)
    return _of(contacts, Severity.CRITICAL, lambda contact: contact.rung == lowest)


def _severity(label: str) -> Severity:
    return Severity[label.upper()]
