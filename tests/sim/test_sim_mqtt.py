"""The MQTT sink against a real mosquitto."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter

import aiomqtt
import pytest

from sensor_sim.__main__ import main
from sensor_sim.errors import SimNetworkError
from sensor_sim.herd import Herd, encode, topic_of
from sensor_sim.sinks import CONNECTIONS_MAX, IN_FLIGHT_MAX, MqttSink
from tests.sim.conftest import Mosquitto

START_MS = 1_763_510_400_000
MESSAGES = [(topic_of(cow), encode(reading)) for cow, reading in Herd(10).readings(START_MS, 100)]


async def collect(port: int, ready: asyncio.Event, count: int) -> list[tuple[str, bytes]]:
    """The first `count` different messages a foreign client receives."""
    seen: dict[tuple[str, bytes], None] = {}
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("artemis/sensors/+", qos=1)
        ready.set()
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            seen[message.topic.value, message.payload] = None
            if len(seen) == count:
                break
    return list(seen)


@pytest.mark.parametrize("connections", [1, 10])
def test_every_message_arrives_in_each_cows_order(mosquitto: Mosquitto, connections: int):
    async def scene() -> list[tuple[str, bytes]]:
        async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
            ready = asyncio.Event()
            received = tasks.create_task(collect(mosquitto.port, ready, len(MESSAGES)))
            await ready.wait()
            sink = MqttSink("127.0.0.1", mosquitto.port, connections=connections, wait_when_full=True)
            await sink.open()
            for topic, payload in MESSAGES:
                await sink.send(topic, payload)
            assert await sink.drain(10) == 0
            assert (sink.acknowledged, sink.dropped) == (len(MESSAGES), 0)
            await sink.close()
        return received.result()

    received = asyncio.run(scene())
    assert Counter(received) == Counter(MESSAGES)
    for cow in Herd(10).cow_ids:
        topic = topic_of(cow)
        assert [m for m in received if m[0] == topic] == [m for m in MESSAGES if m[0] == topic]


def test_a_broker_that_dies_costs_nothing_and_two_log_lines(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
):
    async def scene() -> None:
        sink = MqttSink("127.0.0.1", mosquitto.port)
        async with asyncio.timeout(20):
            await sink.open()
            mosquitto.stop()
            while sink.connected:  # noqa: ASYNC110 (bounded by the timeout)
                await asyncio.sleep(0.01)
            for topic, payload in MESSAGES:
                await sink.send(topic, payload)
            assert sink.waiting == len(MESSAGES)
            mosquitto.start()
            assert await sink.drain(15) == 0
            assert (sink.acknowledged, sink.dropped) == (len(MESSAGES), 0)
            await sink.close()

    with caplog.at_level(logging.INFO, "barn-sim"):
        asyncio.run(scene())
    lines = [record.getMessage().split(" at ")[0].split(" to ")[0] for record in caplog.records]
    assert lines == ["Connected", "Lost the broker", "Connected"]


def test_a_full_buffer_drops_the_oldest_and_counts(mosquitto: Mosquitto):
    async def scene() -> None:
        sink = MqttSink("127.0.0.1", mosquitto.port, buffer_max=100)
        async with asyncio.timeout(15):
            await sink.open()
            mosquitto.stop()
            while sink.connected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for topic, payload in MESSAGES[:250]:
                await sink.send(topic, payload)
            assert (sink.waiting, sink.dropped) == (100, 150)
            assert await sink.drain(0.01) == 100
            await sink.close()

    asyncio.run(scene())


def test_in_flight_and_connections_are_bounded(mosquitto: Mosquitto):
    async def scene() -> None:
        sink = MqttSink("127.0.0.1", mosquitto.port, connections=3, wait_when_full=True, buffer_max=90)
        async with asyncio.timeout(15):
            await sink.open()
            for topic, payload in MESSAGES:
                await sink.send(topic, payload)
                assert sink.waiting <= 90
                assert all(len(link._flying) <= IN_FLIGHT_MAX for link in sink._links)
            assert await sink.drain(10) == 0
            await sink.close()
        assert sink.acknowledged == len(MESSAGES)
        assert len(MqttSink("127.0.0.1", 1, connections=10_000)._links) == CONNECTIONS_MAX

    asyncio.run(scene())


def test_no_broker_is_a_network_error_that_names_it(mosquitto: Mosquitto):
    mosquitto.stop()

    async def scene() -> None:
        sink = MqttSink("127.0.0.1", mosquitto.port, connect_timeout_s=0.5)
        with pytest.raises(
            SimNetworkError, match=f"no broker at 127.0.0.1:{mosquitto.port}.*gateway running"
        ):
            await sink.open()

    asyncio.run(scene())
    assert main(["--port", str(mosquitto.port), "--connect-timeout", "0.3", "--quiet"]) == 3


def test_the_command_publishes_a_demo(mosquitto: Mosquitto, tmp_path):
    truth = tmp_path / "truth.jsonl"
    arguments = ["--port", str(mosquitto.port), "--scenario", "demo", "--start", "2025-11-19T00:00:00Z"]
    arguments += ["--duration", "40m", "--speed", "max", "--truth", str(truth), "--quiet"]
    expected = 12 * 40 - 25  # the silent collar stops after 15 of 40 minutes

    async def scene() -> list[tuple[str, bytes]]:
        ready = asyncio.Event()
        async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
            received = tasks.create_task(collect(mosquitto.port, ready, expected))
            await ready.wait()
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "sensor_sim", *arguments)
            assert await process.wait() == 0
        return received.result()

    messages = [json.loads(payload) for _, payload in asyncio.run(scene())]
    hot = {m["cow_id"] for m in messages if m["temperature"] >= 40.5}
    labels = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [label["kind"] for label in labels] == ["fever", "stuck", "silent"]
    assert hot == {labels[0]["cow_id"]}
