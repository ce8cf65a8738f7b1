"""The gate before every handshake: what a refused socket hears, and that it does not stay."""

import asyncio
import socket

from gateway.drivers.broker import limits
from tests.drivers.broker.harness import barn, connect_bytes, connected, raw

REFUSED = b"\x20\x02\x00\x03"


def run(scenario, **options):
    async def main():
        async with barn(**options) as place:
            await scenario(place)

    asyncio.run(main())


async def _read_to_the_end(sock):
    loop = asyncio.get_running_loop()
    heard = b""
    async with asyncio.timeout(5):
        while piece := await loop.sock_recv(sock, 4096):
            heard += piece
    return heard


def test_a_refused_client_hears_why_even_if_its_connect_came_first():
    """A close with the CONNECT unread would reset the connection, and the answer with it."""

    async def scenario(place):
        loop = asyncio.get_running_loop()
        async with connected(place):
            for number in range(50):
                with socket.socket() as sock:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, ("127.0.0.1", place.port))
                    await loop.sock_sendall(sock, connect_bytes(f"late-{number}"))
                    assert await _read_to_the_end(sock) == REFUSED
        assert place.counters["refused_connections"] == 50

    run(scenario, limits={"connections_max": 1})


def test_refused_sockets_that_stay_are_bounded_and_cut(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.gate.TURNED_AWAY_LINGER_S", 0.2)

    async def scenario(place):
        loop = asyncio.get_running_loop()
        socks = [socket.socket() for _ in range(limits.TURNED_AWAY_MAX + 5)]
        gate = place.broker._door.gate
        try:
            async with connected(place) as inside:
                for sock in socks:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, ("127.0.0.1", place.port))
                await place.until(lambda: place.counters["refused_connections"] == len(socks))
                assert gate.lingering <= limits.TURNED_AWAY_MAX
                # They never close their half; those beyond the bound are not even answered.
                answers = [await _answer(sock) for sock in socks]
                await place.until(lambda: gate.lingering == 0, "the cut")
                await inside.ping()
        finally:
            for sock in socks:
                sock.close()
        assert answers.count(REFUSED) == limits.TURNED_AWAY_MAX
        assert answers.count(b"") == 5

    run(scenario, limits={"connections_max": 1})


async def _answer(sock):
    try:
        return await _read_to_the_end(sock)
    except ConnectionResetError:
        return b""


def test_a_refused_socket_that_talks_on_is_cut(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.gate.TURNED_AWAY_LINGER_S", 60.0)

    async def scenario(place):
        async with connected(place), raw(place) as refused:
            assert await refused.packet() == (0x20, b"\x00\x03")
            try:
                async with asyncio.timeout(5):
                    while True:
                        refused.send(bytes(16 * 1024))
                        await refused.writer.drain()
            except ConnectionError:
                pass

    run(scenario, limits={"connections_max": 1})


def test_the_close_does_not_wait_for_those_who_were_turned_away(monkeypatch):
    monkeypatch.setattr("gateway.drivers.broker.gate.TURNED_AWAY_LINGER_S", 60.0)

    async def scenario():
        async with barn(limits={"connections_max": 1, "close_timeout_s": 0.2}) as place:
            async with connected(place):
                _, writer = await asyncio.open_connection("127.0.0.1", place.port)
                await place.until(lambda: place.counters["refused_connections"] == 1)
            gate = place.broker._door.gate
            assert gate.lingering == 1
        await place.until(lambda: gate.lingering == 0, "the cut")
        writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
