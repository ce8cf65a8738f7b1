"""A real mosquitto on a loopback port, for tests that need a foreign broker."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt

START_S_MAX = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker process; may be killed and started again on the same port."""

    def __init__(self, directory: Path, *extra: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._config = directory / f"mosquitto-{self.port}.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root", *extra]
        if not any(line.startswith("allow_anonymous") for line in extra):
            lines.append("allow_anonymous true")
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._binary, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S_MAX
        while True:
            assert self._process.poll() is None, "mosquitto ended at start"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextlib.asynccontextmanager
async def subscriber(port: int, topic: str = "#") -> AsyncIterator[asyncio.Queue[aiomqtt.Message]]:
    """Everything published to `topic` from now on."""
    got: asyncio.Queue[aiomqtt.Message] = asyncio.Queue()

    async def read(client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in client.messages:
                got.put_nowait(message)

    client = aiomqtt.Client("127.0.0.1", port)
    await client.__aenter__()
    await client.subscribe(topic, qos=1)
    reader = asyncio.create_task(read(client))
    try:
        yield got
    finally:
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
        reader.cancel()
        await asyncio.wait([reader])
