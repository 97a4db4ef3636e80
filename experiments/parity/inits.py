"""Initial values where the paper and the two released codes disagree; a spec can choose each by name."""

from dataclasses import dataclass

from arch.express import resolved
from arch.model import new_model

WIDTH, BLOCKS, DIM = 4096, 16, 1024


@dataclass(frozen=True)
class First:
    """Which weights are initialised, the option that chooses how, the source of this way, and what was measured."""

    what: str
    chosen_by: str
    source: str
    measured: str


def model(**options):
    """A model of one wide recurrent layer, initialised. `stacked` is an option of `init`, the others of the mixer."""
    init = {"stacked": options.pop("stacked")} if "stacked" in options else {}
    mixer = {"type": "rg_lru", "width": WIDTH, "blocks": BLOCKS, **options}
    block = {"mixer": mixer, "ffn": {"type": "gated", "hidden": 64}}
    data = {"dim": DIM, "vocab_size": 8, "layers": 1, "pattern": ["r"], "blocks": {"r": block}, "init": init}
    return new_model(resolved(data), seed=0)


def rows():
    """Yields every First, measured now."""
    sources = {
        "paper": "Griffin, section 2.4: a^8 uniform in [0.9, 0.999]",
        "reference": "released code: a^2 uniform in [0.9^2, 0.999^2]",
    }
    for name, source in sources.items():
        a_R = model(decay_init=name).blocks[0].mixer.component.decay.detach().double().sigmoid()
        half_R = a_R ** (8 * 0.5)  # with zero bias, a gate is half open
        seen = {"a": a_R, "a^8": a_R**8, "a_t at r = 0.5": half_R}
        ranges = [f"{what} in [{float(x_R.min()):.3f}, {float(x_R.max()):.4f}]" for what, x_R in seen.items()]
        yield First("decay", f"`mixer.decay_init: {name}`", source, ", ".join(ranges))
    each = WIDTH // BLOCKS
    sources = {
        "torch": f"released torch code: by each matrix's own inputs (std {each**-0.5:.4f} and {DIM**-0.5:.4f})",
        "jax": f"released JAX code: by all inputs, stacked axes included (std {WIDTH**-0.5:.4f} and {(2 * DIM) ** -0.5:.4f})",
    }
    for name, source in sources.items():
        block = model(stacked=name).blocks[0]
        gate, branch = block.mixer.component.input_gate.weight, block.ffn.component.gate.weight
        gates, branches = float(gate.detach().std()), float(branch.detach().std())
        measured = f"std: gates {gates:.4f} ({BLOCKS} blocks of {each}), branches {branches:.4f} (width {DIM})"
        yield First("gates, FFN branches", f"`init.stacked: {name}`", source, measured)
