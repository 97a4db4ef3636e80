"""A claim of a user's own: one file."""

from arch.contracts import Verdict
from arch.errors import SpecError
from arch.registry import claim
from arch.spec import Spec


@claim
class Below:
    """Every run of an arm lies below a value."""

    class Config(Spec):
        metric: str
        value: float
        arm: str

    def __init__(self, config):
        self.config = config

    def check(self, arms):
        if self.config.arm not in arms:
            raise SpecError(f"no arm {self.config.arm!r}", ("arm",))

    def judge(self, evidence):
        values = evidence.measured[self.config.metric].values
        worst = max(values[self.config.arm].values(), default=None)
        word = "undecided" if worst is None else "below" if worst < self.config.value else "not below"
        return {self.config.arm: Verdict(word, reason=f"its highest {self.config.metric} is {worst}")}
