"""`python -m tests.mutation_score 80`: what `mutmut run` found, by module; exit 1 below the percentage.

A mutant that failed a test, or ran into the time limit, was noticed; every other one counts against the
score, also one that no test reached. `mutmut results` names them,
and `mutmut show NAME` shows the changed line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

NOTICED = frozenset({1, 3, 36, 24, -24, 152, 255})
"""mutmut 3.8's exit codes: a test failed (1, 3), or time was up (the others)."""


def killed_and_made(meta: str) -> tuple[int, int]:
    """How many mutants of a module were noticed, of how many."""
    outcomes = list(json.loads(meta)["exit_code_by_key"].values())
    return sum(outcome in NOTICED for outcome in outcomes), len(outcomes)


def main(percent: float, folder: Path = Path("mutants/gateway")) -> int:
    modules = {path: killed_and_made(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py.meta")}
    modules = {path: counts for path, counts in modules.items() if counts[1]}
    if not modules:
        print(f"{folder} holds no mutants; run `mutmut run` first", file=sys.stderr)
        return 1
    worst = 100.0
    for path, (killed, made) in sorted(modules.items()):
        score = 100 * killed / made
        worst = min(worst, score)
        print(
            f"{path.name.removesuffix('.py.meta'):14} {killed:4} of {made:4} mutants killed  {score:5.1f} %"
        )
    if worst < percent:
        print(f"below {percent:g} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
