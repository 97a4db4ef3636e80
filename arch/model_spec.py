"""What a model is, as data: `BlockSpec`, `ModelSpec`, initial values by kind of parameter. No torch here."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from arch import document
from arch.errors import nearest
from arch.spec import Component, Count, Kind, List, Positive, Spec, later

SUBLAYERS = ("mixer", "cross", "ffn")  # the kinds of a block's sub-layers, in the order in which a layer applies them
SUBLAYER_NAME = re.compile(rf"blocks\.(\d+)\.({'|'.join(SUBLAYERS)})\.(.*)")  # (layer, kind, rest) of a parameter's name
ENCODER = "encoder."  # what the names of an encoder's parameters begin with, in a model of two stacks


class Initialiser(Spec):
    """How a matrix is initialised: by a normal distribution with mean 0.

    type: `normal` has variance std^2; `fan_in` (LeCun) has 1 / fan_in; `depth_scaled` has (2 / layers) / fan_in, which
    the reference Griffin code uses for the matrices that write into the residual stream. std: of `normal`.
    """

    type: Literal["normal", "fan_in", "depth_scaled"]
    std: Positive | None = None

    @model_validator(mode="after")
    def _std_belongs_to_normal(self):
        if (self.type == "normal") != (self.std is not None):
            raise ValueError("`normal` needs `std`, the others take none")
        return self


class InitSpec(Spec):
    """Initialisation by kind of matrix.

    matrix: all that are none of the others. output: the matrices that write into the residual stream.
    embedding: `fan_in` means variance 1/dim; with `embed_scale: sqrt_dim` the stream then starts at variance 1.
    stacked: the fan-in of matrices that the reference Griffin code stores as one stacked tensor (a recurrence's gate
    blocks, the two branches of a gated FFN). `torch` uses each matrix's own inputs, as its torch code does. `jax` uses
    the inputs times the number of matrices, as its JAX code does: gates have variance 1/R, not 1/(R / blocks), and
    branches 1/(2 D), not 1/D.
    """

    matrix: Initialiser = Initialiser(type="fan_in")
    output: Initialiser = Initialiser(type="depth_scaled")
    embedding: Initialiser = Initialiser(type="fan_in")
    stacked: Literal["torch", "jax"] = later("torch")


class BlockSpec(Spec):
    """One layer: a field per kind of sub-layer (SUBLAYERS), each optional and residual, and where their norms are.

    mixer: over time. cross: attention to an encoder's states, in a decoder beside one. ffn: a feed-forward network over width.

    norm: `before` x + f(norm(x)); `after` x + norm(f(x)); `sandwich` x + norm(f(norm(x))) (Gemma 2, section 2).
    """

    mixer: Annotated[Component, Kind("mixer")] | None = None
    ffn: Annotated[Component, Kind("ffn")] | None = None
    cross: Annotated[Component, Kind("cross")] | None = later(None)
    norm: Literal["before", "after", "sandwich"] = "before"

    @model_validator(mode="after")
    def _does_something(self):
        if not self.sublayers():
            raise ValueError(f"a block needs at least one of {', '.join(SUBLAYERS)}")
        return self

    def sublayers(self):
        """{kind: component} of the sub-layers that the block has, in their order."""
        components = {kind: getattr(self, kind) for kind in SUBLAYERS}
        return {kind: component for kind, component in components.items() if component is not None}


class EncoderSpec(Spec):
    """The encoder beside a decoder: a stack of its own, whose last states the decoder's blocks read.

    layers, pattern, blocks: as of a model. dim: the width of its residual stream, null for the decoder's.
    embedding: `shared` looks its tokens up in the decoder's table (T5Gemma 2); `own` has a table of its own (T5Gemma).
    The vocabulary, `embed_scale`, `norm_eps` and `init` are the decoder's.
    """

    layers: Count
    pattern: List[str]
    blocks: dict[str, BlockSpec]
    dim: Count | None = None
    embedding: Literal["shared", "own"] = "shared"


TEXT_ROLES = ("embedding", "attention", "matrix")  # of weights that read and write text
ROLES = (*TEXT_ROLES, "vision")


class QuantiseSpec(Spec):
    """How weights are rounded to fewer bits, by role; the roles are those of EmbeddingGemma's mixed recipe (section 2.3).

    embedding: the matrix of token embeddings, which is also the head if they are tied. attention: the maps of the mixers, of
    recurrent blocks too. matrix: all maps that are none of the others: of ffns, pool and projections, and an untied head.
    vision: all maps of the tower, which published models keep in bfloat16. null: these stay as they are, as do norms, biases and
    what decides how a state decays.
    """

    embedding: Annotated[Component, Kind("quantiser")] | None = None
    attention: Annotated[Component, Kind("quantiser")] | None = None
    matrix: Annotated[Component, Kind("quantiser")] | None = None
    vision: Annotated[Component, Kind("quantiser")] | None = later(None)

    @model_validator(mode="after")
    def _quantises_something(self):
        if not self.roles():
            raise ValueError(f"expected a quantiser for at least one of {', '.join(ROLES)}")
        return self

    def roles(self):
        """{role: quantiser} of the roles that have one."""
        return {role: component for role in ROLES if (component := getattr(self, role)) is not None}


class ModelSpec(Spec):
    """A language model: embedding, `layers` blocks by `pattern`, final norm, head. With `pool`, an encoder: a vector per text.

    schema: the version of this format. dim: the width D of the residual stream. vocab_size: V, the rows of the embedding.
    layers: their number. blocks: {name: a block}.
    pattern: block names, such as `5*local` for repeats, cycled over the layers and truncated at the end.
    embed_scale: `sqrt_dim` multiplies embeddings (not the tied head) by sqrt(dim), rounded to the weights' type;
    `sqrt_dim_bfloat16` by sqrt(dim) rounded to bfloat16, as RecurrentGemma's code does; `none` does not scale them.
    tie_embeddings: the head is the embedding matrix. logit_softcap: c in c * tanh(logits / c). norm_eps: of every RMSNorm.
    init: how weights are drawn.
    pool: how the hidden states of a text become one vector; such a model has no head. project: the widths of the linear maps
    behind the pool, without bias and with no activation between them (EmbeddingGemma, section 2.1: `[3072, 768]`).
    vision: the tower that makes soft tokens of images, which take the places of placeholders (Gemma 3, section 2.1).
    quantise: the model computes with weights that are rounded to fewer bits, by role; the weights themselves stay as they are.
    encoder: a second stack, which reads a source; `layers`, `pattern` and `blocks` are then the decoder's, some of which read it.
    """

    version: Literal[1] = Field(default=1, alias="schema")
    dim: Count
    vocab_size: Count
    layers: Count
    pattern: List[str]
    blocks: dict[str, BlockSpec]
    embed_scale: Literal["none", "sqrt_dim", "sqrt_dim_bfloat16"] = "none"
    tie_embeddings: bool = True
    logit_softcap: Positive | None = None
    norm_eps: Positive = 1e-6
    init: InitSpec = InitSpec()
    pool: Annotated[Component, Kind("pool")] | None = later(None)
    project: List[Count] = later(())
    vision: Annotated[Component, Kind("tower")] | None = later(None)
    quantise: QuantiseSpec | None = later(None)
    encoder: EncoderSpec | None = later(None)

    @classmethod
    def parse(cls, source, path=()):
        """As `Spec.parse`, after every block's `like:` has been resolved."""
        root = document.node(source)
        return super().parse(expand_like(root, path), path)

    @model_validator(mode="after")
    def _pattern_names_blocks(self):
        for stack, prefix in ((self, ""), (self.encoder, ENCODER)):
            if stack is None:
                continue
            if not stack.pattern:
                raise ValueError(f"{prefix}pattern: expected at least one block name")
            for item in stack.pattern:
                name, _ = repeated(item)
                if name not in stack.blocks:
                    said = {"name": repr(name), "hint": nearest(name, stack.blocks)}
                    raise PydanticCustomError("pattern", f"{prefix}pattern: no block {{name}}{{hint}}", said)
        return self

    @model_validator(mode="after")
    def _two_stacks_fit(self):
        if self.encoder is None:
            for name, block in self.blocks.items():
                if block.cross is not None:
                    raise ValueError(f"blocks.{name}.cross: it reads an encoder, and the model has none (`encoder`)")
            return self
        for name in ("vision", "quantise"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: for models of one stack, and this one has an `encoder`; expected null")
        if self.pool is not None:
            raise ValueError("pool: of one stack; take the encoder out of this model to have vectors (`init_from`, `as: encoder`)")
        for name, block in self.encoder.blocks.items():
            if block.cross is not None:
                raise ValueError(f"encoder.blocks.{name}.cross: an encoder has no other encoder to read")
        if self.encoder.embedding == "shared" and self.encoder.dim not in (None, self.dim):
            raise ValueError(f"encoder.dim: {self.encoder.dim} with a shared embedding of dim = {self.dim}; say `embedding: own`")
        return self

    @model_validator(mode="after")
    def _pool_replaces_head(self):
        if self.pool is None:
            if self.project:
                raise ValueError("project: maps a pooled vector, but the model has no `pool`")
            return self
        if not self.tie_embeddings:
            raise ValueError("tie_embeddings: a model with a `pool` has no head, so there is nothing to untie")
        if self.logit_softcap is not None:
            raise ValueError("logit_softcap: a model with a `pool` has no head, so there are no logits; say null")
        return self

    @model_validator(mode="after")
    def _vision_goes_with_causal_attention(self):
        if self.vision is None:
            return self
        if self.pool is not None:
            raise ValueError("vision: a model with a `pool` reads texts alone; expected null")
        ahead = [name for name, block in self.blocks.items() if block.mixer and block.mixer.get("causal") is False]
        if ahead:
            raise ValueError(f"vision: block {ahead[0]} sees ahead, and images are for causal models; expected null")
        for option in ("placeholder", "start", "end"):
            token = self.vision.get(option)
            if type(token) is int and token >= self.vocab_size:
                raise ValueError(f"vision: its {option}, {token}, is no token of a vocabulary of {self.vocab_size:,}")
        return self

    @property
    def vector_dim(self):
        """E, the width of the vector of a text; None for a model without a pool."""
        if self.pool is None:
            return None
        return self.project[-1] if self.project else self.dim

    def components(self):
        """Yields (its place in the spec, kind, component) of everything in the model that is chosen by `type`."""
        for name, block in self.blocks.items():
            for kind, component in block.sublayers().items():
                yield ("blocks", name, kind), kind, component
        if self.pool is not None:
            yield ("pool",), "pool", self.pool
        if self.encoder is not None:
            for name, block in self.encoder.blocks.items():
                for kind, component in block.sublayers().items():
                    yield ("encoder", "blocks", name, kind), kind, component
        if self.vision is not None:
            yield ("vision",), "tower", self.vision
        for role, component in (self.quantise.roles() if self.quantise else {}).items():
            yield ("quantise", role), "quantiser", component

    def layer_blocks(self):
        """The block name of each layer: the pattern, cycled and truncated."""
        cycle = [name for item in self.pattern for name, count in [repeated(item)] for _ in range(count)]
        return [cycle[i % len(cycle)] for i in range(self.layers)]

    @property
    def encoder_spec(self):
        """The encoder alone, as the ModelSpec of one stack; None for a model without one."""
        if self.encoder is None:
            return None
        shared = {key: getattr(self, key) for key in ("vocab_size", "embed_scale", "norm_eps", "init")}
        own = {key: getattr(self.encoder, key) for key in ("layers", "pattern", "blocks")}
        return ModelSpec(dim=self.encoder.dim or self.dim, **own, **shared)


def repeated(item):
    """An item of a pattern as (name, count): `"5*local"` gives ("local", 5), `"local"` gives ("local", 1)."""
    match = re.fullmatch(r"(?:([1-9]\d*)\s*\*\s*)?([^\s*]+)", item)
    if not match:
        raise ValueError(f"pattern: {item!r} is neither a block name nor COUNT*NAME with a count of at least 1")
    return match[2], int(match[1] or 1)


def expand_like(root, path=()):
    """The document with each block that has `like: SIBLING` merged over that sibling, in both stacks of a model.

    Raises SpecError for a missing or circular sibling.
    """
    root = _expanded(root, (*path, "blocks"))
    here = root.at((*path, "encoder"))
    if here.value is root.at(path).value or not isinstance(here.value, dict):
        return root
    return _expanded(root, (*path, "encoder", "blocks"))


def _expanded(root, where):
    blocks = root.at(where)
    if root.at(where[:-1]).value is blocks.value or not isinstance(blocks.value, dict):
        return root

    def expanded(name, above):
        here = blocks.value[name]
        if not isinstance(here.value, dict) or "like" not in here.value:
            return here
        sibling = here.value["like"].value
        if not isinstance(sibling, str) or sibling not in blocks.value:
            known = [other for other in blocks.value if other != name]
            raise root.error(f"no block {sibling!r}{nearest(sibling, known)}", (*where, name, "like"))
        if sibling in (*above, name):
            raise root.error(f"circular like: {' -> '.join((*above, name, sibling))}", (*where, name, "like"))
        own = document.Node({k: v for k, v in here.value.items() if k != "like"}, here.file, here.line)
        return document.lay(expanded(sibling, (*above, name)), own)

    whole = document.Node({name: expanded(name, ()) for name in blocks.value}, blocks.file, blocks.line)
    return _replaced(root, where, whole)


def _replaced(root, path, whole):
    if not path:
        return whole
    children = dict(root.value)
    children[path[0]] = _replaced(children[path[0]], path[1:], whole)
    return document.Node(children, root.file, root.line)
