"""What the families' config.json have in common, as Hugging Face's `transformers` reads them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from arch.spec import Count, Positive, Spec

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
Layers = Annotated[int, Field(ge=1, le=10_000)]


class RopeParameters(Spec):
    """Rotary positions of one kind of layer. `type` is what releases before `rope_type` wrote."""

    rope_type: Literal["default", "linear"] | None = None
    type: Literal["default", "linear"] | None = None
    rope_theta: Positive | None = None
    factor: Positive | None = None
    partial_rotary_factor: Positive | None = None

    def ours(self, theta):
        """Our options, with `theta` where none is given. Raises ValueError for a linear scaling without a factor."""
        linear = (self.rope_type or self.type) == "linear"
        if linear and self.factor is None:
            raise ValueError("rope_parameters: linear scaling needs a `factor`")
        return {"theta": self.rope_theta or theta, "scale": self.factor if linear else 1.0}

    def under(self, other):
        """These with what `other` (RopeParameters or None) says laid over them."""
        said = {} if other is None else {k: v for k, v in other.dump().items() if v is not None}
        return self.model_copy(update=said)


class Config(Spec):
    """The keys of a config.json that decide what the model computes, with `transformers`' defaults.

    A family's class has `architecture()`, the name of the `transformers` class; `spec()`, plain data of a ModelSpec,
    which raises ValueError (`KEY: reason`) for what ours or that class cannot express; and `of(spec)`, plain data of
    the nearest config to a ModelSpec whose every layer has components that the family names: whether it is near enough
    is for the caller to see, by reading it back.
    """

    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Count = 8
    num_key_value_heads: Count | None = 4
    hidden_activation: Literal["gelu_pytorch_tanh", "silu"] = "gelu_pytorch_tanh"
    rms_norm_eps: Positive = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    rope_theta: Positive | None = None
    rope_scaling: RopeParameters | None = None
    rope_parameters: Any = None

    def written(self):
        """As a config.json has it: without what is null by default, such as the keys of older releases."""
        fields = type(self).model_fields
        return {k: v for k, v in _bare(self.dump()).items() if v is not None or fields[k].default is not None}


def _bare(data):
    """Rotary options without their nulls, which `transformers` would take for values."""
    ropes = data["rope_parameters"]
    if ropes is not None:
        drop = lambda rope: {k: v for k, v in rope.items() if v is not None} if isinstance(rope, dict) else rope  # noqa: E731
        ropes = drop({kind: drop(rope) for kind, rope in ropes.items()})
    return data | {"rope_parameters": ropes}


def rope_parameters(rope):
    """What `RopeParameters.ours` reads, from our options (of a mixer without rotary: the default, which reads back as
    another)."""
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
    """The windowed attention block of a ModelSpec and the global one, each by its first layer; where there is only one
    kind, twice that; (None, None) where there is none."""
    blocks = [spec.blocks[name] for name in spec.layer_blocks()]
    attention = [block for block in blocks if block.mixer and block.mixer["type"] == "attention"]
    local = next((block for block in attention if block.mixer["window"] is not None), None)
    whole = next((block for block in attention if block.mixer["window"] is None), None)
    return local or whole, whole or local
