"""Certificates as a barn has them, and a broker that listens on whatever a test asks for."""

import asyncio
import contextlib
import functools
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from gateway.drivers.broker import Listener
from gateway.drivers.broker.tls import server_context
from gateway.drivers.certificates import Authority
from tests.drivers.broker.harness import Barn, RawClient


@functools.cache
def folder() -> Path:
    """One authority for all tests of a run, and a certificate of COW_001."""
    keeper = tempfile.TemporaryDirectory(prefix="barn-certificates-")
    place = Path(keeper.name)
    authority = Authority(place, datetime.now(UTC))
    authority.ensure(["localhost", "127.0.0.1"])
    authority.issue("COW_001", place)
    folder.keeper = keeper  # deleted with the process
    return place


def context(client_certificates="none"):
    place = folder()
    return server_context(
        place / "server.crt",
        place / "server.key",
        client_ca=None if client_certificates == "none" else place / "ca.crt",
        client_certificates=client_certificates,
    )


def client_context(*, certificate=False):
    trusting = ssl.create_default_context(cafile=str(folder() / "ca.crt"))
    if certificate:
        trusting.load_cert_chain(folder() / "COW_001.crt", folder() / "COW_001.key")
    return trusting


@contextlib.asynccontextmanager
async def listening(listener, **options):
    """A Barn behind this listener; afterwards nothing may be left of it."""
    before = asyncio.all_tasks()
    place = Barn(**options)
    await place.broker.start(listener)
    try:
        async with asyncio.timeout(25):
            yield place
    finally:
        await place.broker.close()
    left = asyncio.all_tasks() - before
    assert not left, left
    assert place.broker.connections == 0


def tls_listener(client_certificates="none"):
    return Listener("127.0.0.1", 0, tls=context(client_certificates))


@contextlib.asynccontextmanager
async def secured(place, context=None):
    """A raw MQTT client inside TLS."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", place.port, ssl=context or client_context(), server_hostname="localhost"
    )
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        client.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
