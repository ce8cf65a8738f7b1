"""Many changes of the broker's state → the few that leave the same behind. Pure.

Most messages for a subscriber that is there are taken over within one commit window: then neither
their coming nor their going is worth a page of the card.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from gateway.core.broker_state import (
    Change,
    Done,
    IdReleased,
    IdTaken,
    Queued,
    Received,
    Retained,
    SessionForgotten,
    SessionSeen,
    Subscribed,
    Unsubscribed,
)

_Kept = dict[Hashable, Change]


def folded(changes: Iterable[Change]) -> list[Change]:
    """What of `changes` is left to be done, session by session, in an order that does it.

    At most one change is left for each filter, packet id and topic, two for each message that waits.
    A message that came and went in `changes` leaves nothing: a session never gives a number twice,
    so nobody else can know of it. Folding again changes nothing.
    """
    sessions: dict[str, _Kept] = {}
    retained: _Kept = {}
    for change in changes:
        if isinstance(change, Retained):
            retained[change.message.topic] = change
        else:
            _fold(sessions.setdefault(change.client_id, {}), change)
    return [change for kept in (*sessions.values(), retained) for change in kept.values()]


def _fold(kept: _Kept, change: Change) -> None:
    """Of one session; what is put under a key that is there keeps its place."""
    match change:
        case SessionForgotten():
            kept.clear()
            kept["forgotten"] = change
        case SessionSeen():
            kept["seen"] = change
        case Subscribed(topic_filter=key) | Unsubscribed(topic_filter=key):
            kept["filter", key] = change
        case IdTaken(packet_id=packet_id) | IdReleased(packet_id=packet_id):
            kept["id", packet_id] = change
        case Queued(number=number):
            kept["message", number] = change
        case Received(number=number):
            if not isinstance(kept.get(("message", number)), Done):
                kept["received", number] = change
        case Done(number=number):
            kept.pop(("received", number), None)
            if not isinstance(kept.get(("message", number)), Queued):
                kept["message", number] = change
            else:
                del kept["message", number]
