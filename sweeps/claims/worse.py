"""An arm is worse than another, by at least a stated amount: a one-sided paired t test."""

from arch.registry import claim
from arch.spec import Spec, later
from sweeps import paired
from sweeps.contrasts import Contrast, against, stated


@claim
class Worse:
    """ARM is worse than the first arm (or `than`) by more than `by`."""

    class Config(Spec):
        """arm: the arm; by default every other one. than: what it is compared with; by default the first. metric: SPLIT/METRIC.

        contrasts: what is compared instead, {subject: Contrast}; `compare` of a study fills them in.
        by: how much worse, as a fraction (0.01 is 1 %) of what the metric is shown as, or in the metric's unit for a
        metric that is compared by difference. source: who claims it; a verdict then says `reproduced`.
        """

        arm: str | None = None
        than: str | None = None
        metric: str = "report/loss"
        by: paired.Effect = 0.0
        source: str = ""
        contrasts: dict[str, Contrast] = later({})

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms):
        """Raises SpecError for an arm that does not exist, and for one that is compared with itself."""
        paired.check_compared(self.config, arms)

    def questions(self, arms):
        """One question about each comparison."""
        return {subject: contrast.arms for subject, contrast in paired.compared(self.config, arms).items()}

    def statement(self, subject, verdict, metric):
        """The claim in words."""
        contrast = self.config.contrasts.get(subject) or against(subject, verdict.against)
        return stated(subject, contrast, "worse", paired.by(self.config.by, metric))

    def judge(self, evidence):
        """Supported, contradicted or undecided."""
        return paired.one_sided_of(self.config, evidence, self.config.by, worse=True)
