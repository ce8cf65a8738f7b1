"""What a rejected message counts for (decisions 4, 7, 10)."""

from __future__ import annotations

import pytest

from gateway.core.messages import Reason, Rejection
from gateway.core.refusals import Refusal, weigh

NOW = 29_400_000  # minutes: 2025-11-24
MS = 60_000


@pytest.mark.parametrize(
    ("rejection", "expected"),
    [
        (Rejection(Reason.MISSING_FIELD, "", "A"), Refusal("A", None, True, None, False)),
        (Rejection(Reason.BAD_TIMESTAMP, "", "A"), Refusal("A", None, False, None, False)),
        (
            Rejection(Reason.TEMPERATURE_OUT_OF_RANGE, "", "A", 43.0, NOW * MS),
            Refusal("A", NOW, True, 43.0, True),
        ),
        (
            Rejection(Reason.TEMPERATURE_OUT_OF_RANGE, "", "A", 44.1, NOW * MS),
            Refusal("A", NOW, True, 44.1, False),
        ),
        (
            Rejection(Reason.TEMPERATURE_OUT_OF_RANGE, "", "A", 20.0, 0),
            Refusal("A", None, True, 20.0, False),
        ),
        (
            Rejection(Reason.TIMESTAMP_IN_FUTURE, "", "A", None, (NOW + 1441) * MS),
            Refusal("A", None, False, None, False),
        ),
        (Rejection(Reason.NOT_UTF8, "", None), None),
        (Rejection(Reason.TOO_MANY_ANIMALS, "", "A"), None),
        (Rejection(Reason.MISSING_FIELD, "", "no id"), None),
    ],
)
def test_what_a_rejection_counts_for(rejection: Rejection, expected: Refusal | None) -> None:
    assert weigh(rejection, NOW) == expected
