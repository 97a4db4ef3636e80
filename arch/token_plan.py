"""A decoded token of a whole model in one call of C, by a plan that is made once for a model and a state.

The parts of `arch.decoding` ask every module of every layer for every token. A plan asks them once and keeps the addresses.
Before each token it only compares: the same modules in the same places, without hooks, the same options, and weights where
they were. What has changed makes another plan. If a part cannot be taken, there is no plan, and the model goes through its
layers as `arch.decoding` does; in float32 both give the same bits. In bfloat16 a plan rounds less: what goes from layer to
layer stays float32.

A plan belongs to a state, so that two streams of tokens never share its memory, and goes with it.

Shapes: B rows, D model width, V vocabulary, c pairs of rotated channels.
"""

from itertools import chain
from operator import getitem, is_
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch import decoding
from arch.block import Block, Sublayer
from arch.decoding import FAST
from arch.ffns.gated import Gated
from arch.kernels import decode
from arch.keys_values import AttentionState
from arch.layout import TokenLayout
from arch.mixers.attention import Attention
from arch.mixers.rg_lru import RGLRU, RecurrentState
from arch.mixers.short_convolution import ConvolutionState, ShortConvolution
from arch.norm import RMSNorm
from arch.rotary import pairs

AHEAD = 64  # positions whose angles are computed at once
PLANNED = {cls: FAST[cls] for cls in (Block, Sublayer, RMSNorm, Attention, RGLRU, Gated)}


def decoded(model: Any, tokens_B1: Tensor, state: Any, layout: TokenLayout | None) -> tuple[Any, list[Any], Any]:
    """(logits (B, 1, V), states of the layers, plan) after one further token per row; the logits are None without a plan.

    The plan, if not None, belongs to the state after this token, however that is computed. Raises ValueError for a state
    without room.
    """
    embedding = model._parameters["embedding"]
    library = decode.library(embedding)
    if library is None or tokens_B1.dtype is not torch.long or tokens_B1.shape[1] != 1:
        return None, [], None
    plan = state.plan
    if plan is None or plan.model is not model or not plan.holds():
        plan = _planned(model)
    return *plan.step(library, tokens_B1.contiguous(), state, layout), plan


class _Watch:
    """What may not change in some modules while a plan of them is used.

    This is asked for every token, and a token's weights push the interpreter's own data out of the caches. So it touches as
    little memory as it can, in loops without bytecode. A weight's memory is kept, so that no other weight gets its address.
    """

    def __init__(self, modules: list[nn.Module]):
        inside: list[dict[str, Any]] = [each for module in modules for each in (module._modules, module._parameters)]
        self.inside = [each for each in inside if each]  # what is added to an empty one is not used
        self.contents = [each for inside in self.inside for each in inside.values()]
        self.hooks = [each for module in modules for each in (module._forward_hooks, module._forward_pre_hooks)]
        self.hooked = [*map(bool, self.hooks)]
        places = [(vars(module), name) for module in modules for name in ("eps", "config", "spec") if name in vars(module)]
        self.holders, self.names = [holder for holder, _ in places], [name for _, name in places]
        self.options = [*map(getitem, self.holders, self.names)]
        self.weights = [each for each in self.contents if isinstance(each, Tensor)]
        self.memory = [weight.detach() for weight in self.weights]
        self.addresses = [*map(Tensor.data_ptr, self.weights)]
        self.functions = [*map(FAST.get, PLANNED)]
        rounded = [module for module in modules if vars(module).get("fake") is not None]
        self.fakes: list[tuple[Any, Tensor]] = [(module.fake, weight) for module in rounded for weight in _rounded(module)]
        self.rounded = [fake(weight) for fake, weight in self.fakes]

    def holds(self) -> bool:
        """Whether modules, options and weights are the same objects in the same places, with the same hooks."""
        return (
            [*map(bool, self.hooks)] == self.hooked
            and sum(map(len, self.inside)) == len(self.contents)
            and all(map(is_, chain.from_iterable(map(dict.values, self.inside)), self.contents))
            and all(map(is_, map(getitem, self.holders, self.names), self.options))
            and [*map(Tensor.data_ptr, self.weights)] == self.addresses
            and all(map(is_, map(FAST.get, PLANNED), self.functions))
            and (not self.fakes or all(fake(weight) is made for (fake, weight), made in zip(self.fakes, self.rounded, strict=True)))
        )


def _rounded(module):
    """The parameter of a module that is used rounded, in a list: of a `Linear` its weight, of a model its embedding."""
    return [module._parameters[name] for name in ("weight", "embedding") if name in module._parameters]


class _Refused:
    """Instead of a plan, where a part of a layer cannot be taken; it is looked at again when it changes."""

    def __init__(self, model: Any, layer: nn.Module):
        self.model, self.watch = model, _Watch([*layer.modules()])
        self.holds = self.watch.holds

    def step(self, library, tokens_B1, state, layout):
        return None, []

    def __reduce__(self):
        return type(None), ()


def _planned(model: Any) -> Any:
    if any(FAST.get(cls) is not function for cls, function in PLANNED.items()):
        return _Refused(model, model.norm)
    parts: list[decode.Part] = []
    mixers: list[Any] = []
    for layer in model.blocks:
        found = _parts(layer)
        if found is None:
            return _Refused(model, layer)
        parts += (part for part, _ in found)
        mixers.append(next((mixer for _, mixer in found if mixer is not None), None))
    if decoding.hooked(model.norm) or type(model.norm) is not RMSNorm:
        return _Refused(model, model.norm)
    plan = Plan(model, parts, mixers)
    return plan if plan.structure is not None else _Refused(model, model)


def _parts(layer: Any) -> list[Any] | None:
    """[(Part, what gives it its state, or None)] of a block; None if something in it cannot be taken."""
    if type(layer) is not Block or decoding.hooked(layer):
        return None
    found = []
    for sublayer in layer._modules.values():
        if type(sublayer) is not Sublayer or decoding.hooked(sublayer):
            return None
        component: Any = sublayer._modules["component"]
        around = decoding.around(sublayer)
        make = MADE.get(type(component))
        if make is None or around is None or decoding.hooked(component):
            return None
        made = make(component, around)
        if made is None:
            return None
        found.append(made)
    return found


def _attention(mixer, around):
    part = decoding.attention_part(mixer, around)
    return part and (part, _Ring(part, mixer))


def _rg_lru(mixer, around):
    part = decoding.recurrent_part(mixer, around)
    return part and (part, _Recurrence(part, mixer))


def _short_convolution(mixer, around):
    part = decoding.convolution_part(mixer, around)
    return part and (part, _Convolution(part, mixer))


def _gated(ffn, around):
    part = decoding.gated_part(ffn, around)
    return part and (part, None)


MADE: dict[type[nn.Module], Any] = {
    Attention: _attention,
    RGLRU: _rg_lru,
    ShortConvolution: _short_convolution,
    Gated: _gated,
}


class _Ring:
    """Gives a part of attention its ring."""

    def __init__(self, part, mixer):
        self.part, self.mixer, self.rows = part, mixer, 0
        self.rings: tuple[Any, Any] = None, None

    def after(self, state, rows):
        """The state after the next token, which the part will write; None if C cannot take the state."""
        if type(state) is not AttentionState:
            return None
        after, rings = state.after(1), (state.k_BKSC, state.v_BKSC)
        if rows != self.rows or not all(map(is_, rings, self.rings)):
            if not self.part.place(*rings, state.seen, rows):
                return None
            self.rings, self.rows = rings, rows
        self.part.structure.seen = state.seen
        return after


class _Convolution:
    """Gives a part of a short convolution its state."""

    kind: type = ConvolutionState

    def __init__(self, part, mixer):
        self.part, self.mixer, self.state, self.rows = part, mixer, None, 0

    def after(self, state, rows):
        """As `_Ring.after`. The state is written in place."""
        if type(state) is not self.kind:
            return None
        if rows != self.rows or state is not self.state:
            state = decoding.carried(self.part, state, rows)
            if state is None:
                return None
            self.state, self.rows = state, rows
        return state


class _Recurrence(_Convolution):
    """Gives a part of a recurrent block its state."""

    kind = RecurrentState


class Plan:
    """The addresses of a model's weights and of a state, and what of them has to be the same before each token."""

    def __init__(self, model, parts, mixers):
        self.model, self.parts, self.mixers = model, parts, mixers
        self.watch = _Watch([*model.modules()])
        self.holds = self.watch.holds
        self.embedding = model.embedding_weight
        norm, cap = model.norm, model.spec.logit_softcap
        around = self.embedding, norm.weight, model.head_weight
        self.structure = decode.model_of(parts, *around, model.embedding_scale, norm.eps, cap)
        dim = self.embedding.shape[1]
        self.room, self.work = 2 * dim + max([dim, *(part.room for part in parts)]), decode.scratch(0)
        rings = [each for each in mixers if isinstance(each, _Ring)]
        turns = dict.fromkeys((each.mixer.channels, each.mixer.config.rope) for each in rings)
        self.turns = [
            _Turn(*turn, [each.part for each in rings if (each.mixer.channels, each.mixer.config.rope) == turn]) for turn in turns
        ]
        self.recurrences = [each for each in mixers if isinstance(each, _Recurrence)]
        self.pos_B = torch.zeros(0, dtype=torch.long)

    def step(self, library, tokens_B1, state, layout):
        """(logits, states of the layers) after the tokens; (None, []) if C cannot take them or the state."""
        rows = len(tokens_B1)
        if not tokens_B1.is_cpu or (layout is not None and layout.shape != tokens_B1.shape):
            return None, []
        layers = []
        for mixer, layer in zip(self.mixers, state.layers, strict=True):
            after = layer if mixer is None else mixer.after(layer, rows)
            if after is None and mixer is not None:
                return None, []
            layers.append(after)
        slopes = self._fade()
        first = state.seen if layout is None else layout.first
        for turn in self.turns:
            turn.to(first, layout)
        if len(self.work) != rows * self.room:
            self.work = decode.scratch(rows * self.room)
        logits_B1V = decode.token(library, self.structure, tokens_B1, self._positions(rows, first, layout), self.work)
        del slopes  # alive until here
        return logits_B1V, layers

    def _positions(self, rows, first, layout):
        """Positions within the documents (B,), dense int64."""
        if first is None:
            return layout.pos_B
        if len(self.pos_B) != rows:
            with torch.inference_mode(False):  # a later token may be decoded outside of it
                self.pos_B = torch.zeros(rows, dtype=torch.long)
        return self.pos_B.fill_(first)

    def _fade(self):
        """Log of the decay at r = 1 of all recurrences, computed together: three calls for a token instead of three a layer."""
        if not self.recurrences:
            return None
        mixers = [each.mixer for each in self.recurrences]
        decays_N = torch.cat([mixer._parameters["decay"] for mixer in mixers]).float()
        exponents = {mixer.config.exponent for mixer in mixers}
        if len(exponents) > 1:
            slopes = [mixer.slope_R() for mixer in mixers]
        else:
            slopes = (-exponents.pop() * F.softplus(-decays_N)).split([mixer.width for mixer in mixers])
        for each, slope_R in zip(self.recurrences, slopes, strict=True):
            each.part.fade(slope_R)
        return slopes

    def __reduce__(self):
        return type(None), ()  # a copied state makes a plan of its own


class _Turn:
    """The angles of all parts with the same rotary positions. If all rows have the same position, for AHEAD positions at once."""

    def __init__(self, channels, rope, parts):
        self.channels, self.rope, self.parts = channels, rope, parts
        self.first, self.upto, self.row = 0, 0, 0

    def to(self, first, layout):
        """Turn all parts to the position `first` of all rows, or, if it is None, to the layout's positions."""
        if first is None:
            self.upto = 0
            self._give(pairs(layout, self.channels, self.rope))
        else:
            if not self.first <= first < self.upto:
                self.first, self.upto = first, first + AHEAD
                self._give(pairs(TokenLayout.whole(1, AHEAD, first=first), self.channels, self.rope))
            behind = (first - self.first) * self.row
            cosine, sine = (address + behind for address in self.addresses)
            for part in self.parts:
                part.structure.cosine, part.structure.sine = cosine, sine

    def _give(self, angles):
        self.angles = angles  # they live as long as their addresses are used
        self.addresses, self.row = [angle.data_ptr() for angle in angles], angles[0].shape[-1] * angles[0].element_size()
        for part in self.parts:
            part.turn(*angles)
