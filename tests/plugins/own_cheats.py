"""Components of a user's own that break what they say, each in one way, and honest ones that look as if they did.

Shapes: B rows, T tokens, S keys, D width.
"""

import torch
import torch.nn.functional as F
from torch import nn

from arch.kernels.linear_scan import linear_scan
from arch.layers import Linear, constant, parameter
from arch.registry import ffn, mixer
from arch.spec import Count, Spec


def following(x_BTD, by=1):
    """The contents `by` tokens later; 0 where there is none."""
    return F.pad(x_BTD[:, by:], (0, 0, 0, min(by, x_BTD.shape[1])))


def where_T(x_BTD, condition):
    """1 at the positions that meet a condition, else 0; (T, 1)."""
    return condition(torch.arange(x_BTD.shape[1]))[:, None].float()


def softly_masked(x_BTD, mask):
    """Attention of x to itself with `mask` added to the scores of later tokens."""
    z_BTS = x_BTD @ x_BTD.transpose(1, 2) / x_BTD.shape[-1] ** 0.5
    return (z_BTS + mask * torch.ones_like(z_BTS).triu(1)).softmax(-1) @ x_BTD


def first_sees_last(x_BTD):
    return torch.cat([x_BTD[:, -1:], torch.zeros_like(x_BTD[:, 1:])], 1)


def with_a_large_channel(x_BTD):
    y_BTD = following(x_BTD).clone()
    y_BTD[..., 0] = 1e6
    return y_BTD


def tapered(layout):
    """1 at the last two tokens of each document, else 0; (B, T, 1)."""
    after_BT = F.pad(layout.doc_BT, (0, 2), value=-9)[:, 2:]
    return (after_BT != layout.doc_BT)[..., None].float()


# {how: what it adds to an honest output}, from (module, x_BTD, layout).
SEEING_AHEAD = {
    "the next token": lambda it, x, layout: following(x),
    "the next token, a little": lambda it, x, layout: 1e-4 * following(x),
    "the next token, beside a large channel": lambda it, x, layout: with_a_large_channel(x),
    "a token 50 ahead": lambda it, x, layout: following(x, 50),
    "the last token, at the first": lambda it, x, layout: first_sees_last(x),
    "the next token, at position 7": lambda it, x, layout: where_T(x, lambda t: t == 7) * following(x),
    "the next token, at every 16th": lambda it, x, layout: where_T(x, lambda t: t % 16 == 15) * following(x),
    "the next token, beyond 64": lambda it, x, layout: where_T(x, lambda t: t >= 64) * following(x),
    "the next token, beyond 200": lambda it, x, layout: where_T(x, lambda t: t >= 200) * following(x),
    "the next token, in even rows": lambda it, x, layout: following(x) * (x.shape[1] % 2 == 0),
    "the next token, in odd rows": lambda it, x, layout: following(x) * (x.shape[1] % 2 == 1),
    "the next token, in rows of the context": lambda it, x, layout: following(x) * (x.shape[1] == 256),
    "the next token, in training": lambda it, x, layout: following(x) * it.training,
    "the next token, in evaluation": lambda it, x, layout: following(x) * (not it.training),
    "the next token, with gradients": lambda it, x, layout: following(x) * torch.is_grad_enabled(),
    "the next token, in packed rows": lambda it, x, layout: following(x) * (layout.first is None),
    "the next token, by a gate that starts at 0": lambda it, x, layout: it.gate * following(x),
    "the next token, in layer 5": lambda it, x, layout: following(x) * (it.layer == 5),
    "the mean over time": lambda it, x, layout: x - x.mean(1, keepdim=True),
    "the largest of the row": lambda it, x, layout: x / x.abs().amax((1, 2), keepdim=True),
    "later tokens behind a soft mask": lambda it, x, layout: softly_masked(x, -60.0),
}
ELSEWHERE = {
    "the token before, of any document": lambda it, x, layout: F.pad(x[:, :-1], (0, 0, 1, 0)) * (layout.first is None),
    "the first token, of any document": lambda it, x, layout: x[:, :1] * (layout.first is None),
    "the other rows": lambda it, x, layout: x.mean((0, 1)).expand_as(x),
    "the rows before": lambda it, x, layout: it.remembered(x.mean()) + 0 * x,
    "the rows before, of this shape": lambda it, x, layout: it.remembered(x) if it.fits(x) else it.remembered(x) * 0 + 0 * x,
    "the state": lambda it, x, layout: 0 * x,
    "the window": lambda it, x, layout: 0 * x,
    "the state of streams": lambda it, x, layout: 0 * x,
    "a buffer": lambda it, x, layout: 0 * x,
    "an unused parameter": lambda it, x, layout: 0 * x,
    "another shape": lambda it, x, layout: x[:, None],
    "an error": lambda it, x, layout: x @ x,
    "not finite": lambda it, x, layout: (x - x) / (x - x),
    "where its document ends": lambda it, x, layout: tapered(layout) * torch.ones_like(x),
    "the row's position": lambda it, x, layout: torch.arange(x.shape[1])[:, None] * torch.ones_like(x) * (layout.first is None),
}
WAYS = SEEING_AHEAD | ELSEWHERE


@mixer
class Leak(nn.Module):
    """An exponential moving average, and what `how` adds."""

    class Config(Spec):
        how: str = "the next token"

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.how, self.layer, self.before, self.last = config.how, context.layer, None, 0.0
        self.decay = parameter((context.dim,), "vector", constant(1.4), recurrent=True)
        self.o = Linear(context.dim, context.dim, context, kind="output")
        if "gate" in self.how:
            self.gate = parameter((context.dim,), "vector", constant(0.0), recurrent=True)
        if self.how == "an unused parameter":
            self.idle = parameter((context.dim,), "vector", constant(0.0))
        if self.how == "a buffer":
            self.register_buffer("table", torch.ones(3))

    @property
    def reach(self):
        return (2 if self.how == "the window" else None), 0

    def remembered(self, x):
        before, self.before = self.before, x.detach()
        return x if before is None or before.shape != x.shape else before

    def fits(self, x):
        return self.before is not None and self.before.shape == x.shape

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        return torch.zeros(batch, len(self.decay), device=device)

    def forward(self, x_BTD, layout, state=None):
        given = state is not None
        state = state if given else self.init_state(len(x_BTD), 0)
        a_BTD = self.decay.float().sigmoid() * ~layout.reset_BT[..., None]
        h_BTD = linear_scan(a_BTD, (1 - a_BTD) * x_BTD.float(), state)
        after = h_BTD[:, -1] * (0.5 if self.how == "the state" else 1.0)
        before = self.last if self.how == "the state of streams" and given and layout.pos_BT[0, 0] == 0 else 0.0
        self.last = after.mean(0) if given else self.last
        return self.o(h_BTD.to(x_BTD.dtype)) + before + WAYS[self.how](self, x_BTD, layout), after


@mixer
class Later(nn.Module):
    """A map of each token; once its weights have moved from where it first saw them, the next token too."""

    class Config(Spec):
        honest: bool = False

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.honest, self.first = config.honest, None
        self.o = Linear(context.dim, context.dim, context, kind="output")

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        return torch.zeros(batch, 1, device=device)

    def forward(self, x_BTD, layout, state=None):
        if self.first is None:
            self.first = self.o.weight.detach().clone()
        moved = (self.o.weight.detach() - self.first).abs().amax() > 1e-3
        return self.o(x_BTD if self.honest else x_BTD + moved * following(x_BTD)), state


# {how: y_BTD} of honest ways to mix over time, from (module, x_BTD, visible_BTS, distance_TS).
HONEST = {
    "attention, hidden by -inf": lambda it, x, see, far: attention(x, torch.where(see, 0.0, -torch.inf)),
    "attention, hidden by -1e9": lambda it, x, see, far: attention(x, torch.where(see, 0.0, -1e9)),
    "attention, hidden by -1e4": lambda it, x, see, far: attention(x, torch.where(see, 0.0, -1e4)),
    "linear attention": lambda it, x, see, far: (x.exp() @ x.exp().transpose(1, 2) * see) @ x / x.shape[-1],
    "a mean of what was": lambda it, x, see, far: (see / see.sum(-1, keepdim=True)) @ x,
    "dropout": lambda it, x, see, far: F.dropout(attention(x, torch.where(see, 0.0, -torch.inf)), 0.3, it.training),
    "noise": lambda it, x, see, far: attention(x, torch.where(see, 0.0, -torch.inf)) * (1 + 0.1 * it.training * torch.rand_like(x)),
    "every second token": lambda it, x, see, far: (see & (far % 2 == 0)).float() @ x,
    "numbers of 8 bits": lambda it, x, see, far: attention(rounded(x), torch.where(see, 0.0, -torch.inf)),
}


def attention(x_BTD, mask_BTS):
    return ((x_BTD @ x_BTD.transpose(1, 2)) / x_BTD.shape[-1] ** 0.5 + mask_BTS).softmax(-1) @ x_BTD


def rounded(x_BTD):
    size_BT1 = x_BTD.detach().abs().amax(-1, keepdim=True) / 127
    return x_BTD + ((x_BTD / size_BT1).round() * size_BT1 - x_BTD).detach()


class Remembering(nn.Module):
    """A mixer whose state is all that it has seen, which it reads again with what is new: `mixed(x_BTD, doc_BT)`."""

    causal, state_size = True, "growing"

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        x_BSD = torch.zeros(batch, capacity, self.dim, dtype=dtype, device=device)
        return x_BSD, torch.zeros(batch, capacity, dtype=torch.long, device=device), 0

    def forward(self, x_BTD, layout, state=None):
        if state is None:
            return self.mixed(x_BTD, layout.doc_BT), None
        (x_BSD, doc_BS, seen), new = state, x_BTD.shape[1]
        x_BSD, doc_BS = x_BSD.clone(), doc_BS.clone()
        x_BSD[:, seen : seen + new], doc_BS[:, seen : seen + new] = x_BTD, layout.doc_BT
        y_BTD = self.mixed(x_BSD[:, : seen + new], doc_BS[:, : seen + new])[:, seen:]
        return y_BTD, (x_BSD, doc_BS, seen + new)


@mixer
class Honest(Remembering):
    """Mixes over the visible tokens of a row in plain torch."""

    class Config(Spec):
        how: str = "a mean of what was"

    def __init__(self, config, context):
        super().__init__()
        self.dim = context.dim
        self.how, self.o = config.how, Linear(context.dim, context.dim, context, kind="output")
        self.gate = parameter((context.dim,), "vector", constant(0.0))
        self.register_buffer("near", torch.ones(4096, 1).cumsum(0), persistent=False)

    def mixed(self, x_BTD, doc_BT):
        index_T = self.near[: x_BTD.shape[1], 0]
        far_TS = index_T[:, None] - index_T
        see_BTS = (doc_BT[:, :, None] == doc_BT[:, None]) & (far_TS >= 0)
        return self.o(HONEST[self.how](self, x_BTD, see_BTS, far_TS)) * (1 + self.gate)


@mixer
class Convolution(Remembering):
    """A long convolution by a Fourier transform, document by document: causal, but only up to rounding."""

    class Config(Spec):
        half: Count = 3

    def __init__(self, config, context):
        super().__init__()
        self.dim = context.dim
        self.half = config.half
        self.taps = parameter((context.dim,), "vector", constant(1.0))

    def mixed(self, x_BTD, doc_BT):
        tokens = x_BTD.shape[1]
        kernel_TD = torch.exp(-torch.arange(tokens)[:, None] / self.half) * self.taps
        spectrum_FD = torch.fft.rfft(kernel_TD, 2 * tokens, dim=0)
        y_BTD = torch.zeros_like(x_BTD)
        for document in range(-1, 1 if doc_BT.is_meta else int(doc_BT.max()) + 1):
            mine_BT1 = (doc_BT == document)[..., None]
            x_BFD = torch.fft.rfft(x_BTD * mine_BT1, 2 * tokens, dim=1)
            y_BTD = y_BTD + torch.fft.irfft(x_BFD * spectrum_FD, 2 * tokens, dim=1)[:, :tokens] * mine_BT1
        return y_BTD


@mixer
class Positions(nn.Module):
    """Adds a learned value at each position, of which there are `longest`; a narrower width is refused when it runs."""

    class Config(Spec):
        longest: Count = 32
        width: Count = 16

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.width = config.width
        self.table = parameter((config.longest, context.dim), "embedding", constant(0.0))

    def init_state(self, batch, capacity, dtype=torch.float32, device=None):
        return torch.zeros(batch, 1, device=device)

    def forward(self, x_BTD, layout, state=None):
        return x_BTD.unflatten(-1, (self.width, -1)).flatten(2) + self.table[layout.pos_BT], state


# {how: y_BTD} of an ffn that does not work on each token alone.
MIXING = {
    "the token before": lambda it, x: F.pad(x[:, :-1], (0, 0, 1, 0)),
    "the next token": lambda it, x: following(x),
    "the next token, beyond 64": lambda it, x: where_T(x, lambda t: t >= 64) * following(x),
    "the mean over time": lambda it, x: x.mean(1, keepdim=True).expand_as(x),
    "the tokens of the batch": lambda it, x: F.batch_norm(x.flatten(0, 1), None, None, training=True).view(x.shape),
    "its position": lambda it, x: torch.arange(x.shape[1])[:, None].expand_as(x) * 1.0,
    "the busiest tokens": lambda it, x: x * (x.norm(dim=-1, keepdim=True) >= x.norm(dim=-1).median(1).values[:, None, None]),
}


@ffn
class Mixing(nn.Module):
    """A map of each token, and what `how` adds."""

    class Config(Spec):
        how: str = "the token before"

    def __init__(self, config, context):
        super().__init__()
        self.how, self.o = config.how, Linear(context.dim, context.dim, context, kind="output")

    def forward(self, x_BTD):
        return self.o(x_BTD) + MIXING[self.how](self, x_BTD)


@ffn
class Experts(nn.Module):
    """Each token goes to the likeliest of two experts: honest, since no token takes another one's place."""

    class Config(Spec):
        hidden: Count = 8

    def __init__(self, config, context):
        super().__init__()
        self.router = Linear(context.dim, 2, context)
        self.one, self.two = (Linear(context.dim, context.dim, context, kind="output") for _ in range(2))

    def forward(self, x_BTD):
        p_BTE = self.router(x_BTD).softmax(-1)
        first_BT1 = (p_BTE[..., :1] > 0.5).float()
        return p_BTE[..., :1] * first_BT1 * self.one(x_BTD) + p_BTE[..., 1:] * (1 - first_BT1) * self.two(x_BTD)


# {how: what a forward adds} that needs more than the shapes of its input.
VALUES = {
    "nothing": lambda x: 0.0,
    "a number": lambda x: 0.0 * x.sum().item(),
    "a choice": lambda x: 0.0 if x.sum() > 0 else 1e-9,
    "a tensor on the CPU": lambda x: torch.zeros(x.shape[1], 1, device="cpu"),
}


@ffn
class Valued(nn.Module):
    """A map of each token that cannot be costed: its forward needs values, or its `__init__` does."""

    class Config(Spec):
        how: str = "a number"

    def __init__(self, config, context):
        super().__init__()
        self.how, self.o = config.how, Linear(context.dim, context.dim, context, kind="output")
        self.scale = torch.ones(3).sum().item() if self.how == "at its start" else 1.0

    def forward(self, x_BTD):
        return self.o(x_BTD) + VALUES.get(self.how, VALUES["nothing"])(x_BTD)


@mixer
class Plain(nn.Module):
    """Made of torch's own layers, which do not say how their parameters start."""

    class Config(Spec):
        pass

    causal, state_size = True, "constant"

    def __init__(self, config, context):
        super().__init__()
        self.o = nn.Linear(context.dim, context.dim)

    def forward(self, x_BTD, layout, state=None):
        return self.o(x_BTD), None
