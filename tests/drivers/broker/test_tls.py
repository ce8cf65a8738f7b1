"""The TLS listener over real sockets: real clients, rude ones, and those that do not read."""

import asyncio
import contextlib
import socket
import ssl
import subprocess

import pytest

from gateway.drivers.broker import limits as bounds
from gateway.drivers.broker.access import AnonymousAccess
from tests.conftest import need
from tests.drivers.broker.certified import (
    client_context,
    folder,
    listening,
    secured,
    tls_listener,
)
from tests.drivers.broker.harness import SENSOR, connect_bytes, publish_bytes, subscribe_bytes

ACCEPTED = (0x20, b"\x00\x00")


class Remembering(AnonymousAccess):
    def __init__(self):
        self.seen = []

    def authenticate(self, who):
        self.seen.append(who)
        return super().authenticate(who)


def run(scenario, listener=None, **options):
    async def main():
        async with listening(listener or tls_listener(), **options) as place:
            await scenario(place)

    asyncio.run(main())


async def mosquitto(tool, place, *arguments):
    """Run mosquitto_pub or mosquitto_sub against the listener; returns (exit code, output)."""
    process = await asyncio.create_subprocess_exec(
        need(tool),
        *("-h", "localhost", "-p", str(place.port), "--cafile", str(folder() / "ca.crt"), "-V", "311"),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


# Real clients.


def test_mosquitto_publishes_over_tls():
    async def scenario(place):
        code, output = await mosquitto("mosquitto_pub", place, "-t", SENSOR, "-m", "warm", "-q", "1")
        assert (code, output) == (0, "")
        assert [message.payload for message in place.messages] == [b"warm"]

    run(scenario)


def test_mosquitto_subscribes_over_tls():
    async def scenario(place):
        waiting = asyncio.create_task(
            mosquitto("mosquitto_sub", place, "-t", "barn/+", "-C", "3", "-W", "10", "-q", "1")
        )
        async with secured(place) as client:
            client.send(connect_bytes("speaker"))
            assert await client.packet() == ACCEPTED
            number = 0
            while not waiting.done():
                number += 1
                client.send(publish_bytes(f"barn/{number % 3}", b"x" * 20_000, qos=1, packet_id=number))
                await client.packet()
                await asyncio.sleep(0.02)
        code, output = await waiting
        assert code == 0
        assert output.split() == ["x" * 20_000] * 3

    run(scenario)


def test_the_name_of_a_client_certificate_reaches_access():
    async def scenario(place):
        certificate = ("--cert", str(folder() / "COW_001.crt"), "--key", str(folder() / "COW_001.key"))
        code, output = await mosquitto(
            "mosquitto_pub", place, *certificate, "-t", SENSOR, "-m", "x", "-q", "1"
        )
        assert (code, output) == (0, "")
        assert [who.certificate for who in access.seen] == ["COW_001"]

    access = Remembering()
    run(scenario, tls_listener("required"), access=access)


def test_a_client_without_a_certificate_is_named_by_none_where_they_are_optional():
    async def scenario(place):
        async with secured(place) as client:
            client.send(connect_bytes())
            assert await client.packet() == ACCEPTED
        assert [who.certificate for who in access.seen] == [None]

    access = Remembering()
    run(scenario, tls_listener("optional"), access=access)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_a_required_certificate_gets_no_answer(version):
    async def scenario(place):
        context = client_context()
        context.minimum_version = context.maximum_version = version
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            async with secured(place, context) as client:
                client.send(connect_bytes())
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await client.packet()
        await place.until(lambda: place.counters["tls_failures"] == 1)
        assert access.seen == []

    access = Remembering()
    run(scenario, tls_listener("required"), access=access)


def test_a_certificate_of_another_authority_is_refused(tmp_path):
    from datetime import UTC, datetime

    from gateway.drivers.certificates import Authority

    stranger = Authority(tmp_path, datetime.now(UTC))
    stranger.ensure(["localhost"])
    stranger.issue("COW_001", tmp_path)

    async def scenario(place):
        context = client_context()
        context.load_cert_chain(tmp_path / "COW_001.crt", tmp_path / "COW_001.key")
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            async with secured(place, context) as client:
                client.send(connect_bytes())
                await client.closed()
        await place.until(lambda: place.counters["tls_failures"] == 1)
        assert access.seen == []

    access = Remembering()
    run(scenario, tls_listener("optional"), access=access)


def test_a_second_connection_resumes_the_session():
    def visit(port, session):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as bare,
            context.wrap_socket(bare, server_hostname="localhost", session=session) as secure,
        ):
            secure.sendall(connect_bytes())
            assert secure.recv(4) == b"\x20\x02\x00\x00"  # the tickets have come before it
            return secure.session, secure.session_reused

    async def scenario(place):
        session, reused = await asyncio.to_thread(visit, place.port, None)
        assert not reused
        _, reused = await asyncio.to_thread(visit, place.port, session)
        assert reused

    context = client_context()
    run(scenario)


# Flow.


def test_everything_sent_before_a_close_is_heard():
    """A long answer and the close right behind it: nothing of it is cut off."""

    async def scenario(place):
        async with secured(place) as reader, secured(place) as writer:
            reader.send(connect_bytes("reader") + subscribe_bytes(("big", 0)))
            assert await reader.packet() == ACCEPTED
            await reader.packet()
            writer.send(connect_bytes("writer"))
            assert await writer.packet() == ACCEPTED
            for _ in range(20):
                writer.send(publish_bytes("big", b"y" * 2_000))
            await writer.ping()
            reader.send(b"\xe0\x00")
            heard = await reader.closed()
            assert heard.count(b"y") == 20 * 2_000

    run(scenario)


def test_acknowledgements_reach_a_client_that_has_said_goodbye():
    """Its half of the TLS connection is closed, ours is not, until all is on disk."""

    async def scenario(place):
        loop = asyncio.get_running_loop()
        heard, closed = bytearray(), loop.create_future()

        class Goodbye(asyncio.Protocol):
            def __init__(self):
                self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                self.tls = client_context().wrap_bio(
                    self.incoming, self.outgoing, server_hostname="localhost"
                )
                self.said = False

            def connection_made(self, transport):
                self.transport = transport
                self.step()

            def data_received(self, data):
                self.incoming.write(data)
                self.step()

            def step(self):
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.tls.do_handshake()
                    if not self.said:
                        self.said = True
                        self.tls.write(
                            connect_bytes() + publish_bytes(SENSOR, qos=1, packet_id=7) + b"\xe0\x00"
                        )
                        with contextlib.suppress(ssl.SSLError):
                            self.tls.unwrap()  # our close_notify goes out with it
                    while data := self.tls.read():
                        heard.extend(data)
                self.transport.write(self.outgoing.read())

            def eof_received(self):
                return True

            def connection_lost(self, exc):
                closed.set_result(exc)

        transport, _ = await loop.create_connection(Goodbye, "127.0.0.1", place.port)
        await place.until(lambda: place.receipts)
        place.receipts[0].settle()
        transport.write_eof()
        async with asyncio.timeout(5):
            await closed
        assert bytes(heard) == b"\x20\x02\x00\x00\x40\x02\x00\x07"

    run(scenario, settling=False)


class Memory:
    """A TLS client whose records go out when the test says so, many in one write."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context().wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    async def shake_hands(self):
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.writer.write(self.outgoing.read())
                async with asyncio.timeout(5):
                    self.incoming.write(await self.reader.read(65536))
            else:
                return

    def send(self, *pieces, last=False):
        """One record for each piece; after the last, our close_notify."""
        for piece in pieces:
            self.tls.write(piece)
        if last:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
        self.writer.write(self.outgoing.read())

    async def closed(self):
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                await self.reader.read()


@contextlib.asynccontextmanager
async def in_memory(place):
    client = Memory(*await asyncio.open_connection("127.0.0.1", place.port))
    try:
        await client.shake_hands()
        yield client
    finally:
        client.writer.close()
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()


@pytest.mark.parametrize("goodbye", [True, False], ids=["DISCONNECT", "no DISCONNECT"])
def test_what_was_said_before_the_close_counts_though_it_waits_behind_a_commit(goodbye):
    async def scenario(place):
        async with in_memory(place) as client:
            client.send(
                connect_bytes(will=(SENSOR, b"will", 0, False)),
                b"".join(publish_bytes(SENSOR, b"%d" % number) for number in range(200)),
                b"\xe0\x00" if goodbye else b"",
                last=True,
            )
            await place.settle_all(200)
            await client.closed()
            await place.until(lambda: place.broker.connections == 0)
        said = [b"%d" % number for number in range(200)]
        assert [message.payload for message in place.messages] == said + ([] if goodbye else [b"will"])

    run(scenario, settling=False)


def test_a_client_that_closes_before_it_has_said_anything_is_no_fault(caplog):
    async def scenario(place):
        async with in_memory(place) as client:
            client.send(last=True)
            await client.closed()
        await place.until(lambda: place.broker.connections == 0)
        assert place.counters["tls_failures"] == place.counters["protocol_errors"] == 0

    run(scenario)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_flood_of_small_packets_in_records_leaves_the_others_their_turns():
    async def scenario(place):
        async with in_memory(place) as client:
            client.send(connect_bytes(), publish_bytes(SENSOR) * 10_000)
            assert await place.most_in_one_turn(10_000) <= bounds.PACKETS_PER_TURN

    run(scenario)


def test_a_subscriber_that_does_not_read_is_cut_and_delays_nobody():
    async def scenario(place):
        async with secured(place) as deaf, secured(place) as speaker:
            deaf.send(connect_bytes("deaf") + subscribe_bytes(("loud", 0)))
            assert await deaf.packet() == ACCEPTED
            await deaf.packet()
            deaf.writer.transport.pause_reading()
            speaker.send(connect_bytes("speaker"))
            assert await speaker.packet() == ACCEPTED
            while not place.counters["write_deadlines"]:
                for _ in range(10):
                    speaker.send(publish_bytes("loud", b"z" * 60_000))
                await speaker.ping()
            await place.until(lambda: place.broker.connections == 1, "the cut")
            await speaker.ping()

    run(scenario, limits={"write_deadline_s": 0.5})


def test_a_backlog_in_small_records_is_taken_in_order():
    async def scenario(place):
        async with secured(place) as client:
            client.send(connect_bytes())
            assert await client.packet() == ACCEPTED
            for number in range(1, 301):
                client.send(publish_bytes(SENSOR, str(number).encode(), qos=1, packet_id=number))
            for number in range(1, 301):
                assert await client.packet() == (0x40, number.to_bytes(2, "big"))
        assert [int(message.payload) for message in place.messages] == list(range(1, 301))

    run(scenario)


# The rude.


@pytest.mark.parametrize(
    "rubbish",
    [
        connect_bytes(),
        b"GET / HTTP/1.1\r\nHost: barn\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\x00",
    ],
    ids=["plain MQTT", "HTTP", "broken hello", "one byte and the end"],
)
def test_what_is_no_tls_is_closed_quickly(rubbish, caplog):
    async def scenario(place):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(rubbish)
        writer.write_eof()
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()
        await place.until(lambda: place.broker.connections == 0)
        async with secured(place) as client:
            client.send(connect_bytes())
            assert await client.packet() == ACCEPTED

    run(scenario)
    assert not [record for record in caplog.records if record.exc_info], (
        "no traceback for a stranger's rubbish"
    )


def test_a_client_that_shakes_hands_and_leaves_without_a_word_leaves_no_traceback(caplog):
    async def scenario(place):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", place.port, ssl=client_context(), server_hostname="localhost"
        )
        await place.until(lambda: place.broker.connections == 1)
        writer.close()  # says close_notify, as `openssl s_client` and monitors do
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await place.until(lambda: place.broker.connections == 0)
        assert place.counters["protocol_errors"] == place.counters["tls_failures"] == 0

    run(scenario)
    assert not [record for record in caplog.records if record.exc_info]


def test_tls_on_the_plain_port_is_closed_quickly():
    from gateway.drivers.broker import Listener

    async def scenario(place):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(
                "127.0.0.1", place.port, ssl=client_context(), server_hostname="localhost"
            )
        await place.until(lambda: place.counters["protocol_errors"] == 1)

    run(scenario, Listener("127.0.0.1", 0))


def test_silent_sockets_before_the_handshake_are_capped_and_cut():
    async def scenario(place):
        silent = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(3)]
        await place.until(lambda: place.broker.connections == 3)
        reader, extra = await asyncio.open_connection("127.0.0.1", place.port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b"", "the fourth is refused before the handshake"
        extra.close()
        assert place.counters["refused_connections"] == 1
        await place.until(lambda: place.counters["handshake_timeouts"] == 3, "the deadline")
        await place.until(lambda: place.broker.connections == 0)
        for _, writer in silent:
            writer.close()

    run(scenario, limits={"connections_max": 3, "connect_timeout_s": 0.5})


def test_handshake_and_connect_share_one_deadline():
    async def scenario(place):
        async with secured(place) as client:
            assert await client.closed() == b""
        assert place.counters["connect_timeouts"] == 1

    run(scenario, limits={"connect_timeout_s": 0.5})


def test_old_tls_is_refused():
    async def scenario(place):
        context = client_context()
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with secured(place, context):
                pass
        await place.until(lambda: place.counters["tls_failures"] == 1)

    run(scenario)
