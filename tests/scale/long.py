"""`make chaos`: the chaos test at length, on both storages, with everything that can be made to go wrong on one machine.

    python tests/scale/long.py --write results/chaos.json

Takes about twenty minutes. Every line of the table in docs/scale.md is one of these.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import chaos
import real

JOURNAL, POSTGRES = ["--storage", "journal"], ["--storage", "postgresql"]
LONG = ["--limit", "600"]
CASES = [
    [*JOURNAL, "--jobs", "120", "--drivers", "6", "--kills", "100", "--seed", "1", *LONG],
    [*POSTGRES, "--jobs", "120", "--drivers", "6", "--kills", "100", "--seed", "2", *LONG],
    [*JOURNAL, "--jobs", "40", "--steps", "60", "--kills", "30", "--stops", "15", "--pause", "1", "--seed", "3", *LONG],
    [*POSTGRES, "--jobs", "40", "--steps", "60", "--kills", "40", "--stops", "15", "--restarts", "5", "--pause", "1", *LONG],
    [*JOURNAL, "--jobs", "60", "--kills", "30", "--spoil", "30", "--seed", "5", *LONG],
    [*POSTGRES, "--jobs", "40", "--kills", "20", "--clocks", "--seed", "6", *LONG],
]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
COLUMNS = ("storage", "drivers", "jobs", "kills", "stops", "restarts", "done", "lost", "twice", "overlaps", "lost attempts", "s")
BEGIN, END = "<!-- table: chaos -->\n", "<!-- end -->"
# Needs root, to make a file system that is small enough to fill.
FULL = [*JOURNAL, "--jobs", "40", "--steps", "40", "--kills", "10", "--full-disk", "3", "--pause", "1.5", "--seed", "7", *LONG]


def main():
    """Run all cases one after the other. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="where the findings are kept, as JSON")
    options = parser.parse_args()
    if options.write:
        options.write.unlink(missing_ok=True)
    write = ["--write", str(options.write)] if options.write else []
    failed = [" ".join(case) for case in CASES if _fails(chaos, [*case, *write])]
    if os.geteuid() == 0 and subprocess.run(["which", "mount"], check=False, capture_output=True).returncode == 0:
        failed += ["the full disk"] if _fails(chaos, [*FULL, *write]) else []
    else:
        print("skipped: a full disk needs root, to make a small file system")
    failed += ["real runs"] if _fails(real, [*POSTGRES, "--kills", "20", "--steps", "150", *write]) else []
    if options.write:
        rewrite(json.loads(options.write.read_text()))
    for case in failed:
        print(f"failed: {case}", file=sys.stderr)
    return 1 if failed else 0


def table(records):
    """What was found, as Markdown."""
    rows = [[_what(record), *(_cell(record, column) for column in COLUMNS)] for record in records]
    return "\n".join(f"| {' | '.join(row)} |" for row in [["what", *COLUMNS], ["---"] * (1 + len(COLUMNS)), *rows])


def _what(record):
    if record.get("real"):
        return f"real runs, {record['same_weights']} of {record['jobs']} with the same weights"
    more = [f"{record['spoil']} files cut short"] if record.get("spoil") else []
    more += [f"disk full {record['full_disk']} times"] if record.get("full_disk") else []
    more += ["other clocks, jumping"] if record.get("clocks") else []
    return ", ".join(more) or "made-up runs"


def _cell(record, column):
    trials = {name.lower(): number for name, number in record["trials"].items()}
    special = {"lost attempts": trials.get("fail lost", trials.get("failed (lost)", 0)), "s": round(record["seconds"])}
    return str(special.get(column, record.get(column, "")))


def rewrite(records):
    """Put the table into docs/scale.md."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}{table(records)}\n{END}{rest.partition(END)[2]}")


def _fails(module, words):
    """Whether a case fails, in a process of its own."""
    return bool(subprocess.run([sys.executable, str(Path(module.__file__)), *words], check=False).returncode)


if __name__ == "__main__":
    sys.exit(main())
