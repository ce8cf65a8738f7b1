from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.drivers import uplink_mqtt
from gateway.drivers.uplink_mqtt import PAYLOAD_BYTES_MAX, MqttUplink, UplinkTarget
from gateway.errors import ConfigError
from tests.upstream import Mosquitto, free_port, subscriber


def run(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene and fail if it leaves a task or an open socket behind."""

    async def watched() -> None:
        async with asyncio.timeout(20):
            await scene()
        async with asyncio.timeout(5):
            while others := asyncio.all_tasks() - {asyncio.current_task()}:  # paho's timer is ending
                await asyncio.wait(others)

    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()  # noqa: PTH112, PTH208
    asyncio.run(watched())
    gc.collect()
    if before:
        assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


@contextlib.asynccontextmanager
async def uplink(port: int, **options: object) -> AsyncIterator[MqttUplink]:
    answer_s_max = float(options.pop("answer_s_max", 10.0))  # type: ignore[arg-type]
    target = UplinkTarget(host=str(options.pop("host", "127.0.0.1")), port=port, client_id="gw-1", **options)  # type: ignore[arg-type]
    line = MqttUplink(target, answer_s_max=answer_s_max)
    try:
        yield line
    finally:
        await line.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is watched has no event of its own
            await asyncio.sleep(0.002)


def test_delivered_means_the_broker_has_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with subscriber(broker.port) as got, uplink(broker.port) as line:
            for n in range(20):
                assert await line.deliver(f"barn/{n}", b"%d" % n) == Delivered()
            assert line.connected
            assert line.connects == 1, "one connection for all"
            messages = [await got.get() for _ in range(20)]
        assert [(str(m.topic), m.payload, m.qos) for m in messages] == [
            (f"barn/{n}", b"%d" % n, 1) for n in range(20)
        ]

    with Mosquitto(tmp_path) as broker:
        run(scene)


def test_a_refused_connection_says_so_in_the_documented_words_s0_096() -> None:
    async def scene() -> None:
        async with uplink(free_port()) as line:
            for _ in range(3):
                assert await line.deliver("a", b"") == RetryLater(
                    "Failed to connect to MQTT broker: [Errno 111] Connection refused"
                )
            assert not line.connected

    run(scene)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "bad..name", "x" * 70 + ".invalid"])
def test_a_name_that_does_not_resolve_is_a_line_that_is_down(host: str) -> None:
    async def scene() -> None:
        async with uplink(1883, host=host) as line:
            assert isinstance(await line.deliver("a", b""), RetryLater)

    run(scene)


def test_a_broker_killed_and_restarted_is_found_again_without_back_off(tmp_path: Path) -> None:
    async def scene() -> None:
        async with uplink(broker.port) as line:
            assert await line.deliver("a", b"1") == Delivered()
            broker.kill()
            await until(lambda: not line.connected)  # noticed while idle
            assert isinstance(await line.deliver("a", b"2"), RetryLater)
            broker.start()
            async with subscriber(broker.port) as got:
                assert await line.deliver("a", b"2") == Delivered()
                assert (await got.get()).payload == b"2"
            broker.kill()
            broker.start()
            assert await line.deliver("a", b"3") == Delivered(), "reopened within the call"

    with Mosquitto(tmp_path) as broker:
        run(scene)


def test_no_puback_is_no_delivery() -> None:
    """A peer that takes everything and acknowledges the connection only."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x20\x02\x00\x00")
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        async with server, uplink(server.sockets[0].getsockname()[1], answer_s_max=0.2) as line:
            answer = await line.deliver("a", b"1")
            assert isinstance(answer, RetryLater)
            assert "timed out" in answer.why
            assert not line.connected

    run(scene)


def test_a_peer_that_never_answers_is_left_within_the_time_limit() -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            async with uplink(mute.getsockname()[1], answer_s_max=0.2) as line:
                assert isinstance(await line.deliver("a", b"1"), RetryLater)
                assert isinstance(await line.deliver("a", b"1"), RetryLater)

    run(scene)


def test_a_peer_that_never_shakes_hands_is_left_within_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplink_mqtt, "TLS_S_MAX", 0.2)

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            async with uplink(mute.getsockname()[1], tls=True) as line:
                answer = await line.deliver("a", b"1")
                assert isinstance(answer, RetryLater)
                assert "timed out" in answer.why

    run(scene)


def test_a_cancelled_attempt_leaves_nothing_behind() -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            async with uplink(mute.getsockname()[1], answer_s_max=0.3) as line:
                attempt = asyncio.create_task(line.deliver("a", b"1"))
                await asyncio.sleep(0)
                attempt.cancel()
                await asyncio.wait([attempt])
                assert attempt.cancelled()

    run(scene)


def test_what_the_broker_can_never_take_is_rejected(tmp_path: Path) -> None:
    async def scene() -> None:
        async with uplink(broker.port) as line:
            assert isinstance(await line.deliver("a", bytes(PAYLOAD_BYTES_MAX + 1)), Rejected)
            assert isinstance(await line.deliver("a/+", b""), Rejected)
            assert isinstance(await line.deliver("a" * 70_000, b""), Rejected)
            assert await line.deliver("a", bytes(PAYLOAD_BYTES_MAX)) == Delivered()

    with Mosquitto(tmp_path) as broker:
        run(scene)


def test_user_and_password(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", passwords, "barn", "secret"], check=True, capture_output=True)

    async def scene() -> None:
        async with uplink(broker.port, username="barn", password="secret") as line:
            assert await line.deliver("a", b"") == Delivered()
        async with uplink(broker.port, username="barn", password="wrong") as line:
            answer = await line.deliver("a", b"")
            assert isinstance(answer, RetryLater)
            assert "uthori" in answer.why
            assert "secret" not in answer.why

    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:
        run(scene)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    assert openssl, "openssl makes the test's certificate"
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_tls_verifies_certificate_and_name(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate

    async def scene() -> None:
        async with uplink(broker.port, host="localhost", tls=True, ca_certs=cert) as line:
            assert await line.deliver("a", b"") == Delivered()
        for host, authority in [("localhost", None), ("127.0.0.1", cert)]:
            async with uplink(broker.port, host=host, tls=True, ca_certs=authority) as line:
                answer = await line.deliver("a", b"")
                assert isinstance(answer, RetryLater)
                assert "CERTIFICATE_VERIFY_FAILED" in answer.why

    with Mosquitto(tmp_path, f"certfile {cert}", f"keyfile {key}") as broker:
        run(scene)


def test_a_missing_authority_file_is_told_at_start(tmp_path: Path) -> None:
    target = UplinkTarget("localhost", 8883, "gw", tls=True, ca_certs=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        MqttUplink(target)
