"""Panic and emergency stop through a whole gateway: broker, panel, store, and a restart between."""

import asyncio
import contextlib
import json

import pytest

from gateway import wiring
from gateway.app import Gateway
from gateway.core.alerts import State
from gateway.core.emergency import STOP_TOPICS
from gateway.drivers.clock import SystemClock
from gateway.store import alerts as alert_rows
from tests.drivers.broker.harness import ack, connected, publish_bytes

PUBREC, PUBREL = 0x50, 0x62


@contextlib.asynccontextmanager
async def barn(home, panel):
    """A gateway that tells its panel's changes to a list."""
    async with (
        asyncio.timeout(25),
        Gateway(wiring.private_config(home), SystemClock(), panel_line=panel.append) as gateway,
    ):
        yield gateway


async def publish(client, topic, payload, packet_id):
    """With QoS 2; returns when it is acknowledged, which means on disk."""
    client.send(publish_bytes(topic, payload, qos=2, packet_id=packet_id))
    identifier = packet_id.to_bytes(2, "big")
    assert await client.packet() == (PUBREC, identifier)
    client.send(ack(PUBREL, packet_id))
    assert (await client.packet())[1] == identifier


def rows(gateway):
    return gateway.database.read_now(lambda db: alert_rows.recent(db, None, 100))


def test_a_panic_sounds_is_one_alert_and_is_acknowledged_when_it_is_stored(tmp_path):
    async def story():
        panel = []
        async with barn(tmp_path, panel) as gateway, connected(gateway.broker, "unknown-sender") as client:
            body = json.dumps({"message": "Emergency assistance needed", "severity": "low"}).encode()
            for packet_id in (1, 2, 3):
                await publish(client, "alert/panic/guard-789", body, packet_id)
            (alert,) = rows(gateway)
            assert (alert.kind, alert.subject, alert.severity.label) == ("panic", "guard-789", "critical")
            assert alert.sentence.endswith("Emergency assistance needed (sender says: low)")
            assert any("panic guard-789" in line and "silent" not in line for line in panel)
            await publish(client, "alert/fire/", b"\xff", 4)
            assert {row.kind for row in rows(gateway)} == {"panic", "fire"}

    asyncio.run(story())


@pytest.mark.parametrize("pressed_on", STOP_TOPICS)
def test_the_stop_holds_over_a_restart_until_a_person_resets_it(tmp_path, pressed_on):
    async def retained(gateway):
        """What a relay hears that asks now: payload by topic."""
        async with connected(gateway.broker, "relay") as relay:
            await relay.subscribe(*((topic, 0) for topic in STOP_TOPICS))
            relay.send(b"\xc0\x00")
            heard = {}
            while (packet := await relay.packet())[0] != 0xD0:
                first, body = packet
                assert first & 1, "a retained message"
                size = int.from_bytes(body[:2], "big")
                heard[body[2 : 2 + size].decode()] = json.loads(body[2 + size :])
            return heard

    async def story():
        panel = []
        async with barn(tmp_path, panel) as gateway, connected(gateway.broker, "mower") as mower:
            assert await retained(gateway) == {}
            await publish(mower, pressed_on, b'{"sender": "safety", "message": "Person detected in area"}', 1)
            held = await retained(gateway)
            assert set(held) == set(STOP_TOPICS)
            assert held[pressed_on]["message"] == "EMERGENCY STOP by safety: Person detected in area"
            mower.send(publish_bytes(pressed_on, b"", qos=1, packet_id=2, retain=True))
            assert (await mower.packet())[0] == 0x40
            assert await retained(gateway) == held
        panel.clear()
        async with barn(tmp_path, panel) as gateway:
            assert await retained(gateway) == held
            assert any("EMERGENCY STOP" in line and "silent" not in line for line in panel)
            (alert,) = gateway.alarm.open_alerts
            await gateway.alarm.close(alert_id=alert.id, state=State.RESOLVED, who="Anna", origin="cli")
            assert await retained(gateway) == {}
            async with connected(gateway.broker, "mower") as mower:  # pressed again at once: a new stop
                await publish(mower, pressed_on, b"again", 1)
            assert [row.state for row in rows(gateway)].count(State.ACTIVE) == 1
        async with barn(tmp_path, panel) as gateway:
            (alert,) = gateway.alarm.open_alerts
            assert alert.episode == 2
            assert (await retained(gateway))[pressed_on]["message"] == "EMERGENCY STOP by mower: again"

    asyncio.run(story())
