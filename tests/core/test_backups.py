"""The nightly decision: due or not, which files go; over nights of 23, 24 and 25 hours and a wrong clock."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.core.backups import (
    backup_due,
    beyond_room,
    expired,
    farm_beside,
    farm_name,
    farm_time,
    make_room,
    newest,
    store_name,
    store_time,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


NIGHT = at("2025-11-25T02:00:00")


def test_names_are_document_0s_and_say_their_time_again() -> None:
    assert store_name(NIGHT) == "alert_state_20251125_020000.db"
    assert farm_name(NIGHT) == "farm_20251125_020000.json"
    assert store_time("alert_state_20251125_020000.db") == NIGHT
    assert farm_time("farm_20251125_020000.json") == NIGHT
    assert store_time(store_name(NIGHT, "south_barn"), "south_barn") == NIGHT
    assert farm_beside("south_barn_20251125_020000.db") == "farm_20251125_020000.json"


@pytest.mark.parametrize(
    "name",
    [
        "alert_state.db",
        "alert_state_20251125.db",
        "alert_state_20251125_020000.db.partial",
        "alert_state_20250231_020000.db",
        "alert_state_20251125_250000.db",
        "other_20251125_020000.db",
        "farm_20251125_020000.json",
        "alert_state_٢٠٢٥١١٢٥_020000.db",
        "",
    ],
)
def test_other_names_have_no_time(name: str) -> None:
    assert store_time(name) is None


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        ("2025-11-25T12:00:00", None, True),  # the first backup waits for no night
        ("2025-11-25T01:59:59", "2025-11-24T02:00:05", False),
        ("2025-11-25T02:00:00", "2025-11-24T02:00:05", True),
        ("2025-11-25T02:00:00", "2025-11-25T02:00:00", False),
        ("2025-11-25T02:01:00", "2025-11-25T02:00:03", False),
        ("2025-11-25T09:30:00", "2025-11-23T02:00:00", True),  # no power in the night
        ("2025-11-25T01:00:00", "2025-11-23T02:00:00", True),  # nor in the one before
        (
            "2025-11-25T09:30:00",
            "2025-11-24T23:00:00",
            True,
        ),  # one by hand in the evening is none of the night
        ("2025-11-25T09:30:00", "2025-11-25T08:00:00", False),  # one by hand after it is
        ("2025-11-25T01:30:00", "2025-11-25T02:00:00", False),  # stepped back half an hour
        ("2025-11-24T22:00:00", "2025-11-25T02:00:00", True),  # stepped back further: nothing known before
        ("2025-11-25T02:00:00", "2031-01-01T02:00:00", True),  # made while the clock was wrong
    ],
)
def test_due_when_nothing_was_saved_since_the_last_two_o_clock(now: str, last: str | None, due: bool) -> None:
    assert backup_due(at(now), None if last is None else at(last)) is due


@pytest.mark.parametrize("hour", [time(0, 0), time(2, 0), time(2, 30), time(3, 0), time(23, 59)])
@pytest.mark.parametrize("night", ["2025-03-30", "2025-10-26", "2025-11-25"], ids=["23 h", "25 h", "24 h"])
def test_every_night_gets_exactly_one_backup_also_when_the_clocks_change(night: str, hour: time) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime.fromisoformat(night).replace(tzinfo=berlin).astimezone(UTC) - timedelta(hours=36)
    names = [store_name(start.astimezone(berlin).replace(tzinfo=None))]
    made = []
    for minute in range(72 * 60):
        now = (start + timedelta(minutes=minute, seconds=7)).astimezone(berlin).replace(tzinfo=None)
        if backup_due(now, newest(names, now), hour):
            names.append(store_name(now))
            made.append(now.date())
    assert len(made) == len(set(made)) == 3


def test_a_clock_that_steps_forward_and_back_gets_one_backup_each_and_no_more() -> None:
    names: list[str] = []
    for now in (NIGHT, at("2031-06-01T12:00:00"), NIGHT + timedelta(hours=5)):
        for minute in range(3):
            moment = now + timedelta(minutes=minute)
            if backup_due(moment, newest(names, moment)):
                names.append(store_name(moment))
    assert names == ["alert_state_20251125_020000.db", "alert_state_20310601_120000.db"]


def _pair(day: str) -> list[str]:
    moment = at(f"{day}T02:00:00")
    return [store_name(moment), farm_name(moment)]


def test_older_than_seven_days_goes_with_its_farm_register_and_nothing_else_does() -> None:
    days = [f"2025-11-{day:02d}" for day in range(10, 26)]
    names = [name for day in days for name in _pair(day)]
    strange = ["notes.txt", "other_20200101_000000.db", "alert_state.db", "farm.json", "x.partial"]
    gone = expired([*strange, *reversed(names)], NIGHT)
    assert sorted(gone) == sorted(name for day in days[:8] for name in _pair(day))
    assert gone[0].endswith("20251110_020000.db")


@pytest.mark.parametrize(
    ("days", "now", "gone"),
    [
        (["2025-11-18"], "2025-11-25T02:00:00", []),  # seven days to the second
        (["2025-11-18", "2025-11-25"], "2025-11-25T02:00:01", ["2025-11-18"]),
        (["2020-01-01"], "2025-11-25T02:00:00", []),  # the only one
        (["2020-01-01", "2020-01-02"], "2025-11-25T02:00:00", ["2020-01-01"]),
        (["2020-01-01", "2031-01-01"], "2025-11-25T02:00:00", []),  # the one ahead proves nothing
        (["2025-11-20", "2025-11-24"], "2019-01-01T00:00:00", []),  # the clock fell back by years
    ],
)
def test_what_is_left_is_never_nothing(days: list[str], now: str, gone: list[str]) -> None:
    names = [name for day in days for name in _pair(day)]
    assert expired(names, at(now)) == sorted(name for day in gone for name in _pair(day))


def test_backups_ahead_of_the_clock_are_bounded_too() -> None:
    names = [store_name(at(f"2031-01-{day:02d}T02:00:00")) for day in range(1, 13)]
    assert expired(names, NIGHT) == names[:5]


def test_a_farm_register_without_its_store_goes_with_age_alone() -> None:
    assert expired([*_pair("2025-11-24"), _pair("2025-11-01")[1], _pair("2025-11-23")[1]], NIGHT) == [
        "farm_20251101_020000.json"
    ]


@pytest.mark.parametrize(
    ("missing_bytes", "given_up"),
    [(0, []), (-5, []), (1, ["a"]), (10, ["a"]), (11, ["a", "b"]), (30, ["a", "b"]), (31, None)],
)
def test_room_is_made_from_the_oldest_and_never_from_the_last(
    missing_bytes: int, given_up: list[str] | None
) -> None:
    assert make_room([("a", 10), ("b", 20), ("c", 1000)], missing_bytes) == given_up


def test_without_backups_there_is_nothing_to_give_up() -> None:
    assert make_room([], 1) is None


def _sized(days: list[str]) -> list[tuple[str, int]]:
    """A store of 100 bytes and a register of 10 each night."""
    return [(name, 100 if name.endswith(".db") else 10) for day in days for name in _pair(day)]


@pytest.mark.parametrize(
    ("room_bytes", "gone"),
    [
        (330, []),
        (329, ["2025-11-23"]),
        (220, ["2025-11-23"]),
        (219, ["2025-11-23", "2025-11-24"]),
        (110, ["2025-11-23", "2025-11-24"]),
        (0, ["2025-11-23", "2025-11-24"]),  # the newest never, however little room there is
    ],
)
def test_beyond_their_room_the_oldest_backups_go_with_their_registers_and_the_newest_never(
    room_bytes: int, gone: list[str]
) -> None:
    strange = [("notes.txt", 10**9), ("other_20200101_000000.db", 10**9), ("alert_state.db", 10**9)]
    sizes = _sized(["2025-11-25", "2025-11-23", "2025-11-24"])
    wanted = [name for day in gone for name in _pair(day)]
    assert beyond_room([*strange, *sizes], room_bytes, NIGHT) == wanted


@pytest.mark.parametrize(
    ("days", "room_bytes", "gone"),
    [
        ([], 0, []),
        (["2025-11-25"], 0, []),
        (
            ["2025-11-24", "2025-11-25", "2031-01-01"],
            110,
            ["2025-11-24", "2031-01-01"],
        ),  # a wrong year
        (["2031-01-01", "2031-01-02"], 0, ["2031-01-01"]),  # nothing else is there
    ],
)
def test_the_backup_of_tonight_stays_also_beside_names_ahead_of_the_clock(
    days: list[str], room_bytes: int, gone: list[str]
) -> None:
    wanted = [name for day in gone for name in _pair(day)]
    assert beyond_room(_sized(days), room_bytes, NIGHT) == wanted


def test_a_store_without_a_register_counts_alone_and_another_stem_not_at_all() -> None:
    sizes = [("south_20251124_020000.db", 100), ("south_20251125_020000.db", 100), *_sized(["2025-11-20"])]
    assert beyond_room(sizes, 200, NIGHT, stem="south") == []
    assert beyond_room(sizes, 199, NIGHT, stem="south") == ["south_20251124_020000.db"]
