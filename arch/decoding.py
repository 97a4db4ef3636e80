"""Decode one further token per row: each module by the fast function of its class, where it can be taken.

A component's file holds its equations. Here is how the compiled kernels of `arch.kernels.decode` compute them for a
single token without a gradient, where torch spends its time on the overhead of many small calls. The walk goes from a
block to its sub-layers to their components. A module is taken if its class is exactly one of FAST and if no module that
the kernel replaces has hooks. This is asked for every token, because hooks and modules may change between two tokens,
and it costs a few dictionary look-ups. What is not taken runs as it is, and the walk goes on with the next.

Shapes: B rows, D model width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from arch.block import Block, Sublayer
from arch.convolution import CausalConvolution
from arch.ffns.gated import Gated
from arch.kernels import decode
from arch.linear import BlockDiagonalLinear, Linear
from arch.mixers.attention import Attention
from arch.mixers.rg_lru import RGLRU
from arch.mixers.short_convolution import ShortConvolution
from arch.norm import RMSNorm
from arch.rotary import pairs


def is_one_token(x_BTD: Tensor) -> bool:
    """Whether the functions here are meant for this input: one token per row, without a gradient."""
    return x_BTD.shape[1] == 1 and not torch.is_grad_enabled()


def token(module: nn.Module, x_B1D: Tensor, *rest: Any) -> Any:
    """`module(x_B1D, *rest)`, by the fast function of its class if it can be taken; the last bits differ."""
    y = _fast(module, x_B1D, *rest)
    return module(x_B1D, *rest) if y is None else y


def _fast(module, x_B1D, *rest, **around):
    """The result of the class's fast function; None without one, if the module has hooks, or if the function declines."""
    function = FAST.get(type(module))
    return None if function is None or hooked(module) else function(module, x_B1D, *rest, **around)


def hooked(module: nn.Module) -> bool:
    """Whether something else than the module's own `forward` runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _block(block, x_B1D, layout, state):
    for sublayer in block._modules.values():
        x_B1D, state = token(sublayer, x_B1D, layout, state)
    return x_B1D, state


def _sublayer(sublayer, x_B1D, layout, state):
    """The component with the norms and the residual sum around it in one call; otherwise one after the other."""
    component, before, after = sublayer._modules.values()
    rest, both = (layout, state) if sublayer.sees_others else (), around(sublayer)
    if both is not None:
        y = _fast(component, x_B1D, *rest, around=both)
        if y is not None:
            return y if rest else (y, state)
    y = token(component, token(before, x_B1D), *rest)
    y_B1D, state = y if rest else (y, state)
    return x_B1D + token(after, y_B1D), state


def _norm(norm, x_B1D):
    return decode.norm(x_B1D, norm._parameters["weight"], norm.eps)


def _attention(mixer, x_B1D, layout, state, around=decode.ALONE):
    part = attention_part(mixer, around)
    if state is None or part is None:
        return None
    after, angles = state.after(1), pairs(layout, mixer.channels, mixer.config.rope)
    if not part.place(state.k_BKSC, state.v_BKSC, state.seen, len(x_B1D)) or not part.turn(*angles):
        return None
    y_B1D = decode.run(part, x_B1D, layout.pos_B)
    return None if y_B1D is None else (y_B1D, after)


def _rg_lru(mixer, x_B1D, layout, state, around=decode.ALONE):
    part = recurrent_part(mixer, around)
    if state is None or part is None:
        return None
    slope_R = mixer.slope_R()  # alive until the part has run
    return _carrying(part, x_B1D, layout, state) if part.fade(slope_R) else None


def _short_convolution(mixer, x_B1D, layout, state, around=decode.ALONE):
    part = convolution_part(mixer, around)
    return None if state is None or part is None else _carrying(part, x_B1D, layout, state)


def _carrying(part, x_B1D, layout, state):
    state = carried(part, state, len(x_B1D))
    y_B1D = None if state is None else decode.run(part, x_B1D, layout.pos_B)
    return None if y_B1D is None else (y_B1D, state)


def _gated(ffn, x_B1D, around=decode.ALONE):
    return decode.run(gated_part(ffn, around), x_B1D, None)


# {class: its function, with the arguments of the class's `forward`}. A component's function also takes `around`, the
# norms and the residual sum to compute in the same call. It returns None where it declines. A class of your own can be
# added.
FAST: dict[type[nn.Module], Callable[..., Any]] = {
    Block: _block,
    Sublayer: _sublayer,
    RMSNorm: _norm,
    Attention: _attention,
    RGLRU: _rg_lru,
    ShortConvolution: _short_convolution,
    Gated: _gated,
}


def attention_part(mixer: Attention, around: decode.Around) -> decode.Part | None:
    """The mixer's weights for C; None if a module in it is not of the exact class or has hooks, or C cannot take it."""
    config, modules = mixer.config, mixer._modules
    norms = [weight_and_eps(modules[name]) for name in ("q_norm", "k_norm") if config.qk_norm]
    maps = _maps(modules, "qkvo")
    if maps is None or None in norms:
        return None
    (q_norm, eps), (k_norm, _) = norms or [(None, 0.0)] * 2
    return decode.attention_part(*maps, q_norm, k_norm, mixer.channels, eps, mixer.scale, config.softcap, around)


def recurrent_part(mixer: RGLRU, around: decode.Around) -> decode.Part | None:
    """As `attention_part`."""
    modules = mixer._modules
    maps, taps = _maps(modules, "xyo"), _maps(modules, ("conv",), CausalConvolution)
    gates = _maps(modules, ("recurrence_gate", "input_gate"), BlockDiagonalLinear)
    if maps is None or taps is None or gates is None:
        return None
    return decode.recurrent_part(*maps, *taps, *gates, around)


def convolution_part(mixer: ShortConvolution, around: decode.Around) -> decode.Part | None:
    """As `attention_part`."""
    maps, taps = _maps(mixer._modules, "xyo"), _maps(mixer._modules, ("conv",), CausalConvolution)
    return None if maps is None or taps is None else decode.recurrent_part(*maps, *taps, around=around)


def gated_part(ffn: Gated, around: decode.Around) -> decode.Part | None:
    """As `attention_part`."""
    maps = _maps(ffn._modules, ("gate", "up", "down"))
    return None if maps is None else decode.gated_part(*maps, ffn.config.activation, around)


def around(sublayer: Sublayer) -> decode.Around | None:
    """The norms and the residual sum of a sub-layer; None if a norm is of another class or has hooks."""
    _, before, after = sublayer._modules.values()
    norms = weight_and_eps(before), weight_and_eps(after)
    return None if None in norms else decode.Around(*zip(*norms, strict=True), residual=True)


def carried(part: decode.Part, state: Any, rows: int) -> Any:
    """Give a part the state of its recurrence or convolution; returns the state that C then writes, None if it cannot take it.

    Its tensors are made dense: after a prompt they may be views of those of the whole prompt.
    """
    state = type(state)(**{name: tensor.contiguous() for name, tensor in vars(state).items()})
    return state if part.carry(state.tail_BJR, getattr(state, "h_BR", None), rows) else None


def _maps(modules, names, cls=Linear):
    """[(weight, bias), ...] of the named modules; None unless each is exactly of the class and has no hooks.

    modules: a module's `_modules`. A look-up there takes a tenth of the time of an attribute access. The weights are those that
    the modules multiply by (`Linear.used`), which live as long as nothing changes.
    """
    maps = []
    for name in names:
        module = modules[name]
        if type(module) is not cls or hooked(module):
            return None
        weight, fake = module._parameters["weight"], vars(module).get("fake")
        maps.append((weight if fake is None else fake(weight), module._parameters.get("bias")))
    return maps


def weight_and_eps(norm: nn.Module) -> tuple[Any, float] | None:
    """(weight, eps) of an `RMSNorm`, (None, 0.0) of an `Identity`; None for other modules and for one with hooks."""
    if hooked(norm):
        return None
    if type(norm) is RMSNorm:
        return norm._parameters["weight"], norm.eps
    return (None, 0.0) if type(norm) is nn.Identity else None
