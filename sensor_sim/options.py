"""The command line of `barn-sim`: options, their checks, and the run they describe."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sensor_sim.episodes import SCENARIOS, Kind, Plan, parse_plan, scenario
from sensor_sim.errors import SimError
from sensor_sim.faults import WireFaults
from sensor_sim.herd import cow_names
from sensor_sim.times import MINUTE_MS, parse_duration_s, parse_start_ms

_EXAMPLES = """\
examples:
  barn-sim                                      12 cows in real time to 127.0.0.1:1883
  barn-sim --scenario demo --speed 60           a fever, a stuck and a silent collar within a minute
  barn-sim --sink jsonl --out day.jsonl --truth day.truth.jsonl --speed max \\
           --start 2026-01-10T00:00:00Z --duration 1d --cows 50 --fever COW_003@+6h
  barn-sim --fever COW_003@+20m/10h/90m --silent COW_007@+40m/2h --drop 0.01

Episodes are written COW@+ONSET[/LENGTH], a fever also COW@+ONSET/LENGTH/RISE; without a
LENGTH a fever lasts 14 h, everything else to the end. The same seed, start and options
give the same bytes at any speed and into any sink. A broker never gets a reading from the
future: accelerated runs start in the past (6 h by default) and go on in real time once
they have caught up. The password comes from the environment variable BARN_SIM_PASSWORD.
exit codes: 0 done, 1 wrong option or unwritable file, 3 broker not reached or not all acknowledged
"""


@dataclass(frozen=True, slots=True)
class Options:
    """A checked run. `speed` None means without waiting; `duration_s` None means for ever."""

    host: str
    port: int
    username: str | None
    connections: int
    connect_timeout_s: float
    sink: str
    out: Path | None
    truth: Path | None
    cow_ids: tuple[str, ...]
    seed: int
    interval_s: int
    gyro: bool
    state: bool
    start_ms: int
    duration_s: int | None
    speed: float | None
    faults: WireFaults
    plans: tuple[Plan, ...]
    quiet: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SimError(f"{message}; see barn-sim --help")


def parse(arguments: list[str] | None, now_ms: int) -> Options:
    """Read the command line (None: the process's own); `SimError` says what is wrong.

    `now_ms` is the wall clock, UTC epoch ms, against which `now` and `-6h` are read.
    """
    given = _parser().parse_args(_joined(arguments))
    speed = _speed(given.speed)
    duration_s = None if given.duration == "forever" else parse_duration_s(given.duration)
    sink = given.sink or ("jsonl" if given.out else "mqtt")
    _check_sink(sink, given.out, speed, duration_s)
    start = given.start or ("now" if speed == 1 else "-6h")
    if not given.start and speed is None and duration_s is not None:
        start = f"-{duration_s}s"
    start_ms = parse_start_ms(start, now_ms)
    if start_ms > now_ms and (sink == "mqtt" or speed is not None):
        raise SimError(f"--start {given.start} lies in the future; only --speed max into a file may do that")
    cow_ids = cow_names(given.cows)
    plans = scenario(given.scenario, cow_ids) + tuple(
        parse_plan(kind, text) for kind in Kind for text in getattr(given, kind.value)
    )
    if not 1 <= given.port <= 65535:
        raise SimError(f"--port {given.port} is no port; it must lie between 1 and 65535")
    return Options(
        host=given.host,
        port=given.port,
        username=given.username,
        connections=1 if given.connections == "shared" else len(cow_ids),
        connect_timeout_s=float(given.connect_timeout),
        sink=sink,
        out=given.out,
        truth=given.truth,
        cow_ids=cow_ids,
        seed=given.seed,
        interval_s=given.interval,
        gyro=not given.no_gyro,
        state=not given.no_state,
        start_ms=start_ms,
        duration_s=duration_s,
        speed=speed,
        faults=WireFaults(given.drop, given.duplicate, given.late),
        plans=plans,
        quiet=given.quiet,
    )


def _joined(arguments: list[str] | None) -> list[str] | None:
    """`--start -6h` as `--start=-6h`: argparse takes a leading minus for an option."""
    import sys  # noqa: PLC0415 (only this default needs it)

    words = list(sys.argv[1:] if arguments is None else arguments)
    for index in range(len(words) - 2, -1, -1):
        if words[index] == "--start":
            words[index : index + 2] = [f"--start={words[index + 1]}"]
    return words


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.01 <= speed <= 1_000_000:
        raise SimError(f"--speed '{text}' is no speed; write 1, 60 or max")
    return speed


def _check_sink(sink: str, out: Path | None, speed: float | None, duration_s: int | None) -> None:
    if sink == "jsonl" and out is None:
        raise SimError("--sink jsonl needs --out FILE")
    if sink != "jsonl" and out is not None:
        raise SimError(f"--out is for --sink jsonl, not {sink}")
    if speed is None and duration_s is None and sink != "mqtt":
        raise SimError("--speed max without --duration would fill the disk; add for example --duration 1d")
    if duration_s is not None and duration_s * 1000 < MINUTE_MS:
        raise SimError("--duration must be at least 1m")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="barn-sim",
        description="A herd of simulated neck collars: one reading a minute and cow, with labelled episodes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--sink", choices=("mqtt", "jsonl", "stdout"), help="default mqtt, or jsonl with --out"
    )
    where.add_argument("--host", default="127.0.0.1", help="broker (default %(default)s)")
    where.add_argument("--port", type=int, default=1883, help="its port (default %(default)s)")
    where.add_argument("--username", help="MQTT user name")
    where.add_argument(
        "--connections",
        choices=("shared", "per-cow"),
        default="shared",
        help="default %(default)s; at most 200",
    )
    where.add_argument(
        "--connect-timeout", type=float, default=60.0, metavar="S", help="seconds to try at first (60)"
    )
    where.add_argument("--out", type=Path, metavar="FILE", help="JSON lines, one message each; overwritten")
    where.add_argument(
        "--truth", type=Path, metavar="FILE", help="labels of episodes and wire faults, JSON lines"
    )
    where.add_argument("--quiet", action="store_true", help="warnings and errors only")
    herd = parser.add_argument_group("the herd")
    herd.add_argument("--cows", type=int, default=12, metavar="N", help="COW_001 to COW_N (default 12)")
    herd.add_argument("--seed", type=int, default=1, metavar="N", help="default %(default)s")
    herd.add_argument("--interval", type=int, default=60, metavar="S", help="seconds between readings (60)")
    herd.add_argument("--no-gyro", action="store_true", help="leave the optional gyro axes out")
    herd.add_argument("--no-state", action="store_true", help="leave the optional behaviour out")
    when = parser.add_argument_group("when")
    when.add_argument("--start", metavar="T", help="now, -6h or an ISO time (default now; -6h if faster)")
    when.add_argument("--duration", default="forever", metavar="D", help="barn time, 6h or forever (default)")
    when.add_argument("--speed", default="1", metavar="X", help="1 real time, 60 a barn hour a minute, max")
    what = parser.add_argument_group("what goes wrong")
    what.add_argument("--scenario", default="healthy", choices=SCENARIOS, help="default %(default)s")
    about = {
        Kind.FEVER: "rises past 40.5 °C",
        Kind.STUCK: "accelerometer repeats one triple",
        Kind.FROZEN: "thermometer repeats one value",
        Kind.SILENT: "collar sends nothing",
    }
    for kind in Kind:
        what.add_argument(f"--{kind}", action="append", default=[], metavar="COW@+T", help=about[kind])
    for name, does in (("drop", "never sent"), ("duplicate", "sent twice"), ("late", "sent 3-30 min late")):
        what.add_argument(f"--{name}", type=float, default=0.0, metavar="P", help=f"share of readings {does}")
    return parser
