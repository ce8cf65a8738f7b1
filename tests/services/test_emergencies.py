"""Calls for help on their way: heard before anything else, acknowledged when on disk, once for many."""

import asyncio
import json

import msgspec
import pytest

from gateway.core.alerts import Alert, Change, Move, State
from gateway.core.messages import RawMessage
from gateway.core.severity import Severity
from gateway.services import emergencies as module
from gateway.services.emergencies import Emergencies

T0_MS = 1_761_991_200_000


class Receipt:
    def __init__(self):
        self.settled_n = 0

    def settle(self):
        self.settled_n += 1


class Place:
    """An alarm that writes down the order of what it is asked, and a disk that can fail."""

    def __init__(self):
        self.log = []
        self.letters = []
        self.writes = asyncio.Event()
        self.writes.set()
        self.failing = False
        self.asked = asyncio.Semaphore(0)
        self.tried = asyncio.Semaphore(0)
        self.stored = []
        self.kept = []
        self.emergencies = Emergencies(
            call=lambda finding: self.log.append(("call", finding.subject)),
            report=self.report,
            refuse=self.refuse,
        )

    async def report(self, findings):
        self.log.append(("report", [finding.subject for finding in findings]))
        self.asked.release()
        await self.writes.wait()
        self.kept += findings
        self.tried.release()
        if self.failing:
            return False
        self.stored += self.kept
        self.kept = []
        return True

    def refuse(self, message, why, receipt):
        self.letters.append((message, why))
        receipt.settle()

    def call(self, who="guard-1", *, at_s=0.0, payload=b"", qos=2, kind="panic"):
        receipt = Receipt()
        self.emergencies.accept_call(self._message(f"alert/{kind}/{who}", payload, at_s, qos), receipt)
        return receipt

    def stop(self, payload=b"{}", *, at_s=0.0):
        receipt = Receipt()
        self.emergencies.accept_stop(self._message("safety/emergency_stop", payload, at_s, 2), receipt)
        return receipt

    @staticmethod
    def _message(topic, payload, at_s, qos):
        return RawMessage(topic, payload, "client-1", T0_MS + round(at_s * 1000), at_s, qos)

    def ended(self, subject="guard-1", kind="panic", state=State.RESOLVED):
        alert = Alert(
            id=1,
            subject=subject,
            kind=kind,
            episode=1,
            severity=Severity.CRITICAL,
            state=state,
            onset_ms=T0_MS,
            last_seen_ms=T0_MS,
            raised_ms=T0_MS,
            changed_ms=T0_MS,
            confidence=1.0,
            sentence="",
        )
        self.emergencies.follow(Move(alert, "active", Change.RESOLVED, "safe"))


def in_place(story):
    async def tell():
        async with asyncio.timeout(10):
            place = Place()
            running = asyncio.create_task(place.emergencies.run())
            try:
                await story(place)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    asyncio.run(tell())


def test_the_panel_hears_of_a_call_before_anything_waits_for_the_disk():
    async def story(place):
        receipt = place.call()
        assert place.log == [("call", "guard-1")]
        assert receipt.settled_n == 0
        await place.emergencies.drain()
        assert place.log == [("call", "guard-1"), ("report", ["guard-1"])]
        assert receipt.settled_n == 1

    in_place(story)


def test_a_stop_goes_the_same_way():
    async def story(place):
        receipt = place.stop(json.dumps({"who": "Anna", "reason": "cow on the belt"}).encode())
        assert place.log == [("call", "barn")]
        await place.emergencies.drain()
        (finding,) = place.stored
        assert finding.sentence == "EMERGENCY STOP by Anna: cow on the belt"
        assert receipt.settled_n == 1

    in_place(story)


def test_what_comes_while_the_disk_is_busy_is_one_report():
    async def story(place):
        place.writes.clear()
        receipts = [place.call("first")]
        await place.asked.acquire()
        receipts += [place.call(f"guard-{n}") for n in range(5)]
        assert [entry for entry in place.log if entry[0] == "call"][-1] == ("call", "guard-4")
        place.writes.set()
        await place.emergencies.drain()
        assert [entry[1] for entry in place.log if entry[0] == "report"] == [
            ["first"],
            [f"guard-{n}" for n in range(5)],
        ]
        assert [receipt.settled_n for receipt in receipts] == [1] * 6

    in_place(story)


def test_the_same_call_again_within_30_s_is_one_alert_and_every_copy_is_acknowledged():
    async def story(place):
        place.writes.clear()
        waiting = [place.call(at_s=0), place.call(at_s=1), place.call(at_s=29.9)]
        await asyncio.sleep(0)
        assert [receipt.settled_n for receipt in waiting] == [0, 0, 0]
        place.writes.set()
        await place.emergencies.drain()
        assert [receipt.settled_n for receipt in waiting] == [1, 1, 1]
        assert place.call(at_s=29.95).settled_n == 1
        assert len(place.stored) == 1
        assert place.log.count(("call", "guard-1")) == 1
        assert (place.emergencies.counters.heard, place.emergencies.counters.repeated) == (1, 3)

    in_place(story)


def test_a_call_that_goes_on_is_heard_again_every_30_s():
    async def story(place):
        for at_s in range(0, 61, 5):
            place.call(at_s=at_s)
            await place.emergencies.drain()
        assert [finding.at_ms - T0_MS for finding in place.stored] == [0, 30_000, 60_000]
        assert place.log.count(("call", "guard-1")) == 3

    in_place(story)


@pytest.mark.parametrize("other", [{"who": "guard-2"}, {"kind": "fire"}])
def test_other_senders_and_other_troubles_are_other_calls(other):
    async def story(place):
        place.call()
        place.call(**other)
        await place.emergencies.drain()
        assert len(place.stored) == 2

    in_place(story)


@pytest.mark.parametrize("state", [State.RESOLVED, State.FALSE_POSITIVE])
def test_what_is_sent_after_a_call_has_ended_is_a_new_one_however_soon(state):
    async def story(place):
        place.call(at_s=0)
        place.stop(at_s=0)
        await place.emergencies.drain()
        place.ended(state=state)
        place.ended("barn", "emergency_stop", state)
        place.call(at_s=5)
        place.stop(at_s=5)
        await place.emergencies.drain()
        assert len(place.stored) == 4

    in_place(story)


def test_other_moves_do_not_make_a_call_new():
    async def story(place):
        place.call(at_s=0)
        await place.emergencies.drain()
        place.ended(state=State.ACKNOWLEDGED)
        place.ended(kind="fever")
        place.ended(subject="guard-2")
        place.call(at_s=5)
        await place.emergencies.drain()
        assert len(place.stored) == 1

    in_place(story)


def test_nobody_waits_for_the_answer_to_a_qos_0_call():
    async def story(place):
        place.writes.clear()
        assert place.call(qos=0).settled_n == 1
        place.writes.set()
        await place.emergencies.drain()
        assert len(place.stored) == 1

    in_place(story)


def test_while_the_store_cannot_write_nothing_is_acknowledged_and_nothing_lost(monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.001)

    async def story(place):
        place.failing = True
        first = place.call(at_s=0)
        for _ in range(3):
            await place.tried.acquire()
        again = place.call(at_s=40)
        other = place.call("guard-2", at_s=40)
        await place.tried.acquire()
        assert [receipt.settled_n for receipt in (first, again, other)] == [0, 0, 0]
        assert [entry[1] for entry in place.log if entry[0] == "call"] == ["guard-1", "guard-1", "guard-2"]
        assert place.emergencies.waiting_n == 2
        place.failing = False
        await place.emergencies.drain()
        assert [finding.subject for finding in place.stored] == ["guard-1", "guard-2"]
        assert [receipt.settled_n for receipt in (first, again, other)] == [1, 1, 1]
        assert place.emergencies.waiting_n == 0

    in_place(story)


def test_senders_are_bounded_and_those_beyond_become_dead_letters(monkeypatch):
    monkeypatch.setattr(module, "CALLS_MAX", 3)

    async def story(place):
        kept = [place.call(f"guard-{n}", at_s=0) for n in range(3)]
        beyond = place.call("guard-3", at_s=0)
        again = place.call("guard-0", at_s=1)
        await place.emergencies.drain()
        ((message, why),) = place.letters
        assert message.topic == "alert/panic/guard-3"
        assert why == "3 others have called for help just now and are heard; this call makes no alert"
        assert [receipt.settled_n for receipt in (*kept, again, beyond)] == [1] * 5
        assert place.emergencies.counters.crowded_out == 1
        place.call("guard-4", at_s=31)  # the first ones are done with
        await place.emergencies.drain()
        assert [finding.subject for finding in place.stored][3:] == ["guard-4"]

    in_place(story)


def test_what_waits_for_the_store_is_never_forgotten_for_a_newcomer(monkeypatch):
    monkeypatch.setattr(module, "CALLS_MAX", 1)
    monkeypatch.setattr(module, "RETRY_S", 0.001)

    async def story(place):
        place.failing = True
        first = place.call("guard-1", at_s=0)
        place.call("guard-2", at_s=100)
        assert len(place.letters) == 1
        place.failing = False
        await place.emergencies.drain()
        assert first.settled_n == 1
        assert [finding.subject for finding in place.stored] == ["guard-1"]

    in_place(story)


def test_whatever_is_sent_is_served():
    async def story(place):
        for number, payload in enumerate((b"", b"\xff\x00", b"{", b"[" * 60_000)):
            place.call(f"guard-{number}", payload=payload)
        await place.emergencies.drain()
        assert [finding.severity for finding in place.stored] == [Severity.CRITICAL] * 4
        msgspec.json.encode(place.stored)

    in_place(story)
