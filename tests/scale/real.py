"""Real runs under fire: a teacher and its students, on several drivers in two working folders that are killed all the time.

Every run's weights must be those of a study that one worker did undisturbed, bit for bit.

    python tests/scale/real.py --storage postgresql --kills 20
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chaos
import postgres

HERE = Path(__file__).resolve().parent
# 2 seeds of a teacher, of a baseline and of three arms that learn from the teacher or start from a run: ten runs.
STUDY = """
schema: 1
question: Does a study that is killed all the time give what an undisturbed one gives?
model:
  dim: 32
  vocab_size: 300
  layers: 3
  pattern: [rec, local, global]
  blocks:
    local: {mixer: {type: attention, heads: 2, kv_heads: 1, head_dim: 16, window: 8}, ffn: {type: gated, hidden: 48}}
    global: {like: local, mixer: {window: null}}
    rec: {like: local, mixer: {type: rg_lru, blocks: 2}}
data: {source: {type: text, files: [TEXTS], field: text}, tokenizer: {type: byte}, context: 64, rows: 4}
optimizer: {lr: 3e-3}
train: {steps: STEPS, checkpoint_every: 10, threads: 1}
evaluate: {every: 50, select_rows: 4, report_rows: 4, sample_tokens: 0}
arms:
  scratch: {}
  student: {objective: {type: distill, teacher: {run: teacher}}}
  narrow student: {objective: {type: distill, teacher: {run: teacher}}, model.blocks.local.ffn.hidden: 32}
  longer: {init_from: {run: scratch}}
runs: {teacher: {optimizer.lr: 5e-3}}
seeds: 2
"""


def arguments(words=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", choices=("journal", "postgresql"), default="postgresql")
    parser.add_argument("--drivers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=900.0)
    parser.add_argument("--write", type=Path, help="add what was found to this JSON file")
    return parser.parse_args(words)


def weights(runs):
    """{run: digest of its weights} of the finished runs below a folder."""
    found = {}
    for record in sorted(runs.glob("*/*/*/seed-*/record.json")):
        run = record.parent
        assert json.loads(record.read_text())["status"] == "finished", record
        found[str(run.relative_to(runs))] = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    return found


class Machines:
    """Drivers as processes of their own, half of them in each of two working folders, which share one folder of runs."""

    def __init__(self, number, folders, environment, log):
        self.number, self.folders, self.environment, self.log = number, folders, environment, log
        self.running, self.codes, self.started = {}, [], 0

    def fill(self):
        """Start as many as are missing."""
        while len(self.running) < self.number:
            place = self.folders[self.started % len(self.folders)]
            self.started += 1
            command = [sys.executable, str(HERE.parent.parent / "archbench.py"), "study", "work", "study.yaml", "--workers", "1"]
            with self.log.open("ab") as log:
                process = subprocess.Popen(command, cwd=place, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            self.running[process.pid] = process

    def reap(self):
        """Notice which have ended. Returns whether one ended because nothing is left to do."""
        ended = False
        for pid, process in list(self.running.items()):
            if process.poll() is not None:
                self.codes.append(process.returncode)
                del self.running[pid]
                ended |= process.returncode == 0
        return ended


def main(words=None):
    """Run the test and print what it found. Returns the exit code."""
    options = arguments(words)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archbench-real-")))
        server = stack.enter_context(postgres.Server()) if options.storage == "postgresql" else None
        return _ran(options, folder, server.url if server else f"journal:{folder}/queue.journal")


def _ran(options, folder, url):
    draw = random.Random(options.seed)
    text = random.Random(1)
    words = ["one", "two", "three", "green", "hills", "of", "rain", "over", "the", "old", "mat"]
    lines = (json.dumps({"text": " ".join(text.choices(words, k=40))}) for _ in range(300))
    (folder / "texts.jsonl").write_text("".join(f"{line}\n" for line in lines))
    study = STUDY.replace("TEXTS", str(folder / "texts.jsonl")).replace("STEPS", str(options.steps))
    machines = [folder / name for name in ("alone", "machine-1", "machine-2")]
    for place in machines:
        place.mkdir()
        (place / "study.yaml").write_text(study)
    (folder / "runs").mkdir()
    for place in machines[1:]:
        (place / "runs").symlink_to(folder / "runs")
    path = os.pathsep.join(filter(None, [str(HERE.parent.parent), os.environ.get("PYTHONPATH")]))
    quick = {"ARCHBENCH_BEAT": "1", "ARCHBENCH_LEASE": "10", "ARCHBENCH_LOSSES": "1000000"}
    environment = {**os.environ, **quick, "PYTHONPATH": path, "ARCHBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, str(HERE.parent.parent / "archbench.py"), "study", "run", "study.yaml", "--workers", "1"]
    began = time.monotonic()
    done = subprocess.run(alone, cwd=machines[0], env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    expected, seconds_alone = weights(machines[0] / "runs"), time.monotonic() - began
    drivers = Machines(options.drivers, machines[1:], {**environment, "ARCHBENCH_STORAGE": url}, folder / "log")
    began, kills, over, killed = time.monotonic(), 0, None, time.monotonic()
    try:
        drivers.fill()
        while drivers.running and time.monotonic() - began < options.limit:
            if drivers.reap() or over:
                over = True
            else:
                drivers.fill()
            if not over and kills < options.kills and time.monotonic() > killed and any((folder / "runs").rglob("checkpoint.ckpt")):
                pid = draw.choice(list(drivers.running))
                workers = chaos.children(pid)
                what = draw.choice(("driver", "worker", "both"))
                for each in {"driver": [pid], "worker": workers, "both": [pid, *workers]}[what]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)
                        kills += 1
                killed = time.monotonic() + draw.uniform(1.0, 6.0)
            time.sleep(0.1)
    finally:
        for pid, process in drivers.running.items():
            for each in (*chaos.children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.wait()
    faults = [f"not done after {options.limit:g} s"] if drivers.running else []
    found = weights(folder / "runs")
    faults += [f"{run}: not there" for run in expected.keys() - found.keys()]
    faults += [f"{run}: other weights" for run in expected.keys() & found.keys() if expected[run] != found[run]]
    faults += [f"{path}: was not cleared away" for path in (folder / "runs").rglob("attempt-*")]
    if wrong := sorted({code for code in drivers.codes if code not in (0, -9)}):
        faults.append(f"drivers ended with {wrong}")
    rows = chaos.rows_of(url, "study")
    twice = len([row for row in rows if row.state == "COMPLETE"]) - len({row.run for row in rows if row.state == "COMPLETE"})
    faults += [f"{twice} runs were done twice"] if twice else []
    faults += ["a trial is still waiting or running"] if any(row.is_live for row in rows) else []
    trials = dict(sorted(chaos.shared_counts(rows)))
    if faults:
        shutil.copy(folder / "log", Path(tempfile.gettempdir()) / "archbench-real.log")
        print(f"the drivers said: {tempfile.gettempdir()}/archbench-real.log", file=sys.stderr)
    result = {
        "engine": "archbench",
        "storage": options.storage,
        "real": True,
        "drivers": options.drivers,
        "machines": 2,
        "seed": options.seed,
        "kills": kills,
        "jobs": len(expected),
        "done": len(found),
        "same_weights": sum(expected[run] == found.get(run) for run in expected),
        "lost": len(expected.keys() - found.keys()),
        "twice": twice,
        "trials": trials,
        "faults": faults,
        "seconds_alone": round(seconds_alone, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result, indent=1))
    if options.write:
        chaos.added(options.write, result)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
