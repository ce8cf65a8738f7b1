"""The service log on a card without room."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.drivers import logfile


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_card_costs_log_lines_not_noise(capfd: pytest.CaptureFixture[str]) -> None:
    before = logfile.dropped_records()
    with logfile.service_log(
        level="INFO", log_file=Path("/dev/full"), max_bytes=0, backup_count=0, console=False
    ):
        for n in range(3):
            logging.getLogger("gateway").info("line %d", n)
    assert logfile.dropped_records() - before == 3
    assert capfd.readouterr().err == ""
