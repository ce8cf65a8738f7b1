"""Alerts in words: short enough for a telephone, complete in a letter, in the reader's language."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.languages import load_languages
from gateway.core.alert_event import AlertEvent, event_of
from gateway.core.alerts import Alert, Change, State
from gateway.core.day_summary import DaySummary, Raised
from gateway.core.findings import Evidence
from gateway.core.places import Place, map_link, place_in
from gateway.core.severity import Severity
from gateway.core.texts import cut, one_line
from gateway.core.wording import digest, digest_short, full, short, summary, summary_short, title

LANGUAGES = load_languages()
EN, DE = LANGUAGES["en"], LANGUAGES["de"]
ZONE = ZoneInfo("Europe/Berlin")
ONSET_MS = 1_764_079_200_000  # 2025-11-25 14:00 UTC, 15:00 in the barn
LINK = "https://192.168.1.20:8080/a/17.1764090000.AbCdEfGhIjKlMnOpQrStUv"
GSM_7 = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà^{}\\[~]|€"
)
"""3GPP TS 23.038, default alphabet and its extension."""

FEVER = Alert(
    id=17,
    subject="COW_042",
    kind="fever",
    episode=3,
    severity=Severity.CRITICAL,
    state=State.ACTIVE,
    onset_ms=ONSET_MS,
    last_seen_ms=ONSET_MS + 720_000,
    raised_ms=ONSET_MS + 780_000,
    changed_ms=ONSET_MS + 780_000,
    confidence=0.8,
    sentence="COW_042: 40.6 °C at 2025-11-25 14:12 UTC, 2 readings of 40.5 °C or more in 12 min",
    evidence=Evidence(40.6, "°C", 38.6, 2.0, 12.0, 120, "herd normal (+0.1 °C, 12 animals)", 0.93),
    detail="repeated_reading",
)
PANIC = msgspec.structs.replace(
    FEVER,
    subject="guard-101",
    kind="panic",
    confidence=1.0,
    sentence="guard-101 calls for help: Emergency assistance needed",
    evidence=Evidence(),
    detail="lat=12.9716 lon=77.5946",
)


def event(
    alert: Alert = FEVER, change: Change = Change.RAISED, reason: str = "", **fields: object
) -> AlertEvent:
    return msgspec.structs.replace(event_of(alert, change, reason), **fields)


def alert(**changes: object) -> Alert:
    return msgspec.structs.replace(FEVER, **changes)


TITLES = [
    (event(), "CRITICAL fever COW_042", "KRITISCH Fieber COW_042"),
    (event(alert(severity=Severity.INFO)), "NOTE fever COW_042", "HINWEIS Fieber COW_042"),
    (event(change=Change.ESCALATED), "NOW CRITICAL fever COW_042", "JETZT KRITISCH Fieber COW_042"),
    (event(change=Change.REPEATED), "STILL CRITICAL fever COW_042", "IMMER NOCH KRITISCH Fieber COW_042"),
    (event(PANIC, Change.RENEWED), "AGAIN CRITICAL panic Guard #101", "ERNEUT KRITISCH Notruf Guard #101"),
    (event(change=Change.RESOLVED), "OVER fever COW_042 (CRITICAL)", "VORBEI Fieber COW_042 (KRITISCH)"),
    (
        event(change=Change.FALSE_POSITIVE),
        "FALSE ALARM fever COW_042 (CRITICAL)",
        "FEHLALARM Fieber COW_042 (KRITISCH)",
    ),
    (event(change=Change.ACKNOWLEDGED), "SEEN CRITICAL fever COW_042", "GESEHEN KRITISCH Fieber COW_042"),
    (
        event(change=Change.ACKNOWLEDGED, who="Anna"),
        "SEEN by Anna: CRITICAL fever COW_042",
        "GESEHEN von Anna: KRITISCH Fieber COW_042",
    ),
    (
        event(alert(late=True)),
        "REPORTED LATE CRITICAL fever COW_042",
        "NACHGEMELDET KRITISCH Fieber COW_042",
    ),
    (
        event(alert(late=True), Change.RESOLVED),
        "OVER fever COW_042 (CRITICAL)",
        "VORBEI Fieber COW_042 (KRITISCH)",
    ),
    (
        event(alert(subject="herd", kind="fever_herd")),
        "CRITICAL fever (several animals)",
        "KRITISCH Fieber (mehrere Tiere)",
    ),
    (event(alert(subject="barn", kind="emergency_stop")), "CRITICAL emergency stop", "KRITISCH Not-Halt"),
    (event(alert(kind="loose_bolt")), "CRITICAL loose bolt COW_042", "KRITISCH loose bolt COW_042"),
    (event_of(FEVER), "CRITICAL fever COW_042", "KRITISCH Fieber COW_042"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("one", "english", "german"), TITLES, ids=[t[1] for t in TITLES])
def test_title(one: AlertEvent, english: str, german: str) -> None:
    assert title(one, EN) == english
    assert title(one, DE) == german


def test_every_change_has_a_title_in_every_language() -> None:
    for phrases in LANGUAGES.values():
        assert all("COW_042" in title(event(change=change), phrases) for change in Change)


# --- the text message ------------------------------------------------------------------------


def test_a_fever_on_a_telephone() -> None:
    assert short(event(), EN) == (
        "CRITICAL fever COW_042: measured more than once, 40.6 C (usual 38.6 C), for 12 min #17"
    )
    assert short(event(), DE) == (
        "KRITISCH Fieber COW_042: mehrfach gemessen, 40,6 C (sonst 38,6 C), seit 12 min #17"
    )


def test_a_call_for_help_says_who_and_where() -> None:
    assert short(event(PANIC), EN) == "🚨 PANIC: Guard #101 at 12.97°N, 77.59°E #17"
    assert short(event(PANIC), DE, LINK) == f"🚨 NOTRUF: Guard #101 bei 12.97°N, 77.59°E #17 {LINK}"


def test_a_call_without_a_place_says_what_was_sent() -> None:
    call = msgspec.structs.replace(PANIC, detail="")
    assert short(event(call), EN) == (
        "CRITICAL panic Guard #101: guard-101 calls for help: Emergency assistance needed #17"
    )


def test_a_call_that_is_over_raises_no_alarm() -> None:
    assert short(event(PANIC, Change.RESOLVED), EN) == "OVER panic Guard #101 (CRITICAL) #17"


def test_silence_is_told_as_a_duration_once() -> None:
    missing = alert(
        kind="silence",
        severity=Severity.WARNING,
        detail="missing_animal",
        evidence=Evidence(65.0, "min", 1.0, 64.0, 65.0, 300, "herd heard", 0.0),
    )
    assert (
        short(event(missing), EN) == "WARNING no signal COW_042: animal missing, 1 h 5 min (usual 1 min) #17"
    )


def test_what_has_no_numbers_speaks_with_the_detectors_sentence() -> None:
    herd = alert(subject="herd", kind="fever_herd", sentence="7 animals have fever: COW_001, COW_002")
    assert short(event(herd), DE) == (
        "KRITISCH Fieber (mehrere Tiere): 7 animals have fever: COW_001, COW_002 #17"
    )


def test_the_end_is_one_line_with_what_a_person_said() -> None:
    assert (
        short(event(change=Change.RESOLVED, reason="normal 3 times"), EN)
        == "OVER fever COW_042 (CRITICAL) #17"
    )
    seen = event(change=Change.ACKNOWLEDGED, reason="driving out", who="Anna")
    assert short(seen, EN) == "SEEN by Anna: CRITICAL fever COW_042: driving out #17"


def test_a_link_stands_last_and_whole_and_what_happened_is_cut_for_it() -> None:
    text = short(event(alert(sentence="word " * 60, evidence=Evidence(), detail="")), EN, LINK)
    assert len(text) <= 160
    assert text.startswith("CRITICAL fever COW_042: word word")
    assert text.endswith(f"word... #17 {LINK}")


def test_a_link_that_leaves_no_room_is_left_out() -> None:
    text = short(event(), EN, "https://barn.example.org/" + "x" * 100)
    assert text.endswith("for 12 min #17")


def test_a_link_that_just_fits_is_given() -> None:
    room = 160 - 40 - len(" #17 ")
    assert short(event(), EN, "x" * room).endswith("x" * room)
    assert "x" not in short(event(), EN, "x" * (room + 1)).split("#17")[1]


def test_nothing_is_to_be_seen_to_once_it_is_over() -> None:
    over = event(change=Change.RESOLVED)
    assert LINK not in short(over, EN, LINK)
    assert LINK not in full(over, EN, link=LINK, zone=ZONE)[1]


few = settings(max_examples=40)
texts = st.text(max_size=80)
numbers = st.none() | st.floats()
events = st.builds(
    AlertEvent,
    schema=st.just("artemis.alert/1"),
    key=texts,
    id=st.integers(0, 2**63),
    subject=texts,
    cow_id=st.none() | texts,
    kind=st.sampled_from(["fever", "panic", "fever_herd", "silence"]) | texts,
    episode=st.integers(1, 1000),
    severity=st.sampled_from(["info", "warning", "critical"]),
    state=st.sampled_from([state.value for state in State]),
    change=st.sampled_from(["", *(change.value for change in Change)]),
    reason=texts,
    sentence=texts,
    detail=st.sampled_from(["", "lat=12.9716 lon=77.5946", "lat=-91 lon=0", "single_reading"]) | texts,
    confidence=st.floats(),
    evidence=st.builds(
        Evidence,
        value=numbers,
        unit=st.sampled_from(["°C", "g", "min", "animals", ""]),
        baseline=numbers,
        deviation=numbers,
        duration_min=numbers,
        reference_n=st.integers(0, 10**6),
        herd=texts,
        quality=st.floats(),
    ),
    late=st.booleans(),
    onset=st.just("2025-11-25T14:00:00Z"),
    last_seen=st.just("2025-11-25T14:00:00Z"),
    raised=st.just("2025-11-25T14:00:00.123Z"),
    changed=st.just("2025-11-25T14:00:00Z"),
    ended=st.none() | st.just("2025-11-25T14:00:00Z"),
    reminders=st.integers(0, 100),
    who=texts,
)


@few
@given(one=events, phrases=st.sampled_from([EN, DE]), link=st.sampled_from(["", LINK, "x" * 200]))
def test_any_event_fits_into_a_text_message_and_ends_with_its_number(
    one: AlertEvent, phrases: object, link: str
) -> None:
    text = short(one, phrases, link)  # type: ignore[arg-type]
    assert len(text) <= 160
    assert text.isprintable()
    assert text.endswith((f" #{one.id}", f" #{one.id} {link}"))


@few
@given(one=events, phrases=st.sampled_from([EN, DE]))
def test_any_event_can_be_told_in_full(one: AlertEvent, phrases: object) -> None:
    heading, body = full(one, phrases, link=LINK, zone=ZONE)  # type: ignore[arg-type]
    assert len(heading) <= 150
    assert heading.isprintable()
    assert all(line.isprintable() for line in body.split("\n"))


def test_what_is_no_number_has_no_line() -> None:
    nan, endless = float("nan"), float("inf")
    one = event(
        alert(evidence=Evidence(nan, "°C", endless, -endless, nan, 5, "herd heard", nan), confidence=nan)
    )
    _, body = full(one, EN, zone=ZONE)
    assert body.splitlines()[3:-2] == ["Since: 2025-11-25 15:00 CET"]
    assert short(one, EN) == "CRITICAL fever COW_042: measured more than once #17"


@pytest.mark.parametrize("phrases", LANGUAGES.values(), ids=LANGUAGES)
def test_animals_alerts_cost_one_message(phrases: object) -> None:
    """In the telephone's own alphabet 160 characters are one part, outside of it 70."""
    for change in Change:
        assert set(short(event(change=change, who="Anna"), phrases, LINK)) <= GSM_7  # type: ignore[arg-type]


# --- the letter ------------------------------------------------------------------------------


def test_a_letter_in_english() -> None:
    heading, body = full(event(), EN, link=LINK, zone=ZONE)
    assert heading == "CRITICAL fever COW_042"
    assert (
        body
        == f"""\
fever COW_042: measured more than once, 40.6 °C (usual 38.6 °C), for 12 min
COW_042: 40.6 °C at 2025-11-25 14:12 UTC, 2 readings of 40.5 °C or more in 12 min

Measured: 40.6 °C
Usual: 38.6 °C (from 120 readings)
Difference: +2.0 °C
Lasting: 12 min
Herd: the other animals are normal (+0.1 °C, 12 animals)
How sure: 80 %
Data received: 93 %
Since: 2025-11-25 15:00 CET

I see to it: {LINK}

Alert #17 (COW_042/fever/3)"""
    )


def test_a_letter_in_german_gives_the_detectors_words_as_original() -> None:
    _, body = full(event(), DE, zone=ZONE)
    assert (
        body
        == """\
Fieber COW_042: mehrfach gemessen, 40,6 °C (sonst 38,6 °C), seit 12 min
Wortlaut (englisch): COW_042: 40.6 °C at 2025-11-25 14:12 UTC, 2 readings of 40.5 °C or more in 12 min

Gemessen: 40,6 °C
Sonst: 38,6 °C (aus 120 Messungen)
Unterschied: +2,0 °C
Dauer: 12 min
Herde: die anderen Tiere sind unauffällig (+0,1 °C, 12 Tiere)
Wie sicher: 80 %
Daten empfangen: 93 %
Seit: 25.11.2025 15:00 CET

Alarm #17 (COW_042/fever/3)"""
    )


def test_a_letter_of_a_call_has_the_map() -> None:
    _, body = full(event(PANIC), EN, link=LINK, zone=ZONE)
    assert (
        body
        == f"""\
guard-101 calls for help: Emergency assistance needed

Place: 12.97°N, 77.59°E
Map: https://www.openstreetmap.org/?mlat=12.97160&mlon=77.59460#map=17/12.97160/77.59460
Since: 2025-11-25 15:00 CET

I see to it: {LINK}

Alert #17 (guard-101/panic/3)"""
    )


def test_a_letter_of_the_end_says_when_who_and_why() -> None:
    ended = alert(state=State.FALSE_POSITIVE, ended_ms=ONSET_MS + 3_600_000)
    _, body = full(event(ended, Change.FALSE_POSITIVE, "thermometer slipped", who="Anna"), EN, zone=ZONE)
    assert "Over since: 2025-11-25 16:00 CET\nBy: Anna\nNote: thermometer slipped\n" in body


def test_a_reminder_says_which() -> None:
    _, body = full(event(change=Change.REPEATED, reminders=2), EN, zone=ZONE)
    assert "Reminder no. 2: nobody has seen to it yet" in body
    assert "Reminder" not in full(event(), EN, zone=ZONE)[1]


@pytest.mark.parametrize(
    ("phrase", "english", "german"),
    [
        (
            "herd has risen (+0.7 °C, 12 animals)",
            "Herd: the whole herd is warmer (+0.7 °C, 12 animals)",
            "Herde: die ganze Herde ist wärmer (+0,7 °C, 12 Tiere)",
        ),
        ("herd unknown (3 animals to compare with)", None, None),
        ("herd heard", None, None),
        ("judged alone", None, None),
        ("7 animals at once", None, None),
        ("15 of 20 silent", None, None),
        ("two of them limp", "Herd: two of them limp", "Herde: two of them limp"),
    ],
)
def test_what_the_herd_did_meanwhile(phrase: str, english: str | None, german: str | None) -> None:
    one = event(alert(evidence=msgspec.structs.replace(FEVER.evidence, herd=phrase)))
    for phrases, line in ((EN, english), (DE, german)):
        body = full(one, phrases, zone=ZONE)[1].splitlines()
        assert [text for text in body if text.startswith("Herd")] == ([line] if line else [])


def test_a_herd_event_counts_its_animals() -> None:
    for n, unit, line in ((7, "animals", "Gemessen: 7 Tiere"), (1, "animal", "Gemessen: 1 Tier")):
        herd = alert(subject="herd", kind="fever_herd", evidence=Evidence(float(n), unit))
        assert line in full(event(herd), DE, zone=ZONE)[1].splitlines()


def test_summer_and_winter_have_their_own_time() -> None:
    _, body = full(event(alert(onset_ms=1_753_452_000_000)), DE, zone=ZONE)
    assert "Seit: 25.07.2025 16:00 CEST" in body


def test_a_name_in_braces_is_no_template() -> None:
    assert short(event(who="{severity}", change=Change.ACKNOWLEDGED), EN).startswith("SEEN by {severity}: ")


# --- several in one --------------------------------------------------------------------------


def many(n: int, severity: Severity = Severity.WARNING) -> list[AlertEvent]:
    return [
        event(alert(id=i, subject=f"COW_{i:03d}", severity=severity, raised_ms=ONSET_MS + i))
        for i in range(1, n + 1)
    ]


def test_a_digest_counts_and_begins_with_the_worst() -> None:
    call = msgspec.structs.replace(PANIC, id=99)
    heading, body = digest([*many(3), event(call), *many(0)], EN, ZONE)
    assert heading == "Alerts that waited: 4"
    lines = body.splitlines()
    assert lines[0] == "These waited because there was no line, or because of quiet hours."
    assert lines[2:4] == ["CRITICAL: panic 1", "WARNING: fever 3"]
    assert [line.rsplit("#", 1)[1] for line in lines[5:]] == ["99", "3", "2", "1"]
    assert lines[5].startswith("2025-11-25 15:13 CET  CRITICAL panic Guard #101")


def test_of_an_alert_that_came_and_went_only_the_end_is_told() -> None:
    over = alert(state=State.RESOLVED)
    _, body = digest([event(), event(over, Change.RESOLVED)], DE, ZONE)
    assert body.count("#17") == 1
    assert "VORBEI Fieber COW_042" in body


def test_what_nobody_has_seen_comes_before_what_is_seen_and_over() -> None:
    seen = alert(id=2, episode=4, state=State.ACKNOWLEDGED, raised_ms=ONSET_MS + 9)
    over = alert(id=3, episode=5, state=State.RESOLVED, raised_ms=ONSET_MS + 10)
    _, body = digest([event(over, Change.RESOLVED), event(seen, Change.ACKNOWLEDGED), event()], EN, ZONE)
    assert re.findall(r"#(\d+)$", body, re.MULTILINE) == ["17", "2", "3"]


@pytest.mark.parametrize(
    ("n", "lines", "more"), [(20, 20, None), (21, 20, "and 1 more"), (500, 20, "and 480 more")]
)
def test_a_digest_has_at_most_20_lines(n: int, lines: int, more: str | None) -> None:
    _, body = digest(many(n), EN, ZONE)
    assert len(re.findall(r"#\d+$", body, re.MULTILINE)) == lines
    assert (body.splitlines()[-1] == more) is (more is not None)
    assert f"fever {n}" in body


def test_a_digest_on_a_telephone() -> None:
    assert digest_short([*many(3), event()], EN) == (
        "Alerts that waited (no line or quiet hours): 4 - CRITICAL 1, WARNING 3. "
        "First: CRITICAL fever COW_042 #17"
    )
    assert digest_short(many(2), DE) == (
        "Gewartet (keine Verbindung oder Ruhezeit): 2 - WARNUNG 2. Zuerst: WARNUNG Fieber COW_002 #2"
    )


@few
@given(found=st.lists(events, max_size=8), phrases=st.sampled_from([EN, DE]))
def test_any_events_fold_into_one(found: list[AlertEvent], phrases: object) -> None:
    assert len(digest_short(found, phrases)) <= 160  # type: ignore[arg-type]
    _, body = digest(found, phrases, ZONE)  # type: ignore[arg-type]
    assert len(body) < 20_000


# --- the day ---------------------------------------------------------------------------------

DAY = DaySummary(
    from_ms=1_764_025_200_000,
    until_ms=1_764_111_600_000,
    raised=(Raised("info", "silence", 4), Raised("critical", "fever", 1), Raised("warning", "fever", 2)),
    open_now=tuple(event_of(one) for one in (alert(id=3, severity=Severity.WARNING), FEVER)),
    animals_n=182,
    readings_n=261_034,
    rejected_n=5,
    silent=("COW_007", "COW_011"),
)


def test_the_day_in_a_letter() -> None:
    heading, body = summary(DAY, EN, ZONE)
    assert heading == "Day 2025-11-25: 7 alerts, 2 open"
    assert (
        body
        == """\
Alerts: 7
  CRITICAL: fever 1
  WARNING: fever 2
  NOTE: no signal 4
Still open: 2
  CRITICAL fever COW_042 #17
  WARNING fever COW_042 #3
Animals seen: 182
Readings stored: 261034
Messages refused: 5
Animals without a signal: 2
  COW_007, COW_011"""
    )


def test_the_day_on_a_telephone() -> None:
    assert summary_short(DAY, DE, ZONE) == ("Tag 25.11.2025: Alarme 7, offen 2, Tiere gesehen 182, stumm 2")


def test_a_quiet_day_and_a_bad_day_are_told_too() -> None:
    heading, body = summary(DaySummary(0, 86_400_000), EN, ZONE)
    assert heading == "Day 1970-01-01: 0 alerts, 0 open"
    assert "Animals seen: 0" in body
    bad = msgspec.structs.replace(
        DAY,
        open_now=tuple(event_of(alert(id=i)) for i in range(300)),
        silent=tuple(f"COW_{i:03d}" for i in range(300)),
    )
    _, body = summary(bad, EN, ZONE)
    assert body.count("and 280 more") == 2
    assert len(body.splitlines()) < 40


# --- places and cuts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        ("lat=12.9716 lon=77.5946", "12.97°N, 77.59°E"),
        ("lat=-33.8688 lon=-70.6", "33.87°S, 70.60°W"),
        ("pressed; lat=0 lon=0", "0.00°N, 0.00°E"),
        ("lat=90.1 lon=0", None),
        ("lat=0 lon=180.5", None),
        ("lat=12.9.7 lon=77", None),
        ("lat=1 lon=1234", None),
        ("flat=12.9716 lon=77.5946", None),
        ("", None),
    ],
)
def test_a_place_in_a_detail(detail: str, text: str | None) -> None:
    place = place_in(detail)
    assert (str(place) if place else None) == text


def test_a_map_link_is_plain_decimal() -> None:
    assert map_link(Place(-0.000001, 0.00001)).startswith(
        "https://www.openstreetmap.org/?mlat=-0.00000&mlon=0.00001#"
    )


@pytest.mark.parametrize(
    ("text", "chars_max", "result"),
    [
        ("a fever", 7, "a fever"),
        ("a high fever", 9, "a high..."),
        ("a high fever", 11, "a high..."),
        ("high, fever", 9, "high..."),
        ("incomprehensible", 10, "incompr..."),
        ("abcdef", 2, "ab"),
    ],
)
def test_a_cut_is_at_a_word(text: str, chars_max: int, result: str) -> None:
    assert cut(text, chars_max) == result


def test_breaks_and_control_characters_become_spaces() -> None:
    assert one_line("a\r\nBcc: b\x00\u2028\u202ec  d") == "a Bcc: b c d"


@given(texts, st.integers(1, 200))
def test_one_line_is_one_line(text: str, chars_max: int) -> None:
    line = one_line(text, chars_max)
    assert len(line) <= chars_max
    assert len(line.splitlines()) <= 1
