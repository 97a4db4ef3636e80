"""A model built from a resolved spec: embedding, blocks of sub-layers, final norm, then a head or a pool.

Shapes: B rows, T tokens, D width, V vocabulary, E width of a text's vector; I images of a row, S their side in pixels.
"""

import functools
import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch import decoding, quantised, registry, token_plan
from arch.block import Block
from arch.encoded import Encoded
from arch.kernels import decode, products
from arch.layout import TokenLayout
from arch.linear import Linear
from arch.model_spec import ModelSpec
from arch.norm import RMSNorm
from arch.parameters import Context, drawn, initialise, parameter
from arch.plugins import is_plugin


@functools.cache
def _rounded(number, *dtypes):
    """A number after rounding to each of these types in turn."""
    for dtype in dtypes:
        number = torch.tensor(number, dtype=dtype, device="cpu").item()
    return number


@dataclass(frozen=True)
class ModelState:
    """What a model keeps of the tokens that it has seen: one mixer state per layer, and the number of tokens.

    plan: how the next token is decoded (`arch.token_plan`); None if nobody has asked yet. encoded: the source that a decoder
    beside an encoder reads.
    """

    layers: list[Any]
    seen: int = 0
    plan: Any = field(default=None, compare=False, repr=False)
    encoded: Encoded | None = field(default=None, compare=False, repr=False)


class Model(nn.Module):
    """The model of a resolved ModelSpec with uninitialised weights; `new_model` initialises them."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec
        beside = spec.encoder_spec
        source_dim = None if beside is None else beside.dim
        contexts = [Context(spec.dim, i, spec.layers, spec.norm_eps, spec.init, source_dim) for i in range(spec.layers)]
        self.embedding = parameter((spec.vocab_size, spec.dim), "embedding", drawn(spec.init.embedding, spec.dim, spec.layers))
        self.blocks = nn.ModuleList(
            Block(spec.blocks[name], context) for name, context in zip(spec.layer_blocks(), contexts, strict=True)
        )
        self.norm = RMSNorm(spec.dim, spec.norm_eps)
        self.head = None if spec.tie_embeddings else Linear(spec.dim, spec.vocab_size, contexts[0])
        self.pool: Any = None if spec.pool is None else registry.build("pool", spec.pool, contexts[0])
        self.vision: Any = None if spec.vision is None else registry.build("tower", spec.vision, contexts[0])
        widths = (spec.dim, *spec.project)
        self.project = nn.ModuleList(Linear(*pair, contexts[0]) for pair in pairwise(widths))
        encoder: Any = None if beside is None else Model(beside)
        if spec.encoder is not None and spec.encoder.embedding == "shared":
            encoder.embedding = None  # its tokens are looked up in the decoder's table
        self.encoder: Any = encoder
        self.fake: Any = None  # what rounds the embedding
        if spec.quantise is not None:
            quantised.attach(self)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Token embeddings (B, T, D), scaled by sqrt(D) if the spec says so (see `ModelSpec.embed_scale`)."""
        x_BTD = F.embedding(tokens_BT, self.embedding_weight)
        return x_BTD if self.spec.embed_scale == "none" else x_BTD * self.embedding_scale

    def embed_with_images(self, tokens_BT: Tensor, layout: TokenLayout, images_BI3SS: Tensor) -> Tensor:
        """Embeddings (B, T, D) of tokens among which images stand: each soft token takes the place of a placeholder.

        Soft tokens are not scaled. images_BI3SS: of each row the first ones that its layout counts; the others are not read.
        Raises ValueError for a model without a tower, and where images and placeholders do not match.
        """
        if self.vision is None:
            raise ValueError("a model without `vision` reads no images")
        image_BT, each = layout.image_BT, self.vision.config.tokens
        if image_BT is None:
            raise ValueError("there are images, but the layout says of no token that it is of an image")
        number_I = torch.arange(images_BI3SS.shape[1], device=image_BT.device)
        count_BI = (image_BT[..., None] == number_I).sum(1)
        if int(image_BT.max()) >= len(number_I) or not bool(((count_BI == each) | (count_BI == 0)).all()):
            raise ValueError(f"an image has other than {each} placeholders, or placeholders have no image")
        x_BTD = self.embed(tokens_BT)
        if not bool((count_BI > 0).any()):
            return x_BTD
        soft_NLD = self.vision(images_BI3SS[count_BI > 0])
        # Rows and images are both in order, so the places are filled in order.
        return x_BTD.masked_scatter((image_BT >= 0)[..., None], soft_NLD.to(x_BTD.dtype))

    @property
    def embedding_weight(self) -> Tensor:
        """The embedding (V, D) as it is used: rounded where the model is quantised."""
        return self.embedding if self.fake is None else self.fake(self.embedding)

    @property
    def embedding_scale(self) -> float:
        """The factor of `embed`, rounded to the embedding's type."""
        if self.spec.embed_scale == "none":
            return 1.0
        dtype = self.embedding.dtype
        rounded = torch.bfloat16 if self.spec.embed_scale == "sqrt_dim_bfloat16" else dtype
        return _rounded(math.sqrt(self.spec.dim), rounded, dtype)

    def read(self, source_BS: Tensor, layout: TokenLayout | None = None) -> Encoded:
        """What the decoder reads of a source (B, S): the encoder's states after its final norm.

        layout: the source's; by default one document per row. Raises ValueError for a model without an encoder.
        """
        if self.encoder is None:
            raise ValueError("a model without an encoder reads no source")
        if layout is None:
            layout = TokenLayout.whole(source_BS.shape[0], source_BS.shape[1], source_BS.device)
        inputs = self.embed(source_BS) if self.encoder.embedding is None else source_BS
        return Encoded(self.encoder.trunk(inputs, layout)[0], layout)

    def trunk(
        self,
        inputs: Tensor,
        layout: TokenLayout | None = None,
        state: ModelState | None = None,
        images: Tensor | None = None,
        encoded: Encoded | None = None,
    ) -> tuple[Tensor, ModelState | None]:
        """(hidden states after the final norm (B, T, D), new state); the state is None if none was given.

        inputs: tokens (B, T) or embeddings (B, T, D). layout: by default one document per row; with a state, the
        tokens continue the state's document. Within `products.casting` float32 weights compute in bfloat16, but from a state in
        float32: what is decoded is kept in the type of the weights. images: (B, I, 3, S, S), see `embed_with_images`; tokens whose
        layout has images need them. encoded: the source (`read`) that the decoder of a model of two stacks reads; a state has its
        own. Raises ValueError where such a model gets none, and where another one gets one.
        """
        if layout is not None and layout.image_BT is not None and self.vision is not None:
            layout = layout.seeing(self.vision.config.spans)
        if images is not None:
            if layout is None:
                raise ValueError("images need a layout that says which tokens are theirs")
            x_BTD = self.embed_with_images(inputs, layout, images)
        elif layout is not None and layout.image_BT is not None and not inputs.is_floating_point():
            raise ValueError("the layout has images, but their pixels are not given")
        else:
            x_BTD = inputs if inputs.is_floating_point() else self.embed(inputs)
        if state is None and products.is_casting() and x_BTD.dtype == torch.float32:
            x_BTD = x_BTD.to(torch.bfloat16)
        if layout is None:
            rows, tokens = x_BTD.shape[:2]
            layout = TokenLayout.whole(rows, tokens, x_BTD.device, first=state.seen if state else 0)
        encoded = state.encoded if state else encoded
        self._check_source(encoded)
        states = state.layers if state else [None] * len(self.blocks)
        call = decoding.token if decoding.is_one_token(x_BTD) and encoded is None else nn.Module.__call__
        reading, after = () if encoded is None else (encoded,), []
        for block, earlier in zip(self.blocks, states, strict=True):
            x_BTD, later = call(block, x_BTD, layout, earlier, *reading)
            after.append(later)
        return call(self.norm, x_BTD), state and ModelState(after, state.seen + x_BTD.shape[1], encoded=encoded)

    @property
    def head_weight(self) -> Tensor:
        """The final projection (V, D). A chunked loss needs only this, `trunk` and `spec.logit_softcap`."""
        return self.embedding_weight if self.head is None else self.head.used

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Logits of the next token (B, T, V), softcapped if the spec says so; in the type of the weights."""
        cap = self.spec.logit_softcap
        if decoding.is_one_token(hidden_BTD):
            z_BTV = decode.linear(hidden_BTD, self.head_weight, softcap=cap)
            if z_BTV is not None:
                return z_BTV
        z_BTV = products.linear(hidden_BTD, self.head_weight, wide=self.head_weight.dtype == torch.float32)
        return z_BTV if cap is None else cap * torch.tanh(z_BTV / cap)

    def vectors(self, tokens_BT: Tensor, layout: TokenLayout) -> Tensor:
        """A vector per row (B, E), before it is cut or normalised: pool, then the maps; in float32 at least.

        One text per row, see `TokenLayout.right_padded`. Raises ValueError for a model without a pool.
        """
        if self.spec.pool is None:
            raise ValueError("a model without a pool gives no vector of a text")
        hidden_BTD = self.trunk(tokens_BT, layout)[0]
        if is_plugin(self.spec.pool["type"]) and products.is_casting():  # a user's own need not know of bfloat16 beside float32
            hidden_BTD = hidden_BTD.to(self.embedding.dtype)
        x_BE = self.pool(hidden_BTD, layout)
        for linear in self.project:
            x_BE = linear(x_BE)
        return x_BE.to(torch.promote_types(x_BE.dtype, torch.float32))

    def encode(self, tokens_BT: Tensor, layout: TokenLayout, dim: int | None = None) -> Tensor:
        """The vector of each row's text, of length 1: the first `dim` numbers (all by default) of `vectors`, (B, dim).

        A row of padding gives zeros. Raises ValueError for a model without a pool, and for a `dim` that it does not have.
        """
        if dim is not None and not 1 <= dim <= (self.spec.vector_dim or dim):
            raise ValueError(f"dim: {dim} of the {self.spec.vector_dim} numbers that a vector has")
        return F.normalize(self.vectors(tokens_BT, layout)[:, :dim], dim=-1)

    def forward(
        self,
        tokens_BT: Tensor,
        layout: TokenLayout | None = None,
        images: Tensor | None = None,
        encoded: Encoded | None = None,
    ) -> Tensor:
        """Logits (B, T, V); arguments as of `trunk`."""
        return self.logits(self.trunk(tokens_BT, layout, images=images, encoded=encoded)[0])

    def init_state(self, batch: int, capacity: int, encoded: Encoded | None = None) -> ModelState:
        """An empty state for `batch` streams of up to `capacity` tokens. encoded: the source, of a model of two stacks.

        Raises ValueError for a model that is not causal, that has a pool, or that has an encoder and gets no source.
        """
        if self.pool is not None:
            raise ValueError("a model with a pool gives one vector per text, and no next token")
        self._check_source(encoded)
        blocks: Any = self.blocks
        mixers = [block.mixer and block.mixer.component for block in blocks]
        if any(mixer is not None and mixer.state_size is None for mixer in mixers):
            raise ValueError("a model that sees ahead has no state to decode from")
        dtype, device = self.embedding.dtype, self.embedding.device
        layers = [mixer and mixer.init_state(batch, capacity, dtype, device) for mixer in mixers]
        return ModelState(layers, encoded=encoded)

    def _check_source(self, encoded: Encoded | None) -> None:
        if (encoded is None) != (self.encoder is None):
            raise ValueError(
                "a decoder beside an encoder needs a source (`read`)" if self.encoder else "there is no encoder to read"
            )

    def decode(self, tokens_BT: Tensor, state: ModelState, layout: TokenLayout | None = None) -> tuple[Tensor, ModelState]:
        """(logits (B, T, V) of T >= 1 further tokens, state after them). Do not use the state passed in again."""
        plan = state.plan
        if state.encoded is None:  # a plan knows no source
            logits_BTV, layers, plan = token_plan.decoded(self, tokens_BT, state, layout)
            if logits_BTV is not None:
                return logits_BTV, ModelState(layers, state.seen + 1, plan)
        hidden_BTD, later = self.trunk(tokens_BT, layout, state)
        assert later is not None  # a state was given
        return self.logits(hidden_BTD), replace(later, plan=plan)


def new_model(spec: ModelSpec, seed: int) -> Model:
    """A Model with weights initialised for `seed` (see `parameters.initialise`)."""
    model = Model(spec)
    initialise(model, seed)
    return model
