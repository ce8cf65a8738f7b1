"""The gateway asks its own front door: what it hears of one that works, is full, silent, or gone."""

import asyncio
import contextlib
import logging

import pytest

from gateway.drivers.broker.access import Refusal
from gateway.drivers.broker.probe import answers
from tests.drivers.broker.harness import barn, connected


def run(scenario, **options):
    async def main():
        async with barn(**options) as place:
            await scenario(place)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def something_else(handle):
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_broker_that_works_answers(host):
    async def scenario(place):
        assert await answers(host, place.port) is None

    run(scenario)


class Nobody:
    """Lets nobody in, and must not even be asked."""

    def __init__(self):
        self.asked = 0

    def authenticate(self, _who):
        self.asked += 1
        return Refusal.NOT_AUTHORIZED

    def still_valid(self, _principal, _client_id):
        return False


def test_it_needs_no_credential_and_opens_no_session():
    access = Nobody()

    async def scenario(place):
        assert await answers("127.0.0.1", place.port) is None
        assert access.asked == 0
        assert place.counters["sessions_opened"] == 0

    run(scenario, access=access)


def test_it_says_nothing_in_the_log_counts_as_no_broken_client_and_leaves(caplog):
    caplog.set_level(logging.DEBUG, logger="gateway")

    async def scenario(place):
        for _ in range(50):
            assert await answers("127.0.0.1", place.port) is None
        await place.until(lambda: place.broker.connections == 0)
        assert place.counters["protocol_errors"] == place.counters["takeovers"] == 0

    run(scenario)
    assert [record.message for record in caplog.records if record.name.startswith("gateway")] == []


def test_it_disturbs_nobody_who_is_in():
    async def scenario(place):
        async with connected(place, "collar") as collar:
            assert await answers("127.0.0.1", place.port) is None
            await collar.ping()

    run(scenario)


def test_a_full_broker_is_one_that_answers():
    async def scenario(place):
        async with connected(place):
            assert await answers("127.0.0.1", place.port) is None
        assert place.counters["refused_connections"] == 1

    run(scenario, limits={"connections_max": 1})


def test_a_broker_that_is_gone_is_said(free_port):
    why = asyncio.run(answers("127.0.0.1", free_port))
    assert why == f"port {free_port} cannot be reached: Connect call failed ('127.0.0.1', {free_port})"


def test_a_door_that_lets_in_and_says_nothing_is_said():
    async def main():
        gone = asyncio.Event()

        async def handle(reader, writer):
            await reader.read()
            writer.close()
            gone.set()

        async with something_else(handle) as port:
            assert await answers("127.0.0.1", port, 0.05) == f"port {port} gave no answer within 0.05 s"
            await asyncio.wait_for(gone.wait(), 5)

    asyncio.run(main())


@pytest.mark.parametrize("said", [b"", b"\x20\x02"])
@pytest.mark.parametrize("listens", [True, False], ids=["after the question", "at once"])
def test_a_door_that_hangs_up_is_said(said, listens):
    async def main():
        async def handle(reader, writer):
            if listens:
                await reader.read(64)
            writer.write(said)
            writer.close()

        async with something_else(handle) as port:
            why = await answers("127.0.0.1", port)
            assert why == f"port {port} closed the connection without an answer"

    asyncio.run(main())


def test_another_program_on_the_port_is_said():
    async def main():
        async def handle(reader, writer):
            await reader.read(64)
            writer.write(b"SSH-2.0-other\r\n")
            writer.close()

        async with something_else(handle) as port:
            why = await answers("127.0.0.1", port)
            assert why == f"something that is no broker answers on port {port}"

    asyncio.run(main())
