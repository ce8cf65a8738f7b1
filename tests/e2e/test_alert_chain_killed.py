"""kill -9 between any two steps of raising, sending and acknowledging: nothing is lost, nothing is double."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.core.contacts import Address, Contact
from gateway.store import alerts, outbox
from gateway.store.database import Database
from gateway.store.farm import FarmRegister
from tests.conftest import ROOT
from tests.e2e.alert_chain_process import Fault, Order
from tests.post_offices import MailBox, Webhook

pytestmark = pytest.mark.rig

# Each letter is one send and one note, and two channels send: the first and the second of them.
FAULTS = [
    Fault(phase, place, when, nth)
    for phase in ("raise", "acknowledge")
    for place, nth in (
        ("write", 1),
        ("publish", 1),
        ("show", 1),
        ("send", 1),
        ("note", 1),
        ("send", 2),
        ("note", 2),
    )
    for when in ("before", "after")
]


class Forge:
    """The process that forks gateways."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, order: Order) -> int:
        """One gateway until its end; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.alert_chain_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Forge(process)
        assert process.stdin is not None
        process.stdin.close()


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def killed_and_started_again(forge: Forge, home: Path, fault: Fault) -> tuple[MailBox, Webhook]:
    """What mail box and webhook have got after both runs."""
    mail, hook = MailBox(port()), Webhook(port())
    with FarmRegister.changing(home / "farm.json") as farm:
        ways = (
            Address("email", "anna@example.org"),
            Address("webhook", f"http://127.0.0.1:{hook.port}/anna"),
        )
        farm.put_contact(Contact("Anna", ways))
    await mail.open()
    await hook.open()
    try:
        order = Order(str(home), mail.url(), fault)
        code = await asyncio.to_thread(forge.run, order)
        assert code == -9, (code, (home / "console.txt").read_text())
        code = await asyncio.to_thread(forge.run, msgspec.structs.replace(order, fault=None))
        assert code == 0, (code, (home / "console.txt").read_text())
    finally:
        await hook.close()
        await mail.close()
    return mail, hook


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: f"{one.phase}-{one.when}-{one.place}-{one.nth}")
def test_a_kill_at_any_step_loses_no_alert_and_no_letter_and_doubles_no_alert(
    forge: Forge, tmp_path: Path, fault: Fault
) -> None:
    mail, hook = asyncio.run(killed_and_started_again(forge, tmp_path, fault))
    database = Database.open(tmp_path / "alert_state.db")
    try:

        def read(db):  # type: ignore[no-untyped-def]
            (alert,) = [one for one in alerts.recent(db, None, 100) if one.kind == "fever"]
            return alert, alerts.history(db, alert.id), outbox.after(db, 0, 100)

        alert, history, events = asyncio.run(database.read(read))
    finally:
        database.close_now()
    assert alert.state.value == "acknowledged"
    steps = [(row.from_state, row.to_state, row.who, row.origin) for row in history]
    assert steps == [
        ("", "active", "gateway", "automatic"),
        ("active", "acknowledged", "Bert", "web"),
    ]
    assert history[0].at_ms <= history[1].at_ms
    ours = [event for event in events if event.kind == "alert" and b'"fever"' in event.payload]
    assert len(ours) == 2

    ids: dict[str, set[str]] = defaultdict(set)
    for body in hook.got:
        ids[body["change"]].add(body["message_id"])
    assert {change: len(known) for change, known in ids.items()} == {"raised": 1, "acknowledged": 1}
    assert set(mail.ids()) == {one for known in ids.values() for one in known}
    once = 2  # letters, unless the kill came between the service's yes and the note of it
    assert once <= len(hook.got) <= once + 1
    assert once <= len(mail.got) <= once + 1
