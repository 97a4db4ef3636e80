"""The chaos test: drivers of one study are killed, stopped and started again until it is done. What must hold is then checked.

    python tests/scale/chaos.py --storage journal --jobs 60 --drivers 4 --kills 30
    python tests/scale/chaos.py --storage postgresql --jobs 8 --steps 60 --kills 12 --stops 6 --restarts 1

Drivers are forked from this process, which has the libraries loaded, and run the product's own `run_study`; only training is
made up (`dummy`). `--engine heartbeat` runs the same jobs on Optuna's built-in heartbeat instead: to see what it loses.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import dummy
import postgres

HERE = Path(__file__).resolve().parent
BEAT, LEASE = 0.5, 4.0
STARTERS = 5  # every so many arms, one starts from the arm before
SEEDS = 4


def arguments(words=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("archbench", "heartbeat"), default="archbench")
    parser.add_argument("--storage", choices=("journal", "postgresql"), default="journal")
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-seconds", type=float, default=0.03)
    parser.add_argument("--drivers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=0, help="of the database")
    parser.add_argument("--spoil", type=int, default=0, help="checkpoints and records cut short")
    parser.add_argument("--full-disk", type=int, default=0, help="times that the disk of the runs is full for a while")
    parser.add_argument("--clocks", action="store_true", help="every driver has another wall clock, which jumps")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two troubles, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=150.0, help="seconds after which the test gives up")
    parser.add_argument("--write", type=Path, help="add what was found to this JSON file")
    return parser.parse_args(words)


def planned(folder, jobs, steps, seconds):
    """The StudyPlan of so many dummy runs; every fifth arm starts from the runs of the one before."""
    sys.path.insert(0, str(HERE.parent / "sweeps"))
    import sweeps_fakes

    from arch import cost, document
    from experiments import plan as experiment
    from sweeps import study

    experiment.plan = sweeps_fakes.plan
    cost.summary = lambda spec, context: {"cache_bytes": {"total": context}}
    cost.cache_bytes = lambda spec, context: {"total": context}
    block = {"mixer": {"type": "attention", "heads": 1, "head_dim": 8}, "ffn": {"type": "gated", "hidden": 8}}
    arms = {}
    for i in range(max(2, jobs // SEEDS)):
        arms[f"arm {i}"] = {"optimizer.weight_decay": round(0.01 * (i + 1), 4)}
        if i % STARTERS == STARTERS - 1:
            arms[f"arm {i}"]["init_from"] = {"run": f"arm {i - 1}"}
    root = {
        "model": {"dim": 8, "vocab_size": 300, "layers": 1, "pattern": ["only"], "blocks": {"only": block}},
        "data": {
            "source": {"type": "text", "files": [str(HERE / "chaos.py")]},
            "tokenizer": {"type": "byte"},
            "context": 8,
            "rows": 1,
        },
        "optimizer": {"lr": seconds},
        "train": {"steps": steps, "checkpoint_every": 5},
        "evaluate": {"select_rows": 1, "report_rows": 1, "sample_tokens": 0},
        "question": "Is anything lost?",
        "arms": arms,
        "seeds": SEEDS,
        "long_context": 8,
    }
    spec, checked = study.check(document.node(root))
    return study.plan("chaos", None, spec, checked, folder / "runs")


class Drivers:
    """The processes that work. They are started again when they are killed, as a cluster would do."""

    def __init__(self, number, drive, logs):
        self.number, self.drive, self.logs = number, drive, logs
        self.running, self.codes, self.started = {}, [], 0
        logs.mkdir()

    def fill(self):
        """Start as many as are missing."""
        while len(self.running) < self.number:
            self.started += 1
            number = self.started
            pid = os.fork()
            if pid == 0:
                self._child(number)
            self.running[pid] = number

    def _child(self, number):
        code = 1
        try:
            os.setsid()
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
            log = os.open(self.logs / f"{number}.log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = self.drive(number)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def reap(self):
        """Notice which have ended. Returns whether one ended because nothing is left to do."""
        ended = False
        for pid in list(self.running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                self.codes.append(code)
                number = self.running.pop(pid)
                ended |= code == 0
                if code not in (0, -9):
                    print(
                        f"driver {number} ended with {code}:\n{(self.logs / f'{number}.log').read_text()[-3000:]}", file=sys.stderr
                    )
        return ended

    def kill(self, draw, signal_number, whole=None):
        """Send a signal to a driver, to one of its workers, or to both; returns the processes that got it."""
        pid = draw.choice(list(self.running))
        workers = children(pid)
        what = draw.choice(("driver", "worker", "both")) if whole is None else whole
        targets = {"driver": [pid], "worker": workers[:1] or [pid], "both": [pid, *workers]}[what]
        for each in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal_number)
        return targets

    def end(self):
        """Kill all, at the end of a test that gave up."""
        for pid in list(self.running):
            for each in [pid, *children(pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.running = {}


def children(pid):
    """The worker processes of a driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if (
                int(path.read_text().rpartition(")")[2].split()[1]) == pid
                and b"spawn_main" in (path.parent / "cmdline").read_bytes()
            ):
                found.append(int(path.parent.name))
    return found


def driver(plan, url, clocks):
    """drive(number) of the product: one process of `study work`."""

    def drive(number):
        import io

        from rich.console import Console

        from sweeps import storage
        from sweeps.run import run_study

        if clocks:
            jump(number)
        console = Console(file=io.TextIOWrapper(os.fdopen(os.dup(1), "wb", buffering=0), write_through=True), width=160)
        deadline = time.monotonic() + 30
        while True:
            try:
                opened = storage.opened(url, LEASE)
                return 0 if run_study(plan, 1, console, dummy.prepare, storage=opened).complete else 1
            except (ValueError, OSError) as error:  # no server or no room at the start ends the command; a cluster starts it again
                print(error, flush=True)
                if time.monotonic() > deadline:
                    return 2
                time.sleep(0.3)

    return drive


def jump(number):
    """Another wall clock for this driver, hours off, that jumps every second. Nothing may depend on it."""
    true, offset = time.time, random.Random(number).uniform(-5e4, 5e4)
    time.time = lambda: true() + offset + 3600 * (int(true()) % 3)
    os.environ["TZ"] = random.Random(number).choice(("UTC", "Asia/Tokyo", "America/New_York"))
    time.tzset()


class Trouble:
    """What happens to the drivers and their files, at random moments but in a given number."""

    def __init__(self, options, draw, drivers, server, runs):
        self.options, self.draw, self.drivers, self.server, self.runs = options, draw, drivers, server, runs
        self.left = {name: getattr(options, name) for name in ("kills", "stops", "restarts", "spoil", "full_disk")}
        self.made = dict.fromkeys(self.left, 0)
        self.stopped, self.spoiled, self.filler = {}, set(), None
        self.next = None

    def step(self):
        """Do what is due."""
        now = time.monotonic()
        for pid, until in list(self.stopped.items()):
            if now >= until:
                del self.stopped[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if self.filler and now >= self.filler[1]:
            self.filler[0].unlink(missing_ok=True)
            self.filler = None
        if self.next is None and Path(os.environ[dummy.LEDGER]).exists():  # the first run has begun
            self.next = now
        if self.next is None or now < self.next or not self.drivers.running or not any(self.left.values()):
            return
        self.next = now + self.draw.uniform(0.3, 1.7) * self.options.pause
        names = [name for name, number in self.left.items() for _ in range(number)]
        # What is rare may be drawn last, when the jobs are done; so it comes after a third of the others at the latest.
        rare = self.left["restarts"] and sum(self.made.values()) >= len(names) / 2
        name = "restarts" if rare else self.draw.choice(names)
        if getattr(self, name)():
            self.left[name] -= 1
            self.made[name] += 1

    def kills(self):
        """SIGKILL to a driver, a worker, or both."""
        self.drivers.kill(self.draw, signal.SIGKILL)
        return True

    def stops(self):
        """SIGSTOP for longer than a lease; of a driver alone, its worker goes on meanwhile."""
        until = time.monotonic() + LEASE + self.draw.uniform(2.0, 4.0)
        for pid in self.drivers.kill(self.draw, signal.SIGSTOP, self.draw.choice(("driver", "both"))):
            self.stopped[pid] = until
        return True

    def restarts(self):
        """The database is killed and comes back after two seconds."""
        self.server.restart(2.0)
        return True

    def spoil(self):
        """Cut a checkpoint or a record in two."""
        names = ("checkpoint.ckpt", "record.json")
        files = [path for name in names for path in self.runs.rglob(name) if path.parent.name.startswith(("attempt-", "seed-"))]
        if not files:
            return False
        path = self.draw.choice(files)
        with contextlib.suppress(OSError):
            os.truncate(path, path.stat().st_size // 2)
            if path.parent.name.startswith("seed-"):
                self.spoiled.add(f"{path.parent.parent.name}/{path.parent.name}")
            return True
        return False

    def full_disk(self):
        """Fill the disk of the runs for some seconds."""
        if self.filler:
            return False
        path = self.runs.parent / "filler"
        for block in (1 << 16, 1):
            with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * block)
        self.filler = path, time.monotonic() + 3.0
        return True

    def end(self):
        """Nothing is stopped or full any more."""
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.stopped = {}
        if self.filler:
            self.filler[0].unlink(missing_ok=True)
            self.filler = None


@contextlib.contextmanager
def place(small):
    """A folder for the runs. small: a file system of a few megabytes, which can be full; needs root."""
    folder = Path(tempfile.mkdtemp(prefix="archbench-chaos-"))
    if small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        if small:
            for _ in range(50):  # a worker whose driver was killed may still be ending
                if subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode == 0:
                    break
                time.sleep(0.2)
        shutil.rmtree(folder, ignore_errors=True)


def main(words=None):
    """Run the test and print what it found. Returns the exit code."""
    options = arguments(words)
    os.environ |= {
        "ARCHBENCH_BEAT": str(BEAT),
        "ARCHBENCH_LEASE": str(LEASE),
        "ARCHBENCH_LOSSES": "1000000",
        "OMP_NUM_THREADS": "1",
    }
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(place(bool(options.full_disk)))
        aside = stack.enter_context(tempfile.TemporaryDirectory(prefix="archbench-chaos-logs-"))
        server = stack.enter_context(postgres.Server()) if options.storage == "postgresql" else None
        url = server.url if server else f"journal:{folder}/queue.journal"
        return _ran(options, folder, Path(aside), server, url)


def _ran(options, folder, aside, server, url):
    import ledger

    draw = random.Random(options.seed)
    os.environ[dummy.LEDGER] = str(aside / "ledger")
    plan = planned(folder, options.jobs, options.steps, options.step_seconds)
    jobs, began = plan.jobs(), time.monotonic()
    if options.engine == "heartbeat":
        import heartbeat

        drive = heartbeat.driver(jobs, url)
    else:
        drive = driver(plan, url, options.clocks)
    drivers = Drivers(options.drivers, drive, aside / "drivers")
    trouble = Trouble(options, draw, drivers, server, folder / "runs")
    over = None
    try:
        drivers.fill()
        while drivers.running:
            ended = drivers.reap()
            now = time.monotonic()
            if now - began > options.limit:
                break
            if ended or over:
                over = over or now
            else:
                drivers.fill()
                trouble.step()
            if over and now - over > 2 * LEASE:
                trouble.end()
            time.sleep(0.05)
        trouble.end()
        gave_up = bool(drivers.running)
        if options.spoil and not gave_up:  # what was spoiled after its run was seen finished: the next start sees it
            drivers.number = 1
            drivers.fill()
            while drivers.running:
                drivers.reap()
                time.sleep(0.05)
    finally:
        trouble.end()
        drivers.end()
    seconds = time.monotonic() - began
    rows = heartbeat.rows(url) if options.engine == "heartbeat" else rows_of(url)
    found = ledger.check(jobs, aside / "ledger", rows, plan.folder, trouble.spoiled)
    if gave_up:
        found.faults.append(f"not done after {options.limit:g} s")
    wrong = sorted({code for code in drivers.codes if code not in (0, -9)})
    if wrong:
        found.faults.append(f"drivers ended with {wrong}")
    result = {
        "engine": options.engine,
        "storage": options.storage,
        "drivers": options.drivers,
        "seed": options.seed,
        "clocks": options.clocks,
        **trouble.made,
        **asdict(found),
        "seconds": round(seconds, 1),
    }
    print(json.dumps({**result, "faults": result["faults"][:40]}, indent=1))
    if options.write:
        added(options.write, result)
    for name in ("kills", "stops", "restarts"):
        if trouble.left[name]:
            print(f"only {trouble.made[name]} of {getattr(options, name)} {name}: the jobs were done before", file=sys.stderr)
    return 1 if found.faults else 0


def added(file, result):
    """Add what a test found to a JSON file."""
    before = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps([*before, result], indent=1) + "\n")


def shared_counts(rows):
    """(state, number) of the trials of a queue."""
    from sweeps import queue_rows

    return queue_rows.counts(rows)


def rows_of(url, name="chaos"):
    """The Rows of the queue at the end."""
    import optuna

    from sweeps import open_queue, queue_rows, storage

    study = optuna.load_study(study_name=open_queue.name_of(name, None), storage=storage.opened(url, LEASE))
    return [queue_rows.row_of(trial) for trial in study.get_trials(deepcopy=False)]


if __name__ == "__main__":
    sys.exit(main())
