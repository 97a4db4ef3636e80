"""Two variants cross: the second is worse at a first horizon and better at a later one (or the other way round).

Horizons are declared, and each is a run of its own: with a decaying learning rate, the middle of a long run is no short
run, and searching a curve for a crossing finds one in a quarter of all studies where there is none. Both horizons must
show their side, each at the full level (intersection-union; Gail & Simon 1985 for two subsets).
"""

from arch.contracts import UNDECIDED, Verdict
from arch.registry import claim
from arch.spec import List, Spec
from sweeps import paired
from sweeps.paired import CONTRADICTED, SUPPORTED


@claim
class Crosses:
    """The second arm of EARLY is worse than the first, and the second arm of LATE is better than the first."""

    class Config(Spec):
        """early, late: two arms each, the same two variants at two horizons (steps, tokens, sizes, contexts).

        metric: SPLIT/METRIC. source: who claims it; a verdict then says `reproduced`.
        """

        early: List[str]
        late: List[str]
        metric: str = "report/loss"
        source: str = ""

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms):
        """Raises SpecError unless both horizons name two arms that exist."""
        for key in ("early", "late"):
            labels = getattr(self.config, key)
            paired.at_least(2, labels, (key,), most=2)
            paired.known(labels, arms, (key,))

    @property
    def subject(self):
        """The claim in short."""
        return f"{self.config.late[1]} crosses {self.config.late[0]}"

    def questions(self, arms):
        """One question."""
        return {self.subject: (*self.config.early, *self.config.late)}

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        (first, second), (other, another) = self.config.early, self.config.late
        return f"{second} is worse than {first}, and {another} is better than {other}"

    def judge(self, evidence):
        """{subject: Verdict}. The interval is that of the later horizon; both are in the reason."""
        measured, level = evidence.measured[self.config.metric], evidence.level
        early, late = (paired.difference(measured, second, first) for first, second in (self.config.early, self.config.late))
        metric = measured.metric
        p = max(paired.p_worse(early, 0.0, metric), paired.p_better(late, 0.0, metric))
        p_not = min(paired.p_better(early, 0.0, metric), paired.p_worse(late, 0.0, metric))
        facts = {"against": self.config.late[0], "difference": late.mean, "interval": late.interval(2 * level)}
        facts |= {"n": min(early.n, late.n), "level": level}
        missing = paired.untestable(early) or paired.untestable(late)
        sides = [f"{when} {paired.shown(sample, 2 * level, metric)}" for when, sample in (("early", early), ("late", late))]
        word = SUPPORTED if p <= level else CONTRADICTED if p_not <= level / 2 else UNDECIDED
        if measured.exact and early.n and late.n and word == UNDECIDED:
            word = CONTRADICTED  # numbers that are equal have no order
        facts["p"] = min(1.0, 2 * p_not) if word == CONTRADICTED else p
        return {self.subject: Verdict(word, reason=missing or ", ".join(sides), **facts)}
