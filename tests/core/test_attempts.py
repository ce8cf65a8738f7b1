from __future__ import annotations

from gateway.core.attempts import GIVE_UP_STRIKES, MINUTE_S, Attempts
from gateway.core.contacts import Address, Contact
from gateway.core.notices import SMS_PER_MIN, Sending, Waiting


def letter(seq: int, to: str = "+49151") -> Sending:
    address = Address("sms", to)
    return Sending(Contact("Anna", (address,)), address, (Waiting(seq, 0, None, b""),))


A, B, D = letter(1, "a"), letter(2, "b"), letter(3, "d")


def test_the_first_in_order_is_tried_first_also_after_it_failed() -> None:
    attempts = Attempts(limited=False)
    assert attempts.next([A, B], [], 0.0) is A
    attempts.failed(A, 0.0, 1.0)
    assert attempts.next([A, B], [], 0.0) is A


def test_beside_a_suspect_the_one_tried_least_is_tried() -> None:
    attempts = Attempts(limited=False)
    attempts.failed(B, 0.0, 1.0)
    assert attempts.next([A, B, D], [A], 0.0) is D
    assert attempts.next([A], [A], 0.0) is None


def test_what_failed_while_others_went_through_goes_behind_them_and_waits() -> None:
    attempts = Attempts(limited=False)
    attempts.failed(A, 0.0, 1.0)
    attempts.went_through([A], 0.0, 1.0)
    assert attempts.next([A, D], [], 1.0) is D
    assert attempts.wait_s(A, 0.0) == 15
    assert attempts.next([A, D], [], 20.0) is D
    assert attempts.next([A], [], 20.0) is A


def test_failures_of_an_outage_are_no_strikes() -> None:
    attempts = Attempts(limited=False)
    for _ in range(50):
        attempts.failed(A, 0.0, 1.0)
    assert attempts.trouble(A).strikes == 0
    attempts.went_through([A], 0.0, 1.0)
    for _ in range(50):
        attempts.failed(A, 0.0, 1.0)
    assert attempts.trouble(A).strikes == 1, "nothing else went through meanwhile"


def test_a_letter_that_fails_between_others_collects_strikes() -> None:
    attempts = Attempts(limited=False)
    for _ in range(GIVE_UP_STRIKES):
        attempts.failed(A, 0.0, 1.0)
        attempts.went_through([A] if not attempts.trouble(A).strikes else [], 0.0, 1.0)
    attempts.failed(A, 0.0, 1.0)
    assert attempts.trouble(A).strikes == GIVE_UP_STRIKES


def test_ten_tries_in_any_minute_to_one_address_s3_054() -> None:
    attempts = Attempts(limited=True)
    for n in range(SMS_PER_MIN):
        assert attempts.wait_s(A, float(n)) == 0
        attempts.tried("a", float(n))
    assert attempts.wait_s(A, 10.0) == 50
    assert attempts.next([A, B], [], 10.0) is B, "another phone is another matter"
    assert attempts.wait_s(A, MINUTE_S) == 0
    attempts.tried("a", MINUTE_S)
    assert attempts.wait_s(A, MINUTE_S) == 1


def test_what_is_no_longer_to_be_sent_is_forgotten() -> None:
    attempts = Attempts(limited=True)
    attempts.failed(A, 0.0, 1.0)
    attempts.tried("a", 0.0)
    attempts.keep([A], 30.0)
    assert attempts.trouble(A).tries == 1
    attempts.keep([], 61.0)
    assert attempts.trouble(A).tries == 0
    assert attempts.wait_s(A, 61.0) == 0
