"""What a channel sends next, read like its specification."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from typing import Any

import msgspec
import pytest

from gateway.core.alert_event import AlertEvent, event_of
from gateway.core.alerts import Alert, Change, State
from gateway.core.contacts import Address, Contact
from gateway.core.instants import HOUR_MS, MS_PER_MINUTE
from gateway.core.notices import (
    DIGEST_OVER,
    FAILED_KIND,
    SUMMARY_FRESH_MS,
    Circumstances,
    Plan,
    Waiting,
    plan,
    waiting_of,
)
from gateway.core.outbox import Event
from gateway.core.severity import Severity
from gateway.core.silences import Silence

NOW_MS = 1_764_081_000_000  # 2025-11-25T14:30:00Z
NOON = time(12, 0)
NIGHT = time(3, 0)
ANNA = Contact("Anna", (Address("sms", "+491511111111"),))
BOB = Contact("Bob", (Address("sms", "+491512222222"),), rung=2)
W, C = Severity.WARNING, Severity.CRITICAL


def move(
    seq: int,
    subject: str = "COW_1",
    change: Change = Change.RAISED,
    severity: Severity = W,
    age_min: float = 0.0,
    **details: Any,
) -> Waiting:
    state = {
        Change.ACKNOWLEDGED: State.ACKNOWLEDGED,
        Change.RESOLVED: State.RESOLVED,
        Change.FALSE_POSITIVE: State.FALSE_POSITIVE,
    }.get(change, State.ACTIVE)
    fields: dict[str, Any] = {
        "id": 1,
        "subject": subject,
        "kind": "fever",
        "episode": 1,
        "severity": severity,
        "state": state,
        "onset_ms": NOW_MS,
        "last_seen_ms": NOW_MS,
        "raised_ms": NOW_MS,
        "changed_ms": NOW_MS,
        "confidence": 1.0,
        "sentence": "hot",
    }
    event = event_of(Alert(**fields | details), change)
    return Waiting(seq, NOW_MS - round(age_min * MS_PER_MINUTE), event, msgspec.json.encode(event))


def day(seq: int, age_h: float = 0.0) -> Waiting:
    return Waiting(seq, NOW_MS - round(age_h * HOUR_MS), None, b"{}")


def planned(
    *waiting: Waiting,
    contacts: Sequence[Contact] = (ANNA,),
    done: Sequence[tuple[int, str]] = (),
    local: time = NOON,
    silences: Sequence[Silence] = (),
    until: int | None = None,
    channel: str = "sms",
) -> Plan:
    now = Circumstances(
        channel=channel,
        contacts=tuple(contacts),
        groups_of=lambda _: (),
        silences=silences,
        local=local,
        now_ms=NOW_MS,
        stale_ms=60 * MS_PER_MINUTE,
    )
    last = waiting[-1].seq if waiting else 0
    return plan(waiting, last if until is None else until, set(done), now)


def letters(found: Plan) -> list[tuple[str, list[int], str]]:
    """Who, of which events, and D for a digest, U for urgent."""
    return [
        (one.contact.name, [item.seq for item in one.items], "D" * one.digest + "U" * one.urgent)
        for one in found.sendings
    ]


def test_nothing_waits_and_nothing_is_sent() -> None:
    assert planned() == Plan((), 0, 0)


def test_an_alert_is_one_letter_and_the_cursor_stays_before_it() -> None:
    found = planned(move(7))
    assert letters(found) == [("Anna", [7], "")]
    assert found.pass_to == 6


def test_what_is_told_is_passed() -> None:
    assert planned(move(7), done=[(7, "+491511111111")]) == Plan((), 7, 0)


def test_critical_ones_go_first_each_group_in_order() -> None:
    found = planned(
        move(1, "A"), move(2, "B", severity=C), move(3, "D"), move(4, "E", severity=C), contacts=[ANNA]
    )
    assert [seqs for _, seqs, _ in letters(found)] == [[2], [4], [1], [3]]


def test_raised_and_then_worse_is_one_letter_about_the_worse() -> None:
    found = planned(move(1), move(2, change=Change.ESCALATED, severity=C))
    assert letters(found) == [("Anna", [2], "U")]


def test_a_mere_update_neither_is_told_nor_hides_what_is() -> None:
    assert letters(planned(move(1), move(2, change=Change.UPDATED))) == [("Anna", [1], "")]


def test_what_is_stale_goes_into_one_digest() -> None:
    found = planned(move(1, "A", age_min=61), move(2, "B", age_min=90), move(3, "D", age_min=59))
    assert letters(found) == [("Anna", [1, 2], "D"), ("Anna", [3], "")]
    assert found.pass_to == 0


def test_a_critical_one_still_open_is_its_own_letter_however_old() -> None:
    assert letters(planned(move(1, severity=C, age_min=600))) == [("Anna", [1], "U")]


def test_a_critical_one_that_came_and_went_untold_is_in_the_digest() -> None:
    found = planned(move(1, severity=C, age_min=30), move(2, change=Change.RESOLVED, severity=C))
    assert letters(found) == [("Anna", [2], "D")]
    assert found.pass_to == 0, "until it is told, it must still be known that nobody was"


def test_the_end_of_what_was_told_is_a_letter_of_its_own() -> None:
    found = planned(move(1), move(2, change=Change.RESOLVED), done=[(1, "+491511111111")])
    assert letters(found) == [("Anna", [2], "")]


@pytest.mark.parametrize(("n", "digest"), [(DIGEST_OVER, False), (DIGEST_OVER + 1, True)])
def test_more_than_a_handful_for_one_address_become_one_digest(n: int, *, digest: bool) -> None:
    found = planned(*(move(seq, f"COW_{seq}") for seq in range(1, n + 1)))
    assert [one.digest for one in found.sendings] == ([True] if digest else [False] * n)


def test_urgent_ones_are_never_folded_with_the_handful() -> None:
    found = planned(*(move(seq, f"COW_{seq}", severity=C) for seq in range(1, 20)))
    assert all(one.urgent and not one.digest for one in found.sendings)
    assert len(found.sendings) == 19


def test_quiet_hours_hold_back_what_is_not_critical_and_the_cursor_with_it() -> None:
    quiet = msgspec.structs.replace(ANNA, quiet="22:00-06:00")
    events = (move(1, "A"), move(2, "B", severity=C), move(3, "D", change=Change.RESOLVED))
    found = planned(*events, contacts=[quiet], local=NIGHT)
    assert letters(found) == [("Anna", [2], "U")]
    assert (found.pass_to, found.held) == (0, 2)
    morning = planned(*events, contacts=[quiet], local=time(6, 0), done=[(2, "+491511111111")])
    assert [seqs for _, seqs, _ in letters(morning)] == [[1], [3]]


def test_one_persons_quiet_hours_do_not_hold_back_the_others() -> None:
    quiet = Contact("Eve", (Address("sms", "+491513333333"),), quiet="22:00-06:00")
    found = planned(move(1), contacts=[quiet, ANNA], local=NIGHT)
    assert letters(found) == [("Anna", [1], "")]


def test_what_is_silenced_is_passed() -> None:
    still = Silence(1, "COW_1", None, 0, NOW_MS + 1, "Anna", "web", "vet is here")
    assert planned(move(1), silences=[still]) == Plan((), 1, 0)
    ended = msgspec.structs.replace(still, ended_ms=NOW_MS)
    assert len(planned(move(1), silences=[ended]).sendings) == 1


def test_what_a_herd_event_speaks_for_is_passed() -> None:
    assert planned(move(1), move(2, change=Change.FOLDED, folded_into="herd/fever_herd/1")).sendings == ()


def test_a_reminder_reaches_the_next_rung_too() -> None:
    found = planned(move(1, change=Change.REPEATED, severity=C, reminders=1), contacts=[ANNA, BOB])
    assert sorted(name for name, _, _ in letters(found)) == ["Anna", "Bob"]


def test_only_addresses_of_the_channel_count() -> None:
    both = Contact("Anna", (Address("email", "anna@example.org"), Address("sms", "+491511111111")))
    assert [one.address.channel for one in planned(move(1), contacts=[both]).sendings] == ["sms"]


def test_two_people_with_one_phone_get_one_letter() -> None:
    eve = Contact("Eve", ANNA.addresses)
    assert len(planned(move(1), contacts=[ANNA, eve]).sendings) == 1


def test_an_alert_about_a_channel_does_not_go_over_that_channel() -> None:
    told = {"kind": FAILED_KIND, "subject": "gateway"}
    assert planned(move(1, severity=C, detail="sms", **told)).sendings == ()
    assert len(planned(move(1, severity=C, detail="email", **told)).sendings) == 1


def test_the_summary_goes_to_those_who_want_it_the_newest_only_and_not_late() -> None:
    reader = msgspec.structs.replace(ANNA, daily_summary=True)
    assert planned(day(1)).sendings == ()
    assert letters(planned(day(1, 24), day(2), contacts=[reader])) == [("Anna", [2], "")]
    assert planned(day(1, SUMMARY_FRESH_MS / HOUR_MS + 0.01), contacts=[reader]).sendings == ()
    critical_only = Contact("Eve", (Address("sms", "+4915", "critical"),), daily_summary=True)
    assert planned(day(1), contacts=[critical_only]).sendings == ()


def test_the_cursor_does_not_jump_over_events_that_were_not_read() -> None:
    found = planned(move(1), move(900, "B"), until=500, done=[(1, "+491511111111")])
    assert found.pass_to == 500


def test_the_same_letter_has_the_same_key_in_the_next_plan() -> None:
    first = planned(move(1, "A", age_min=61))
    second = planned(move(1, "A", age_min=61), move(2, "B", age_min=61))
    assert first.sendings[0].key == second.sendings[0].key


def test_events_for_machines_only_are_nothing_to_the_plan() -> None:
    assert waiting_of(Event(1, "weather", NOW_MS, b"{}")) is None


def test_a_damaged_alert_event_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        waiting_of(Event(1, "alert", NOW_MS, b"{"))
    assert isinstance(move(1).event, AlertEvent)
