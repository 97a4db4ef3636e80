"""An arm is not worse than another by a margin or more (non-inferiority): a one-sided paired t test."""

from arch.registry import claim
from arch.spec import Spec
from sweeps import paired
from sweeps.compare import margin_text


@claim
class NotWorse:
    """ARM is better than the first arm (or `than`), or worse by less than `margin`."""

    class Config(Spec):
        """arm: the arm. than: the arm that it is compared with; by default the first. metric: SPLIT/METRIC.

        margin: how much worse does not matter, as a fraction (0.01 is 1 %) of what the metric is shown as, or in the
        metric's unit for a metric that is compared by difference. source: who claims it; a verdict then says `reproduced`.
        """

        arm: str
        than: str | None = None
        metric: str = "report/loss"
        margin: paired.Margin = 0.01
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
        return f"{subject} is not worse than {verdict.against} by {margin_text(self.config.margin, metric)} or more"

    def judge(self, evidence):
        """Supported, contradicted or undecided."""
        return paired.of_arm(self.config, evidence, self.config.margin, worse=False)
