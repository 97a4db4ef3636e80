"""Warm-up, stable, decay: the rate rises, stays and falls, each linearly.

The three phases are those of MiniCPM (Hu et al. 2024, arXiv 2404.06395, section 4.2); the linear fall is one of the
forms that Hägele et al. compare (2024, arXiv 2405.18392).
"""

from pydantic import model_validator

from arch.registry import schedule
from arch.spec import Fraction, Spec


@schedule
class WSD:
    """The rate rises linearly to its peak, stays there, and falls linearly at the end."""

    class Config(Spec):
        """warmup, decay: fractions of the steps, together at most 1. Without a decay (0) the rate stays at the peak.

        final: the rate at the last step of a decay, a fraction of the peak rate.
        """

        warmup: Fraction = 0.05
        decay: Fraction = 0.2
        final: Fraction = 0.1

        @classmethod
        def examples(cls):
            return [cls(), cls(warmup=0.3, decay=0.5, final=0.0), cls(decay=0.0)]

        @model_validator(mode="after")
        def _decays_after_the_warmup(self):
            if self.warmup + self.decay > 1 + 1e-9:  # 0.7 + 0.2 + 0.1 and the like may be off by rounding
                raise ValueError(f"decay: warmup + decay = {self.warmup + self.decay:g}; expected at most 1, all of the steps")
            return self

    def __init__(self, config):
        self.config = config

    def __call__(self, step, steps, peak):
        """The rate at optimizer step `step` (from 0) of `steps`; `peak` between the warm-up and the decay."""
        warmup, final = round(self.config.warmup * steps), self.config.final
        if step < warmup:
            return peak * (step + 1) / warmup
        if self.config.decay == 0:
            return peak
        # Where both are rounded up, the decay must not begin before the warm-up ends: the rate would jump.
        decay = max(1, min(round(self.config.decay * steps), steps - warmup))
        remaining = min(1.0, (steps - 1 - step) / decay)
        return peak * (final + (1 - final) * remaining)
