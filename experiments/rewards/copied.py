"""How much of the reference an answer repeats."""

from arch.registry import reward
from arch.spec import Spec


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


def edits(one: str, other: str) -> int:
    """The fewest characters to insert, drop or replace that make one text of the other."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (mine != theirs))
    return row[-1]
