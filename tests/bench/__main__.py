"""`make bench`: the ingest path, the card's wear, questions to a full store, a start on one.

`python -m tests.bench PART` runs one part and takes its options (`wear --hours 24`); without a part all
of them run: ingest (durable readings per CPU-second), latency (publish→PUBACK), fan_out, crowd (cost as
connections grow), memory, storm (everybody comes back at once), wear, queries, boot, alarms (panic→panel).

Every part names its commit window and compares contestants in the same run; absolute figures belong to
this machine alone.
"""

from __future__ import annotations

import sys

from tests.bench import alarms, boot, crowd, fan_out, ingest, latency, memory, queries, storm, wear

PARTS = {
    "ingest": ingest.main,
    "latency": latency.main,
    "fan_out": fan_out.main,
    "crowd": crowd.main,
    "memory": memory.main,
    "storm": storm.main,
    "wear": wear.main,
    "queries": queries.main,
    "boot": boot.main,
    "alarms": alarms.main,
}


def main() -> None:
    part, *arguments = sys.argv[1:] or [""]
    if part in PARTS:
        PARTS[part](arguments)
    elif part == "":
        for run in PARTS.values():
            run([])
    else:
        sys.exit(f"{__doc__}\nparts: {', '.join(PARTS)}")


if __name__ == "__main__":
    main()
