"""What was acknowledged survives kill -9 on the real process, with Mosquitto's own tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.e2e.gateway_process import running_gateway
from tests.e2e.test_whole_barn import free_ports


@pytest.mark.rig
def test_sessions_queues_and_retained_messages_survive_a_kill(tmp_path: Path) -> None:
    """PUBACK means on disk for whoever is away, too: killed right behind the last one, three times."""
    pub, sub = need("mosquitto_pub"), need("mosquitto_sub")
    port, http_port = free_ports(2)
    where = ["-h", "127.0.0.1", "-p", str(port), "-q", "1"]
    ear = [sub, *where, "-c", "-i", "ear", "-t", "barn/#"]

    def said(*words: str) -> list[str]:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split()

    with running_gateway(tmp_path, port, http_port) as barn:
        said(*ear, "-E")  # until SUBACK
        said(pub, *where, "-t", "state/door", "-m", "open", "-r")
        barn.kill()
    for number in range(3):
        with running_gateway(tmp_path, port, http_port) as barn:
            for part in "ab":
                said(pub, *where, "-t", "barn/gate", "-m", f"{number}{part}")
            barn.kill()
    with running_gateway(tmp_path, port, http_port) as barn:
        assert said(*ear, "-C", "6", "-W", "10") == [
            f"{number}{part}" for number in range(3) for part in "ab"
        ]
        assert said(sub, *where, "-t", "state/#", "-C", "1", "-W", "10") == ["open"]
        assert barn.health()["counters"]["broker"]["retained"] == 1
