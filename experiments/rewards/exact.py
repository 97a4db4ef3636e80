"""Right is what equals the reference."""

from arch.registry import reward
from arch.spec import Spec


@reward
class Exact:
    """1 for an answer that is the reference, but for white space around it; else 0."""

    class Config(Spec):
        """No options."""

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, prompt: str, answer: str, reference: str) -> float:
        """1 or 0."""
        return float(answer.strip() == reference.strip())
