"""A real heifer's 24 hours: no fever, no malfunction, its two long gaps and nothing else."""

import csv
from datetime import UTC, datetime

import pytest

from gateway.core.readings import Reading
from gateway.core.windows import Windows
from tests.conftest import SHARED_DATA
from tests.herd_maker import judge

FILE = SHARED_DATA / "neck_imu_heifer_24h" / "gateway_replay_1min.csv"


def recorded() -> list[Reading]:
    made = []
    with FILE.open() as file:
        for row in csv.DictReader(file):
            at_s = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp()
            made.append(
                Reading(
                    cow_id=row["cow_id"],
                    timestamp_ms=int(at_s * 1000),
                    temperature_c=38.6,
                    fxa_g=float(row["fxa"]),
                    mya_g=float(row["mya"]),
                    rza_g=float(row["rza"]),
                    received_s=at_s,
                )
            )
    return made


@pytest.mark.skipif(not FILE.exists(), reason="the heifer's recording is not part of the repository")
@pytest.mark.parametrize(("every_min", "phase_min"), [(2, 0), (2, 1), (7, 3), (60, 59)])
def test_a_real_day(every_min, phase_min):
    made = recorded()
    windows = Windows()
    present = []
    next_s = made[0].received_s + phase_min * 60
    for reading in made:
        while reading.received_s > next_s:
            present += [f for f in judge(windows, now_s=next_s) if f.present]
            next_s += every_min * 60
        windows.feed([reading])
    present += [f for f in judge(windows, now_s=made[-1].received_s) if f.present]
    assert {f.kind for f in present} == {"silence"}
    assert {f.detail for f in present} == {"sensor_gap"}
    ended = [f for f in present if f.ended]
    clock = lambda ms: datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M")  # noqa: E731
    assert [(clock(f.onset_ms), clock(f.at_ms)) for f in ended] == [("00:58", "01:09"), ("20:45", "20:56")]
    assert {f.onset_ms for f in present} == {f.onset_ms for f in ended}
