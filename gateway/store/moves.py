"""What the alarm service writes: alerts, their history, silences and outbox events, in one piece of work.

Runs in the writer thread, inside one transaction (decision 28): all of a plan is on disk, or nothing.
"""

from __future__ import annotations

import msgspec

from gateway.core.alert_event import event_json
from gateway.core.alert_plan import Key, Plan
from gateway.core.alerts import Alert, Move
from gateway.core.silence_event import KIND, silence_json
from gateway.core.silences import Silence
from gateway.store import alerts, outbox, silences
from gateway.store.alerts import Transition
from gateway.store.database import Connection


class Author(msgspec.Struct, frozen=True):
    """Who the audit names.

    Args:
        who: a person's or device's name; "gateway" when automatic.
        origin: "automatic", "button", "web", "cli", "mqtt" or "link".
    """

    who: str
    origin: str


AUTOMATIC = Author("gateway", "automatic")
"""The gateway itself: detectors and time."""


class Written(msgspec.Struct, frozen=True):
    """What a plan became on disk: the same, with row numbers."""

    newest: dict[Key, Alert]
    moves: list[Move]
    silences: list[Silence]


def write(db: Connection, plan: Plan, author: Author, now_ms: int) -> Written:
    """Write a plan.

    A new episode gets its row number with its first save; every later state of the same plan
    carries it on.

    Args:
        db: a writing connection, inside a transaction.
        plan: what is to be on disk.
        author: who made it so, for the history.
        now_ms: the gateway's clock, UTC epoch ms.

    Raises:
        StoreError: an alert or silence that is not in the store.
    """
    ids: dict[str, int] = {}

    def save(alert: Alert, transition: Transition | None) -> Alert:
        saved = alerts.save(db, msgspec.structs.replace(alert, id=ids.get(alert.key, alert.id)), transition)
        ids[alert.key] = saved.id
        return saved

    told = []
    for move in plan.moves:
        transition = Transition(
            at_ms=now_ms,
            from_state=move.from_state,
            to_state=move.alert.state.value,
            severity=move.alert.severity,
            who=author.who,
            origin=author.origin,
            reason=move.reason,
        )
        stored = msgspec.structs.replace(move, alert=save(move.alert, transition))
        person = "" if author is AUTOMATIC else author.who
        outbox.append(db, "alert", event_json(stored.alert, move.change, move.reason, person), now_ms)
        told.append(stored)
    moved = {(move.alert.subject, move.alert.kind): move.alert for move in plan.moves}
    newest = {}
    for key, alert in plan.newest.items():
        # The last move saved it already, unless the numbers were refreshed after that.
        ided = msgspec.structs.replace(alert, id=ids.get(alert.key, alert.id))
        newest[key] = ided if alert == moved.get(key) else save(alert, None)
    return Written(newest, told, [_silence(db, silence, now_ms) for silence in plan.silences])


def _silence(db: Connection, silence: Silence, now_ms: int) -> Silence:
    saved = silences.save(db, silence)
    outbox.append(db, KIND, silence_json(saved), now_ms)
    return saved
