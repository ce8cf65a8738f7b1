"""Herd events: when many alerts become one, who belongs to it, and when it is over."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.alerts import (
    CALLS,
    NOT_ANIMALS,
    Alert,
    AlertPolicy,
    Change,
    Move,
    State,
    acknowledge,
    close_by_hand,
    fold,
    sounds,
    step,
)
from gateway.core.findings import Evidence, Finding
from gateway.core.herd_events import NAMED_MAX, gather, members_of
from gateway.core.severity import Severity

MINUTE = 60_000
HOUR = 60 * MINUTE
T0 = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
POLICY = AlertPolicy()
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
KEY = ("herd", "fever_herd")


class Barn:
    """What `services/alarm` keeps, and nothing of what it stores."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, str], Alert] = {}
        self.moves: list[Move] = []
        self.now_ms = T0

    def find(
        self,
        subject: str,
        severity: Severity = WARNING,
        *,
        kind: str = "fever",
        present: bool = True,
        lag_ms: int = 0,
        **numbers: object,
    ) -> None:
        at_ms = self.now_ms - lag_ms
        finding = Finding(
            subject=subject,
            kind=kind,
            present=present,
            severity=severity,
            at_ms=at_ms,
            onset_ms=at_ms,
            confidence=0.5,
            sentence=f"{subject} {kind}",
        )
        self.fold_in(msgspec.structs.replace(finding, **numbers))

    def fold_in(self, finding: Finding) -> Alert:
        key = (finding.subject, finding.kind)
        after = step(self.newest.get(key), finding, self.now_ms, POLICY)
        self.moves += after.moves
        assert after.alert is not None
        self.newest[key] = after.alert
        return after.alert

    def gather(self) -> int:
        """Do what it says; the answer is how much it had to say."""
        gatherings = gather(self.newest, self.now_ms, POLICY)
        for gathering in gatherings:
            herd = self.fold_in(gathering.finding)
            for member in gathering.members:
                after = fold(member, herd, self.now_ms)
                assert after.alert is not None
                self.moves += after.moves
                self.newest[member.subject, member.kind] = after.alert
        return len(gatherings)

    def told(self) -> list[str]:
        """What has moved since the last time: "subject change severity"."""
        told = [f"{move.alert.subject} {move.change} {move.alert.severity.label}" for move in self.moves]
        self.moves.clear()
        return told

    @property
    def herd(self) -> Alert:
        return self.newest[KEY]


def ill(n: int, severity: Severity = WARNING, *, minutes_apart: float = 1, kind: str = "fever") -> Barn:
    """A barn in which n animals fell ill one after the other."""
    barn = Barn()
    for i in range(n):
        barn.now_ms = T0 + round(i * minutes_apart * MINUTE)
        barn.find(f"COW_{i + 1}", severity, kind=kind)
    return barn


def outbreak(n: int = 5, severity: Severity = WARNING) -> Barn:
    """A barn with a herd event that has been told."""
    barn = ill(n, severity)
    assert barn.gather() == 1
    barn.told()
    return barn


def test_four_sick_animals_are_four_alerts() -> None:
    barn = ill(4)
    assert barn.gather() == 0


def test_five_are_one_event_that_speaks_for_them() -> None:
    barn = ill(5)
    barn.told()
    assert barn.gather() == 1
    assert barn.told() == ["herd raised warning", *[f"COW_{n} folded warning" for n in range(1, 6)]]
    assert barn.herd == Alert(
        id=0,
        subject="herd",
        kind="fever_herd",
        episode=1,
        severity=WARNING,
        state=State.ACTIVE,
        onset_ms=T0,
        last_seen_ms=T0 + 4 * MINUTE,
        raised_ms=T0 + 4 * MINUTE,
        changed_ms=T0 + 4 * MINUTE,
        confidence=0.5,
        sentence="5 animals have fever since 22:13 UTC: COW_1, COW_2, COW_3, COW_4, COW_5",
        evidence=Evidence(value=5.0, unit="animals", duration_min=4.0, herd="5 animals at once"),
        detail="5 animals",
        told_ms=T0 + 4 * MINUTE,
    )
    assert [alert.subject for alert in members_of(barn.herd, barn.newest.values())] == [
        f"COW_{n}" for n in range(1, 6)
    ]


def test_an_event_that_stands_as_it_stood_says_nothing() -> None:
    barn = outbreak()
    before = dict(barn.newest)
    barn.now_ms += HOUR
    for n in range(1, 6):
        barn.find(f"COW_{n}", sentence="another number")
    assert barn.gather() == 0
    assert barn.told() == []
    assert barn.herd == before[KEY]


@pytest.mark.parametrize(("minutes_apart", "gathered"), [(3.75, 1), (3.76, 0)])
def test_they_count_if_raised_within_15_min(minutes_apart: float, gathered: int) -> None:
    assert ill(5, minutes_apart=minutes_apart).gather() == gathered


def test_who_fell_ill_long_before_the_others_is_no_part_of_it() -> None:
    barn = Barn()
    barn.find("OLD_1")
    barn.now_ms += HOUR
    for n in range(5):
        barn.find(f"COW_{n}")
    barn.gather()
    assert len(members_of(barn.herd, barn.newest.values())) == 5
    assert barn.newest["OLD_1", "fever"].folded_into == ""
    assert barn.gather() == 0


def test_an_outbreak_that_goes_on_is_one_event_with_all_of_them() -> None:
    barn = ill(9, minutes_apart=3.5)
    barn.gather()
    assert barn.herd.detail == "9 animals"
    assert len(members_of(barn.herd, barn.newest.values())) == 9


def test_what_was_raised_hours_ago_still_counts_together() -> None:
    barn = ill(5)
    barn.now_ms += 3 * HOUR
    assert barn.gather() == 1


@pytest.mark.parametrize(("minutes_ago", "members_n"), [(0, 6), (15, 6), (15.1, 5)])
def test_who_would_join_at_the_next_look_belongs_to_it_at_once(minutes_ago: float, members_n: int) -> None:
    barn = ill(5)
    barn.now_ms += 3 * HOUR
    barn.find("COW_9")
    barn.now_ms += round(minutes_ago * MINUTE)
    barn.gather()
    assert len(members_of(barn.herd, barn.newest.values())) == members_n
    assert barn.gather() == 0


def test_info_is_a_record_and_makes_no_event() -> None:
    barn = ill(4)
    barn.find("COW_5", INFO)
    assert barn.gather() == 0
    barn.find("COW_5", WARNING, at_ms=barn.now_ms + 1)
    assert barn.gather() == 1


def test_ended_alerts_make_no_event() -> None:
    barn = ill(5)
    ended = close_by_hand(barn.newest["COW_1", "fever"], State.RESOLVED, barn.now_ms, "sold").alert
    assert ended is not None
    barn.newest["COW_1", "fever"] = ended
    assert barn.gather() == 0


def test_each_kind_counts_by_itself() -> None:
    barn = ill(4)
    barn.find("COW_5", kind="estrus")
    assert barn.gather() == 0


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_calls_for_help_are_never_folded(kind: str) -> None:
    assert ill(7, CRITICAL, kind=kind).gather() == 0


def test_what_is_no_animal_does_not_count() -> None:
    barn = ill(4)
    for subject in NOT_ANIMALS:
        barn.find(subject)
    assert barn.gather() == 0


def test_the_silence_of_the_herd_has_its_own_detector() -> None:
    assert ill(7, kind="silence").gather() == 0
    barn = Barn()
    barn.find("herd", kind="silence_herd")
    assert barn.gather() == 0


def test_the_worst_member_gives_the_severity() -> None:
    barn = ill(4)
    barn.find("COW_5", CRITICAL)
    barn.gather()
    assert barn.herd.severity is CRITICAL
    assert sounds(barn.herd)
    assert not any(sounds(alert) for alert in members_of(barn.herd, barn.newest.values()))


def test_a_member_that_gets_worse_makes_the_event_worse_and_wakes_again() -> None:
    barn = outbreak()
    seen = acknowledge(barn.herd, barn.now_ms, "seen").alert
    assert seen is not None
    barn.newest[KEY] = seen
    barn.now_ms += HOUR
    barn.find("COW_2", CRITICAL)
    assert barn.gather() == 1
    assert barn.told() == ["COW_2 escalated critical", "herd escalated critical"]
    assert sounds(barn.herd)
    assert barn.gather() == 0


def test_who_falls_ill_while_it_is_open_joins_and_the_news_waits_half_an_hour() -> None:
    barn = outbreak()
    barn.now_ms += 2 * HOUR
    barn.find("COW_6")
    assert barn.gather() == 1
    assert barn.told() == ["COW_6 raised warning", "herd updated warning", "COW_6 folded warning"]
    barn.now_ms += 10 * MINUTE
    barn.find("COW_7")
    assert barn.gather() == 1
    assert barn.told() == ["COW_7 raised warning", "COW_7 folded warning"]
    barn.now_ms += 20 * MINUTE
    assert barn.gather() == 1
    assert barn.told() == ["herd updated warning"]
    assert barn.herd.sentence.startswith("7 animals have fever since 22:13 UTC: COW_1, ")
    assert barn.gather() == 0


def test_who_was_ill_shortly_before_it_began_joins_too() -> None:
    barn = Barn()
    barn.find("EARLY", INFO)
    barn.find("BEFORE", INFO, kind="fever", at_ms=T0)
    barn.newest["EARLY", "fever"] = msgspec.structs.replace(
        barn.newest["EARLY", "fever"], raised_ms=T0 - 11 * MINUTE - 1
    )
    barn.newest["BEFORE", "fever"] = msgspec.structs.replace(
        barn.newest["BEFORE", "fever"], raised_ms=T0 - 11 * MINUTE
    )
    for i in range(5):
        barn.now_ms = T0 + i * MINUTE
        barn.find(f"COW_{i}")
    barn.gather()
    assert barn.herd.detail == "5 animals"
    for subject in ("EARLY", "BEFORE"):
        barn.find(subject, WARNING, at_ms=barn.now_ms + 1)
    assert barn.gather() == 1
    names = {alert.subject for alert in members_of(barn.herd, barn.newest.values())}
    assert names == {"BEFORE", *[f"COW_{i}" for i in range(5)]}


def test_it_is_over_when_none_of_its_members_is_ill_any_more() -> None:
    barn = outbreak()
    for look in range(1, 4):
        barn.now_ms += 2 * MINUTE
        for n in range(1, 6):
            barn.find(f"COW_{n}", present=False)
        assert barn.gather() == (look == 3)
    assert barn.told() == [*[f"COW_{n} resolved warning" for n in range(1, 6)], "herd resolved warning"]
    assert barn.moves == []
    assert barn.gather() == 0


def test_its_end_says_so() -> None:
    barn = outbreak()
    ill_before = dict(barn.newest)
    for n in range(1, 6):
        ended = close_by_hand(ill_before[f"COW_{n}", "fever"], State.RESOLVED, T0, "well").alert
        assert ended is not None
        barn.newest[f"COW_{n}", "fever"] = ended
    (gathering,) = gather(barn.newest, barn.now_ms, POLICY)
    assert gathering.members == ()
    assert gathering.finding == Finding(
        subject="herd",
        kind="fever_herd",
        present=False,
        severity=INFO,
        at_ms=barn.now_ms + 1,
        onset_ms=barn.now_ms + 1,
        confidence=1.0,
        sentence="no animal of the herd has fever any more",
    )


def test_one_of_them_left_is_told_in_the_singular() -> None:
    barn = outbreak()
    for n in range(1, 5):
        alert = close_by_hand(barn.newest[f"COW_{n}", "fever"], State.RESOLVED, T0, "well").alert
        assert alert is not None
        barn.newest[f"COW_{n}", "fever"] = alert
    (gathering,) = gather(barn.newest, barn.now_ms, POLICY)
    assert gathering.finding.sentence == "1 animal has fever since 22:17 UTC: COW_5"
    assert gathering.finding.detail == "1 animal"
    assert gathering.finding.evidence.unit == "animal"
    assert gathering.finding.evidence.herd == "1 animal at once"


def test_the_next_outbreak_is_a_new_event_without_cooldown() -> None:
    barn = outbreak()
    ended = [
        close_by_hand(alert, State.FALSE_POSITIVE, barn.now_ms, "thermometer")
        for alert in barn.newest.values()
    ]
    barn.newest = {(a.subject, a.kind): a for a in (step.alert for step in ended) if a is not None}
    assert barn.gather() == 0
    for n in range(11, 16):
        barn.find(f"COW_{n}")
    assert barn.gather() == 1
    assert barn.herd.episode == 2
    assert len(members_of(barn.herd, barn.newest.values())) == 5


def test_members_of_an_event_that_was_ended_alone_are_not_silent_for_ever() -> None:
    barn = outbreak(severity=CRITICAL)
    over = close_by_hand(barn.herd, State.RESOLVED, barn.now_ms, "over").alert
    assert over is not None
    barn.newest[KEY] = over
    barn.now_ms += MINUTE
    assert barn.gather() == 1
    assert barn.herd.episode == 2
    assert {alert.folded_into for alert in barn.newest.values()} == {"", "herd/fever_herd/2"}


def test_a_clock_that_was_set_back_holds_back_no_event() -> None:
    barn = outbreak()
    barn.now_ms -= 365 * 24 * HOUR
    barn.find("COW_2", CRITICAL, at_ms=T0 + HOUR)
    assert barn.gather() == 1
    assert barn.herd.severity is CRITICAL
    for n in range(1, 6):
        alert = close_by_hand(barn.newest[f"COW_{n}", "fever"], State.RESOLVED, barn.now_ms, "well").alert
        assert alert is not None
        barn.newest[f"COW_{n}", "fever"] = alert
    assert barn.gather() == 1
    assert not barn.herd.open
    for n in range(11, 16):
        barn.find(f"COW_{n}")
    assert barn.gather() == 1
    assert (barn.herd.episode, barn.herd.open) == (2, True)
    assert barn.herd.evidence.duration_min == 0.0


def test_a_backlogs_outbreak_is_late_and_its_first_animal_of_today_makes_it_news() -> None:
    barn = Barn()
    for n in range(5):
        barn.find(f"COW_{n}", CRITICAL, lag_ms=7 * HOUR)
    barn.gather()
    assert barn.herd.late
    assert not sounds(barn.herd)
    assert barn.herd.sentence.startswith("5 animals have fever since 15:13 UTC: ")
    barn.told()
    barn.now_ms += MINUTE
    barn.find("COW_9")
    barn.gather()
    assert barn.told() == ["COW_9 raised warning", "herd escalated critical", "COW_9 folded warning"]
    assert sounds(barn.herd)


def test_one_animal_of_today_among_a_backlogs_makes_the_event_news() -> None:
    barn = Barn()
    for n in range(4):
        barn.find(f"COW_{n}", CRITICAL, lag_ms=7 * HOUR)
    barn.find("COW_9", CRITICAL)
    barn.gather()
    assert (barn.herd.late, barn.herd.onset_ms) == (False, barn.now_ms - 6 * HOUR)
    assert barn.herd.sentence.startswith("5 animals have fever since 15:13 UTC: ")


def test_a_long_list_is_cut_and_counted() -> None:
    barn = ill(NAMED_MAX + 3, minutes_apart=0, kind="heat_stress")
    (gathering,) = gather(barn.newest, T0, POLICY)
    names = ", ".join(sorted(f"COW_{n}" for n in range(1, NAMED_MAX + 4))[:NAMED_MAX])
    assert gathering.finding.sentence == f"13 animals have heat stress since 22:13 UTC: {names} and 3 more"
    barn = ill(NAMED_MAX, minutes_apart=0)
    (gathering,) = gather(barn.newest, T0, POLICY)
    assert gathering.finding.sentence.endswith("COW_8, COW_9")


@pytest.mark.parametrize(
    ("later_ms", "since"),
    [(24 * HOUR - 1, "22:13 UTC"), (24 * HOUR, "2023-11-14 22:13 UTC"), (-24 * HOUR, "2023-11-14 22:13 UTC")],
)
def test_a_day_later_the_date_is_said(later_ms: int, since: str) -> None:
    barn = ill(5, minutes_apart=0)
    (gathering,) = gather(barn.newest, T0 + later_ms, POLICY)
    assert f" since {since}: " in gathering.finding.sentence


def test_confidence_is_that_of_the_surest_and_quality_that_of_the_poorest() -> None:
    barn = ill(4, minutes_apart=0)
    barn.find("COW_5", confidence=0.9, evidence=Evidence(quality=0.25))
    (gathering,) = gather(barn.newest, T0, POLICY)
    assert gathering.finding.confidence == 0.9
    assert gathering.finding.evidence.quality == 0.25


def test_how_many_and_within_what_are_settings() -> None:
    policy = AlertPolicy(fold_n=2, fold_within_min=1)
    assert len(gather(ill(2).newest, T0, policy)) == 1
    assert gather(ill(2, minutes_apart=1.1).newest, T0, policy) == []


def test_two_outbreaks_at_once_are_two_events() -> None:
    barn = ill(5)
    for n in range(5):
        barn.find(f"COW_{n}", kind="estrus")
    assert barn.gather() == 2
    assert {kind for subject, kind in barn.newest if subject == "herd"} == {"fever_herd", "estrus_herd"}
    assert barn.gather() == 0


def test_folding_is_told_once_per_member() -> None:
    barn = ill(5)
    barn.gather()
    barn.now_ms += HOUR
    barn.find("COW_6")
    barn.gather()
    folded = [move.alert.subject for move in barn.moves if move.change is Change.FOLDED]
    assert sorted(folded) == sorted(set(folded))
