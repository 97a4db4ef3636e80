"""What a benchmark measured: `bench.json`, written after every measurement, and how two measurements compare.

A ratio is only ever formed within one record: of rates that were measured in turns, in one process.
"""

import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from arch.spec import Spec
from experiments.record import Failure, read_record, write_record

NAME = "bench.json"
# What a peer is compared by: in our process, hence under our allocator's settings; and, measured apart, in a process of
# its own that is left as the system starts it, as its user runs it. {ending of `what`: in words}
PEERS = {"": "`transformers`", " stock": "`transformers` as it comes"}
# The share of the cores' time from which on other programs are worth a word.
DISTURBED = 0.05


class Measurement(Spec):
    """One side of one thing that was measured.

    what: `train`, `prefill`, `decode` (with ` stock`: beside a peer as it comes), `memory`, `cache`, `ceiling`, `scan`, `loss`,
        `loss memory`, `reach`,
    `decode reach`, `lightning`, `first step`, `help`. side: `ours`, `compiled`, `hf`, `products` (the floor), or what
    else there is to compare. case: what tells it from others (`spec`, `context`, `batch`, `shape`).
    unit: of `values`, every single one in the order measured: `s`, or `B` for bytes.
    work: how much of `of` (tokens, FLOP, B, steps) each of `values` seconds was spent on. facts: what else is known.
    others: the share of all cores' time that other programs took meanwhile, where the system says so.
    """

    what: str
    side: str
    case: dict[str, Any] = {}
    unit: Literal["s", "B"] = "s"
    values: list[float]
    work: float = 1.0
    of: str = ""
    others: float | None = None
    facts: dict[str, Any] = {}

    @property
    def median(self):
        """The median of the values, in `unit`."""
        return statistics.median(self.values)

    @property
    def rate(self):
        """Work a second, at the median."""
        return self.work / self.median

    @property
    def best_rate(self):
        """Work a second at the shortest time: what a ceiling is."""
        return self.work / min(self.values)


class Profile(Spec):
    """Where the time of one training step goes: {kind: seconds}, and the seconds of the step under the profiler.

    operations: the ten that take most, {name: seconds}.
    """

    case: dict[str, Any]
    seconds: float
    kinds: dict[str, float]
    operations: dict[str, float] = {}


class Ratio(Spec):
    """A comparison of two measurements: median over rounds, its quartiles, and of how many rounds."""

    median: float
    low: float
    high: float
    rounds: int


class BenchRecord(Spec):
    """One benchmark: what was asked, where it ran, every timing. `costs`: {spec@context: as `arch.cost` says}.

    specs: the resolved ModelSpecs. allocator: how freed memory is kept. notes: what was left out and why.
    failures: measurements that ended in an error.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    status: Literal["running", "finished", "failed", "interrupted"]
    asked: dict[str, Any]
    specs: dict[str, dict[str, Any]] = {}
    costs: dict[str, dict[str, Any]] = {}
    measurements: list[Measurement] = []
    profiles: list[Profile] = []
    versions: dict[str, str] = {}
    git: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    threads: int = 1
    allocator: dict[str, Any] = {}
    started: str = ""
    ended: str | None = None
    notes: list[str] = []
    failures: list[Failure] = []

    def write(self, folder):
        """Write `bench.json` whole or not at all."""
        write_record(self, Path(folder) / NAME)

    @classmethod
    def read(cls, path):
        """The record in a file or in a folder, None where there is none. Raises SpecError or ValueError if broken."""
        path = Path(path)
        return read_record(cls, path / NAME if path.is_dir() else path)

    def find(self, what, side, **case):
        """The measurement of this side whose case has all that is given, or None."""
        for each in self.measurements:
            if (each.what, each.side) == (what, side) and all(each.case.get(k) == v for k, v in case.items()):
                return each
        return None

    def peers(self):
        """[(what a peer's column is called, the ending of `what`)] of each of PEERS that a model was measured against."""
        peer = self.asked["against"]
        measured = {each.what for each in self.measurements if each.side == peer}
        return [(f"{peer}{end}", end) for end in PEERS if {f"train{end}", f"decode{end}"} & measured]

    def disturbed(self):
        """A sentence that says how much other programs took of the machine; empty where it was little or is unknown."""
        shares = sorted((each.others for each in self.measurements if each.others is not None), reverse=True)
        if not shares or shares[0] < DISTURBED:
            return ""
        middle = statistics.median(shares)
        return (
            f"other programs took up to {shares[0]:.0%} of the cores' time during a measurement ({middle:.0%} in the "
            "median one): ratios are less sure than their spread says, times say nothing"
        )

    def cases(self, what):
        """The distinct cases of what was measured, in order."""
        found = []
        for each in self.measurements:
            if each.what == what and each.case not in found:
                found.append(each.case)
        return found

    def speedup(self, what, fast, slow, **case):
        """How many times the rate of side `slow` side `fast` has, round by round; None where one is missing."""
        return ratio(self.find(what, fast, **case), self.find(what, slow, **case))


def ratio(a, b):
    """The rate of measurement `a` over that of `b` as a Ratio, None where either is None or without values.

    Rounds are paired, because what else the machine does changes both; bytes are compared as b over a, too: less is
    better.
    """
    if not (a and b and a.values and b.values):
        return None
    pairs = [(a.work / x) / (b.work / y) for x, y in zip(a.values, b.values, strict=True)]
    return spread(pairs)


def spread(values):
    """Median and quartiles of some numbers, as a Ratio."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(median=statistics.median(values), low=low, high=high, rounds=len(values))
