"""Runs the real gateway as its own process, the way a barn does, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

START_S_MAX = 20.0
"""A cold start with two busy cores; about 1.5 s on a quiet laptop."""


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Poll until the condition is truthy; fail naming what was awaited."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.05)


class GatewayProcess:
    """A running `barn-gateway run` in its own working directory."""

    def __init__(self, process: subprocess.Popen[str], home: Path, port: int, http_port: int) -> None:
        self.process = process
        self.home = home
        self.port = port
        self.http_port = http_port

    @property
    def store(self) -> Path:
        return self.home / "data" / "alert_state.db"

    def log(self) -> str:
        return (self.home / "logs" / "realtime_service.log").read_text(encoding="utf-8")

    def console(self) -> str:
        return (self.home / "console.txt").read_text(encoding="utf-8")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def wait_for_log(self, text: str, timeout_s: float = 20.0) -> None:
        until(lambda: text in self.log(), f"log line {text!r}; log:\n{self.log()}", timeout_s)

    def health(self) -> dict[str, Any]:
        """What /health says; {} while nobody listens there."""
        try:
            answer: dict[str, Any] = json.loads(self.get("/health"))
        except OSError:
            return {}
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 35.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=timeout_s)


def config_for(port: int, http_port: int, **sections: dict[str, Any] | str) -> dict[str, Any]:
    """Document 0's configuration with free ports and a detector interval a test can wait for."""
    config: dict[str, Any] = {
        "mqtt": {"broker_host": "localhost", "broker_port": port},
        "service": {"enable_health_check": True, "health_check_port": http_port},
        "detector_schedules": {"immediate_detection": {"interval_minutes": 0.03, "enabled": True}},
        "panel": {"driver": "mock"},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values} if isinstance(values, dict) else values
    return config


@contextmanager
def running_gateway(
    home: Path,
    port: int,
    http_port: int,
    wrap: tuple[str, ...] = (),
    *,
    wait: bool = True,
    **sections: dict[str, Any] | str,
) -> Iterator[GatewayProcess]:
    """Start the gateway in `home`, wait until it says it runs (or not), stop it afterwards."""
    home.mkdir(parents=True, exist_ok=True)
    config_file = home / "gateway.yaml"
    config_file.write_text(yaml.safe_dump(config_for(port, http_port, **sections)), encoding="utf-8")
    with (home / "console.txt").open("a", encoding="utf-8") as console:
        mark = console.tell()
        process = subprocess.Popen(
            [*wrap, sys.executable, "-m", "gateway", "run", "--config", str(config_file)],
            cwd=home,
            stdout=console,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"},
        )
        gateway = GatewayProcess(process, home, port, http_port)

        def running() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the gateway ended with {process.returncode}:\n{gateway.console()}")
            return "Service running successfully" in gateway.console()[mark:]

        try:
            if wait:
                until(running, f"the gateway to run:\n{gateway.console()}", START_S_MAX)
            yield gateway
        finally:
            if process.poll() is None:
                gateway.stop()
