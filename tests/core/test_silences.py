"""Silences: what they cover, and which ones may be set."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.alerts import NEVER_SILENCED, Alert, State
from gateway.core.instants import DAY_MS
from gateway.core.severity import Severity
from gateway.core.silences import SILENCE_MAX_MS, Silence, covers, silence_fault, silenced

T0 = 1_700_000_000_000


def silence(subject: str | None = None, kind: str | None = None, until_ms: int = T0 + 1000) -> Silence:
    return Silence(1, subject, kind, T0, until_ms, "Eva", "web", "the vet is here")


def alert(subject: str, kind: str) -> Alert:
    return Alert(
        id=1,
        subject=subject,
        kind=kind,
        episode=1,
        severity=Severity.CRITICAL,
        state=State.ACTIVE,
        onset_ms=T0,
        last_seen_ms=T0,
        raised_ms=T0,
        changed_ms=T0,
        confidence=1.0,
        sentence="",
    )


@pytest.mark.parametrize(
    ("subject", "kind", "covered"),
    [
        (None, None, {"COW_1/fever", "COW_2/fever", "COW_1/estrus", "herd/fever_herd", "gateway/disk"}),
        ("COW_1", None, {"COW_1/fever", "COW_1/estrus"}),
        (None, "fever", {"COW_1/fever", "COW_2/fever", "herd/fever_herd"}),
        ("COW_1", "fever", {"COW_1/fever"}),
        ("herd", "fever", {"herd/fever_herd"}),
        ("herd", None, {"herd/fever_herd"}),
        (None, "fever_herd", {"herd/fever_herd"}),
        ("gateway", "disk", {"gateway/disk"}),
        ("COW_3", "fever", set()),
    ],
)
def test_a_silence_covers_an_animal_a_kind_or_the_barn(
    subject: str | None, kind: str | None, covered: set[str]
) -> None:
    alerts = [
        alert(*name.split("/"))
        for name in ("COW_1/fever", "COW_2/fever", "COW_1/estrus", "herd/fever_herd", "gateway/disk")
    ]
    quiet = silence(subject, kind)
    assert {f"{one.subject}/{one.kind}" for one in alerts if covers(quiet, one)} == covered


def test_only_the_herd_has_herd_events() -> None:
    assert not covers(silence(kind="fever"), alert("COW_1", "fever_herd"))


@pytest.mark.parametrize("kind", sorted(NEVER_SILENCED))
def test_a_call_for_help_is_never_silenced(kind: str) -> None:
    assert not covers(silence(), alert("tag-7", kind))
    assert not covers(silence("tag-7", kind), alert("tag-7", kind))
    assert silence_fault(silence(kind=kind)) == f"{kind} is never silenced; acknowledge the alert instead"


def test_an_ended_silence_covers_nothing() -> None:
    assert not covers(msgspec.structs.replace(silence(), ended_ms=T0 + 5), alert("COW_1", "fever"))


def test_one_of_several_is_enough() -> None:
    fever = alert("COW_1", "fever")
    assert silenced(fever, [silence("COW_2"), silence("COW_1")])
    assert not silenced(fever, [silence("COW_2"), silence(kind="estrus")])
    assert not silenced(fever, [])


@pytest.mark.parametrize("length_ms", [1, 3_600_000, 7 * DAY_MS])
def test_a_silence_of_up_to_a_week_may_be_set(length_ms: int) -> None:
    assert silence_fault(silence(until_ms=T0 + length_ms)) is None


@pytest.mark.parametrize("length_ms", [0, -1, -7 * DAY_MS])
def test_a_silence_ends_after_it_begins(length_ms: int) -> None:
    fault = silence_fault(silence(until_ms=T0 + length_ms))
    assert fault == "the silence ends before it begins; give an end after now"


def test_a_silence_longer_than_a_week_is_refused_with_the_remedy() -> None:
    fault = silence_fault(silence(until_ms=T0 + SILENCE_MAX_MS + 1))
    assert fault == ("the silence is longer than 7 days; give an earlier end and renew it when it is over")
