"""An arm is better than another, by at least a stated amount: a one-sided paired t test."""

from arch.registry import claim
from arch.spec import Spec
from sweeps import paired


@claim
class Better:
    """ARM is better than the first arm (or `than`) by more than `by`."""

    class Config(Spec):
        """arm: the arm. than: the arm that it is compared with; by default the first. metric: SPLIT/METRIC.

        by: how much better, as a fraction (0.01 is 1 %) of what the metric is shown as, or in the metric's unit for a
        metric that is compared by difference. source: who claims it; a verdict then says `reproduced`.
        """

        arm: str
        than: str | None = None
        metric: str = "report/loss"
        by: paired.Effect = 0.0
        source: str = ""

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms):
        """Raises SpecError for an arm that does not exist, and for one that is compared with itself."""
        paired.two_arms(self.config.arm, self.config.than, arms)

    def questions(self, arms):
        """One question, about the arm."""
        return {self.config.arm: (self.config.than or arms[0], self.config.arm)}

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        return f"{subject} is better than {verdict.against}{paired.by(self.config.by, metric)}"

    def judge(self, evidence):
        """Supported, contradicted or undecided."""
        return paired.of_arm(self.config, evidence, -self.config.by, worse=False)
