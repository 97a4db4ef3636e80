"""Runs in two processes on the CPU, for tests that compare them with one."""

import copy
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from experiments.record import RunRecord


def on_two(spec, strategy, **more):
    """The spec on two processes."""
    spec = copy.deepcopy(spec)
    spec["train"] |= {"devices": 2, "strategy": strategy, **more}
    return spec


def torchrun(root):
    """Do the cases in `root` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("rank_cases.py")), "cases.json"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, timeout=900, env=environment)


def differences(one, two):
    """The largest difference of two runs' weights, and of their metrics as a share."""
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert weights.keys() == others.keys()
    metrics, other = (RunRecord.read(folder).metrics for folder in (one, two))
    assert metrics.keys() == other.keys()
    of_metrics = max(abs(metrics[name] - other[name]) / max(1.0, abs(metrics[name])) for name in metrics)
    return max(float((weights[name] - others[name]).abs().max()) for name in weights), of_metrics
