"""Measuring a model with the evaluators of a spec: while it trains, at its end, or long after."""

import math
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from arch import blame, registry, units
from arch.contracts import Dataset, Evaluator, Findings, Given, Objective
from arch.model import Model
from experiments import nonfinite
from experiments.checkpoint import random_state, restore_random_state
from experiments.evaluations import Evaluation
from experiments.record import EvaluationRecord
from experiments.references import reporting
from experiments.spec import ExperimentSpec
from experiments.turns import cores_time, others_share


class NotFinite(ArithmeticError):
    """A metric, `SPLIT/METRIC`, is infinite or not a number."""

    def __init__(self, metric: str):
        self.metric = metric
        super().__init__(f"the metric {metric} is not finite")


class ModelChanged(RuntimeError):
    """An evaluator changed the weights of the model. What is measured must not decide what is trained."""


def _content(model: Model) -> list[tuple[int, int]]:
    """Per parameter and buffer: its version, which operations in place raise, and the sum of its bits."""
    tensors = [*model.parameters(), *model.buffers()]
    return [(tensor._version, int(_bits(tensor).sum(dtype=torch.int64))) for tensor in tensors]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bits as whole numbers."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(whole[tensor.element_size()])


@contextmanager
def evaluating(*modules):
    """Context manager: modules in evaluation mode, no gradients, compiled blocks run eager.

    On leaving, every module returns to its previous mode, and the process's random state to what it was: what is
    measured changes no later bit of training.
    """
    before = [module.training for module in modules]
    state = random_state()
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        restore_random_state(state)
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def evaluate(
    evaluation: Evaluation,
    model: Model,
    objective: Objective,
    dataset: Dataset,
    spec: ExperimentSpec,
    run: tuple[str, int],
    device: torch.device | str,
    folder: Path | None = None,
) -> EvaluationRecord:
    """The EvaluationRecord of one evaluation. run: (identity, seed) of the run that `model` is of.

    folder: of that run, if it is finished.
    """
    started = time.perf_counter()
    evaluator: Evaluator = registry.build("evaluator", evaluation.evaluator)
    reported = reporting(objective, dataset, device)
    given = Given(objective, reported, evaluation.split, spec.data.context, spec.data.rows, device, run[1], folder)
    before, cores = _content(model), cores_time()
    with evaluating(model, objective, *([] if reported is objective else [reported])):
        findings = evaluator(model, dataset, given)
    others = others_share(cores, cores_time())
    if not isinstance(findings, Findings):
        raise TypeError(blame.gives(evaluator, "__call__", findings, "Findings"))
    if _content(model) != before:
        raise ModelChanged(f"{evaluation.key}: the evaluator changed the model that it measures")
    metrics = reported.metrics if evaluator.metrics is None else evaluator.metrics
    if undeclared := [name for name in findings.values if name not in metrics]:
        raise ValueError(f"{evaluation.key}: {', '.join(undeclared)}: not declared in `metrics`, which has {', '.join(metrics)}")
    if bad := [name for name, value in findings.values.items() if not math.isfinite(value)]:
        raise NotFinite(f"{evaluation.split}/{bad[0]}")
    info = {f"{evaluation.split}/{name}": metrics[name] for name in findings.values}
    if not any(metric.varies == "machine" for metric in info.values()):
        others = None
    beside = "" if others is None else f"other programs took {units.share(others)} of the cores"
    return EvaluationRecord(
        split=evaluation.split,
        name=evaluation.name,
        evaluator=evaluation.evaluator,
        identity=run[0],
        seed=run[1],
        values={f"{evaluation.split}/{name}": float(value) for name, value in findings.values.items()},
        metric_info=info,
        table=findings.table,
        charts=list(getattr(evaluator, "charts", ())),
        text="; ".join(filter(None, (findings.text, beside))),
        documents=findings.documents,
        points=findings.points,
        pictures=list(findings.pictures),
        seconds=time.perf_counter() - started,
        others=others,
    )


def explained(step: int, origin: str, evaluation: Evaluation, model: Model, *about: Any) -> EvaluationRecord:
    """`evaluate` a model at a step of its training. Raises NonFinite, with the place, where a metric is not finite.

    origin: where the model's weights come from, if not from the seed, in words. about: as `evaluate` takes it.
    """

    def compute():
        return evaluate(evaluation, model, *about)

    try:
        return compute()
    except NotFinite as error:
        raise nonfinite.error(step, error.metric, model, compute, origin, evaluation.key) from None
