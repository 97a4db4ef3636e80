"""How well a model answers the prompts of a split, as a reward judges."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from arch import registry
from arch.chat import Chat
from arch.chat_template import TEMPLATES, Template
from arch.contracts import Dataset, Findings, Given, Metric
from arch.errors import DataError, SpecError
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Component, Count, Kind, Spec
from experiments import sampled, scored, split_rows
from experiments.data.exchanges import Exchanges
from experiments.rewards.exact import Exact
from experiments.sampled import Length, Temperature

SHOWN = 8


@evaluator
class AnswersEvaluator:
    """The model writes answers to held-out prompts: how many equal the reference, their mean reward, their length, how many end.

    answer_exact: the share of answers that are the reference. answer_reward: the mean reward. answer_length: tokens. answer_ended:
    the share that the model brought to an end by itself. In another template than the model learned, the names end in `_in_NAME`,
    so that both can be measured. Its text shows some answers.
    """

    class Config(Spec):
        """rows: how many prompts. reward: what answer_reward is the mean of. temperature: 0 for the likeliest tokens, else draws.

        answer_tokens: the most of an answer; by default as many as a row can hold. template: another one than the data's.
        """

        rows: Count = 256
        reward: Annotated[Component, Kind("reward"), AfterValidator(scored.resolved)] = {"type": "exact"}
        temperature: Temperature = 0.0
        answer_tokens: Length = None
        template: Template | None = None

        @classmethod
        def examples(cls):
            return [cls(), cls(rows=4, temperature=1.0, template="plain")]

    needs = frozenset({"decodes", "answers"})

    def __init__(self, config: Config):
        self.config = config
        name = config.template if config.template is None or config.template in TEMPLATES else "other"
        self.suffix = "" if name is None else f"_in_{name}"
        kinds = {
            "exact": Metric(better="higher", compare="difference"),
            "reward": Metric(better="higher", compare="difference"),
            "length": Metric(unit="tokens", better="neither"),
            "ended": Metric(better="higher", compare="difference"),
        }
        self.metrics = {f"answer_{kind}{self.suffix}": metric for kind, metric in kinds.items()}

    def check(self, dataset: Dataset, split: str) -> None:
        """Raises SpecError for a template that the data's tokenizer or context cannot hold."""
        try:
            self._dataset(dataset).check(dataset.spec.context)  # type: ignore[attr-defined]
        except DataError as error:
            raise SpecError(str(error), ("template",) if self.config.template else ()) from None

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The shares and means, and as a text the first prompts with their answers."""
        asked, config = self._dataset(dataset), self.config
        reward, exact = registry.build("reward", config.reward), Exact(Exact.Config())
        parts: dict[str, list[torch.Tensor]] = {"exact": [], "reward": [], "length": [], "ended": []}
        lines: list[str] = []
        for batch in split_rows.read(asked, given, config.rows, None):  # type: ignore[arg-type]
            rows = batch["text"]
            wrote = sampled.answers(model, rows, asked, config.temperature, config.answer_tokens, first=given.seed)
            exchanges = asked.exchanges(rows)
            assert wrote.rows.targets_BT is not None
            found = {
                "exact": scored.rewards(exact, exchanges, wrote.texts),
                "reward": scored.rewards(reward, exchanges, wrote.texts),
                "length": (wrote.rows.targets_BT >= 0).sum(1).cpu(),
                "ended": wrote.ended_B.cpu(),
            }
            for name, values in found.items():
                parts[name].append(values.double())
            shown = zip(exchanges, wrote.texts, found["reward"].tolist(), strict=True)
            lines += [
                f"{each.prompt!r} -> {text!r} (reward {value:.3g})" for each, text, value in list(shown)[: SHOWN - len(lines)]
            ]
        means = {f"answer_{name}{self.suffix}": float(torch.cat(each).mean()) for name, each in parts.items()}
        return Findings(means, text="\n".join(lines))

    def _dataset(self, dataset: Any) -> Exchanges:
        """The dataset, in the template that is asked for."""
        if self.config.template is None:
            return dataset
        config = dataset.config.model_copy(update={"template": self.config.template})
        chat = Chat(dataset.tokenizer, dataset.ends, self.config.template)
        return Exchanges(dataset.task, dataset.source, config, chat, dataset.vocabulary, dataset.spec)
