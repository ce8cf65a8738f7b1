"""The WebSocket listener over real sockets: libraries of three makers, and what browsers must not do."""

import asyncio
import contextlib
import socket
import threading

import aiohttp
import paho.mqtt.client as paho
import pytest
import websockets.asyncio.client as wsc
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.drivers.broker import Listener
from gateway.drivers.broker import limits as bounds
from tests.drivers.broker.certified import client_context, context, folder, listening
from tests.drivers.broker.harness import SENSOR, connect_bytes, publish_bytes, subscribe_bytes

ACCEPTED = b"\x20\x02\x00\x00"
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def run(scenario, *, tls=False, origins=frozenset(), **options):
    async def main():
        listener = Listener(
            "127.0.0.1", 0, tls=context() if tls else None, websocket=True, origins=frozenset(origins)
        )
        async with listening(listener, **options) as place:
            await scenario(place)

    asyncio.run(main())


def opened(place, path="/mqtt", host="127.0.0.1", **options):
    options.setdefault("subprotocols", ["mqtt"])
    return wsc.connect(
        f"ws://{host}:{place.port}{path}", compression=None, proxy=None, open_timeout=5, **options
    )


async def answer(client):
    async with asyncio.timeout(5):
        return await client.recv()


async def code_at_the_end(client):
    """The close code that the server has sent, whatever came before it."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code


@contextlib.asynccontextmanager
async def bare(place):
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest(reader):
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


# Real clients.


@pytest.mark.parametrize("path", ["/mqtt", "/"])
def test_a_publish_and_its_fan_out_pass_through(path):
    async def scenario(place):
        async with opened(place, path) as client:
            assert client.subprotocol == "mqtt"  # MQTT-6.0.0-4
            await client.send(connect_bytes())
            assert await answer(client) == ACCEPTED
            await client.send(subscribe_bytes((SENSOR, 1)))
            assert (await answer(client))[:1] == b"\x90"
            await client.send(publish_bytes(SENSOR, b"warm", qos=1, packet_id=9))
            heard = await answer(client)
            while heard.count(b"warm") < 1 or b"\x40\x02\x00\x09" not in heard:
                heard += await answer(client)
        assert [message.payload for message in place.messages] == [b"warm"]

    run(scenario)


def test_aiohttp_over_tls():
    async def scenario(place):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"wss://localhost:{place.port}/mqtt", protocols=["mqtt"], ssl=client_context()
            ) as client,
        ):
            await client.send_bytes(connect_bytes())
            assert await client.receive_bytes(timeout=5) == ACCEPTED
            await client.send_bytes(publish_bytes(SENSOR, b"warm", qos=1))
            assert await client.receive_bytes(timeout=5) == b"\x40\x02\x00\x01"

    run(scenario, tls=True)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_paho_both_ways(tls):
    async def scenario(place):
        heard, ready = [], threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, transport="websockets", protocol=paho.MQTTv311)
        if tls:
            client.tls_set(ca_certs=str(folder() / "ca.crt"))
        client.on_connect = lambda one, *_: one.subscribe("barn/+", 1)
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = lambda _, __, message: heard.append(message.payload)
        await asyncio.to_thread(client.connect, "localhost", place.port)
        client.loop_start()
        try:
            assert await asyncio.to_thread(ready.wait, 5)
            big = bytes(range(256)) * 200
            client.publish("barn/1", big, qos=1)
            client.publish("barn/1", b"small", qos=2)
            await place.until(lambda: len(heard) == 2)
            assert heard == [big, b"small"]
        finally:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)

    run(scenario, tls=tls)


# The standard's rules (6.0).


def test_packets_may_span_frames_and_share_them():
    """MQTT-6.0.0-2."""

    async def scenario(place):
        async with opened(place) as client:
            for byte in connect_bytes():
                await client.send(bytes((byte,)))
            assert await answer(client) == ACCEPTED
            both = publish_bytes(SENSOR, b"1", qos=1, packet_id=1) + publish_bytes(
                SENSOR, b"2", qos=1, packet_id=2
            )
            await client.send([both[:5], both[5:40], b"", both[40:]])  # one message of four frames
            heard = await answer(client)
            while len(heard) < 8:
                heard += await answer(client)
            assert heard == b"\x40\x02\x00\x01\x40\x02\x00\x02"

    run(scenario)


def test_a_text_frame_closes():
    """MQTT-6.0.0-1."""

    async def scenario(place):
        async with opened(place) as client:
            await client.send("hello")
            assert await code_at_the_end(client) == 1003
        assert place.counters["websocket_errors"] == 1

    run(scenario)


@pytest.mark.parametrize("offered", [None, ["chat"]])
def test_a_client_that_does_not_offer_mqtt_is_refused(offered):
    """MQTT-6.0.0-3."""

    async def scenario(place):
        with pytest.raises(InvalidStatus) as refused:
            async with opened(place, subprotocols=offered):
                pass
        assert refused.value.response.status_code == 400
        assert place.counters["websocket_refused"] == 1

    run(scenario)


def test_no_compression_is_agreed_on():
    async def scenario(place):
        async with wsc.connect(
            f"ws://127.0.0.1:{place.port}/mqtt", subprotocols=["mqtt"], proxy=None
        ) as client:
            assert "Sec-WebSocket-Extensions" not in client.response.headers

    run(scenario)


def test_another_path_is_not_found():
    async def scenario(place):
        with pytest.raises(InvalidStatus) as refused:
            async with opened(place, "/health"):
                pass
        assert refused.value.response.status_code == 404

    run(scenario)


def test_ping_is_answered_and_close_is_confirmed():
    async def scenario(place):
        async with opened(place) as client:
            async with asyncio.timeout(5):
                await (await client.ping(b"there?"))
            await client.close(1000)
            assert client.close_code == 1000
        await place.until(lambda: place.broker.connections == 0)

    run(scenario)


def test_the_will_is_published_when_the_websocket_closes_without_a_disconnect():
    async def scenario(place):
        async with opened(place) as client:
            await client.send(connect_bytes(will=(SENSOR, b"gone", 0, False)))
            assert await answer(client) == ACCEPTED
        await place.until(lambda: place.messages)
        assert place.messages[0].payload == b"gone"

    run(scenario)


def test_a_message_larger_than_a_packet_may_be_is_refused():
    async def scenario(place):
        async with opened(place) as client:
            await client.send(connect_bytes())
            assert await answer(client) == ACCEPTED
            with contextlib.suppress(ConnectionClosed):
                await client.send(publish_bytes(SENSOR, bytes(5000)))
            assert await code_at_the_end(client) == 1009
        assert place.messages == []

    run(scenario, limits={"packet_size_max": 4096})


# Which pages may connect.


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("http://localhost:8080", "localhost"),
        ("https://shop.example", "localhost"),  # listed
    ],
)
def test_pages_of_this_machine_and_listed_ones_may_connect(origin, host):
    async def scenario(place):
        async with opened(place, host=host, origin=origin) as client:
            await client.send(connect_bytes())
            assert await answer(client) == ACCEPTED

    run(scenario, origins={"https://shop.example"})


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://["]
)
def test_a_strange_page_may_not_connect(origin):
    async def scenario(place):
        with pytest.raises(InvalidStatus) as refused:
            async with opened(place, origin=origin):
                pass
        assert refused.value.response.status_code == 403
        assert place.counters["websocket_refused"] == 1

    run(scenario)


def test_a_page_whose_name_was_pointed_at_the_barn_may_not_connect():
    """Origin and Host agree, and still it is a stranger's name (DNS rebinding)."""

    async def scenario(place):
        async with bare(place) as (reader, writer):
            writer.write(
                REQUEST.replace(b"Host: localhost", b"Host: evil.example:9001")
                + b"Origin: http://evil.example\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
            )
            assert (await rest(reader)).startswith(b"HTTP/1.1 403 ")

    run(scenario)


def test_a_page_of_this_machines_own_name_may_connect():
    name = socket.gethostname().lower().partition(".")[0].encode()

    async def scenario(place):
        async with bare(place) as (reader, writer):
            writer.write(
                REQUEST.replace(b"Host: localhost", b"Host: " + name + b".local:9001")
                + b"Origin: http://"
                + name
                + b".local:8080\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
            )
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")

    run(scenario)


# The rude.


@pytest.mark.parametrize(
    "rubbish",
    [
        connect_bytes(),
        b"\x16\x03\x01\x02\x00\x01",
        b"POST / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 40,
        b"GET /",
    ],
    ids=["plain MQTT", "TLS", "POST", "noise", "cut short"],
)
def test_what_is_no_websocket_is_closed_quickly(rubbish, caplog):
    async def scenario(place):
        async with bare(place) as (reader, writer):
            writer.write(rubbish)
            writer.write_eof()
            await rest(reader)
        await place.until(lambda: place.broker.connections == 0)
        async with opened(place) as client:
            await client.send(connect_bytes())
            assert await answer(client) == ACCEPTED

    run(scenario)
    assert not [record for record in caplog.records if record.exc_info], "no traceback for rubbish"


def test_an_endless_request_is_cut():
    async def scenario(place):
        async with bare(place) as (reader, writer):
            writer.write(REQUEST)
            with contextlib.suppress(ConnectionError):
                for number in range(1000):
                    writer.write(f"X-{number}: {'x' * 200}\r\n".encode())
                    await writer.drain()
            await rest(reader)
        assert place.counters["websocket_refused"] == 1

    assert bounds.HANDSHAKE_BYTES_MAX < 200_000
    run(scenario)


def test_silent_sockets_before_the_handshake_are_capped_and_cut():
    async def scenario(place):
        async with bare(place), bare(place) as (_, writer):
            writer.write(REQUEST)
            await place.until(lambda: place.broker.connections == 2)
            async with bare(place) as (reader, refused):
                refused.write(REQUEST)
                assert (await rest(reader)).startswith(b"HTTP/1.1 503 ")
            await place.until(lambda: place.counters["handshake_timeouts"] == 2, "the deadline")
            await place.until(lambda: place.broker.connections == 0)

    run(scenario, limits={"connections_max": 2, "connect_timeout_s": 0.5})


def test_frames_without_a_mask_are_a_protocol_error():
    async def scenario(place):
        async with bare(place) as (reader, writer):
            writer.write(REQUEST + b"Sec-WebSocket-Protocol: mqtt\r\n\r\n")
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x82\x02\xc0\x00")
            heard = await rest(reader)
            assert (heard[:1], heard[2:4]) == (b"\x88", (1002).to_bytes(2, "big"))
        assert place.counters["websocket_errors"] == 1

    run(scenario)


def test_mqtt_rubbish_inside_a_websocket_closes_it():
    async def scenario(place):
        async with opened(place) as client:
            await client.send(b"\xff\xff\xff")
            await code_at_the_end(client)
        assert place.counters["protocol_errors"] == 1

    run(scenario)


def masked(payload, opcode=2):
    """One frame of a client, with a mask of zeros."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + length + bytes(4) + payload


@contextlib.asynccontextmanager
async def shaken_hands(place, *, tls):
    """A bare socket, or one inside TLS, after the WebSocket handshake."""
    options = {"ssl": client_context(), "server_hostname": "localhost"} if tls else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, **options)
    try:
        writer.write(REQUEST + b"Sec-WebSocket-Protocol: mqtt\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("goodbye", [True, False], ids=["DISCONNECT", "no DISCONNECT"])
def test_what_was_said_before_the_close_frame_counts_though_it_waits_behind_a_commit(goodbye, tls):
    async def scenario(place):
        async with shaken_hands(place, tls=tls) as (reader, writer):
            writer.write(
                masked(connect_bytes(will=(SENSOR, b"will", 0, False)))
                + b"".join(masked(publish_bytes(SENSOR, b"%d" % number)) for number in range(200))
                + masked(b"\xe0\x00" if goodbye else b"")
                + masked((1000).to_bytes(2, "big"), opcode=8)
            )
            await place.settle_all(200)
            await rest(reader)
            await place.until(lambda: place.broker.connections == 0)
        said = [b"%d" % number for number in range(200)]
        assert [message.payload for message in place.messages] == said + ([] if goodbye else [b"will"])

    run(scenario, tls=tls, settling=False)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_flood_of_small_frames_leaves_the_others_their_turns(tls):
    async def scenario(place):
        async with shaken_hands(place, tls=tls) as (reader, writer):
            writer.write(masked(connect_bytes()) + masked(publish_bytes(SENSOR)) * 5_000)
            writer.write(masked(b"\xe0\x00") + masked((1000).to_bytes(2, "big"), opcode=8))
            assert await place.most_in_one_turn(5_000) < 2 * bounds.FRAMES_PER_TURN
            assert b"\x88\x02\x03\xe8" in await rest(reader), "the close is answered, at the end"

    run(scenario, tls=tls)


def test_frames_that_are_taken_in_several_turns_keep_their_order():
    async def scenario(place):
        async with shaken_hands(place, tls=False) as (reader, writer):
            writer.write(masked(b"", opcode=10) * 5_000 + masked(b"", opcode=9))
            async with asyncio.timeout(5):
                assert await reader.readexactly(2) == b"\x8a\x00", "after the pongs, before CONNECT"
            writer.write(masked(connect_bytes()))
            async with asyncio.timeout(5):
                assert await reader.readexactly(6) == b"\x82\x04" + ACCEPTED

    run(scenario)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_subscriber_that_does_not_read_is_cut_and_delays_nobody(tls):
    async def scenario(place):
        uri = f"{'wss' if tls else 'ws'}://localhost:{place.port}/mqtt"
        options = {"subprotocols": ["mqtt"], "proxy": None, "ssl": client_context() if tls else None}
        async with wsc.connect(uri, **options) as deaf, wsc.connect(uri, **options) as speaker:
            await deaf.send(connect_bytes("deaf") + subscribe_bytes(("loud", 0)))
            heard = b""
            while len(heard) < 9:
                heard += await answer(deaf)
            deaf.transport.pause_reading()
            await speaker.send(connect_bytes("speaker"))
            assert await answer(speaker) == ACCEPTED
            while not place.counters["write_deadlines"]:
                for _ in range(10):
                    await speaker.send(publish_bytes("loud", b"z" * 60_000))
                await speaker.send(b"\xc0\x00")
                assert await answer(speaker) == b"\xd0\x00"
            await place.until(lambda: place.broker.connections == 1, "the cut")
            deaf.transport.abort()

    run(scenario, tls=tls, limits={"write_deadline_s": 0.5})
