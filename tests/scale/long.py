"""`make chaos`: the chaos test at length, on both storages, with everything that can be made to go wrong on one machine.

    python tests/scale/long.py --write results/chaos.json

Takes about twenty minutes. Every line of the table in docs/scale.md is one of these.
"""

import argparse
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
    [
        *POSTGRES,
        "--jobs",
        "40",
        "--steps",
        "60",
        "--kills",
        "40",
        "--stops",
        "15",
        "--restarts",
        "5",
        "--pause",
        "1",
        "--seed",
        "4",
        *LONG,
    ],
    [*JOURNAL, "--jobs", "60", "--kills", "30", "--spoil", "30", "--seed", "5", *LONG],
    [*POSTGRES, "--jobs", "40", "--kills", "20", "--clocks", "--seed", "6", *LONG],
]
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
    failed += ["real runs"] if _fails(real, [*POSTGRES, "--kills", "30", *write]) else []
    for case in failed:
        print(f"failed: {case}", file=sys.stderr)
    return 1 if failed else 0


def _fails(module, words):
    """Whether a case fails, in a process of its own."""
    return bool(subprocess.run([sys.executable, str(Path(module.__file__)), *words], check=False).returncode)


if __name__ == "__main__":
    sys.exit(main())
