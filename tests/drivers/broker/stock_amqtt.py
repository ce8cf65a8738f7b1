"""Plain amqtt brokers in a process of their own: what they leave open ends with it.

Run as a script: standard input has a JSON list with the plugins of each broker, then the number of a
broker to shut down and start anew, one a line. Each line is answered with JSON: ports, or a port.
"""

import asyncio
import json
import logging
import sys
import warnings
from typing import Any

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin


class OnlyGood(BaseAuthPlugin):
    """The password is `good`."""

    async def authenticate(self, *, session: Any) -> bool:
        return session.password == "good"


class SlowStore(BaseTopicPlugin):
    """Writes each message where amqtt waits for a plugin, as a gateway on stock amqtt would have to."""

    async def topic_filtering(self, **_: Any) -> bool:
        await asyncio.sleep(0.001)
        return True


async def _start(plugins: dict[str, Any]) -> tuple[Broker, int]:
    listener = {"type": "tcp", "bind": "127.0.0.1:0"}
    broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    server = broker._servers["default"].instance
    return broker, server.sockets[0].getsockname()[1]


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    plugins = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    running = [await _start(one) for one in plugins]
    _say([port for _, port in running])
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        number = int(line)
        await running[number][0].shutdown()
        running[number] = await _start(plugins[number])
        _say(running[number][1])


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    asyncio.run(main())
