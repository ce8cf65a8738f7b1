"""What one notification channel has to send next: a pure plan over the events it has not passed.

Only the newest event of an alert counts, and who is told is decided now, not when it happened. What
wakes people (critical news somebody has to act on) is always a letter of its own and goes first. The
rest waits for the end of quiet hours; what is stale, what came and went untold, and what would be a
handful of letters at once becomes one digest for each address. Nothing here waits, reads or sends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import time

import msgspec

from gateway.core.alert_event import AlertEvent
from gateway.core.alerts import Change
from gateway.core.contacts import Address, Contact, quiet_now
from gateway.core.instants import HOUR_MS
from gateway.core.outbox import Event
from gateway.core.routing import TROUBLE, addressees, wakes
from gateway.core.severity import Severity
from gateway.core.silences import Silence, silenced

ALERT = "alert"
SUMMARY = "summary"
"""Kinds of outbox events that are for people."""
DESTINATION = "notify:"
"""Before a channel's name it names the channel's cursor in the store."""
FAILED_KIND = "notification_failed"
"""Kind of the gateway's own alert about a channel; its detail is the channel's name."""

DIGEST_OVER = 5
"""Letters waiting for one address above which they are one digest: after an outage nobody reads twenty."""
SUMMARY_FRESH_MS = 12 * HOUR_MS
"""A summary of the day is not sent later than this; the next one is nearer."""
SMS_PER_MIN = 10
"""Letters a minute and address on a channel with the short form (S3-054)."""

Done = Collection[tuple[int, str]]
"""(seq, address) of what needs nothing more on this channel."""


class ChannelForm(msgspec.Struct, frozen=True):
    """How a channel's letters look: `short` = at most 160 characters, limited to `SMS_PER_MIN`."""

    short: bool = False


class NotifyPolicy(msgspec.Struct, frozen=True):
    """What the service keeps to.

    Args:
        channels: those that can send, by name.
        stale_min: minutes after which what does not wake people goes into a digest.
    """

    channels: Mapping[str, ChannelForm]
    stale_min: float = 60.0


class Waiting(msgspec.Struct, frozen=True):
    """An event of the outbox that the channel has not passed.

    Args:
        seq: of the outbox.
        created_ms: when it happened, by the gateway's clock.
        event: the alert's move; None for a summary.
        payload: the event's JSON.
    """

    seq: int
    created_ms: int
    event: AlertEvent | None
    payload: bytes


class Sending(msgspec.Struct, frozen=True):
    """One letter to be written: to whom, and of what. `items` are in the order of the log."""

    contact: Contact
    address: Address
    items: tuple[Waiting, ...]
    urgent: bool = False
    digest: bool = False

    @property
    def seq(self) -> int:
        """Of its newest event; names the letter."""
        return self.items[-1].seq

    @property
    def key(self) -> tuple[str, int]:
        """The same letter in the next plan; an address has at most one digest."""
        return (self.address.to, 0 if self.digest else self.seq)


class Plan(msgspec.Struct, frozen=True):
    """Letters in the order they should go, and how far the cursor may move before any of them went.

    Args:
        sendings: urgent ones first, each group in the order of the log.
        pass_to: nothing up to this seq has anything left to do.
        held: events that wait for the end of somebody's quiet hours.
    """

    sendings: tuple[Sending, ...]
    pass_to: int
    held: int


class Circumstances(msgspec.Struct, frozen=True):
    """What a plan depends on besides the events.

    Args:
        channel: its name.
        contacts: people of the farm register, without fault.
        groups_of: the groups an animal is in.
        silences: those that hold.
        local: time of day at the site.
        now_ms: the gateway's clock.
        stale_ms: see `NotifyPolicy.stale_min`.
    """

    channel: str
    contacts: tuple[Contact, ...]
    groups_of: Callable[[str], tuple[str, ...]]
    silences: Sequence[Silence]
    local: time
    now_ms: int
    stale_ms: int


class _Piece(msgspec.Struct, frozen=True):
    contact: Contact
    address: Address
    item: Waiting
    urgent: bool
    folds: bool


def waiting_of(event: Event) -> Waiting | None:
    """An event as the plan sees it; None for what is not for people.

    Raises:
        msgspec.DecodeError: an alert event that is none (damage).
    """
    if event.kind == ALERT:
        told = msgspec.json.decode(event.payload, type=AlertEvent)
        return Waiting(event.seq, event.created_ms, told, event.payload)
    if event.kind == SUMMARY:
        return Waiting(event.seq, event.created_ms, None, event.payload)
    return None


def plan(waiting: Sequence[Waiting], until_seq: int, done: Done, now: Circumstances) -> Plan:
    """What to send, to whom and in which order.

    Args:
        waiting: events behind the cursor in the order of the log; at the least all up to `until_seq`.
        until_seq: the newest event up to which none is missing.
        done: what was told or given up.
        now: people, silences and time.
    """
    blocking: set[int] = set()
    pieces: dict[str, list[_Piece]] = {}
    held: set[int] = set()
    for item, before in _newest(waiting):
        for contact, address in _recipients(item, now):
            if (item.seq, address.to) in done:
                continue
            blocking.update((item.seq, *before))
            urgent = item.event is not None and wakes(item.event)
            if not urgent and quiet_now(contact, now.local):
                held.add(item.seq)
                continue
            untold = bool(before) and all((seq, address.to) not in done for seq in before)
            folds = not urgent and item.event is not None and (untold or _stale(item, now))
            piece = _Piece(contact, address, item, urgent, folds)
            pieces.setdefault(address.to, []).append(piece)
    sendings = [sending for found in pieces.values() for sending in _letters(found)]
    sendings.sort(key=lambda sending: (not sending.urgent, sending.seq, sending.address.to))
    return Plan(tuple(sendings), min([until_seq, *(seq - 1 for seq in blocking)]), len(held))


def _newest(waiting: Sequence[Waiting]) -> Iterator[tuple[Waiting, tuple[int, ...]]]:
    """The newest event of each alert that is not a mere update, and the summary of the newest day.

    With each the earlier events of the same alert that were trouble: somebody should have been told.
    """
    newest: dict[str, Waiting] = {}
    trouble: dict[str, list[int]] = {}
    for item in waiting:
        if item.event is None:
            newest[SUMMARY] = item
        elif item.event.change != Change.UPDATED:
            newest[item.event.key] = item
            if item.event.change in TROUBLE:
                trouble.setdefault(item.event.key, []).append(item.seq)
    for key, item in newest.items():
        ended = item.event is not None and item.event.change not in TROUBLE
        yield item, tuple(trouble.get(key, ())) if ended else ()


def _recipients(item: Waiting, now: Circumstances) -> list[tuple[Contact, Address]]:
    """Who is told of it on this channel, each address once."""
    event = item.event
    if event is None:
        if now.now_ms - item.created_ms > SUMMARY_FRESH_MS:
            return []
        readers = [contact for contact in now.contacts if contact.daily_summary]
        found = [(one, address) for one in readers for address in one.addresses if _takes_summary(address)]
    else:
        if silenced(event, now.silences) or (event.kind == FAILED_KIND and event.detail == now.channel):
            return []
        found = addressees(event, now.contacts, now.groups_of(event.subject), now.local)
    once = {
        address.to: (contact, address)
        for contact, address in reversed(found)
        if address.channel == now.channel
    }
    return list(once.values())


def _takes_summary(address: Address) -> bool:
    return address.severity != Severity.CRITICAL.label


def _stale(item: Waiting, now: Circumstances) -> bool:
    return now.now_ms - item.created_ms > now.stale_ms


def _letters(pieces: Sequence[_Piece]) -> Iterator[Sending]:
    """The letters of one address."""
    single = [piece for piece in pieces if not piece.urgent and not piece.folds]
    many = sum(piece.item.event is not None for piece in single) > DIGEST_OVER
    folded = [piece for piece in pieces if piece.folds or (many and piece in single and piece.item.event)]
    for piece in pieces:
        if piece not in folded:
            yield Sending(piece.contact, piece.address, (piece.item,), urgent=piece.urgent)
    if folded:
        items = tuple(sorted((piece.item for piece in folded), key=lambda item: item.seq))
        last = folded[-1]
        yield Sending(last.contact, last.address, items, digest=True)
