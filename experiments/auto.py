"""What `train.precision: auto` becomes: `bf16-mixed` where that was measured to gain, else `32-true`.

Decided when a run is planned, from the machine's words and the width of the model, and by no clock: so the same machine always
decides alike. What it became is in the spec of the run, and so in its identity.
"""

from collections.abc import Sequence

from arch.kernels import products
from experiments.spec import ExperimentSpec, TrainSpec

# Units for bfloat16 with which a step was measured to gain over float32, and the least width of a model from which it does.
# Measured on two cores of an Intel Xeon with AMX: 1.4 x at width 256 and 0.76 to 0.82 x at width 64 under autocast, before our
# kernels took bfloat16; the width between is assumed. With AVX512-BF16 alone (the same machine under oneDNN's limit): 0.67 x.
LEAST_WIDTH = {"AMX": 128}
LOSES = {"AVX512-BF16": "a step took 1.5 times as long as in float32 where that was measured"}


def precision(accelerator: str, widths: Sequence[int]) -> tuple[str, str]:
    """(what `auto` becomes, why) on this machine, for models of these widths: one precision for all, as the narrowest needs."""
    narrowest = min(widths)
    if accelerator != "cpu":
        return "32-true", f"bfloat16 has not been timed on {accelerator}; `bf16-mixed` says that it is wanted"
    unit = products.unit()
    if not unit:
        return "32-true", "this CPU has no units for bfloat16"
    if unit not in LEAST_WIDTH:
        return "32-true", f"this CPU has {unit}: {LOSES.get(unit, 'bfloat16 has not been timed with it')}"
    least = LEAST_WIDTH[unit]
    if narrowest < least:
        return "32-true", f"bfloat16 gains from a width of {least} on, and {_narrow(widths)}"
    return "bf16-mixed", f"this CPU has {unit}, with which bfloat16 gains from a width of {least} on"


def _narrow(widths):
    return f"model.dim is {widths[0]}" if len(widths) == 1 else f"the narrowest model's model.dim is {min(widths)}"


def note(became: str, why: str) -> str:
    """The sentence for a record."""
    return f"train.precision: auto became {became}: {why}"


def decided(spec: ExperimentSpec) -> tuple[ExperimentSpec, tuple[str, ...]]:
    """(the spec with `train.precision: auto` decided, notes on it)"""
    if spec.train.precision != "auto":
        return spec, ()
    became, why = precision(spec.train.accelerator, [spec.model.dim])
    train = spec.train.model_copy(update={"precision": became})
    return spec.model_copy(update={"train": train}), (note(became, why),)


def remarks(train: TrainSpec) -> tuple[str, ...]:
    """Sentences for a plan: what bfloat16 costs on this machine."""
    if train.accelerator != "cpu" or (train.precision == "32-true" and train.products == "exact"):
        return ()
    what = "train.products: bf16" if train.products == "bf16" else f"train.precision: {train.precision}"
    by_unit = products.rounds() if train.products == "bf16" else bool(products.unit())
    if not by_unit:
        return (f"{what}: this CPU has no units for it; products are computed by rounding, slower than in float32",)
    if train.precision == "bf16-mixed" and products.unit() in LOSES:
        return (f"{what}: this CPU has {products.unit()}: {LOSES[products.unit()]}",)
    return ()
