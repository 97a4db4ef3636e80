"""The record of a benchmark, `bench.json`, saved after every measurement; and ratios of two measurements.

A ratio only compares rates within one record. Those of two sides were measured in turns.
"""

import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from arch.spec import Spec
from experiments.record import Failure, read_record, write_record

NAME = "bench.json"
# {ending of `what`: title}. A peer is measured twice: in our process, where our allocator settings apply to it too; and
# in its own untouched process, as its users run it.
PEERS = {"": "`transformers`", " stock": "`transformers` in its own untouched process"}
# If other programs take at least this share of the cores' time, `disturbed` says so.
DISTURBED = 0.05


class Measurement(Spec):
    """The measured values of one side in one case.

    what: `train`, `prefill`, `decode` (each also with ` stock`: beside the peer in its own untouched process),
        `memory`, `cache`, `ceiling`, `scan`, `loss`, `loss memory`, `reach`, `decode reach`, `distill`, `lightning`,
        `first step`, `help`; of encoders `encode`, `contrastive`, `contrastive memory`, `stream memory`.
    side: `ours`, `compiled`, a peer (`experiments/bench/against.py`), `products` (the product floor), or another name for
        what is compared. `ours bfloat16` decodes from weights of another type than the benchmark's `dtype`.
    case: the conditions (`spec`, `context`, `batch`, `shape`, ...).
    values: all values, in the order measured. unit: of the values, `s` or `B` (bytes).
    work: the work done in each of the values, in units of `of` (tokens, FLOP, B, steps).
    others: the share of all cores' time that other programs took meanwhile; None if the system does not report it.
    facts: further numbers.
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
        """Work per second, at the median."""
        return self.work / self.median

    @property
    def best_rate(self):
        """Work per second at the shortest time; used for ceilings."""
        return self.work / min(self.values)


class Profile(Spec):
    """The time of one training step under the profiler.

    seconds: of the whole step. kinds: {kind: seconds}. operations: {name: seconds} of the ten that take the most time.
    """

    case: dict[str, Any]
    seconds: float
    kinds: dict[str, float]
    operations: dict[str, float] = {}


class Ratio(Spec):
    """The ratio of two measurements: median and quartiles (`low`, `high`) over the rounds, and the number of rounds."""

    median: float
    low: float
    high: float
    rounds: int


class BenchRecord(Spec):
    """One benchmark.

    asked: the BenchSpec. specs: {name: resolved ModelSpec}. costs: {spec@context: as `arch.cost` computes it}.
    allocator: the settings that `experiments.device.setup` returned. notes: what was not measured and why.
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
        """Write `bench.json` atomically."""
        write_record(self, Path(folder) / NAME)

    @classmethod
    def read(cls, path):
        """The record in a file or folder, or None if there is none. Raises SpecError or ValueError if it is broken."""
        path = Path(path)
        return read_record(cls, path / NAME if path.is_dir() else path)

    def find(self, what, side, **case):
        """The first measurement of this side whose case has all given values, or None."""
        for each in self.measurements:
            if (each.what, each.side) == (what, side) and all(each.case.get(k) == v for k, v in case.items()):
                return each
        return None

    def against(self):
        """The names of the peers that were asked for, in order."""
        named = self.asked["against"] or ()
        return [named] if isinstance(named, str) else list(named)  # older records have one name

    def peers(self, *whats):
        """[(column title, ending of `what`, side)] of the peers that were measured in one of `whats`; by default in any."""
        found = {(each.what, each.side) for each in self.measurements}
        whats = whats or ("train", "decode")
        return [
            (f"{peer}{end}", end, peer)
            for peer in self.against()
            for end in PEERS
            if any((f"{what}{end}", peer) in found for what in whats)
        ]

    def types(self):
        """[(type of weights in which models were decoded, ending of the sides' names)]"""
        others = [kind for kind in self.asked.get("decode_types", ()) if kind != self.asked["dtype"]]
        return [(self.asked["dtype"], ""), *((kind, f" {kind}") for kind in others)]

    def weighed(self):
        """The peers whose memory was measured."""
        return [peer for peer in self.against() if self.find("memory", peer)]

    def disturbed(self):
        """A sentence on how much of the machine other programs took; empty if it was little or is unknown."""
        shares = sorted((each.others for each in self.measurements if each.others is not None), reverse=True)
        if not shares or shares[0] < DISTURBED:
            return ""
        middle = statistics.median(shares)
        return (
            f"other programs took up to {shares[0]:.0%} of the cores' time during a measurement ({middle:.0%} in the "
            "median one): ratios are less certain than their spread suggests, absolute times are not reliable"
        )

    def cases(self, what):
        """The distinct cases of all measurements of `what`, in order."""
        distinct = []
        for each in self.measurements:
            if each.what == what and each.case not in distinct:
                distinct.append(each.case)
        return distinct

    def speedup(self, what, fast, slow, **case):
        """The Ratio of the rate of side `fast` to that of side `slow`; None if a measurement is missing."""
        return ratio(self.find(what, fast, **case), self.find(what, slow, **case))


def ratio(a, b):
    """The rate of measurement `a` over that of `b`, as a Ratio; None if either is None or has no values.

    Rounds are paired, because other programs slow down both sides of a round. For bytes the ratio is b over a, so that
    a larger ratio is better here too.
    """
    if not (a and b and a.values and b.values):
        return None
    pairs = [(a.work / x) / (b.work / y) for x, y in zip(a.values, b.values, strict=True)]
    return spread(pairs)


def spread(values):
    """Median and quartiles of some numbers, as a Ratio."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(median=statistics.median(values), low=low, high=high, rounds=len(values))
