"""Commands over MQTT on a real alarm and a real store: done once, answered once, acknowledged afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.alert_commands import COMMANDS_TOPIC, RESPONSES_TOPIC
from gateway.core.alerts import State
from gateway.core.messages import RawMessage
from gateway.services.commands import AlertCommands
from tests.alert_desk import T0_MS, Barn, barn


class Slip:
    """A receipt, and what had been answered when it was settled."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.settled = 0
        self.answers_before = -1
        self.done = asyncio.Event()

    def settle(self) -> None:
        self.settled += 1
        self.answers_before = len(self.line.answers)
        self.done.set()


class Line:
    """The broker's side: publishes in, answers out."""

    def __init__(self, place: Barn, **options: Any) -> None:
        self.barn = place
        self.answers: list[dict[str, Any]] = []
        self.commands = AlertCommands(
            alarm=place.alarm, database=place.database, clock=place.clock, publish=self._answered, **options
        )

    def _answered(self, topic: str, payload: bytes) -> None:
        assert topic == RESPONSES_TOPIC
        self.answers.append(json.loads(payload))

    def say(self, payload: bytes | dict[str, Any], client_id: str = "phone-1") -> Slip:
        slip = Slip(self)
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.commands.accept(RawMessage(COMMANDS_TOPIC, raw, client_id, T0_MS, 0.0, qos=2), slip)
        return slip

    async def ask(self, client_id: str = "phone-1", **fields: Any) -> dict[str, Any]:
        """One command and its answer."""
        slip = self.say({"id": f"c-{len(self.answers)}", "command": "acknowledge", **fields}, client_id)
        await asyncio.wait_for(slip.done.wait(), 10)
        assert (slip.settled, slip.answers_before) == (1, len(self.answers)), "answered, then acknowledged"
        return self.answers[-1]


def run(tmp_path: Path, scene: Callable[[Line], Awaitable[None]], **options: Any) -> None:
    async def play() -> None:
        async with asyncio.timeout(20), barn(tmp_path) as place:
            line = Line(place, **options)
            await scene(line)
            await line.commands.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())


def test_an_acknowledgement_is_on_disk_when_it_is_answered(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        number = await line.barn.raise_alert()
        answer = await line.ask(id="c-1", alert=number, by="Anna", note="on my way")
        assert answer == {
            "id": "c-1",
            "ok": True,
            "alert": number,
            "state": "acknowledged",
            "by": "Anna",
            "since": "2025-11-25T14:30:00Z",
        }
        step = line.barn.history(number)[-1]
        assert (step.who, step.origin, step.reason) == ("Anna", "mqtt", "on my way")

    run(tmp_path, scene)


def test_who_comes_second_is_told_who_was_first_and_when(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        number = await line.barn.raise_alert()
        first, second = await asyncio.gather(
            line.ask(id="a", alert=number, by="Anna"), line.ask(id="b", alert=number, by="Ben")
        )
        told = {answer["id"]: answer for answer in line.answers}
        assert [told["a"]["ok"], told["b"]["ok"]] == [True, False]
        assert told["b"]["by"] == "Anna"
        assert told["b"]["since"] == "2025-11-25T14:30:00Z"
        assert f"alert {number} was acknowledged by Anna (mqtt) at 2025-11-25 14:30:00" in told["b"]["error"]
        assert first is not None
        assert second is not None

    run(tmp_path, scene)


def test_without_a_number_it_is_the_alert_the_panel_shows_and_without_a_name_the_client(
    tmp_path: Path,
) -> None:
    async def scene(line: Line) -> None:
        first = await line.barn.raise_alert("COW_1")
        line.barn.clock.ms += 1000
        second = await line.barn.raise_alert("COW_2")
        answer = await line.ask(client_id="wall-tablet")
        assert (answer["alert"], answer["by"]) == (second, "wall-tablet")
        assert (await line.ask(command="false_positive"))["alert"] == first
        assert line.barn.alert(first).state is State.FALSE_POSITIVE
        assert (await line.ask(command="resolve", alert=second))["state"] == "resolved"
        assert "nothing is left to acknowledge" in (await line.ask())["error"]
        assert "the panel shows none" in (await line.ask(command="resolve"))["error"]
        assert "there is no alert 999" in (await line.ask(alert=999))["error"]
        assert "was resolved by phone-1" in (await line.ask(command="resolve", alert=second))["error"]

    run(tmp_path, scene)


def test_a_repeated_id_gets_the_first_answer_and_does_nothing_again_decision_27(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        said = {"id": "c-1", "command": "acknowledge", "by": "Anna"}
        await line.barn.raise_alert("COW_1")
        slips = [line.say(said), line.say({**said, "timestamp": "2025-11-25T14:30:00Z"})]
        for slip in slips:
            await slip.done.wait()
        assert [slip.settled for slip in slips] == [1, 1]
        assert len(line.answers) == 1, "both wait for the one answer"
        other = await line.barn.raise_alert("COW_2")
        line.barn.clock.ms += 3_600_000
        assert await line.ask(**said) == line.answers[0]
        assert line.barn.alert(other).state is State.ACTIVE
        assert line.commands.counters.repeated == 2

    run(tmp_path, scene)


def test_an_id_that_came_with_another_command_is_refused_not_answered_for_that(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        one, two = await line.barn.raise_alert("COW_1"), await line.barn.raise_alert("COW_2")
        assert (await line.ask(id="c-1", alert=one))["ok"]
        answer = await line.ask(id="c-1", alert=two)
        assert not answer["ok"]
        assert "'c-1' came before with another command" in answer["error"]
        assert line.barn.alert(two).state is State.ACTIVE

    run(tmp_path, scene)


def test_memory_of_ids_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        for n in range(4):
            await line.ask(id=f"c-{n}", alert=999)
        await line.ask(id="c-3", alert=999)
        assert line.commands.counters.repeated == 1
        await line.ask(id="c-0", alert=999)
        assert line.commands.counters.repeated == 1, "forgotten, so it is tried anew"

    run(tmp_path, scene, ids_max=3)


def test_a_command_that_is_too_old_does_nothing_while_the_clock_is_sure_decision_25(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        number = await line.barn.raise_alert()
        old = {"alert": number, "timestamp": "2025-11-25T14:29:00Z"}
        assert "expires after 30 s" in (await line.ask(id="c-1", **old))["error"]
        assert line.barn.alert(number).state is State.ACTIVE
        line.barn.clock.sure = False
        assert (await line.ask(id="c-1", **old))["ok"], "nobody can say how old it is"

    run(tmp_path, scene)


def test_a_store_that_cannot_write_is_said_and_the_same_id_may_try_again(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        number = await line.barn.raise_alert()
        with line.barn.locked():
            answer = await line.ask(id="c-1", alert=number)
            assert not answer["ok"]
            assert answer["error"].startswith("not stored: ")
        assert (await line.ask(id="c-1", alert=number))["ok"]
        assert line.commands.counters.failed == 1

    run(tmp_path, scene)


def test_silences_begin_and_end(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        made = await line.ask(command="silence", subject="COW_7", hours=1.5, by="Anna", note="calving")
        assert (made["ok"], made["until"], made["by"]) == (True, "2025-11-25T16:00:00Z", "Anna")
        (held,) = line.barn.alarm.silences
        assert (held.subject, held.kind, held.who, held.origin) == ("COW_7", None, "Anna", "mqtt")
        assert held.reason == "calving"
        assert (await line.ask(command="unsilence", silence=held.id))["ok"]
        assert not line.barn.alarm.silences
        assert (
            f"no silence {held.id} holds" in (await line.ask(command="unsilence", silence=held.id))["error"]
        )

    run(tmp_path, scene)


def test_more_commands_at_once_than_the_disk_can_take_are_told_so(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        slips = [line.say({"id": f"c-{n}", "command": "acknowledge", "alert": 9}) for n in range(4)]
        await asyncio.gather(*(slip.done.wait() for slip in slips))
        refused = [answer["id"] for answer in line.answers if "commands wait already" in answer["error"]]
        assert refused == ["c-2", "c-3"]

    run(tmp_path, scene, running_max=2)


def test_close_lets_what_has_begun_end(tmp_path: Path) -> None:
    async def scene(line: Line) -> None:
        number = await line.barn.raise_alert()
        slip = line.say({"id": "c-1", "command": "acknowledge", "alert": number})
        await line.commands.close()
        assert slip.settled == 1
        assert line.answers[0]["ok"]

    run(tmp_path, scene)


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{}", b'{"id": 1}', b"[" * 3000, b"x" * 5000])
def test_nonsense_is_answered_and_acknowledged(tmp_path: Path, payload: bytes) -> None:
    async def scene(line: Line) -> None:
        slip = line.say(payload)
        assert slip.settled == 1
        assert [answer["ok"] for answer in line.answers] == [False]
        assert line.answers[0]["error"]
        assert line.commands.counters.refused == 1

    run(tmp_path, scene)


WORDS = st.fixed_dictionaries(
    {"id": st.text(max_size=5), "command": st.sampled_from(["acknowledge", "resolve", "silence", "x"])},
    optional={
        "alert": st.integers(-1, 3) | st.text(max_size=3),
        "by": st.text(max_size=70),
        "note": st.text(max_size=20),
        "hours": st.floats(allow_nan=False, allow_infinity=False),
        "timestamp": st.sampled_from(
            ["now", "2025-11-25", "2025-11-25T14:30:00Z", "9999-12-31T23:59:59+00:01"]
        )
        | st.text(max_size=10),
        "kind": st.sampled_from(["fever", "panic", "", None]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS.map(lambda said: json.dumps(said).encode()) | st.binary(max_size=40), max_size=8))
def test_every_payload_is_answered_and_acknowledged_once(
    tmp_path_factory: Any, payloads: list[bytes]
) -> None:
    async def scene(line: Line) -> None:
        await line.barn.raise_alert()
        slips = [line.say(payload) for payload in payloads]
        await asyncio.gather(*(slip.done.wait() for slip in slips))
        assert [slip.settled for slip in slips] == [1] * len(slips)
        counted = line.commands.counters
        assert counted.done + counted.not_done + counted.refused + counted.repeated == len(payloads)

    run(tmp_path_factory.mktemp("barn"), scene)
