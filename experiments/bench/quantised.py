"""Training with rounded weights beside training with the float weights of the same spec."""

from arch import document, registry
from arch.model_spec import TEXT_ROLES, ModelSpec
from arch.quantised import shapes
from experiments.bench.sides import Ours

# Those of the study gemma3/qat; every role has the same.
FORMATS = ("int4_channel", "q4_0", "q8_0", "sfp8")


def quantised(journal, spec, name, context, bench_spec, device):
    """Time, in turns, training steps of one model: `plain`, and one side per format. What a format cannot hold is noted."""
    steps = {}
    for side in ("plain", *FORMATS):
        try:
            ours = Ours(rounded(spec, None if side == "plain" else side), device, bench_spec.dtype)
        except ValueError as error:
            journal.note(f"{side}, {name}: not measured: {error}")
        else:
            steps[side] = ours.training(bench_spec.tokens // context, context)
    journal.time("quantised step", steps, {"spec": name, "context": context}, bench_spec.tokens, "tokens")


def rounded(spec, kind):
    """A resolved ModelSpec with every role that it has in a format; with none, for None."""
    found = shapes(spec)
    quantise = None if kind is None else {role: {"type": kind} for role in TEXT_ROLES if found[role]}
    root = document.node(spec.dump() | {"quantise": quantise})
    return registry.resolve(ModelSpec.parse(root), root)
