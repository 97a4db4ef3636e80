"""Text sampled from the trained model, to be read by a person."""

import torch

from arch.contracts import Dataset, Findings, Given, Metric
from arch.generate import generate
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Fraction, Spec
from experiments.data.specials import BOS


@evaluator
class Sample:
    """One text from the token on that begins documents (`<bos>`), drawn for the run's seed. It has no numbers."""

    class Config(Spec):
        """tokens: how many to sample. temperature: of the distribution they are drawn from."""

        tokens: Count = 100
        temperature: Fraction = 0.8

    needs = frozenset({"decodes", "text"})
    metrics: dict[str, Metric] = {}

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The text."""
        assert dataset.tokenizer is not None
        begin = getattr(dataset, "begin", dataset.tokenizer.token_to_id(BOS))
        prompt_BT = torch.tensor([[begin]], device=model.embedding.device)
        tokens_BT = generate(model, prompt_BT, self.config.tokens, temperature=self.config.temperature, seed=given.seed)
        return Findings({}, text=dataset.tokenizer.decode(tokens_BT[0].tolist()))
