from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from pathlib import Path

import msgspec
import pytest

from gateway.core.alerts import Alert, State
from gateway.core.findings import Evidence
from gateway.core.messages import DeadLetter, Reason
from gateway.core.severity import Severity
from gateway.errors import StoreError
from gateway.store import alerts, dead_letters, outbox
from gateway.store.database import Database

T0 = 1_764_081_000_000  # 2025-11-25T14:30:00Z


def alert(subject: str = "FEVER_TEST", kind: str = "fever", episode: int = 1, **more: object) -> Alert:
    made = Alert(
        id=0,
        subject=subject,
        kind=kind,
        episode=episode,
        severity=Severity.WARNING,
        state=State.ACTIVE,
        onset_ms=T0,
        last_seen_ms=T0,
        raised_ms=T0 + 1000,
        changed_ms=T0 + 1000,
        confidence=0.6,
        sentence="FEVER_TEST has 40.5 °C, single reading.",
        evidence=Evidence(value=40.5, unit="°C", herd="herd unknown", quality=0.5),
        detail="single_reading",
    )
    return msgspec.structs.replace(made, **more)


def step(to: State, at_ms: int = T0 + 1000, from_state: str = "") -> alerts.Transition:
    return alerts.Transition(
        at_ms=at_ms,
        from_state=from_state,
        to_state=to.value,
        severity=Severity.WARNING,
        who="gateway",
        origin="automatic",
        reason="raised",
    )


def letter(n: int = 0, payload: bytes = b"{", **more: object) -> DeadLetter:
    made = DeadLetter(
        received_ms=T0 + n,
        topic="artemis/sensors/COW_001",
        payload=payload,
        client_id="c",
        reason=Reason.NOT_JSON_OBJECT,
        text=f"letter {n}",
    )
    return msgspec.structs.replace(made, **more)


# --- alerts ---------------------------------------------------------------------------------------


def test_alert_round_trip_and_history(db: Database) -> None:
    stored = db.write_now(lambda con: alerts.save(con, alert(), step(State.ACTIVE)))
    assert stored == msgspec.structs.replace(alert(), id=stored.id)
    assert stored.id > 0
    assert db.read_now(alerts.open_alerts) == [stored]
    ended = msgspec.structs.replace(
        stored, state=State.RESOLVED, severity=Severity.CRITICAL, late=True, clear_n=3, ended_ms=T0 + 9
    )
    assert db.write_now(lambda con: alerts.save(con, ended, None)) == ended
    last = step(State.RESOLVED, T0 + 9, "active")
    db.write_now(lambda con: alerts.save(con, ended, last))
    assert db.read_now(alerts.open_alerts) == []
    assert db.read_now(lambda con: alerts.recent(con, "FEVER_TEST", 1)) == [ended]
    assert db.read_now(lambda con: alerts.history(con, ended.id)) == [step(State.ACTIVE), last]


def test_episodes(db: Database) -> None:
    for episode in (1, 2, 3):
        state = State.RESOLVED if episode < 3 else State.ACKNOWLEDGED
        made = alert(episode=episode, state=state)
        db.write_now(lambda con, made=made: alerts.save(con, made, None))
    db.write_now(lambda con: alerts.save(con, alert("OTHER"), None))
    newest = db.read_now(alerts.latest_episodes)
    assert [(a.subject, a.episode) for a in newest] == [("FEVER_TEST", 3), ("OTHER", 1)]
    assert db.read_now(alerts.open_alerts) == newest
    recent = db.read_now(lambda con: alerts.recent(con, "FEVER_TEST", 2))
    assert [a.episode for a in recent] == [3, 2]
    assert db.read_now(lambda con: alerts.recent(con, None, 1))[0].subject == "OTHER"
    with pytest.raises(sqlite3.IntegrityError):
        db.write_now(lambda con: alerts.save(con, alert(episode=3), None))
    with pytest.raises(StoreError, match="alert 99 is not in the store"):
        db.write_now(lambda con: alerts.save(con, alert(id=99), None))


def test_alert_history_and_outbox_are_one_transaction(db: Database) -> None:
    def work(con: sqlite3.Connection) -> None:
        saved = alerts.save(con, alert(), step(State.ACTIVE))
        outbox.append(con, "alert", b"{}", T0)
        alerts.save(con, msgspec.structs.replace(saved, id=saved.id + 7), None)

    with pytest.raises(StoreError):
        db.write_now(work)
    assert db.read_now(alerts.latest_episodes) == []
    assert db.read_now(lambda con: outbox.after(con, 0, 10)) == []
    assert db.read_now(lambda con: alerts.history(con, 1)) == []


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 command line is not installed")
def test_document_0_alert_query_on_the_live_file(db: Database, path: Path) -> None:
    db.write_now(lambda con: alerts.save(con, alert(), step(State.ACTIVE)))
    db.write_now(lambda con: alerts.save(con, alert(episode=2, onset_ms=T0 + 60_000), None))
    query = "SELECT * FROM alerts WHERE cow_id='FEVER_TEST' ORDER BY timestamp DESC LIMIT 5;"
    done = subprocess.run(["sqlite3", path, query], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("2|FEVER_TEST|2025-11-25T14:31:00Z|fever|warning|active|0.6|FEVER_TEST has 40.5")
    assert second.startswith("1|FEVER_TEST|2025-11-25T14:30:00Z|fever|warning|active|0.6|")


# --- outbox ---------------------------------------------------------------------------------------


def test_outbox_order_cursors_and_pending(db: Database) -> None:
    seqs = [db.write_now(lambda con, i=i: outbox.append(con, "alert", b"%d" % i, T0 + i)) for i in range(5)]
    assert seqs == [1, 2, 3, 4, 5]
    events = db.read_now(lambda con: outbox.after(con, 2, 2))
    assert [(e.seq, e.payload, e.created_ms) for e in events] == [(3, b"2", T0 + 2), (4, b"3", T0 + 3)]
    assert db.read_now(lambda con: outbox.cursor(con, "mqtt")) == 0
    assert db.read_now(lambda con: outbox.pending(con, "mqtt")) == 5
    db.write_now(lambda con: outbox.advance(con, "mqtt", 4))
    db.write_now(lambda con: outbox.advance(con, "mqtt", 2))  # a late answer does not turn it back
    assert db.read_now(lambda con: outbox.cursor(con, "mqtt")) == 4
    assert db.read_now(lambda con: outbox.pending(con, "mqtt")) == 1
    assert db.read_now(lambda con: outbox.pending(con, "sms")) == 5


def test_seq_is_not_reused_after_retention(db: Database) -> None:
    db.write_now(lambda con: outbox.append(con, "alert", b"1", T0))
    db.write_now(lambda con: con.execute("DELETE FROM events").rowcount)
    assert db.write_now(lambda con: outbox.append(con, "alert", b"2", T0)) == 2


def test_outbox_survives_a_restart(path: Path) -> None:
    first = Database.open(path)
    first.write_now(lambda con: outbox.append(con, "alert", b"1", T0))
    first.write_now(lambda con: outbox.advance(con, "mqtt", 1))
    first.close_now()
    again = Database.open(path)
    try:
        assert (again.gateway_id, again.epoch) == (first.gateway_id, first.epoch)
        assert again.write_now(lambda con: outbox.append(con, "alert", b"2", T0)) == 2
        assert again.read_now(lambda con: outbox.pending(con, "mqtt")) == 1
    finally:
        again.close_now()


# --- dead letters ---------------------------------------------------------------------------------


def test_dead_letters_are_bounded_and_the_oldest_go(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "DEAD_LETTERS_MAX", 10)
    for start in range(0, 24, 4):
        db.write_now(lambda con, start=start: dead_letters.add(con, [letter(start + i) for i in range(4)]))
    assert db.read_now(dead_letters.count) == 10
    assert db.read_now(dead_letters.dropped) == 14
    kept = db.read_now(lambda con: dead_letters.recent(con, 100))
    assert [x.text for x in kept] == [f"letter {n}" for n in range(23, 13, -1)]
    db.write_now(lambda con: dead_letters.add(con, []))


def test_dead_letter_is_cut_and_keeps_odd_names(db: Database) -> None:
    odd = letter(
        payload=bytes(range(256)) * 300,
        topic="t" * 65535,
        client_id="\udcff\x00" * 200,
        text="x" * 9999,
        cow_id="ü" * 99,
    )
    db.write_now(lambda con: dead_letters.add(con, [odd, letter(1)]))
    plain, cut = db.read_now(lambda con: dead_letters.recent(con, 2))
    assert plain == letter(1)
    assert cut.payload == (bytes(range(256)) * 300)[:4096]
    assert cut.topic == "t" * dead_letters.TOPIC_CHARS_MAX
    assert cut.client_id.startswith("\\udcff\x00")
    assert len(cut.text) == dead_letters.TEXT_CHARS_MAX
    assert cut.cow_id == "ü" * 64


def test_async_calls_answer_on_the_loop(db: Database) -> None:
    async def main() -> int:
        async with asyncio.timeout(10):
            await db.write(lambda con: dead_letters.add(con, [letter()]))
            return await db.read(dead_letters.count)

    assert asyncio.run(main()) == 1
