"""What the families' config.json have in common, as Hugging Face's `transformers` reads them."""

from typing import Any, Literal

from arch.spec import Count, Positive, Spec

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}


class Config(Spec):
    """The keys of a config.json that decide what the model computes, with `transformers`' defaults.

    A family's class has `architecture()`, the name of the `transformers` class; `spec()`, plain data of a ModelSpec,
    which raises ValueError for what ours cannot express; and `of(spec)`, plain data of the nearest config to a ModelSpec
    whose every layer has components that the family names: whether it is near enough is for the caller to see, by
    reading it back.
    """

    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: Count = 26
    num_attention_heads: Count = 8
    num_key_value_heads: Count | None = 4
    hidden_activation: Literal["gelu_pytorch_tanh", "silu"] = "gelu_pytorch_tanh"
    rms_norm_eps: Positive = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None

    def written(self):
        """As a config.json has it: without keys of older releases, which are null by default."""
        return {k: v for k, v in self.dump().items() if v is not None or type(self).model_fields[k].default is not None}


def rope(parameters, theta):
    """Our rotary options for one kind of layer. Raises ValueError for a scaling other than linear."""
    parameters = parameters or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear"):
        raise ValueError(f"a rope_type of {kind!r} cannot be expressed; expected default or linear")
    scale = float(parameters.get("factor", 1.0)) if kind == "linear" else 1.0
    return {"theta": float(parameters.get("rope_theta") or theta), "scale": scale}


def rope_parameters(rope):
    """What `rope` reads, from our options (of a mixer without rotary: the default, which reads back as another)."""
    rope = rope or {"theta": 10_000.0, "scale": 1.0}
    scaled = {"rope_type": "linear", "factor": rope["scale"]} if rope["scale"] != 1 else {"rope_type": "default"}
    return {"rope_theta": rope["theta"], **scaled}


def pattern(names):
    """The shortest spec pattern that gives these block names, a layer each."""
    period = next(p for p in range(1, len(names) + 1) if all(name == names[i % p] for i, name in enumerate(names)))
    runs = []
    for name in names[:period]:
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    return [name if count == 1 else f"{count}*{name}" for name, count in runs]


def kinds(spec):
    """The windowed block of a ModelSpec and the global one, each by its first layer; the other where there is none."""
    blocks = [spec.blocks[name] for name in spec.layer_blocks()]
    attention = [block for block in blocks if block.mixer and block.mixer["type"] == "attention"]
    local = next((block for block in attention if block.mixer["window"] is not None), None)
    whole = next((block for block in attention if block.mixer["window"] is None), None)
    return local or whole, whole or local
