"""The alert law, as a table that reads like the decisions, and as properties."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.alert_event import event_json, event_of
from gateway.core.alerts import Alert, AlertPolicy, State, Step, acknowledge, close_by_hand, step
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


ACK, FALSE, SOLD = "ack", "false_positive", "sold"
Script = list[Finding | str]


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
        else:
            assert alert is not None
            after = by_hand(alert, event, now_ms)
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
    state = State.FALSE_POSITIVE if what == FALSE else State.RESOLVED
    return close_by_hand(alert, state, now_ms, what)


FEVER_OVER = [normal(10), normal(12), normal(14)]
RAISED, ENDED = "1 raised warning active", "1 resolved warning resolved"

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
        "critical and unacknowledged for 30 min is told again",
        [
            found(0, CRITICAL),
            found(28, CRITICAL),
            found(30, CRITICAL),
            found(58, CRITICAL),
            found(60, CRITICAL),
        ],
        ["1 raised critical active", "1 repeated critical active", "1 repeated critical active"],
    ),
    (
        "acknowledged, it is not",
        [found(0, CRITICAL), ACK, found(40, CRITICAL)],
        ["1 raised critical active", "1 acknowledged critical acknowledged"],
    ),
]


@pytest.mark.parametrize(("script", "told"), [case[1:] for case in LAW], ids=[case[0] for case in LAW])
def test_law(script: Script, told: list[str]) -> None:
    assert play(script)[1] == told


def test_update_carries_the_newest_numbers_and_keeps_the_onset() -> None:
    alert, _ = play([found(0), found(2, onset_min=-30)])
    assert alert is not None
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


def test_a_late_alert_is_not_repeated_but_gets_news_when_it_worsens_now() -> None:
    alert, told = play([found(0, CRITICAL), found(60, CRITICAL)], lag_min=600)
    assert told == ["1 raised critical active"]
    alert, told = play([found(0, onset_min=-600), found(2, CRITICAL, onset_min=-600)])
    assert told[-1] == "1 escalated critical active"
    assert alert is not None
    assert alert.late is False


def test_late_escalation_of_an_old_fact_keeps_the_newest_judgement() -> None:
    alert, _ = play([found(600), normal(602), found(30, CRITICAL)])
    assert alert is not None
    assert (alert.clear_n, alert.last_seen_ms, alert.late) == (1, T0 + 602 * MINUTE, True)


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
    herd, _ = play([found(0, subject="herd")])
    assert herd is not None
    assert event_of(herd).cow_id is None
    assert event_of(herd).ended is None


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
