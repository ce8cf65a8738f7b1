"""Ids, ranges, entries and tokens, as tables; and what a login costs."""

from __future__ import annotations

import hmac
from typing import Any

import msgspec
import pytest

from gateway.core import credentials
from gateway.core.credentials import (
    DEVICES_MAX,
    ROLES_OF,
    SPOKEN_FOR_MAX,
    TOKEN_BYTES_MAX,
    Device,
    Roster,
    device_fault,
    id_fault,
    may_hold,
    spelled_out,
    token_digest,
)

KEY = bytes(range(32))
TOKEN = b"s3n6bfy4w83428qa7ju7wyzg4hm"


def device(one: str, token: bytes = TOKEN, **fields: Any) -> Device:
    return Device(
        id=one, role=fields.pop("role", "sensor"), digest=token_digest(KEY, one, token).hex(), **fields
    )


@pytest.mark.parametrize("one", ["COW_001", "a", "A.b:c-d_9", "x" * 64])
def test_an_id_may_be_what_an_animals_id_may_be(one: str) -> None:
    assert id_fault(one) is None


@pytest.mark.parametrize("one", ["", "x" * 65, "a/b", "a b", "a+", "ü", "a\n", "a\0"])
def test_an_id_never_holds_what_a_topic_or_a_client_id_reads_differently(one: str) -> None:
    assert "is no device id" in str(id_fault(one))


@pytest.mark.parametrize(
    ("client_id", "held"),
    [
        ("COW_1", True),
        ("COW_1/", True),
        ("COW_1/pub 2", True),
        ("COW_10", False),
        ("COW_1_x", False),
        ("cow_1", False),
        ("", False),
        ("x/COW_1", False),
    ],
)
def test_a_client_id_belongs_to_the_device_it_begins_with(client_id: str, held: bool) -> None:
    assert may_hold("COW_1", client_id) is held


def test_a_token_opens_its_own_device_only() -> None:
    roster = Roster(KEY, [device("A"), device("B", b"another"), device("C")])
    found = roster.check("A", TOKEN)
    assert found is not None
    assert found.id == "A"
    for name, token in (
        ("A", b"another"),
        ("B", TOKEN),
        ("A", b""),
        ("A", TOKEN[:-1]),
        ("a", TOKEN),
        ("", b""),
    ):
        assert roster.check(name, token) is None
    assert device("A").digest != device("C").digest  # one token, two devices: nobody sees that from outside
    assert Roster(bytes(32), [device("A")]).check("A", TOKEN) is None  # another installation's key


def test_a_token_may_be_as_long_as_the_bound_and_no_longer() -> None:
    for size, opens in ((TOKEN_BYTES_MAX, True), (TOKEN_BYTES_MAX + 1, False)):
        token = b"t" * size
        assert (Roster(KEY, [device("A", token)]).check("A", token) is not None) is opens


def test_an_unknown_device_is_hashed_and_compared_like_a_wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """No list of devices can be had by timing: the same work is done in both cases."""
    done: list[str] = []
    digest, compare = credentials.token_digest, hmac.compare_digest
    monkeypatch.setattr(
        credentials, "token_digest", lambda *what: (done.append(f"digest {len(what[2])}"), digest(*what))[1]
    )
    monkeypatch.setattr(
        hmac, "compare_digest", lambda a, b: (done.append(f"compare {len(a)} {len(b)}"), compare(a, b))[1]
    )
    roster = Roster(KEY, [device("COW_1")])
    done.clear()
    assert roster.check("COW_1", b"wrong") is None
    wrong, done[:] = list(done), []
    assert roster.check("COW_2", b"wrong") is None
    assert done == wrong == ["digest 5", "compare 32 32"]


def test_nobody_gets_in_where_there_are_no_devices() -> None:
    assert Roster().check("", b"") is None
    assert (len(Roster()), Roster().owner("COW_1/x")) == (0, None)


def test_the_owner_of_a_client_id_is_the_registered_device_it_begins_with() -> None:
    roster = Roster(KEY, [device("COW_1")])
    for client_id, owned in (
        ("COW_1", True),
        ("COW_1/a/b", True),
        ("COW_10", False),
        ("", False),
        ("/", False),
    ):
        assert (roster.owner(client_id) is not None) is owned


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"D"}),
        ({"role": "operator"}, None),
        ({"role": "concentrator", "speaks_for": "all"}, None),
        ({"role": "concentrator", "speaks_for": ("A", "B")}, {"D", "A", "B"}),
    ],
)
def test_whom_a_device_speaks_for(fields: dict[str, Any], names: set[str] | None) -> None:
    assert device("D", **fields).names == names


def test_a_phone_is_no_sensor_and_a_base_station_is_one_too() -> None:
    assert ROLES_OF["operator"] == {"operator"}
    assert ROLES_OF["sensor"] == {"sensor"}
    assert ROLES_OF["concentrator"] == {"sensor", "concentrator"}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"digest": "ab"}, "64 hexadecimal digits"),
        ({"digest": "G" * 64}, "64 hexadecimal digits"),
        ({"label": "x" * 101}, "its label must be one line"),
        ({"label": "a\nb"}, "its label must be one line"),
        ({"speaks_for": ("A",)}, "only a concentrator speaks for others"),
        ({"role": "operator", "speaks_for": "all"}, "only a concentrator speaks for others"),
        ({"role": "concentrator"}, "a concentrator needs speaks_for"),
        ({"role": "concentrator", "speaks_for": ("A", "+")}, "speaks_for: '+' is no device id"),
    ],
)
def test_a_wrong_entry_is_named_with_what_is_wrong(fields: dict[str, Any], what: str) -> None:
    wrong = msgspec.structs.replace(device("D"), **fields)
    assert str(device_fault(wrong)).startswith("D: ")
    assert what in str(device_fault(wrong))
    with pytest.raises(ValueError, match=r"^D: "):
        Roster(KEY, [device("A"), wrong])


def test_a_roster_refuses_doubles_a_missing_key_and_one_too_many() -> None:
    with pytest.raises(ValueError, match="A is there twice"):
        Roster(KEY, [device("A"), device("A", b"x")])
    with pytest.raises(ValueError, match="key of the installation"):
        Roster(KEY[:15], [device("A")])
    entry = device("A")
    many = [msgspec.structs.replace(entry, id=f"D{n}") for n in range(DEVICES_MAX + 1)]
    assert len(Roster(KEY, many[:-1])) == DEVICES_MAX
    with pytest.raises(ValueError, match=f"{DEVICES_MAX + 1} devices; at most {DEVICES_MAX}"):
        Roster(KEY, many)


def test_the_animals_of_all_concentrators_together_are_bounded() -> None:
    half = tuple(f"C{n}" for n in range(SPOKEN_FOR_MAX // 2))
    bases = [device(one, role="concentrator", speaks_for=half) for one in ("B1", "B2")]
    assert len(Roster(KEY, bases)) == 2
    with pytest.raises(ValueError, match=f"at most {SPOKEN_FOR_MAX} in all"):
        Roster(KEY, [*bases, device("B3", role="concentrator", speaks_for=("C1",))])


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["COW_1"], ["COW_1"]),
        (["COW_008..COW_011"], ["COW_008", "COW_009", "COW_010", "COW_011"]),
        (["7..9", "B"], ["7", "8", "9", "B"]),
        (["A1_1..A1_2"], ["A1_1", "A1_2"]),
        (["X5..X5"], ["X5"]),
    ],
)
def test_ranges_are_spelled_out(words: list[str], ids: list[str]) -> None:
    assert spelled_out(words) == ids


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["COW_1..BULL_2"], "is no range"),
        (["COW..COW"], "is no range"),
        (["COW_3..COW_1"], "the smaller first"),
        (["COW_1..COW_10"], "the same number of digits"),
        (["COW_1", "COW_1..COW_2"], "COW_1 is named twice"),
        (["a/b"], "is no device id"),
        (["C0000..C9999"], f"more than {DEVICES_MAX} ids"),
    ],
)
def test_what_is_no_range_is_refused(words: list[str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        spelled_out(words)
