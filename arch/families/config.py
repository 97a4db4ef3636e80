"""The keys that the families' config.json files share, as Hugging Face's `transformers` reads them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from arch.spec import Count, Positive, Spec

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "silu": "silu", "relu": "relu"}
# Keys of older releases in which null stops them: they compute with the value as it is.
NULL_STOPS = ("rope_local_base_freq", "sliding_window_pattern")
Layers = Annotated[int, Field(ge=1, le=10_000)]


class RopeParameters(Spec):
    """Rotary positions of one kind of layer. `type` is the name of `rope_type` in older releases."""

    rope_type: Literal["default", "linear"] | None = None
    type: Literal["default", "linear"] | None = None
    rope_theta: Positive | None = None
    factor: Positive | None = None
    partial_rotary_factor: Positive | None = None

    def ours(self, theta):
        """Our rotary options; `theta` is the default. Raises ValueError for linear scaling without a factor."""
        linear = (self.rope_type or self.type) == "linear"
        if linear and self.factor is None:
            raise ValueError("rope_parameters: linear scaling needs a `factor`")
        return {"theta": self.rope_theta or theta, "scale": self.factor if linear else 1.0}

    def scaling(self):
        """The same as `rope_scaling` of releases before 5; None without a scaling."""
        return {"rope_type": "linear", "factor": self.factor} if self.rope_type == "linear" else None

    def under(self, other):
        """These parameters, overridden by those that `other` (RopeParameters or None) sets."""
        said = {} if other is None else {k: v for k, v in other.dump().items() if v is not None}
        return self.model_copy(update=said)


class Config(Spec):
    """The keys of a config.json that decide what the model computes, with `transformers`' defaults.

    A family's class has three methods:
    architecture(): the name of the `transformers` class.
    spec(): plain data of a ModelSpec. Raises ValueError (`KEY: reason`) for what our spec or that class cannot express.
    of(spec): plain data of the nearest config to a ModelSpec, all of whose components the family must name. The caller
    checks whether it is exact, by converting it back.

    And two for releases before 5, which ignore keys that they do not know and then compute something else:
    older(): what `rope_parameters` and other newer keys say, under the keys of those releases. Where they cannot say it, a
    key is null, so that they stop with an error instead.
    since(): {what the model has: the first release of `transformers` that computes it}.
    """

    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Count = 8
    num_key_value_heads: Count | None = 4
    hidden_activation: Literal["gelu_pytorch_tanh", "silu", "relu"] = "gelu_pytorch_tanh"
    rms_norm_eps: Positive = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    rope_theta: Positive | None = None
    rope_scaling: RopeParameters | None = None
    rope_parameters: Any = None

    def older(self):
        rope = self.rope_parameters or RopeParameters()
        return {"rope_theta": rope.rope_theta, "rope_scaling": rope.scaling()}

    def since(self):
        return {}

    def written(self):
        """The keys for a config.json: those of the newest release, then those of older ones; no null that is the default."""
        fields = type(self).model_fields
        kept = {k: v for k, v in _bare(self.dump()).items() if v is not None or fields[k].default is not None}
        return kept | {k: v for k, v in self.older().items() if v is not None or k in NULL_STOPS}


def _bare(data):
    """`data` with the nulls removed from its rotary options, because `transformers` would take them for values."""
    ropes = data["rope_parameters"]
    if ropes is not None:
        drop = lambda rope: {k: v for k, v in rope.items() if v is not None} if isinstance(rope, dict) else rope  # noqa: E731
        ropes = drop({kind: drop(rope) for kind, rope in ropes.items()})
    return data | {"rope_parameters": ropes}


def rope_parameters(rope):
    """The inverse of `RopeParameters.ours`: plain RopeParameters from our options.

    A mixer without rotary gets the defaults, which read back as a different spec.
    """
    rope = rope or {"theta": 10_000.0, "scale": 1.0}
    scaled = {"rope_type": "linear", "factor": rope["scale"]} if rope["scale"] != 1 else {"rope_type": "default"}
    return {"rope_theta": rope["theta"], **scaled}


def pattern(names):
    """The shortest spec pattern that gives these block names, one per layer."""
    period = next(p for p in range(1, len(names) + 1) if all(name == names[i % p] for i, name in enumerate(names)))
    runs = []
    for name in names[:period]:
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    return [name if count == 1 else f"{count}*{name}" for name, count in runs]


def kinds(spec, mixer="attention"):
    """(first block of this mixer with a window, first global one) of a ModelSpec, in the order of layers.

    If there is only one kind, it is given twice; (None, None) if there is no such mixer.
    """
    blocks = [spec.blocks[name] for name in spec.layer_blocks()]
    attention = [block for block in blocks if block.mixer and block.mixer["type"] == mixer]
    local = next((block for block in attention if block.mixer["window"] is not None), None)
    whole = next((block for block in attention if block.mixer["window"] is None), None)
    return local or whole, whole or local
