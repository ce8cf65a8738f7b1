"""Links of notifications: what a token says, and what it does not let anybody do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import links

SECRET = bytes(range(32))
KEY = "COW_7/fever/1"
names = st.text(
    st.characters(categories=("L", "N", "Zs", "P"), exclude_characters="\x00"), min_size=1, max_size=64
)


def test_a_token_is_right_for_its_alert_and_person_only() -> None:
    token = links.sign(SECRET, KEY, "Anna")
    assert links.verify(SECRET, KEY, "Anna", token)
    assert not links.verify(SECRET, "COW_7/fever/2", "Anna", token)
    assert not links.verify(SECRET, KEY, "Ben", token)
    assert not links.verify(bytes(32), KEY, "Anna", token)
    assert not links.verify(SECRET, KEY + "A", "nna", token)
    assert not links.verify(SECRET, KEY, "Anna", token[:-1])
    assert not links.verify(SECRET, KEY, "Anna", "")
    assert not links.verify(SECRET, KEY, "Anna", "é" * 16)
    assert not links.verify(SECRET, KEY, "Anna", "\ud800")


def test_a_link_leaves_a_text_message_room_for_its_words() -> None:
    link = links.address("http://192.168.100.100:8080/", SECRET, 12_345, KEY, "Annegret Müller")
    assert link.startswith("http://192.168.100.100:8080/a/12345/")
    assert len(link) <= 80
    assert links.address("", SECRET, 1, KEY, "Anna") == ""


@given(names)
def test_every_name_survives_the_way_through_a_link(name: str) -> None:
    *_, encoded, token = links.address("http://barn", SECRET, 1, KEY, name).split("/")
    wanted = name if name.isprintable() else None
    assert links.contact_of(encoded) == wanted
    assert links.verify(SECRET, KEY, name, token)


@pytest.mark.parametrize("encoded", ["", "a", "====", "/w", "_w", "QQ\n", "AA", "é", "Q" * 400])
def test_what_is_no_name_is_none(encoded: str) -> None:
    assert links.contact_of(encoded) is None


@given(st.text(max_size=40))
def test_no_text_in_the_place_of_a_name_or_token_is_a_fault(text: str) -> None:
    found = links.contact_of(text)
    assert found is None or found.isprintable()
    assert not links.verify(SECRET, KEY, "Anna", text)
