"""People in the register: what is wrong with an entry, who is on duty, who has quiet hours."""

from __future__ import annotations

from datetime import time

import msgspec
import pytest

from gateway.core.contacts import ADDRESSES_MAX, Address, Contact, contact_fault, on_duty, quiet_now

ANNA = Contact("Anna", (Address("sms", "+4915112345678"), Address("email", "anna@example.org", "info")))


def anna(**changes: object) -> Contact:
    return msgspec.structs.replace(ANNA, **changes)


def address(channel: str = "sms", to: str = "+4915112345678", severity: str = "warning") -> Contact:
    return anna(addresses=(Address(channel, to, severity),))


@pytest.mark.parametrize(
    "contact",
    [
        ANNA,
        Contact("Only in the audit"),
        anna(name="Jürgen Groß", groups=("dairy",), kinds=("fever", "estrus"), rung=9, language="de"),
        anna(hours="22:00-06:00", quiet="21:30-05:00"),
        anna(hours="06:00-24:00"),
        address(channel="push", to="ntfys://user:secret@ntfy.example.org/barn"),
        address(channel="email", to="first.last+barn@mail.hof-müller.de", severity="critical"),
    ],
)
def test_a_sound_contact_has_no_fault(contact: Contact) -> None:
    assert contact_fault(contact) is None


FAULTS = [
    (anna(name=""), "name: ", "empty"),
    (anna(name="  "), "name: ", "empty"),
    (anna(name="Anna\n"), "name: ", "one line"),
    (anna(name="An\x07na"), "name: ", "control character"),
    (anna(name="An\u202ena"), "name: ", "control character"),
    (anna(name=" Anna"), "name: ", "space"),
    (anna(name="A" * 65), "name: ", "at most 64"),
    (anna(rung=0), "rung: 0", "write 1"),
    (anna(rung=10), "rung: 10", "to 9"),
    (anna(groups=("",)), "groups[0]: ", "empty"),
    (anna(groups=tuple(f"g{n}" for n in range(33))), "groups: 33", "at most 32"),
    (anna(kinds=("fever", "a\tb")), "kinds[1]: ", "one line"),
    (anna(hours="22-6"), 'hours: "22-6"', '"22:00-06:00"'),
    (anna(hours="24:00-06:00"), "hours: ", '"22:00-06:00"'),
    (anna(hours="22:00-24:30"), "hours: ", '"22:00-06:00"'),
    (anna(hours="٢2:00-06:00"), "hours: ", '"22:00-06:00"'),
    (anna(hours="06:00-06:00"), "hours: ", "leave it empty for always"),
    (anna(hours="00:00-24:00"), "hours: ", "leave it empty for always"),
    (anna(quiet="night"), 'quiet: "night"', '"22:00-06:00"'),
    (anna(quiet="07:00-07:00"), "quiet: ", "leave it empty for none"),
    (
        anna(addresses=tuple(Address("sms", f"+49151123456{n:02d}") for n in range(ADDRESSES_MAX + 1))),
        "addresses: 9",
        "at most 8",
    ),
    (anna(addresses=ANNA.addresses[:1] * 2), "addresses[1]: ", "twice"),
    (address(channel="S M S"), 'addresses[0].channel: "S M S"', "notify.channels"),
    (address(to=""), "addresses[0].to: ", "empty"),
    (address(to="0151 12345678"), 'addresses[0].to: "0151 12345678"', "+4915112345678"),
    (address(to="+0151123456"), "addresses[0].to: ", "country code"),
    (address(to="+49151123456789012"), "addresses[0].to: ", "country code"),
    (address(channel="email", to="anna"), 'addresses[0].to: "anna"', "anna@example.org"),
    (address(channel="email", to="a@b.de, c@d.de"), "addresses[0].to: ", "anna@example.org"),
    (address(channel="email", to="a@b.de\r\nBcc: c@d.de"), "addresses[0].to: ", "one line"),
    (address(severity="urgent"), 'addresses[0].severity: "urgent"', "info, warning or critical"),
    (address(severity="CRITICAL"), 'addresses[0].severity: "CRITICAL"', "info, warning or critical"),
]


@pytest.mark.parametrize(("contact", "place", "remedy"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_names_the_field_and_the_remedy(contact: Contact, place: str, remedy: str) -> None:
    fault = contact_fault(contact)
    assert fault is not None
    assert fault.startswith(place)
    assert remedy in fault


def test_an_address_that_may_hold_a_token_is_not_quoted() -> None:
    fault = contact_fault(address(channel="push", to="ntfys://:secret-token@example.org/x\n"))
    assert fault is not None
    assert "secret-token" not in fault


@pytest.mark.parametrize(
    ("hours", "local", "within"),
    [
        ("08:00-17:00", "07:59", False),
        ("08:00-17:00", "08:00", True),
        ("08:00-17:00", "16:59", True),
        ("08:00-17:00", "17:00", False),
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "00:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("22:00-06:00", "12:00", False),
        ("06:00-24:00", "23:59", True),
        ("06:00-24:00", "00:00", False),
        ("00:00-06:00", "00:00", True),
    ],
)
def test_hours_may_pass_midnight_and_end_before_their_end(hours: str, local: str, within: bool) -> None:
    assert on_duty(anna(hours=hours), time.fromisoformat(local)) is within
    assert quiet_now(anna(quiet=hours), time.fromisoformat(local)) is within


def test_without_hours_one_is_always_on_duty_and_never_quiet() -> None:
    assert on_duty(ANNA, time(3))
    assert not quiet_now(ANNA, time(3))


def test_hours_that_are_none_are_refused_rather_than_guessed() -> None:
    with pytest.raises(ValueError, match="22:00-06:00"):
        on_duty(anna(hours="nights"), time(3))
