"""Do a list of runs as one of several processes that torchrun started; every process writes how its runs ended.

    torchrun ... rank_cases.py CASES.json

A case: {folder, plan, at, word}; the first process is told `word` after `at` steps.
"""

import json
import os
import sys
from pathlib import Path

from experiments import device

device.setup(1)
from experiments import ranks  # noqa: E402
from experiments.plan import RunPlan  # noqa: E402
from experiments.train import train  # noqa: E402

RANK = int(os.environ["RANK"])
ranks.disconnect = lambda: None  # one group serves all cases: starting the processes is what takes long


def told(at, word):
    calls = []
    return lambda: word if RANK == 0 and (calls.append(1) or len(calls) == at) else None


def main(cases):
    ends = {}
    for case in cases:
        stop = told(case.get("at"), case.get("word"))
        record = train(RunPlan.parse(case["plan"]), 0, case["folder"], stop=stop)
        ends.setdefault(case["folder"], []).append([record.status, record.failure and record.failure.dump(), record.steps])
    Path(f"ends-{RANK}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
