"""Right is what is Python: the prompt and the answer behind it are parsed, and never run."""

from arch.registry import reward
from arch.spec import Spec
from experiments.python_source import parsed


@reward
class ValidPython:
    """1 if the prompt's line and the answer below it parse as Python (`ast`); else 0, also for an empty answer."""

    class Config(Spec):
        """No options."""

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, prompt: str, answer: str, reference: str) -> float:
        """1 or 0. Text that is nested too deeply for the parser is no Python."""
        if not answer.strip():
            return 0.0
        try:
            parsed(f"{prompt}\n{answer}")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0
        return 1.0
