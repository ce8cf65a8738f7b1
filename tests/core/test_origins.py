"""Which requests may change something, by where they come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.origins import change_refusal, own_host, same_host

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8080", True),
        ("192.168.1.5", True),
        ("[::1]:8080", True),
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("barn", True),
        ("barn.local:8080", True),
        ("barn.example.org", True),
        ("gw.example.com", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("barn.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("1.2.3.4, evil.example", False),
        ("localhost:8080:1", False),
        ("[::1", False),
        ("", False),
        (" localhost", False),
    ],
)
def test_only_names_that_no_stranger_can_hold_are_ours(host: str, own: bool) -> None:
    assert own_host(host, "barn.example.org", {"gw.example.com"}) is own


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Origin": "http://127.0.0.1:8080", "Content-Type": FORM}, None),
        ({"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin", "Content-Type": FORM}, None),
        ({"Sec-Fetch-Site": "same-origin", "Content-Type": FORM}, None),
        ({"Content-Type": JSON}, None),
        ({"Content-Type": JSON + "; charset=utf-8"}, None),
        ({"Content-Type": FORM}, "a form must say"),
        ({"Content-Type": "text/plain"}, "a form must say"),
        ({"Content-Type": "Multipart/Form-Data; boundary=x"}, "a form must say"),
        ({}, "a form must say"),
        ({"Origin": "http://evil.example", "Content-Type": JSON}, "'http://evil.example' may not"),
        ({"Origin": "http://127.0.0.1:9001", "Content-Type": JSON}, "may not change"),
        ({"Origin": "null", "Content-Type": FORM}, "'null' may not"),
        ({"Origin": "", "Content-Type": JSON}, "may not change"),
        ({"Sec-Fetch-Site": "cross-site", "Content-Type": JSON}, "only a page of this gateway"),
        ({"Sec-Fetch-Site": "same-site", "Content-Type": FORM}, "only a page of this gateway"),
        ({"Sec-Fetch-Site": "none", "Content-Type": FORM}, "only a page of this gateway"),
        (
            {"Host": "evil.example:8080", "Origin": "http://evil.example:8080", "Content-Type": FORM},
            "no name",
        ),
        ({"Host": "evil.example", "Content-Type": JSON}, "'evil.example' is no name of this machine"),
        ({"Host": "", "Content-Type": JSON}, "no name of this machine"),
        ({"Host": "barn.local", "Origin": "http://barn.local", "Content-Type": FORM}, None),
        ({"Host": "barn.local:443", "Origin": "https://barn.local", "Content-Type": FORM}, None),
        ({"Host": "barn.local", "Origin": "https://barn.local:443", "Content-Type": FORM}, None),
    ],
)
def test_strangers_pages_change_nothing(headers: dict[str, str], refused: str | None) -> None:
    why = change_refusal({"Host": "127.0.0.1:8080", **headers}, "barn")
    assert (why is None) if refused is None else (why is not None and refused in why), why


def test_a_machine_without_a_name_is_no_empty_name() -> None:
    assert not own_host("", "")
    assert own_host("10.0.0.1", "")


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_is_a_fault(origin: str, host: str) -> None:
    assert change_refusal({"Host": host, "Origin": origin}, "barn") is None or not same_host("", host, "barn")
    assert not same_host(origin, host, "barn") or own_host(host, "barn")
