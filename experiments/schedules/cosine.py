"""A linear warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts)."""

import math

from arch.registry import schedule
from arch.spec import Fraction, Spec


@schedule
class Cosine:
    """The rate rises linearly to its peak, then falls like half a cosine."""

    class Config(Spec):
        """warmup: a fraction of the steps. final: the rate at the last step, a fraction of the peak rate.

        With a warm-up of all steps the rate only rises: it ends at the peak.
        """

        warmup: Fraction = 0.05
        final: Fraction = 0.1

        @classmethod
        def examples(cls):
            return [cls(), cls(warmup=0.0, final=0.0)]

    def __init__(self, config):
        self.config = config

    def __call__(self, step, steps, peak):
        """The rate at optimizer step `step` (from 0) of `steps`; `peak` at the end of the warm-up."""
        warmup, final = round(self.config.warmup * steps), self.config.final
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
