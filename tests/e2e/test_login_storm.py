"""Power is back: every collar connects at once, with its password and a backlog."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.generator import Plan
from tests.bench.processes import free_port
from tests.bench.storm import storm


@pytest.mark.rig
@pytest.mark.parametrize("clean", [True, False], ids=["clean sessions", "kept sessions"])
def test_all_collars_come_back_at_once_after_a_kill_and_each_reading_is_stored_once(
    tmp_path: Path, clean: bool
) -> None:
    plan = Plan(free_port(), clients=200, count=30, in_flight=30, clean=clean)
    result = storm(tmp_path, plan)
    assert result["acknowledged"] == 200 * 30
    print(
        f"\nall connected after {result['connected_s']:.2f} s, drained after {result['seconds']:.2f} s, "
        f"publish→PUBACK p99 {result['p99_ms']:.0f} ms, RSS {result['rss_mb']:.0f} MB"
    )
