"""Supervised fine-tuning: next-token prediction of answers alone, of references or of what a teacher writes.

Shapes: B rows, T tokens, N scored positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from arch import registry
from arch.contracts import Dataset, Mean, Metric, Referred
from arch.errors import SpecError
from arch.model import Model
from arch.registry import objective
from arch.spec import Spec, place
from experiments import prediction, sampled, sampling_costs
from experiments.data.batch import Batch
from experiments.data.exchanges import answers_only
from experiments.distillation import same_tokens
from experiments.distillation.teacher import Teacher
from experiments.sampled import Length, Temperature
from experiments.spec import Reference


@objective
class SFT(nn.Module):
    """loss = -sum log p(token of the answer) / number of such tokens. The prompt and its template are read and never scored.

    With a teacher, the answers are what it writes to the prompts (Gemma 2, section 4: most answers are a larger model's), drawn
    anew for every row; without one, the references of the data. What is reported is of the references.
    """

    class Config(Spec):
        """teacher: the run or checkpoint that writes the answers; by default the data's references are used.

        temperature: of what the teacher writes; 0 takes its likeliest tokens. answer_tokens: the most it writes; by default as many
        as a row can hold. precision: of the teacher's weights.
        """

        teacher: Reference | None = place(None)
        temperature: Temperature = 1.0
        answer_tokens: Length = None
        precision: Literal["float32", "bfloat16"] = "float32"

    needs = frozenset({"causal", "answers"})
    reads_images = True
    runs = ("teacher",)
    measured_by = "sft"
    metrics = {
        "loss": Metric(unit="nats per token", compare="log", exponential="perplexity"),
        "perplexity": Metric(compare="ratio"),
        "accuracy": Metric(better="higher"),
    }

    def __init__(self, config: Config, dataset: Dataset, runs: Mapping[str, Path] | None = None):
        """runs: {"teacher": the folder of its checkpoint}, if there is one."""
        super().__init__()
        self.config, self.dataset = config, dataset
        self.folder = Path(runs["teacher"]) if runs else None

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher; no submodule, so nothing trains it and no checkpoint has it."""
        assert self.folder is not None
        return Teacher.load(self.folder, self.config.precision)

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Leaves the answers as the only targets; with a teacher, they are its own."""
        rows = answers_only(batch["text"])
        if self.folder is not None:
            teacher, config = self.teacher.to(rows.tokens_BT.device).model, self.config
            rows = sampled.answers(teacher, rows, self.dataset, config.temperature, config.answer_tokens).rows  # type: ignore[arg-type]
        return sampled.replaced(batch, text=rows)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """{loss}, and without a gradient {accuracy}, the share of answers' tokens that are the most probable."""
        at = prediction.at_targets(model, batch["text"])
        return prediction.means(model, at.hidden_ND, at.targets_N, batch.weight)

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """The perplexity beside the means."""
        return prediction.derived(values)

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises SpecError for a teacher of other tokens, and for one that would have to read images."""
        if "teacher" not in runs:
            return
        if getattr(registry.component("source", spec.data.source["type"]), "images", False):
            raise SpecError("a teacher writes answers to texts alone, and the data have images; expected none", ("teacher",))
        same_tokens.check(spec, dataset, runs["teacher"])

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """What the teacher's answers cost: it reads each row once, token by token where it writes."""
        return sampling_costs.of(spec, [runs["teacher"].model]) if "teacher" in runs else {}
