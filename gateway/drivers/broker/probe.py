"""Asks our own front door whether it still answers, over a socket as a collar would. Runs on the loop.

The question is one that 3.1.1 answers before any authentication: a CONNECT without a client id that
wants to keep its session must be refused with return code 2, and the connection closed
(MQTT-3.1.3-8). So the probe needs no credential, opens no session, takes nobody's client id, and
leaves no line in the log; a CONNECT of an unknown protocol level would be logged as a broken client.
Any CONNACK is an answer, also that of a door that is full.
"""

from __future__ import annotations

import asyncio
import contextlib

from gateway.drivers.broker import packets
from gateway.drivers.broker.framing import CONNACK, CONNECT

CONNACK_BYTES = 4

_KEEPALIVE_S = 10
_KEEP_SESSION = 0x00
_QUESTION = packets.frame(
    CONNECT,
    packets.text("MQTT")
    + bytes((packets.PROTOCOL_LEVEL, _KEEP_SESSION))
    + _KEEPALIVE_S.to_bytes(2, "big")
    + packets.text(""),
)
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener on all addresses is


async def answers(host: str, port: int, timeout_s: float = 3.0) -> str | None:
    """Whether the broker answers a newcomer.

    Args:
        host: of a plain listener of our own; one that listens everywhere is asked over loopback.
        port: of that listener.
        timeout_s: for connection and answer together.

    Returns:
        None if it answered, else one sentence that says what happened instead.
    """
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _ask(_ANY_ADDRESS.get(host, host), port)
    except TimeoutError:
        return f"port {port} gave no answer within {timeout_s:g} s"
    except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
        return f"port {port} closed the connection without an answer"
    except OSError as fault:
        return f"port {port} cannot be reached: {fault.strerror or fault}"
    if answer[0] != CONNACK:
        return f"something that is no broker answers on port {port}"
    return None


async def _ask(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_QUESTION)
        return await reader.readexactly(CONNACK_BYTES)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
