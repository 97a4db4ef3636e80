"""On-policy distillation: a student learns from a teacher on answers that the student wrote itself.

Agarwal et al. 2024, "On-policy distillation of language models: learning from self-generated mistakes" (GKD, arXiv 2306.13649),
which Gemma 2 and Gemma 3 use after pre-training. Shapes: B rows, T tokens, N scored positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from arch.contracts import Dataset, Mean, Metric, Referred
from arch.errors import SpecError
from arch.kernels.jsd import Divergence, generalised_jsd
from arch.model import Model
from arch.registry import objective
from arch.spec import Fraction, Positive, Spec, place
from experiments import prediction, sampled, sampling_costs
from experiments.data.batch import Batch, Rows
from experiments.data.draws import mixed, numbered_key, share
from experiments.data.exchanges import answers_only
from experiments.distillation import same_tokens
from experiments.distillation.teacher import Teacher
from experiments.sampled import Length, Temperature
from experiments.spec import Reference

# Which rows the student answers is drawn with this number, far from those of answers.
WHO = 1 << 40


@objective
class OnPolicy(nn.Module):
    """loss = the mean over an answer's tokens of D_beta(teacher, student), the generalised Jensen-Shannon divergence.

    beta = 0 is the forward divergence KL(teacher || student), beta = 1 the reverse one (`arch.kernels.jsd`). The student writes the
    answers; the loss has a gradient, the drawing of answers has none. A part of the rows may keep the references of the data.
    """

    class Config(Spec):
        """teacher: a run or a checkpoint's folder. beta: which divergence. student: the share of rows that the student answers
        itself.

        temperature: of both distributions in the loss. sampling: the temperature at which the student writes. answer_tokens: the
        most it writes; by default as many as a row can hold. precision: of the teacher's weights.
        """

        teacher: Reference = place(...)
        beta: Fraction = 0.5
        student: Fraction = 1.0
        temperature: Positive = 1.0
        sampling: Temperature = 1.0
        answer_tokens: Length = None
        precision: Literal["float32", "bfloat16"] = "float32"

    needs = frozenset({"causal", "decodes", "answers"})
    runs = ("teacher",)
    measured_by = "sft"
    # length: tokens of an answer that the loss is over. ended: the share of the student's answers that came to an end.
    metrics = {
        "loss": Metric(unit="nats per token"),
        "length": Metric(unit="tokens", better="neither"),
        "ended": Metric(better="higher"),
    }

    def __init__(self, config: Config, dataset: Dataset, runs: Mapping[str, Path]):
        """runs: {"teacher": the folder of its checkpoint}."""
        super().__init__()
        self.config, self.dataset, self.folder = config, dataset, Path(runs["teacher"])

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher; no submodule, so nothing trains it and no checkpoint has it."""
        return Teacher.load(self.folder, self.config.precision)

    def prepare(self, model: Model, batch: Batch) -> Batch:
        """Answers of the student, and the teacher's hidden states over them."""
        rows, config = answers_only(batch["text"]), self.config
        own_B = self._own(rows)
        ended_B = torch.zeros_like(own_B)
        if own_B.any():
            wrote = sampled.answers(model, rows, self.dataset, config.sampling, config.answer_tokens)  # type: ignore[arg-type]
            rows, ended_B = sampled.chosen(own_B, wrote.rows, rows), wrote.ended_B & own_B
        rows.extra |= {"teacher_hidden": self.teacher.to(rows.tokens_BT.device).hidden(rows), "own": own_B, "ended": ended_B}
        return sampled.replaced(batch, text=rows)

    def _own(self, rows: Rows) -> torch.Tensor:
        """(B,) whether the student answers a row itself, by the row's number."""
        assert rows.key_B is not None
        drawn_B = share(mixed(rows.key_B.cpu().numpy().astype("uint64") ^ numbered_key(WHO)))
        return torch.from_numpy(drawn_B < self.config.student).to(rows.tokens_BT.device)

    def forward(self, model: Model, batch: Batch) -> dict[str, Mean]:
        """The metrics; only positions of an answer reach either head."""
        rows = batch["text"]
        found = self._divergence(model, rows)
        return {
            "loss": Mean(found.loss, batch.weight),
            "length": Mean(torch.tensor(float(len(found.each_N)), device=found.loss.device), len(rows)),
            "ended": Mean(rows.extra["ended"].sum(), rows.extra["own"].sum()),
        }

    def _divergence(self, model: Model, rows: Rows) -> Divergence:
        at, teacher = prediction.at_targets(model, rows), self.teacher.model
        caps: dict[str, Any] = {"softcap": model.spec.logit_softcap, "teacher_softcap": teacher.spec.logit_softcap}
        heads = at.hidden_ND, model.head_weight, rows.extra["teacher_hidden"][at.chosen_BT], teacher.head_weight
        return generalised_jsd(*heads, self.config.beta, temperature=self.config.temperature, **caps)

    @classmethod
    def check(cls, config: Config, spec: Any, dataset: Dataset, runs: Mapping[str, Referred]) -> None:
        """Raises SpecError for a teacher of other tokens, a share of 0, or a run whose weights are spread over devices."""
        same_tokens.check(spec, dataset, runs["teacher"])
        if config.student == 0:
            raise SpecError(
                "0 leaves nothing that the student writes; expected a share above 0, or objective distill", ("student",)
            )
        sampled.check_whole(spec)

    @classmethod
    def costs(cls, config: Config, spec: Any, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
        """The student writes each row and the teacher reads it."""
        return sampling_costs.of(spec, [spec.model, runs["teacher"].model])
