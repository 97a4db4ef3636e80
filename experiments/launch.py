"""Start the ranks of a run on this machine, one process each, and watch them: one way for `archbench run` and for a study.

This process, which may be a worker of a study, does not train. It passes progress on and tells the first rank what it is
told itself; a rank that dies or fails ends the others within seconds. Ranks end when this process does, however that ends.

The ranks find each other as torchrun's do, by variables of the environment and a store that this process holds at a port
of the loopback interface. The port is taken before they start, so no other run can get it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from experiments.orders import STOP
from experiments.record import Failure, RunRecord

TICK = 0.1
# After the first sign that something is wrong: how long to wait for what the other ranks say of it.
GRACE = 2.0
# Seconds that ranks get to end by themselves where they are told to stop before the first step.
PATIENCE = 0.5
# How long ranks get to end by themselves once the first rank has ended.
LEAVE = 10.0
# What pins the threads of the libraries that a process imports.
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)
ADDRESS = "127.0.0.1"


class RankLost(Exception):
    """A process of the run died. The run's last checkpoint is on disk."""


@dataclass
class _Rank:
    number: int
    process: Any
    conn: Any
    record: RunRecord | None = None
    at: float = 0.0  # when it sent its record, by the machine's monotonic clock
    error: str = ""

    @property
    def lost(self) -> bool:
        """Whether it died without a word."""
        return self.record is None and not self.error and self.conn.closed

    @property
    def wrong(self) -> bool:
        return self.lost or bool(self.error) or bool(self.record and self.record.status == "failed")


@dataclass
class _Group:
    ranks: list[_Rank] = field(default_factory=list)

    @property
    def first(self) -> _Rank:
        return self.ranks[0]

    def hear(self, progress: Callable[[dict[str, Any]], Any]) -> None:
        """Wait a moment for messages and handle those that are there."""
        awaited = [each.conn for each in self.ranks if not each.conn.closed]
        wait([*awaited, *(each.process.sentinel for each in self.ranks if each.process.exitcode is None)], timeout=TICK)
        for each in self.ranks:
            died = each.process.exitcode is not None  # looked at first: what it sent before is read below
            try:
                while not each.conn.closed and each.conn.poll():
                    word, content, at = each.conn.recv()
                    self._understand(each, word, content, at, progress)
            except (EOFError, OSError):
                each.conn.close()
                each.process.join(GRACE)
            if died:
                each.conn.close()

    def _understand(self, each, word, content, at, progress):
        if word == "progress":
            progress(content)
        elif word == "record":
            each.record, each.at = RunRecord.parse(content), at
        elif word == "crashed":
            each.error, each.at = content, at

    def kill(self) -> None:
        for each in self.ranks:
            if each.process.is_alive():
                each.process.kill()
        for each in self.ranks:
            each.process.join()
            each.conn.close()


def train(
    plan: Any,
    seed: int,
    folder: Path,
    progress: Any = None,
    stop: Any = None,
    runs_at_once: int | None = None,
    home: Path | None = None,
) -> RunRecord:
    """`experiments.train.train` on several processes of this machine.

    Raises RankLost if a process dies: what it left is a run that another start goes on with. Raises KeyboardInterrupt if it is
    told to stop before the first step: there is nothing to save.
    """
    told, stopped, begun = None, None, []

    def heard(state: dict[str, Any]) -> None:
        begun.append("warning" not in state)
        if progress:
            progress(state)

    stop = stop or (lambda: None)
    with _started(plan, seed, folder, {"runs_at_once": runs_at_once, "home": home and str(home)}) as group:
        first = group.first
        while first.record is None:
            try:
                group.hear(heard)
                word = stop()
            except KeyboardInterrupt:
                word = STOP
            word = STOP if word is True else word
            if word and word != told:
                told = word
                with contextlib.suppress(OSError):  # it has ended; that is seen above
                    first.conn.send(word)
            stopped = stopped or (time.monotonic() if told == STOP else None)
            if stopped and not any(begun) and time.monotonic() > stopped + PATIENCE:
                raise KeyboardInterrupt
            if any(each.wrong for each in group.ranks):
                return _explained(group, folder, heard)
        if first.record.status == "failed":
            return _explained(group, folder, heard)
        _let_go(group)
        return first.record


def _let_go(group):
    until = time.monotonic() + LEAVE
    for each in group.ranks:
        each.process.join(max(0.0, until - time.monotonic()))


def _explained(group, folder, heard):
    """The record of a run in which some rank went wrong, after asking all of them; raises RankLost if one died."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until and not all(each.wrong for each in group.ranks):
        group.hear(heard)
    lost = next((each for each in group.ranks if each.lost), None)
    group.kill()
    if lost:
        raise RankLost(f"process {lost.number + 1} of {len(group.ranks)} {ending(lost.process.exitcode)}")
    cause = min((each for each in group.ranks if each.wrong), key=lambda each: each.at)
    record = group.first.record or RunRecord.read_whole(folder)
    failure = cause.record.failure if cause.record else Failure(step=-1, error="RuntimeError", message=cause.error)
    if cause is group.first or record is None:
        if cause.record is None:
            raise RuntimeError(cause.error)
        return cause.record
    note = f"process {cause.number + 1} of {len(group.ranks)} failed"
    record = record.model_copy(update={"status": "failed", "failure": failure, "notes": [*record.notes, note]})
    record.write(folder)
    return record


def ending(code: int | None) -> str:
    """How a process ended, in words after its name. code: multiprocessing's exit code; None while it has none."""
    if code is None:
        return "was ended"
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return how + (" (the operating system does this when memory runs out)" if code == -signal.SIGKILL else "")


@contextlib.contextmanager
def _started(plan: Any, seed: int, folder: Path, further: Mapping[str, Any]) -> Iterator[_Group]:
    """Context manager: the running ranks; none is left when it ends."""
    from torch.distributed import TCPStore

    spec, group = plan.spec.train, _Group()
    store = TCPStore(ADDRESS, 0, is_master=True, wait_for_workers=False)
    about = {"plan": plan.dump(), "seed": seed, "folder": str(folder), "further": further, "parent": os.getpid()}
    context = multiprocessing.get_context("spawn")
    try:
        for number in range(spec.processes):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, spec.threads, about), name=f"rank-{number}")
            with variables(_variables(number, spec, store.port)), shielded():
                process.start()
            theirs.close()
            group.ranks.append(_Rank(number, process, mine))
        yield group
    finally:
        group.kill()
        del store


def _variables(number, train, port):
    """What a rank reads of its place, as torchrun would set it, and what its libraries read when they are imported."""
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": train.processes, "LOCAL_WORLD_SIZE": train.processes}
    place |= {"GROUP_RANK": 0, "MASTER_ADDR": ADDRESS, "MASTER_PORT": port}
    place |= {"TORCHELASTIC_RUN_ID": "archbench", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if Path("/sys/class/net/lo").exists():  # otherwise gloo looks for an address by this machine's name
        place["GLOO_SOCKET_IFNAME"] = "lo"
    return place | dict.fromkeys(THREADS, train.threads)


@contextlib.contextmanager
def variables(values: Mapping[str, Any]) -> Iterator[None]:
    """Context manager: variables that a process which is started meanwhile inherits."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Context manager: a process that is started meanwhile is not interrupted by Ctrl-C, which reaches all processes of a
    terminal: it would end while it imports. Whoever started it sees to it. This process is interrupted as before.
    """
    resource_tracker.ensure_running()  # else the first process started would start it, which lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(conn, threads, about):
    """A rank: train, send the record, end."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches every process of the terminal; the parent sees to it
        signal.signal(number, signal.SIG_IGN)
    _end_with(about["parent"])
    try:
        record = _trained(conn, threads, about)
    except (Exception, SystemExit) as error:
        _send(conn, "crashed", f"{type(error).__name__}: {error}")
        raise
    _send(conn, "record", record)


def _trained(conn, threads, about):
    from experiments import device

    device.setup(threads)
    from experiments.data import texts
    from experiments.plan import RunPlan
    from experiments.train import train

    plan = RunPlan.parse(about["plan"])
    texts.remember(plan.texts)
    first = os.environ["RANK"] == "0"
    progress = (lambda state: _send(conn, "progress", dict(state))) if first else None
    return train(plan, about["seed"], about["folder"], progress, _Told(conn) if first else None, **about["further"]).dump()


class _Told:
    """A callable: the last word that the parent sent, or None."""

    def __init__(self, conn):
        self.conn, self.word = conn, None

    def __call__(self):
        with contextlib.suppress(EOFError, OSError):  # the parent is gone: `_end_with` ends this process
            while self.conn.poll():
                self.word = self.conn.recv()
        return self.word


def _send(conn, word, content):
    with contextlib.suppress(OSError):
        conn.send((word, content, time.monotonic()))


def _end_with(parent):
    """End this process as soon as its parent has: nobody could tell it that its run is somebody else's now."""

    def watch():
        alive = multiprocessing.parent_process()
        if alive is not None:
            alive.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)
