"""mosquitto_pub, mosquitto_sub, paho-mqtt and aiomqtt against the embedded broker."""

import asyncio
import threading

import aiomqtt
import paho.mqtt.client as paho
import pytest

from tests.conftest import need
from tests.drivers.broker.harness import SENSOR, barn


@pytest.fixture(autouse=True)
def clients() -> None:
    need("mosquitto_pub")
    need("mosquitto_sub")


def run(scenario, **options):
    async def main():
        async with barn(**options) as place:
            await scenario(place)

    asyncio.run(main())


async def spawn(place, tool, *arguments):
    return await asyncio.create_subprocess_exec(
        f"mosquitto_{tool}",
        "-h",
        "127.0.0.1",
        "-p",
        str(place.port),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def said(process, data=None):
    async with asyncio.timeout(8):
        return (await process.communicate(data))[0].decode()


async def publish(place, *arguments, data=None):
    process = await spawn(place, "pub", *arguments)
    text = await said(process, data)
    assert process.returncode == 0, text
    return text


def subscribed(place, count):
    return lambda: place.broker.gauges["subscriptions"] >= count


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mosquitto_both_ways(qos):
    async def scenario(place):
        sub = await spawn(place, "sub", "-t", "test/#", "-q", str(qos), "-C", "2", "-v")
        await place.until(subscribed(place, 1))
        await publish(place, "-t", "test/topic", "-m", "Hello MQTT", "-q", str(qos))
        await publish(place, "-t", "test/topic", "-m", "again", "-q", str(qos))
        assert await said(sub) == "test/topic Hello MQTT\ntest/topic again\n"

    run(scenario)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mosquitto_sends_two_thousand_readings(qos):
    async def scenario(place):
        lines = "".join(f'{{"n":{number}}}\n' for number in range(2000)).encode()
        await publish(place, "-t", SENSOR, "-l", "-q", str(qos), data=lines)
        await place.until(lambda: len(place.messages) == 2000)
        assert [message.payload for message in place.messages] == lines.split()
        assert {message.qos for message in place.messages} == {qos}

    run(scenario)


def test_mosquitto_retained_set_and_clear():
    async def scenario(place):
        await publish(place, "-t", "test/r", "-m", "kept", "-r", "-q", "1")
        assert (
            await said(await spawn(place, "sub", "-t", "test/+", "-C", "1", "-F", "%r %t %p"))
            == "1 test/r kept\n"
        )
        await publish(place, "-t", "test/r", "-n", "-r")
        text = await said(await spawn(place, "sub", "-t", "test/+", "-C", "1", "-W", "1"))
        assert "kept" not in text

    run(scenario)


def test_mosquitto_wills():
    async def scenario(place):
        watch = await spawn(place, "sub", "-t", "test/will", "-C", "1")
        await place.until(subscribed(place, 1))
        options = ("--will-topic", "test/will", "--will-payload")
        clean = await spawn(place, "sub", "-t", "test/x", "-C", "1", *options, "clean")
        await place.until(subscribed(place, 2))
        await publish(place, "-t", "test/x", "-m", "go")
        await said(clean)
        abrupt = await spawn(place, "sub", "-t", "test/x", *options, "abrupt")
        await place.until(subscribed(place, 2))
        abrupt.kill()
        await said(abrupt)
        assert await said(watch) == "abrupt\n"

    run(scenario)


def test_mosquitto_is_told_about_refused_topics():
    async def scenario(place):
        text = await said(await spawn(place, "sub", "-t", "test/nosubscribe", "-W", "3"))
        assert "denied" in text
        await publish(place, "-t", "test/nosubscribe", "-m", "x", "-q", "1")
        assert [message.topic for message, _ in place.refusals] == ["test/nosubscribe"]

    run(scenario)


def test_mosquitto_with_mqtt_5_is_told_the_version_is_wrong():
    async def scenario(place):
        process = await spawn(place, "pub", "-V", "mqttv5", "-t", "a", "-m", "x")
        await said(process)
        assert process.returncode != 0
        await publish(place, "-V", "mqttv311", "-t", "a", "-m", "x")

    run(scenario)


def test_paho_both_ways():
    async def scenario(place):
        got, done = [], threading.Event()
        total = 150

        def receive(client, userdata, message):
            got.append((message.topic, message.payload, message.qos))
            if len(got) == total:
                done.set()

        def work():
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, "paho", protocol=paho.MQTTv311)
            ready = threading.Event()
            client.on_message = receive
            client.on_subscribe = lambda *_: ready.set()
            client.connect("127.0.0.1", place.port, keepalive=5)
            client.loop_start()
            try:
                client.subscribe([("barn/+", 2), (SENSOR, 1)])
                assert ready.wait(5)
                sent = [
                    client.publish(SENSOR if number % 3 else "barn/x", b"%d" % number, qos=number % 3)
                    for number in range(total)
                ]
                for info in sent:
                    info.wait_for_publish(5)
                    assert info.is_published()
                assert done.wait(5)
            finally:
                client.disconnect()
                client.loop_stop()

        await asyncio.to_thread(work)
        assert len(place.messages) == 100
        assert sorted(int(payload) for _, payload, _ in got) == list(range(total))

    run(scenario)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_aiomqtt_both_ways(qos):
    async def scenario(place):
        will = aiomqtt.Will("barn/will", b"gone", qos=1)
        async with (
            aiomqtt.Client("127.0.0.1", place.port, identifier="a", keepalive=5) as one,
            aiomqtt.Client("127.0.0.1", place.port, identifier="b", will=will) as other,
        ):
            await one.subscribe("barn/#", qos=qos)
            for number in range(50):
                await other.publish(f"barn/{number}", b"%d" % number, qos=qos)
            got = []
            async for message in one.messages:
                got.append((str(message.topic), int(message.payload), message.qos))
                if len(got) == 50:
                    break
            assert got == [(f"barn/{number}", number, qos) for number in range(50)]
        assert place.counters["wills_published"] == 0

    run(scenario)
