"""Who is told of what: a barn with four people, in sentences."""

from __future__ import annotations

from datetime import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.alert_event import AlertEvent, event_of
from gateway.core.alerts import CALLS, Alert, Change, State
from gateway.core.contacts import Address, Contact
from gateway.core.routing import addressees, wakes
from gateway.core.severity import Severity

DAY, NIGHT = time(12), time(3)

ANNA = Contact("Anna", (Address("sms", "+491", "critical"), Address("email", "anna@x.de", "info")))
BEN = Contact("Ben", (Address("sms", "+492"),), groups=("calves",), hours="06:00-20:00")
VET = Contact("Vet", (Address("sms", "+493"),), rung=2, kinds=("fever", "panic"))
BOSS = Contact("Boss", (Address("sms", "+494", "critical"),), rung=3)
EVERYBODY = (BOSS, VET, ANNA, BEN)


def event(words: str, **fields: object) -> AlertEvent:
    """From words: "raised critical fever", "late raised warning fever", "raised critical fever_herd"."""
    *adverbs, change, severity, kind = words.split()
    herd = kind.endswith("_herd")
    alert = Alert(
        id=1,
        subject="herd" if herd else "COW_042",
        kind=kind,
        episode=1,
        severity=Severity[severity.upper()],
        state=State.ACTIVE,
        onset_ms=0,
        last_seen_ms=0,
        raised_ms=0,
        changed_ms=0,
        confidence=1.0,
        sentence="",
        late="late" in adverbs,
    )
    return msgspec.structs.replace(event_of(alert, Change(change)), **fields)


def told(
    words: str,
    *,
    groups: tuple[str, ...] = ("calves",),
    at: time = DAY,
    contacts: tuple[Contact, ...] = EVERYBODY,
    **fields: object,
) -> str:
    """ "Anna sms email, Ben sms", in the order they are told."""
    names: dict[str, list[str]] = {}
    for contact, address in addressees(event(words, **fields), contacts, groups, at):
        names.setdefault(contact.name, []).append(address.channel)
    return ", ".join(" ".join((name, *channels)) for name, channels in names.items())


SENTENCES = [
    # by severity of the address
    ("raised critical fever", {}, "Anna sms email, Ben sms"),
    ("raised warning fever", {}, "Anna email, Ben sms"),
    ("raised info fever", {}, "Anna email"),
    # by group of the animal; what concerns everybody goes to all
    ("raised warning fever", {"groups": ("dairy",)}, "Anna email"),
    ("raised warning fever", {"groups": ()}, "Anna email"),
    ("raised warning fever", {"groups": ("dairy", "calves")}, "Anna email, Ben sms"),
    ("raised warning fever_herd", {"groups": ()}, "Anna email, Ben sms"),
    ("raised critical panic", {"groups": ()}, "Anna sms email, Ben sms"),
    ("raised warning backup_failed", {"groups": (), "cow_id": None}, "Anna email, Ben sms"),
    # by hours
    ("raised warning fever", {"at": NIGHT}, "Anna email"),
    ("raised critical fever", {"at": NIGHT}, "Anna sms email"),
    # up the ladder, by kinds
    ("repeated critical fever", {"reminders": 1}, "Anna sms email, Ben sms, Vet sms"),
    ("repeated critical fever", {"reminders": 2}, "Anna sms email, Ben sms, Vet sms, Boss sms"),
    ("repeated critical fever", {"reminders": 9}, "Anna sms email, Ben sms, Vet sms, Boss sms"),
    ("repeated critical silence", {"reminders": 1}, "Anna sms email, Ben sms"),
    ("repeated critical fever_herd", {"reminders": 1}, "Anna sms email, Ben sms, Vet sms"),
    ("repeated warning fever", {"reminders": 0}, "Anna email, Ben sms"),
    ("renewed critical panic", {}, "Anna sms email, Ben sms"),
    ("escalated critical fever", {}, "Anna sms email, Ben sms"),
    # what is no news
    ("updated critical fever", {}, ""),
    ("folded critical fever", {}, ""),
    ("raised critical fever", {"folded_into": "herd/fever_herd/1"}, ""),
    ("resolved critical fever", {"folded_into": "herd/fever_herd/1"}, ""),
    # the end
    ("resolved critical fever", {}, "Anna sms email, Ben sms"),
    ("resolved warning fever", {}, "Anna email, Ben sms"),
    ("resolved critical fever", {"reminders": 1}, "Anna sms email, Ben sms, Vet sms"),
    ("resolved info fever", {}, ""),
    ("false_positive warning fever", {}, "Anna email, Ben sms"),
    ("false_positive info fever", {}, ""),
    # somebody drives out, so that nobody else does
    ("acknowledged critical fever", {"who": "Anna"}, "Ben sms"),
    ("acknowledged critical fever", {"who": "button"}, "Anna sms email, Ben sms"),
    ("acknowledged warning fever", {"who": "Anna"}, ""),
    # late is told like any other
    ("late raised critical fever", {}, "Anna sms email, Ben sms"),
    # never nobody
    ("raised critical fever", {"at": NIGHT, "contacts": (BEN,)}, "Ben sms"),
    ("raised critical fever", {"groups": (), "contacts": (BEN,)}, "Ben sms"),
    ("raised critical estrus", {"contacts": (VET,)}, "Vet sms"),
    ("raised critical fever", {"contacts": (BOSS, VET)}, "Vet sms"),
    ("raised critical fever", {"at": NIGHT, "contacts": (BEN, VET, BOSS)}, "Vet sms"),
    ("raised critical fever", {"contacts": (Contact("Mute"), BOSS)}, "Boss sms"),
    ("late raised critical fever", {"at": NIGHT, "contacts": (BEN,)}, "Ben sms"),
    ("raised warning fever", {"at": NIGHT, "contacts": (BEN,)}, ""),
    ("resolved critical fever", {"at": NIGHT, "contacts": (BEN,)}, ""),
    ("acknowledged critical fever", {"at": NIGHT, "contacts": (BEN,)}, ""),
    ("raised critical fever", {"contacts": ()}, ""),
]


@pytest.mark.parametrize(("words", "more", "who"), SENTENCES, ids=[f"{w} {m}" for w, m, _ in SENTENCES])
def test_told(words: str, more: dict[str, object], who: str) -> None:
    assert told(words, **more) == who  # type: ignore[arg-type]


def test_a_shared_telephone_rings_once() -> None:
    twin = Contact("Twin", ANNA.addresses)
    assert told("raised critical fever", contacts=(ANNA, twin)) == "Anna sms email"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("raised critical fever", True),
        ("escalated critical fever", True),
        ("repeated critical fever", True),
        ("renewed critical panic", True),
        ("late raised critical fever", False),
        ("raised warning fever", False),
        ("resolved critical fever", False),
        ("acknowledged critical fever", False),
    ],
)
def test_only_critical_news_reaches_into_quiet_hours(words: str, answer: bool) -> None:
    assert wakes(event(words)) is answer


hours = st.sampled_from(["", "06:00-20:00", "22:00-06:00", "12:00-12:30"])
groups = st.sets(st.sampled_from(["calves", "dairy"])).map(lambda found: tuple(sorted(found)))
people = st.lists(
    st.builds(
        Contact,
        name=st.sampled_from(["a", "b", "c"]),
        addresses=st.lists(
            st.builds(
                Address,
                channel=st.sampled_from(["sms", "email"]),
                to=st.sampled_from(["1", "2", "3", "4"]),
                severity=st.sampled_from(["info", "warning", "critical"]),
            ),
            max_size=3,
        ).map(tuple),
        rung=st.integers(1, 9),
        groups=groups,
        kinds=st.sampled_from([(), ("fever",), ("panic",)]),
        hours=hours,
    ),
    max_size=5,
).map(tuple)


@given(
    contacts=people,
    change=st.sampled_from(["raised", "escalated", "repeated", "renewed"]),
    kind=st.sampled_from(["fever", "panic", "fever_herd", "silence"]),
    reminders=st.integers(0, 12),
    of=groups,
    at=st.times(),
)
def test_a_critical_alert_reaches_somebody_if_anybody_can_be_reached(
    *, contacts: tuple[Contact, ...], change: str, kind: str, reminders: int, of: tuple[str, ...], at: time
) -> None:
    found = addressees(event(f"{change} critical {kind}", reminders=reminders), contacts, of, at)
    assert bool(found) is any(contact.addresses for contact in contacts)
    assert len({(address.channel, address.to) for _, address in found}) == len(found)


def test_every_call_for_help_is_told_to_all_groups() -> None:
    assert all("Ben sms" in told(f"raised critical {call}", groups=()) for call in CALLS)
