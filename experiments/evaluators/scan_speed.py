"""How fast the forms of the linear recurrence are, alone and in a training step (Griffin, figure 8 and appendix D.2)."""

import statistics
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from arch import cost
from arch.contracts import Chart, Dataset, Findings, Given, Metric
from arch.errors import SpecError
from arch.kernels import linear_scan
from arch.model import Model
from arch.model_spec import ModelSpec
from arch.registry import evaluator
from arch.spec import Count, List, Spec
from experiments import drawn_step, turns

FASTER = Metric(better="higher", compare="ratio", any_tokenizer=True, varies="machine")
SHIPPED = "shipped"


@evaluator
class ScanSpeed:
    """The recurrence token by token, as an associative scan, in chunks, and compiled; forward and backward, in turns.

    Alone: on drawn decays and inputs of `width` channels. In a step: the run's own model and objective, a pass forward and
    backward over drawn tokens, with the recurrence of every RG-LRU by each form; also `shipped`, what a run takes by itself
    (on a CPU one compiled operation with the gates). The gradient goes backwards by the same form. A form that cannot be here
    (no compiler, no Triton) is left out, and the text says why.

    As with `decode_speed`, a seed does not repeat the times. Token by token is a loop of torch operations, whose overhead is
    a part of its time.

    | column | what it is |
    |---|---|
    | `form`, `length` | the form; tokens per row |
    | `scan_seconds`, `scan_speedup` | of the scan alone; how many times as fast as token by token |
    | `step_seconds`, `step_speedup` | of a training step of the model; the same |
    """

    class Config(Spec):
        """lengths: tokens per row. rows: of the scan alone; 8 in the paper. width: its channels, by default those of the model's
        recurrence; 1024 in the paper. forms: which ones, beside `step`. step_rows: rows of the training step; by default as
        many as give a step of the longest length the tokens of training. rounds: timed calls of each.
        """

        lengths: Annotated[List[Count], Field(min_length=1)] = (512, 1024, 2048)
        rows: Count = 8
        width: Count | None = None
        forms: List[Literal["associative", "chunked", "compiled"]] = ("associative", "chunked", "compiled")
        step_rows: Count | None = None
        rounds: Count = 5

    needs: frozenset[str] = frozenset()
    charts = tuple(
        Chart(
            kind="curve",
            x="length",
            y=y,
            by="form",
            title=title,
            labels={"length": "tokens per row", y: "seconds"},
            log=("length", y),
        )
        for y, title in (("scan_seconds", "The scan alone"), ("step_seconds", "A training step"))
    )

    def __init__(self, config: Config):
        self.config = config
        self.lengths = sorted(set(config.lengths))
        self.forms = ("step", *dict.fromkeys(config.forms))
        self.metrics = {f"scan_speedup_{form}": FASTER for form in self.forms[1:]}
        self.metrics |= {f"scan_step_speedup_{form}": FASTER for form in (*self.forms[1:], SHIPPED)}

    def check_model(self, model: ModelSpec) -> None:
        """Raises SpecError where no layer has the recurrence."""
        if not _recurrent(model):
            raise SpecError("no layer of the model has the mixer rg_lru, whose scan is to be timed", ("type",))

    def flops(self, model: ModelSpec, rows: int, context: int) -> float:
        """Those of the training steps; the scans alone take about as long."""
        steps = len(self.forms) + 1
        tokens = {length: length * self._step_rows(rows * context) for length in self.lengths}
        a_round = sum(tokens[each] * cost.outline(model, each)["flops_per_token"]["ideal"]["train"] for each in self.lengths)
        return 2 * steps * (self.config.rounds + 1) * a_round

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """How many times as fast as token by token, at the longest length: `scan_speedup_FORM` alone, `scan_step_speedup_FORM` in a
        training step of the model.
        """
        device, dtype = model.embedding.device, model.embedding.dtype
        missing = {form: why for form in self.forms if (why := linear_scan.unavailable(form, device, dtype))}
        forms = [form for form in self.forms if form not in missing]
        width = self.config.width or model.blocks[_recurrent(model.spec)[0]].mixer.component.width
        table: list[dict[str, Any]] = []
        with drawn_step.training(model):
            for length in self.lengths:
                inputs = _inputs(self.config.rows, length, width, given.seed, device, dtype)
                scans = turns.in_turns({form: partial(_scan, form, *inputs) for form in forms}, self.config.rounds, device)
                del inputs
                tokens = drawn_step.tokens(self._step_rows(given.rows * given.context), length, dataset.vocabulary, given.seed)
                step = partial(drawn_step.step, model, given.objective, tokens.to(device))
                works = {form: partial(_by, form, step) for form in forms} | {SHIPPED: step}
                steps = turns.in_turns(works, self.config.rounds, device)
                table += [_row(form, length, scans, steps) for form in works]
        longest = [row for row in table if row["length"] == self.lengths[-1] and row["form"] != "step"]
        values = {f"scan_speedup_{row['form']}": row["scan_speedup"] for row in longest if row["scan_speedup"]}
        values |= {f"scan_step_speedup_{row['form']}": row["step_speedup"] for row in longest}
        text = turns.conditions(device, dtype, self.config.rounds)
        return Findings(values, table, "; ".join([text, *(f"{form} is left out: {why}" for form, why in missing.items())]))

    def _step_rows(self, tokens):
        return self.config.step_rows or max(1, tokens // self.lengths[-1])


def _recurrent(model):
    """The layers whose mixer is the RG-LRU."""
    mixers = [model.blocks[name].mixer for name in model.layer_blocks()]
    return [layer for layer, mixer in enumerate(mixers) if mixer is not None and mixer["type"] == "rg_lru"]


def _inputs(rows, length, width, seed, device, dtype):
    """((a, b, h0), the gradient of the states), drawn; a is in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    a_BTR, b_BTR, g_BTR = (torch.randn(rows, length, width, generator=generator) for _ in range(3))
    h0_BR = torch.randn(rows, width, generator=generator)
    inputs = [each.to(device, dtype).requires_grad_() for each in (a_BTR.sigmoid_(), b_BTR, h0_BR)]
    return inputs, g_BTR.to(device, dtype)


def _scan(form, inputs, g_BTR):
    _by(form, lambda: torch.autograd.grad(linear_scan.linear_scan(*inputs), inputs, g_BTR))


def _by(form, work):
    with linear_scan.by(form):
        work()


def _row(form, length, scans, steps):
    row: dict[str, Any] = {"form": form, "length": length, "scan_seconds": None, "scan_speedup": None}
    if form in scans:
        row |= {"scan_seconds": statistics.median(scans[form]), "scan_speedup": turns.ratio(scans["step"], scans[form])}
    return row | {"step_seconds": statistics.median(steps[form]), "step_speedup": turns.ratio(steps["step"], steps[form])}
