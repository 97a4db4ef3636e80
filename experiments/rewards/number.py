"""Right is a number of the same value as the reference; near is better than far, if that is asked for."""

from arch.registry import reward
from arch.spec import Fraction, Spec


@reward
class Number:
    """1 for a whole number of the reference's value, however it is written (`007`); else 0, or a part of 1 for a near one."""

    class Config(Spec):
        """near: the reward of a wrong number beside the right one; it halves with each doubling of the distance. 0: none."""

        near: Fraction = 0.0

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, prompt: str, answer: str, reference: str) -> float:
        """From 0 to 1. Raises ValueError for a reference that is no whole number: this reward is not for such data."""
        right = int(reference)
        try:
            distance = abs(int(answer) - right)
            return 1.0 if distance == 0 else self.config.near / distance
        except (ValueError, OverflowError):  # no number; one so far away that no float holds the distance
            return 0.0
