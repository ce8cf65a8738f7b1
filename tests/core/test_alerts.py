"""The alert law, as a table that reads like the decisions, and as properties."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.alert_event import event_json, event_of
from gateway.core.alerts import (
    EMERGENCY_STOP,
    NEVER_SILENCED,
    NOT_ANIMALS,
    Alert,
    AlertPolicy,
    Change,
    State,
    Step,
    acknowledge,
    close_by_hand,
    elapse,
    fold,
    retell,
    sounds,
    step,
)
from gateway.core.findings import Evidence, Finding
from gateway.core.severity import Severity

MINUTE = 60_000
HOUR = 60 * MINUTE
T0 = 1_700_000_000_000
POLICY = AlertPolicy()
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


def found(
    at_min: float,
    severity: Severity = WARNING,
    *,
    kind: str = "fever",
    subject: str = "COW_042",
    onset_min: float | None = None,
    present: bool = True,
    ended: bool = False,
    detail: str = "",
) -> Finding:
    return Finding(
        subject=subject,
        kind=kind,
        present=present,
        severity=severity,
        at_ms=round(T0 + at_min * MINUTE),
        onset_ms=round(T0 + (at_min if onset_min is None else onset_min) * MINUTE),
        confidence=0.5,
        sentence=f"{kind} at minute {at_min:g}" if present or ended else "",
        evidence=Evidence(value=at_min),
        detail=detail,
        ended=ended,
    )


def normal(at_min: float, **kwargs: object) -> Finding:
    return found(at_min, present=False, **kwargs)  # type: ignore[arg-type]


def call(at_min: float, kind: str = "panic") -> Finding:
    return found(at_min, CRITICAL, kind=kind, subject="barn" if kind == EMERGENCY_STOP else "tag-7")


class Clock(msgspec.Struct, frozen=True):
    """The gateway's clock stands at this minute, and time passes; it may also have gone back."""

    at_min: float


ACK, FALSE, SOLD, UNSILENCED = "ack", "false_positive", "sold", "unsilenced"
Script = list[Finding | Clock | str]


def play(
    script: Script, policy: AlertPolicy = POLICY, *, lag_min: float = 0
) -> tuple[Alert | None, list[str]]:
    """Run a script; the gateway's clock is each finding's data time plus `lag_min`.

    The answer is the newest episode and a line per event: "episode change severity state",
    or why trouble was passed over.
    """
    alert: Alert | None = None
    told: list[str] = []
    now_ms = T0
    for event in script:
        if isinstance(event, Finding):
            now_ms = max(now_ms, round(event.at_ms + lag_min * MINUTE))
            after = step(alert, event, now_ms, policy)
        elif isinstance(event, Clock):
            assert alert is not None
            now_ms = round(T0 + event.at_min * MINUTE)
            after = elapse(alert, now_ms, policy)
        else:
            assert alert is not None
            after = by_hand(alert, event, now_ms)
        assert (after.alert is None) <= (alert is None), "an alert never vanishes"
        for move in after.moves:
            assert isinstance(move.reason, str)
            assert move.alert.changed_ms == now_ms
            assert move.alert.ended_ms == (None if move.alert.open else now_ms)
        alert = after.alert
        told += [
            f"{m.alert.episode} {m.change} {m.alert.severity.label} {m.alert.state}" for m in after.moves
        ]
        if after.passed_over:
            told.append(after.passed_over)
    return alert, told


def by_hand(alert: Alert, what: str, now_ms: int) -> Step:
    if what == ACK:
        return acknowledge(alert, now_ms, "seen by Eva")
    if what == UNSILENCED:
        return retell(alert, now_ms, "the silence is over")
    state = State.FALSE_POSITIVE if what == FALSE else State.RESOLVED
    return close_by_hand(alert, state, now_ms, what)


FEVER_OVER = [normal(10), normal(12), normal(14)]
RAISED, ENDED = "1 raised warning active", "1 resolved warning resolved"
CRITICAL_RAISED, CRITICAL_ENDED = "1 raised critical active", "1 resolved critical resolved"
REPEATED, UPDATED = "1 repeated critical active", "1 updated critical active"
CALL_TWICE = [CRITICAL_RAISED, CRITICAL_ENDED, "stale"]

LAW: list[tuple[str, Script, list[str]]] = [
    ("a look that finds nothing makes nothing", [normal(0)], []),
    ("trouble raises an alert", [found(0)], [RAISED]),
    ("it is updated in silence, not raised again", [found(0), found(2), found(4)], [RAISED]),
    (
        "it escalates",
        [found(0), found(2, CRITICAL)],
        [RAISED, "1 escalated critical active"],
    ),
    (
        "severity never falls",
        [found(0, CRITICAL), found(2, WARNING), found(4, CRITICAL)],
        ["1 raised critical active"],
    ),
    ("two normal judgements do not resolve a fever", [found(0), *FEVER_OVER[:2]], [RAISED]),
    ("three do", [found(0), *FEVER_OVER], [RAISED, ENDED]),
    (
        "they must follow each other",
        [found(0), normal(2), normal(4), found(6), normal(8), normal(10)],
        [RAISED],
    ),
    ("the same trouble at the same moment is no news", [found(0), found(0)], [RAISED]),
    ("the same judgement twice counts once", [found(0), normal(2), normal(2), normal(4)], [RAISED, "stale"]),
    (
        "one arrival ends a silence",
        [found(0, INFO, kind="silence"), normal(2, kind="silence")],
        ["1 raised info active", "1 resolved info resolved"],
    ),
    (
        "one good look ends a fault of the gateway",
        [found(0, subject="gateway", kind="detector"), normal(2, subject="gateway", kind="detector")],
        [RAISED, ENDED],
    ),
    (
        "the first look that hears the herd ends its silence, and the next one is told after 1 h",
        [
            found(0, subject="herd", kind="silence_herd"),
            normal(2, subject="herd", kind="silence_herd"),
            found(62, subject="herd", kind="silence_herd"),
        ],
        [RAISED, ENDED, "2 raised warning active"],
    ),
    # cooldown (decision 18)
    (
        "no second health alert within 12 h",
        [found(0), *FEVER_OVER, found(14 + 719)],
        [RAISED, ENDED, "cooldown"],
    ),
    (
        "after 12 h a second episode",
        [found(0), *FEVER_OVER, found(14 + 720)],
        [RAISED, ENDED, "2 raised warning active"],
    ),
    (
        "a worse one passes the cooldown",
        [found(0), *FEVER_OVER, found(60, CRITICAL)],
        [RAISED, ENDED, "2 raised critical active"],
    ),
    (
        "a milder one does not",
        [found(0, CRITICAL), *FEVER_OVER, found(60)],
        ["1 raised critical active", "1 resolved critical resolved", "cooldown"],
    ),
    (
        "no second heat within 72 h",
        [
            found(0, kind="estrus"),
            *[normal(m, kind="estrus") for m in (10, 12, 14)],
            found(14 + 72 * 60 - 1, kind="estrus"),
            found(14 + 72 * 60, kind="estrus"),
        ],
        [RAISED, ENDED, "cooldown", "2 raised warning active"],
    ),
    (
        "no second sensor fault within 24 h",
        [
            found(0, kind="sensor_malfunction"),
            *[normal(m, kind="sensor_malfunction") for m in (10, 12, 14)],
            found(14 + 24 * 60 - 1, kind="sensor_malfunction"),
            found(14 + 24 * 60, kind="sensor_malfunction"),
        ],
        [RAISED, ENDED, "cooldown", "2 raised warning active"],
    ),
    (
        "a second fault of the gateway after 1 h",
        [
            found(0, subject="gateway", kind="silence"),
            normal(2, subject="gateway", kind="silence"),
            found(61, subject="gateway", kind="silence"),
            found(62, subject="gateway", kind="silence"),
        ],
        [RAISED, ENDED, "cooldown", "2 raised warning active"],
    ),
    # gaps (decision 6): info is a record and has no cooldown
    (
        "a gap that came and went is raised and resolved in one step",
        [found(11, INFO, kind="silence", onset_min=0, ended=True)],
        ["1 raised info active", "1 resolved info resolved"],
    ),
    (
        "two gaps of one day are two gaps",
        [
            found(11, INFO, kind="silence", onset_min=0, ended=True),
            found(1211, INFO, kind="silence", onset_min=1200, ended=True),
        ],
        [
            "1 raised info active",
            "1 resolved info resolved",
            "2 raised info active",
            "2 resolved info resolved",
        ],
    ),
    (
        "the same gap told twice is one gap",
        [found(11, INFO, kind="silence", onset_min=0, ended=True)] * 2,
        ["1 raised info active", "1 resolved info resolved", "stale"],
    ),
    (
        "a gap becomes a missing animal, and a gap after that is still recorded",
        [
            found(10, INFO, kind="silence", onset_min=0),
            found(60, WARNING, kind="silence", onset_min=0),
            normal(70, kind="silence"),
            found(90, INFO, kind="silence", onset_min=75, ended=True),
        ],
        [
            "1 raised info active",
            "1 escalated warning active",
            ENDED,
            "2 raised info active",
            "2 resolved info resolved",
        ],
    ),
    (
        "an open gap that closed between two looks resolves",
        [
            found(10, INFO, kind="silence", onset_min=0),
            found(12, INFO, kind="silence", onset_min=0, ended=True),
        ],
        ["1 raised info active", "1 resolved info resolved"],
    ),
    (
        "if it got worse before it closed, both are told",
        [
            found(10, INFO, kind="silence", onset_min=0),
            found(62, WARNING, kind="silence", onset_min=0, ended=True),
        ],
        ["1 raised info active", "1 escalated warning active", ENDED],
    ),
    # order of data time
    (
        "a normal judgement about an earlier time resolves nothing",
        [found(60), normal(10), normal(12), normal(14)],
        [RAISED, "stale", "stale", "stale"],
    ),
    (
        "an earlier gap does not end a later silence",
        [found(60, kind="silence"), found(20, INFO, kind="silence", onset_min=5, ended=True)],
        [RAISED, "stale"],
    ),
    ("earlier trouble refreshes nothing", [found(60), found(30)], [RAISED, "stale"]),
    (
        "but earlier and worse trouble escalates",
        [found(60), found(30, CRITICAL)],
        [RAISED, "1 escalated critical active"],
    ),
    (
        "what an ended episode already covered is not raised again",
        [found(0), *FEVER_OVER, found(8, CRITICAL)],
        [RAISED, ENDED, "stale"],
    ),
    (
        "trouble shortly before an ended episode belongs to it",
        [found(600), normal(602), normal(604), normal(606), found(500)],
        [RAISED, ENDED, "cooldown"],
    ),
    (
        "trouble long before it is an episode of its own",
        [found(6000), normal(6002), normal(6004), normal(6006), found(500)],
        [RAISED, ENDED, "2 raised warning active"],
    ),
    (
        "what began an ended episode is not raised again",
        [found(0), *FEVER_OVER, found(0, CRITICAL)],
        [RAISED, ENDED, "stale"],
    ),
    (
        "12 h before an ended episode is long before it",
        [found(1000), normal(1002), normal(1004), normal(1006), found(280)],
        [RAISED, ENDED, "2 raised warning active"],
    ),
    (
        "what ended at the moment of the last look is over",
        [found(10), found(10, ended=True)],
        [RAISED, ENDED],
    ),
    # what people say (decisions 17, 19)
    (
        "acknowledged once; the second changes nothing",
        [found(0, CRITICAL), ACK, ACK],
        ["1 raised critical active", "1 acknowledged critical acknowledged"],
    ),
    (
        "an acknowledged alert resolves by itself",
        [found(0), ACK, *FEVER_OVER],
        [RAISED, "1 acknowledged warning acknowledged", ENDED],
    ),
    (
        "an acknowledgement does not cover what is worse",
        [found(0), ACK, found(2, CRITICAL)],
        [RAISED, "1 acknowledged warning acknowledged", "1 escalated critical active"],
    ),
    (
        "a false positive ends it, and the same trouble stays quiet",
        [found(0), FALSE, found(2)],
        [RAISED, "1 false_positive warning false_positive", "cooldown"],
    ),
    (
        "an ended alert takes neither verdict nor acknowledgement",
        [found(0), FALSE, SOLD, ACK],
        [RAISED, "1 false_positive warning false_positive"],
    ),
    ("a sold animal's alert is closed", [found(0), SOLD], [RAISED, ENDED]),
    # telling again
    (
        "another kind of fault of the same sensor is told, at most every 30 min",
        [found(0, detail="a"), found(2, detail="b"), found(28, detail="b"), found(30, detail="b")],
        [RAISED, "1 updated warning active"],
    ),
    (
        "a new detail at the same moment waits like any other",
        [found(0, detail="a"), found(0, detail="b")],
        [RAISED],
    ),
    # time passes (decision 19)
    ("29.9 min are not 30", [found(0, CRITICAL), Clock(29.9)], [CRITICAL_RAISED]),
    ("more findings do not tell it again", [found(0, CRITICAL), found(31, CRITICAL)], [CRITICAL_RAISED]),
    (
        "critical and unacknowledged for 30 min is told again, and again",
        [found(0, CRITICAL), Clock(29.9), Clock(30), Clock(59), Clock(60)],
        [CRITICAL_RAISED, REPEATED, REPEATED],
    ),
    (
        "acknowledged, it is not",
        [found(0, CRITICAL), ACK, Clock(40)],
        [CRITICAL_RAISED, "1 acknowledged critical acknowledged"],
    ),
    ("a warning is not", [found(0), Clock(600)], [RAISED]),
    ("an ended one is not", [found(0, CRITICAL), SOLD, Clock(600)], [CRITICAL_RAISED, CRITICAL_ENDED]),
    (
        "getting worse starts the wait anew",
        [found(0), found(20, CRITICAL), Clock(45), Clock(50)],
        [RAISED, "1 escalated critical active", REPEATED],
    ),
    (
        "a clock that jumps to today makes one reminder, not fifty years of them",
        [found(0, CRITICAL), Clock(26_000_000), Clock(26_000_001), Clock(26_000_030)],
        [CRITICAL_RAISED, REPEATED, REPEATED],
    ),
    (
        "a clock that goes back starts the wait anew and silences nothing for ever",
        [found(0, CRITICAL), Clock(-26_000_000), Clock(-25_999_971), Clock(-25_999_970)],
        [CRITICAL_RAISED, REPEATED],
    ),
    (
        "the end of a silence tells what nobody has seen",
        [found(0), UNSILENCED],
        [RAISED, "1 repeated warning active"],
    ),
    (
        "and the next reminder is due a whole wait from there",
        [found(0, CRITICAL), Clock(20), UNSILENCED, Clock(49), Clock(50)],
        [CRITICAL_RAISED, REPEATED, REPEATED],
    ),
    (
        "but not what somebody has seen, nor what is over",
        [found(0), ACK, UNSILENCED, SOLD, UNSILENCED],
        [RAISED, "1 acknowledged warning acknowledged", ENDED],
    ),
    # calls for help
    ("a call for help is an alert", [call(0)], [CRITICAL_RAISED]),
    (
        "sent again within 30 s it is the same call",
        [call(0), call(0.1), call(0.49)],
        [CRITICAL_RAISED, "repeat", "repeat"],
    ),
    (
        "sent again later it is told, counted from what was told last",
        [call(0), call(0.4), call(0.5), call(0.9), call(1)],
        [CRITICAL_RAISED, "repeat", UPDATED, "repeat", UPDATED],
    ),
    (
        "sent again after somebody has acknowledged it wakes again",
        [call(0), ACK, call(0.4), call(2)],
        [
            CRITICAL_RAISED,
            "1 acknowledged critical acknowledged",
            "repeat",
            "1 renewed critical active",
        ],
    ),
    (
        "and reminders start anew",
        [call(0), Clock(10), ACK, call(20), Clock(49), Clock(50)],
        [
            CRITICAL_RAISED,
            "1 acknowledged critical acknowledged",
            "1 renewed critical active",
            REPEATED,
        ],
    ),
    (
        "sending it again and again does not put off the reminder",
        [call(0), call(10), call(20), Clock(30)],
        [CRITICAL_RAISED, UPDATED, UPDATED, REPEATED],
    ),
    (
        "no cooldown for a call, however soon after the last one was closed",
        [call(0), SOLD, call(0.1), FALSE, call(0.2)],
        [
            CRITICAL_RAISED,
            CRITICAL_ENDED,
            "2 raised critical active",
            "2 false_positive critical false_positive",
            "3 raised critical active",
        ],
    ),
    ("the very same message after that is no call", [call(0), SOLD, call(0)], CALL_TWICE),
    (
        "a call under a clock that was set back is told too",
        [call(600), call(10), call(10.1)],
        [CRITICAL_RAISED, UPDATED, "repeat"],
    ),
    (
        "and so is one after an ended call",
        [call(600), SOLD, call(10)],
        [CRITICAL_RAISED, CRITICAL_ENDED, "2 raised critical active"],
    ),
    (
        "no detector says that a call is over",
        [call(0), *[normal(m, kind="panic", subject="tag-7") for m in (1, 2, 3, 4)]],
        [CRITICAL_RAISED],
    ),
    (
        "nor that it came and went between two looks",
        [msgspec.structs.replace(call(0), ended=True)],
        [CRITICAL_RAISED],
    ),
    ("and a look that finds no call makes none", [normal(0, kind="panic", subject="tag-7")], []),
    (
        "60 min after it was acknowledged it is over",
        [call(0), Clock(5), ACK, Clock(64.9), Clock(65)],
        [CRITICAL_RAISED, "1 acknowledged critical acknowledged", CRITICAL_ENDED],
    ),
    (
        "not before",
        [call(0), Clock(5), ACK, Clock(64.9)],
        [CRITICAL_RAISED, "1 acknowledged critical acknowledged"],
    ),
    (
        "unless the clock went back in between: then 60 min from there",
        [call(0), ACK, Clock(-600), Clock(-541), Clock(-540)],
        [CRITICAL_RAISED, "1 acknowledged critical acknowledged", CRITICAL_ENDED],
    ),
    (
        "nobody has acknowledged it: it is told again, and never over",
        [call(0), Clock(60), Clock(6000)],
        [CRITICAL_RAISED, REPEATED, REPEATED],
    ),
    (
        "a milder call that gets worse escalates",
        [msgspec.structs.replace(call(0), severity=WARNING), ACK, call(0.1)],
        [RAISED, "1 acknowledged warning acknowledged", "1 escalated critical active"],
    ),
    # the emergency stop
    (
        "an emergency stop holds until a person ends it",
        [
            call(0, EMERGENCY_STOP),
            normal(1, kind=EMERGENCY_STOP, subject="barn"),
            ACK,
            Clock(60 * 24 * 30),
            SOLD,
        ],
        [CRITICAL_RAISED, "1 acknowledged critical acknowledged", CRITICAL_ENDED],
    ),
    (
        "pressed again while it holds, it is the same stop",
        [call(0, EMERGENCY_STOP), call(0.1, EMERGENCY_STOP), call(5, EMERGENCY_STOP)],
        [CRITICAL_RAISED, "repeat"],
    ),
    (
        "pressed again after it was ended, it is a new one",
        [call(0, EMERGENCY_STOP), SOLD, call(0.1, EMERGENCY_STOP)],
        [CRITICAL_RAISED, CRITICAL_ENDED, "2 raised critical active"],
    ),
    (
        "a fire at 3 in the morning sounds until somebody comes",
        [call(0, "fire"), *[Clock(30 * n) for n in range(1, 5)]],
        [CRITICAL_RAISED, *[REPEATED] * 4],
    ),
]


@pytest.mark.parametrize(("script", "told"), [case[1:] for case in LAW], ids=[case[0] for case in LAW])
def test_law(script: Script, told: list[str]) -> None:
    assert play(script)[1] == told


def test_update_carries_the_newest_numbers_and_keeps_the_onset() -> None:
    surer = msgspec.structs.replace(found(2, onset_min=-30), confidence=0.75)
    alert, _ = play([found(0), surer])
    assert alert is not None
    assert alert.confidence == 0.75
    assert (alert.sentence, alert.evidence.value, alert.onset_ms) == ("fever at minute 2", 2.0, T0)


def test_reason_is_given_only_when_there_is_something_to_tell() -> None:
    first = step(None, found(0), T0, POLICY)
    assert first.reason == "fever at minute 0"
    again = step(first.alert, found(2), T0 + 2 * MINUTE, POLICY)
    assert again.reason is None
    assert again.alert is not None
    worse = step(again.alert, found(4, CRITICAL), T0 + 4 * MINUTE, POLICY)
    assert worse.reason == "warning became critical: fever at minute 4"


def test_resolution_says_why() -> None:
    alert, _ = play([found(0), normal(10), normal(12)])
    assert step(alert, normal(14), T0, POLICY).reason == "normal 3 times in a row"
    said = msgspec.structs.replace(normal(14), sentence="38.6 °C, usual for this hour")
    assert step(alert, said, T0, POLICY).reason == "38.6 °C, usual for this hour"


@pytest.mark.parametrize(("lag_min", "late"), [(0, False), (359, False), (361, True), (525_600, True)])
def test_late_is_an_onset_more_than_6_h_before_the_gateways_clock(lag_min: float, late: bool) -> None:
    alert, _ = play([found(0, CRITICAL)], lag_min=lag_min)
    assert alert is not None
    assert alert.late is late


def test_a_late_alert_never_sounds_and_is_never_reminded_of() -> None:
    alert, told = play([found(0, CRITICAL), found(60, CRITICAL), Clock(660), Clock(6000)], lag_min=600)
    assert told == [CRITICAL_RAISED]
    assert alert is not None
    assert not sounds(alert)


def test_a_late_alert_that_worsens_now_is_news() -> None:
    alert, told = play([found(0, onset_min=-600), found(2, CRITICAL, onset_min=-600)])
    assert told[-1] == "1 escalated critical active"
    assert alert is not None
    assert alert.late is False
    assert sounds(alert)


@pytest.mark.parametrize(("lag_min", "late"), [(360, False), (361, True)])
def test_whether_it_worsened_late_is_judged_on_the_moment_it_worsened(lag_min: float, late: bool) -> None:
    for ended in (False, True):
        alert, told = play([found(0), found(2, CRITICAL, ended=ended)], lag_min=lag_min)
        assert "1 escalated critical active" in told
        assert alert is not None
        assert alert.late is late


@pytest.mark.parametrize("kind", sorted(NEVER_SILENCED))
def test_a_call_is_never_late_because_its_senders_clock_may_be_wrong(kind: str) -> None:
    alert, _ = play([call(0, kind)], lag_min=600_000)
    assert alert is not None
    assert alert.late is False
    assert sounds(alert)


def test_a_milder_call_that_gets_worse_is_never_late_either() -> None:
    alert, _ = play([msgspec.structs.replace(call(0), severity=WARNING), call(5)], lag_min=600)
    assert alert is not None
    assert alert.late is False
    assert sounds(alert)


def test_reminders_count_up_from_what_was_told_last_and_start_anew_when_it_gets_worse() -> None:
    alert, _ = play([found(0, CRITICAL), Clock(31), Clock(61)])
    assert alert is not None
    assert (alert.told_ms, alert.changed_ms, alert.reminders) == (T0 + 61 * MINUTE, T0 + 61 * MINUTE, 2)
    call_again, _ = play([call(0), Clock(31), ACK, call(40)])
    assert call_again is not None
    assert (call_again.told_ms, call_again.reminders) == (T0 + 40 * MINUTE, 0)
    milder = msgspec.structs.replace(alert, severity=WARNING)
    worse = step(milder, found(70, CRITICAL), T0 + 71 * MINUTE, POLICY).alert
    assert worse is not None
    assert (worse.told_ms, worse.reminders) == (T0 + 71 * MINUTE, 0)


def test_the_end_of_a_silence_is_no_reminder() -> None:
    alert, _ = play([found(0, CRITICAL), Clock(31), Clock(40), UNSILENCED])
    assert alert is not None
    assert (alert.told_ms, alert.reminders) == (T0 + 40 * MINUTE, 1)


def test_a_repeated_call_stays_as_it_was_told() -> None:
    alert, _ = play([call(0)])
    again = step(alert, call(0.2), T0 + 12_000, POLICY)
    assert again.alert is alert


def test_an_alert_of_a_version_that_kept_no_told_ms_is_reminded_of_from_its_last_move() -> None:
    alert, _ = play([found(0, CRITICAL)])
    assert alert is not None
    old = msgspec.structs.replace(alert, told_ms=0)
    assert elapse(old, T0 + 29 * MINUTE, POLICY).moves == ()
    assert elapse(old, T0 + 30 * MINUTE, POLICY).reason == "critical and still not acknowledged"


def test_a_clock_that_goes_back_moves_the_anchor_and_nothing_else() -> None:
    alert, _ = play([found(0, CRITICAL)])
    assert alert is not None
    back = elapse(alert, T0 - HOUR, POLICY)
    assert back == Step(msgspec.structs.replace(alert, told_ms=T0 - HOUR))
    answered, _ = play([call(0), ACK])
    assert answered is not None
    back = elapse(answered, T0 - HOUR, POLICY)
    assert back == Step(msgspec.structs.replace(answered, changed_ms=T0 - HOUR))


def test_a_clock_that_goes_back_does_not_hold_back_a_new_detail() -> None:
    alert = step(None, found(0, detail="a"), T0, POLICY).alert
    after = step(alert, found(2, detail="b"), T0 - HOUR, POLICY)
    assert [move.change for move in after.moves] == [Change.UPDATED]
    assert after.reason == "a became b"


def test_the_wait_and_the_end_of_a_call_say_why() -> None:
    alert, _ = play([call(0), call(1)])
    assert alert is not None
    said = step(alert, call(2), T0 + 2 * MINUTE, POLICY)
    assert said.reason == "sent again: panic at minute 2"
    seen = acknowledge(alert, T0 + 2 * MINUTE, "Eva goes").alert
    assert seen is not None
    again = step(seen, call(3), T0 + 3 * MINUTE, POLICY)
    assert again.reason == "sent again after it was acknowledged: panic at minute 3"
    assert elapse(seen, T0 + 62 * MINUTE, POLICY).reason == "acknowledged 60 min ago"


# ---- a herd event speaks for it ----------------------------------------------------------


def pair(severity: Severity = CRITICAL) -> tuple[Alert, Alert]:
    alert, _ = play([found(0, severity)])
    herd, _ = play([found(0, severity, subject="herd", kind="fever_herd")])
    assert alert is not None
    assert herd is not None
    return alert, herd


def test_a_folded_alert_never_sounds_and_is_never_told_again() -> None:
    alert, herd = pair()
    folded = fold(alert, herd, T0 + MINUTE)
    assert [move.change for move in folded.moves] == [Change.FOLDED]
    assert folded.reason == "one of many: fever_herd at minute 0"
    member = folded.alert
    assert member == msgspec.structs.replace(alert, folded_into="herd/fever_herd/1", changed_ms=T0 + MINUTE)
    assert member is not None
    assert not sounds(member)
    assert elapse(member, T0 + HOUR, POLICY) == Step(member)
    assert retell(member, T0 + HOUR, "over") == Step(member)


def test_it_is_folded_once_and_only_into_what_is_open() -> None:
    alert, herd = pair()
    member = fold(alert, herd, T0).alert
    assert member is not None
    assert fold(member, herd, T0 + MINUTE) == Step(member)
    over = close_by_hand(herd, State.RESOLVED, T0, "over").alert
    ended = close_by_hand(alert, State.RESOLVED, T0, "over").alert
    assert over is not None
    assert ended is not None
    assert fold(alert, over, T0) == Step(alert)
    assert fold(ended, herd, T0) == Step(ended)


def test_a_folded_alert_that_gets_worse_stays_folded() -> None:
    alert, herd = pair(WARNING)
    member = fold(alert, herd, T0).alert
    worse = step(member, found(2, CRITICAL), T0 + 2 * MINUTE, POLICY)
    assert [move.change for move in worse.moves] == [Change.ESCALATED]
    assert worse.alert is not None
    assert worse.alert.folded_into == "herd/fever_herd/1"
    assert not sounds(worse.alert)


def test_a_herd_event_has_no_cooldown_and_one_look_ends_it() -> None:
    herd = {"subject": "herd", "kind": "fever_herd"}
    script: Script = [found(0, **herd), normal(1, **herd), found(2, **herd)]  # type: ignore[arg-type]
    assert play(script)[1] == [RAISED, ENDED, "2 raised warning active"]


def test_a_herd_event_of_a_backlog_becomes_news_with_its_first_animal_of_today() -> None:
    herd = {"subject": "herd", "kind": "fever_herd"}
    late, _ = play([found(0, CRITICAL, onset_min=-600, **herd), ACK])  # type: ignore[arg-type]
    assert late is not None
    assert late.late
    still = step(late, found(2, CRITICAL, onset_min=-600, **herd), T0 + 2 * MINUTE, POLICY)  # type: ignore[arg-type]
    assert still.moves == ()
    news = step(late, found(2, WARNING, onset_min=-60, **herd), T0 + 2 * MINUTE, POLICY)  # type: ignore[arg-type]
    assert [move.change for move in news.moves] == [Change.ESCALATED]
    assert news.reason == "history became news: fever_herd at minute 2"
    assert news.alert is not None
    assert (news.alert.severity, sounds(news.alert)) == (CRITICAL, True)
    cow, _ = play([found(0, CRITICAL, onset_min=-600)])
    assert step(cow, found(2, CRITICAL, onset_min=-60), T0 + 2 * MINUTE, POLICY).moves == ()


def test_late_escalation_of_an_old_fact_keeps_the_newest_judgement() -> None:
    alert, _ = play([found(600), normal(602), found(30, CRITICAL)])
    assert alert is not None
    assert (alert.clear_n, alert.last_seen_ms, alert.late) == (1, T0 + 602 * MINUTE, True)


@pytest.mark.parametrize("at_min", [2, 4])
def test_an_escalation_by_the_newest_finding_starts_the_count_of_normal_ones_anew(at_min: float) -> None:
    alert, _ = play([found(0), normal(2), found(at_min, CRITICAL)])
    assert alert is not None
    assert alert.clear_n == 0


def test_what_came_and_went_says_so() -> None:
    after = step(None, found(0, ended=True), T0, POLICY)
    assert after.reason == "came and went between two looks"


@pytest.mark.parametrize(
    ("subject", "kind", "hours", "looks"),
    [
        ("COW_042", "fever", 12, 3),
        ("COW_042", "estrus", 72, 3),
        ("COW_042", "sensor_malfunction", 24, 3),
        ("COW_042", "silence", 24, 1),
        ("gateway", "silence", 1, 1),
        ("herd", "silence_herd", 1, 1),
        ("herd", "heat_stress", 12, 3),
        ("herd", "fever_herd", 0, 1),
        ("COW_042", "fever_herd", 12, 3),
        ("tag-7", "panic", 0, 3),
        ("barn", EMERGENCY_STOP, 0, 3),
    ],
)
def test_cooldown_and_hysteresis_of_each_kind(subject: str, kind: str, hours: int, looks: int) -> None:
    assert POLICY.cooldown_ms(subject, kind) == hours * HOUR
    assert POLICY.clear_n(subject, kind) == looks


def test_close_by_hand_only_ends() -> None:
    alert, _ = play([found(0)])
    assert alert is not None
    assert close_by_hand(alert, State.ACKNOWLEDGED, T0, "no verdict").alert is alert


def test_policy_numbers_are_settings() -> None:
    policy = AlertPolicy(cooldown_health_h=0.5, clear_judgements=1)
    assert play([found(0), normal(2), found(32)], policy)[1] == [RAISED, ENDED, "2 raised warning active"]


def test_event_json_is_what_receivers_read() -> None:
    alert, _ = play([found(0, CRITICAL), *FEVER_OVER])
    assert alert is not None
    event = msgspec.json.decode(event_json(alert, reason="over"))
    assert event["key"] == "COW_042/fever/1"
    assert event["cow_id"] == "COW_042"
    assert (event["severity"], event["state"]) == ("critical", "resolved")
    assert event["onset"] == "2023-11-14T22:13:20Z"
    assert event["ended"] == "2023-11-14T22:27:20Z"
    assert event["evidence"]["value"] == 0.0
    assert (event["change"], event["reason"]) == ("", "over")
    assert event_of(alert, Change.RESOLVED).change == "resolved"


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        *[(subject, "fever") for subject in sorted(NOT_ANIMALS)],
        *[("tag-7", kind) for kind in sorted(NEVER_SILENCED)],
    ],
)
def test_an_event_names_a_cow_only_where_it_is_about_one(subject: str, kind: str) -> None:
    alert, _ = play([found(0, subject=subject, kind=kind)])
    assert alert is not None
    event = event_of(alert)
    assert (event.cow_id, event.subject, event.ended) == (None, subject, None)


# ---- words of other systems ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "severity"),
    [
        *[(word, INFO) for word in ("info", "LOW")],
        *[(word, WARNING) for word in ("warning", "MEDIUM", "HIGH", "error", " Warning ")],
        *[(word, CRITICAL) for word in ("CRITICAL", "emergency", "panic", "SOS", "fire", "medical")],
        *[(word, CRITICAL) for word in ("geofence violation", "GEOFENCE_VIOLATION", "geofence-violation")],
    ],
)
def test_a_senders_word_means_one_severity(word: str, severity: Severity) -> None:
    assert Severity.of(word) is severity


@pytest.mark.parametrize("word", ["", "severe", "2", "criticall"])
def test_a_word_that_means_no_severity_is_named_with_those_that_do(word: str) -> None:
    with pytest.raises(
        ValueError, match=f"'{word}' is no severity; known: info, low, warning, medium, high,"
    ):
        Severity.of(word)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *[(state.value.upper(), state) for state in State],
        ("NEW", State.ACTIVE),
        (" in_progress", State.ACKNOWLEDGED),
        ("FALSE_ALARM", State.FALSE_POSITIVE),
    ],
)
def test_a_senders_word_means_one_state(word: str, state: State) -> None:
    assert State.of(word) is state


def test_a_word_that_means_no_state_is_named_with_those_that_do() -> None:
    with pytest.raises(
        ValueError,
        match="'done' is no state of an alert; known: active, acknowledged, resolved, false_positive, new, "
        "in_progress, false_alarm",
    ):
        State.of("done")


# ---- properties: any order of findings, people and restarts ------------------------------

KINDS = ("fever", "silence", "estrus")
FINDINGS = st.builds(
    lambda at, back, severity, kind, present, ended, detail: found(
        at, severity, kind=kind, onset_min=at - back, present=present, ended=ended, detail=detail
    ),
    at=st.integers(0, 10_000),
    back=st.integers(0, 600),
    severity=st.sampled_from(list(Severity)),
    kind=st.sampled_from(KINDS),
    present=st.booleans(),
    ended=st.booleans(),
    detail=st.sampled_from(["", "a", "b"]),
)
PEOPLE = st.tuples(st.sampled_from(KINDS), st.sampled_from([ACK, FALSE, SOLD]))
EVENTS = st.lists(FINDINGS | PEOPLE | st.just("restart"), max_size=60)
ALLOWED = {
    ("", State.ACTIVE),
    (State.ACTIVE, State.ACTIVE),
    (State.ACTIVE, State.ACKNOWLEDGED),
    (State.ACTIVE, State.RESOLVED),
    (State.ACTIVE, State.FALSE_POSITIVE),
    (State.ACKNOWLEDGED, State.ACTIVE),  # worse than what was acknowledged
    (State.ACKNOWLEDGED, State.ACKNOWLEDGED),
    (State.ACKNOWLEDGED, State.RESOLVED),
    (State.ACKNOWLEDGED, State.FALSE_POSITIVE),
}


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.integers(-1000, 20_000))
def test_any_order_keeps_the_law(events: list[Finding | tuple[str, str] | str], lag_min: int) -> None:
    newest: dict[str, Alert] = {}
    rows: dict[tuple[str, int], Alert] = {}
    for event in events:
        if isinstance(event, str):
            newest = {
                kind: msgspec.json.decode(msgspec.json.encode(alert), type=Alert)
                for kind, alert in newest.items()
            }
            continue
        now_ms = T0 + lag_min * MINUTE
        if isinstance(event, Finding):
            kind, before = event.kind, newest.get(event.kind)
            after = step(before, event, now_ms, POLICY)
        else:
            kind, before = event[0], newest.get(event[0])
            if before is None:
                continue
            after = by_hand(before, event[1], now_ms)
        audited(before, after)
        if after.alert is not None:
            newest[kind] = after.alert
        for move in after.moves:
            rows[kind, move.alert.episode] = move.alert
        if after.alert is not None:
            rows[kind, after.alert.episode] = after.alert
        for name in KINDS:
            mine = [alert for (key, _), alert in rows.items() if key == name]
            assert sum(alert.open for alert in mine) <= 1
            assert [alert.episode for alert in mine] == list(range(1, len(mine) + 1))


def audited(before: Alert | None, after: Step) -> None:
    """No change of state, severity or episode without a move, and each move follows the last."""
    shadow = before
    for move in after.moves:
        fresh_episode = shadow is None or move.alert.episode != shadow.episode
        assert move.from_state == ("" if fresh_episode else shadow.state)  # type: ignore[union-attr]
        assert (move.from_state, move.alert.state) in ALLOWED
        assert move.reason
        if not fresh_episode and shadow is not None:
            assert shadow.open
            assert move.alert.severity >= shadow.severity
            assert move.alert.last_seen_ms >= shadow.last_seen_ms
            if (shadow.state, move.alert.state) == (State.ACKNOWLEDGED, State.ACTIVE):
                assert move.alert.severity > shadow.severity
        shadow = move.alert
    if after.alert is not None:
        assert shadow is not None
        told = (shadow.state, shadow.severity, shadow.episode, shadow.late, shadow.ended_ms)
        now = after.alert
        assert told == (now.state, now.severity, now.episode, now.late, now.ended_ms)
