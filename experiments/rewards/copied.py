"""How much of the reference an answer repeats."""

from arch.registry import reward
from arch.spec import Spec
from experiments.edits import edits


@reward
class Copied:
    """1 - edits / length: the fewest characters to insert, drop or replace (Levenshtein), by the length of the longer text."""

    class Config(Spec):
        """No options."""

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, prompt: str, answer: str, reference: str) -> float:
        """From 0 to 1."""
        longest = max(len(answer), len(reference))
        return 1.0 - edits(answer, reference) / longest if longest else 1.0
