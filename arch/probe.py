"""Whether a component does what it says: run it at small size, change what it must not see, and compare.

`battery` is what a component must pass; those of a cross and of a quantiser are in `arch.probe_cross` and
`arch.probe_quantiser`. Planning runs it on every plug-in component before a run or a study trains it, `archbench check` on any
component, and the tests on every example of every shipped one.

The component has random weights: its initial values plus noise, so that a gate which starts at 0 hides nothing. Random
numbers that it draws (dropout) are the same in every call. It runs in training mode with gradients and in evaluation
mode without, on short rows of odd and even length and on long ones, whole, packed and padded. A perturbation replaces
the contents of some tokens, by values of size 1 and in short rows also of size LARGE, which shows what a soft mask
hides. In short rows every token is changed alone. In long ones, where that costs too much, everything after (or before) a cut is
changed at once, for several cuts.

What this cannot find: a dependence smaller than rounding (ROUNDING of the largest value of a channel), one that begins
beyond LONGEST tokens, and one at few positions of a long row that no cut falls on.

Shapes: B rows, T tokens, D width, P perturbations (one per row).
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from arch import blame, registry
from arch.cost import tensors
from arch.layout import TokenLayout
from arch.parameters import Context, initialise
from arch.words import listed

ROUNDING = 16 * torch.finfo(torch.float32).eps
CLOSE = 1e-3  # of the largest value: how near two ways of computing the same must be
LARGE = 100.0
SHORT, EVEN, MIDDLE, LONGEST = 13, 16, 72, 1024
# What one pass over perturbed rows may cost: tokens, and multiply-adds of the linear maps. It decides how many cuts there are.
READ, WORK = 4096, 2e8
COSTED_KINDS = ("mixer", "ffn", "pool")  # a cross says its FLOPs, a quantiser its bytes
STATE_SIZES = ("constant", "window", "growing", None)


@dataclass(frozen=True, eq=False)
class Subject:
    """A component to check. name: its `type`. lengths: of the rows to try, ascending.

    rounding: how much of a channel's largest value a difference may be and still be rounding; 0: bit for bit. close:
    the same for two ways of computing one result. source_dim: the width of the encoder that a cross reads. options, context: what
    the module was made of. Of a quantiser, dim is what the width of its matrices must be a multiple of, and it has no rows.
    """

    kind: str
    name: str
    module: Any
    dim: int
    lengths: tuple[int, ...]
    rounding: float = ROUNDING
    close: float = CLOSE
    device: str = "cpu"
    source_dim: int = 0
    options: Any = None
    context: Context | None = None

    @property
    def reach(self) -> tuple[int | None, int | None]:
        """(before, after): how many tokens before and after itself a token may see; None: all of its document."""
        if self.kind == "ffn":
            return 0, 0
        return getattr(self.module, "reach", (None, 0 if self.module.causal else None))

    @property
    def short(self) -> int:
        """Tokens of the shortest rows to try."""
        return self.lengths[0]

    @property
    def layouts(self) -> bool:
        """Whether the component gets a layout and a state."""
        return self.kind != "ffn"

    @property
    def work(self) -> int:
        """Multiply-adds of its linear maps per token."""
        return max(1, sum(weight.numel() for weight in self.module.parameters()))


class Broken(Exception):
    """What is wrong with a component, in words that follow its name."""


class NotAsked(Exception):
    """Why a point does not apply to a component."""


def subject(
    kind: str,
    resolved: dict[str, Any],
    context: Context,
    tokens: int = 256,
    rounding: float = ROUNDING,
    close: float = CLOSE,
    device: str = "cpu",
) -> Subject:
    """The Subject of a resolved component in its place. tokens: the longest row that it must be able to read.

    Raises Broken for a parameter that does not say how it is initialised, and what the component's `__init__` raises.
    """
    if kind == "quantiser":
        from arch import probe_quantiser

        return probe_quantiser.subject(kind, resolved, device)
    if kind == "cross" and context.source_dim is None:
        context = replace(context, source_dim=context.dim)
    module = _made(kind, resolved, context, device)
    longest = min(tokens, LONGEST)
    lengths = sorted({n for n in (SHORT, EVEN, MIDDLE, longest) if n <= longest})
    made_of = context.source_dim or 0, resolved, context
    return Subject(kind, resolved["type"], module, context.dim, tuple(lengths), rounding, close, device, *made_of)


def _made(kind, resolved, context, device):
    with alike():
        module = registry.build(kind, resolved, context)
        shaken(module)
    return module.to(device)


def shaken(module: nn.Module) -> None:
    """Give every parameter its initial value plus noise, in place, so that none is 0 and without effect.

    What decides how a state decays (`recurrent`) gets less of it: a decay above 1 would grow without bound. Raises
    Broken for a parameter that was not made by `arch.parameters.parameter`.
    """
    weight: Any
    for name, weight in module.named_parameters():
        if not (hasattr(weight, "draw") and hasattr(weight, "kind")):
            raise Broken(f"has a parameter, {name}, that `arch.layers.parameter` did not make: nothing says how it starts")
    initialise(module, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight.add_((0.01 if getattr(weight, "recurrent", False) else 0.1) * noise)


@contextmanager
def alike(used: int = 1) -> Iterator[None]:
    """Every random number drawn inside is the same each time, and one drawn after it is as if nothing had been drawn.

    used: threads. By default one: a worker thread that started here would miss the settings that a run makes for its own
    (`experiments.device.setup`).
    """
    threads, cuda = torch.get_num_threads(), torch.cuda.is_initialized()
    states = torch.get_rng_state(), numpy.random.get_state(), random.getstate(), torch.cuda.get_rng_state_all() if cuda else []
    torch.set_num_threads(used)
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes a millisecond
    if cuda:
        torch.cuda.manual_seed_all(0)
    numpy.random.seed(0)
    random.seed(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(states[0])
        numpy.random.set_state(states[1])
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(states[3])


Check = Callable[[Subject], None]


@dataclass(frozen=True)
class Point:
    """One point of the battery. words: what the component does if it passes. thorough: not asked when a run is planned.

    remark: a component that does otherwise is unusual, not wrong.
    """

    words: str
    check: Check
    thorough: bool = False
    remark: bool = False


@dataclass(frozen=True)
class Finding:
    """What came of a point. failure: what is wrong, in words that follow the component's name; empty if it passed.

    unasked: why the point was not checked; empty if it was.
    """

    point: Point
    failure: str = ""
    raised: bool = False
    unasked: str = ""

    @property
    def wrong(self) -> bool:
        return bool(self.failure) and not self.point.remark


def battery(kind: str) -> tuple[Point, ...]:
    """The points that a component of this kind must pass."""
    from arch.probe_cross import CROSS
    from arch.probe_quantiser import QUANTISER

    return {"mixer": MIXER, "ffn": FFN, "pool": POOL, "cross": CROSS, "quantiser": QUANTISER}[kind]


def findings(it: Subject, thorough: bool = True) -> Iterator[Finding]:
    """Yields a Finding for each point of the battery; without `thorough`, only what planning asks."""
    for point in battery(it.kind):
        if thorough or not (point.thorough or point.remark):
            yield found(it, point)


def found(it: Subject, point: Point) -> Finding:
    """What comes of one point. An error that the component raises is a failure."""
    try:
        with alike():
            point.check(it)
    except Broken as broken:
        return Finding(point, str(broken))
    except NotAsked as reason:
        return Finding(point, unasked=str(reason))
    except SystemExit as error:
        return Finding(point, f"calls {blame.words(error)} at {blame.place(error)} while it is checked")
    except Exception as error:
        return Finding(point, f"raises {blame.words(error)} at {blame.place(error)} while it is checked", raised=True)
    return Finding(point)


# --- running a component


def run(it: Subject, x_BTD: Tensor, layout: TokenLayout | None = None, state: Any = None, training: bool = False) -> Any:
    """(y_BTD, state); of a pool (y_B1D, None).

    training: in training mode and with gradients, else in evaluation mode and without.
    """
    it.module.train(training)
    with alike(), torch.set_grad_enabled(training):
        if not it.layouts:
            return it.module(x_BTD), None
        rows, tokens = x_BTD.shape[:2]
        layout = layout or TokenLayout.whole(rows, tokens, it.device)
        if it.kind == "pool":
            return _as_tokens(x_BTD, it.module(x_BTD, layout)), None
        if it.kind == "cross":  # a source of the same documents
            from arch.probe_cross import encoded

            return it.module(x_BTD, layout, encoded(it, rows, layout, x_BTD.dtype)), None
        y = it.module(x_BTD, layout, state)
    if not (isinstance(y, tuple) and len(y) == 2):
        raise Broken(f"gives {type(y).__name__} instead of (output, state)")
    return y


def _as_tokens(x_BTD, y):
    """The vectors that a pool gives as rows of one token (B, 1, D)."""
    expected = (len(x_BTD), x_BTD.shape[2])
    if not isinstance(y, Tensor):
        raise Broken(f"gives {type(y).__name__} instead of a tensor")
    if y.shape != expected:
        raise Broken(f"gives shape {tuple(y.shape)} for an input of shape {tuple(x_BTD.shape)}; expected {expected}")
    return y[:, None]


def drawn(it: Subject, rows: int, tokens: int, seed: int = 0) -> Tensor:
    """Contents of rows, N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tokens, it.dim, generator=generator).to(it.device)


def read(it: Subject, x_BTD: Tensor, layout: TokenLayout | None = None, training: bool = False) -> Tensor:
    """The output y_BTD of whole rows, without its graph."""
    return run(it, x_BTD, layout, training=training)[0].detach()


MODES = (False, True)


def in_mode(training: bool) -> str:
    return " in training mode" if training else " in evaluation mode"


# --- what a token may see


@dataclass(frozen=True)
class Case:
    """A row to perturb. documents: the document of each token, -1 for padding; None: one document, and the layout says so."""

    tokens: int
    documents: tuple[int, ...] | None = None
    training: bool = False

    @property
    def words(self) -> str:
        """Where a failure was found, unless it is the plainest case."""
        row = " packed row" if self.documents and len({*self.documents}) > 1 else " row"
        parts = [f"in a{row} of {self.tokens} tokens"] if self.documents or self.tokens != SHORT else []
        parts += ["in training mode"] if self.training else []
        return f" ({', '.join(parts)})" if parts else ""

    def layout(self, rows: int, device: str = "cpu") -> TokenLayout:
        """The layout of `rows` such rows."""
        if self.documents is None:
            return TokenLayout.whole(rows, self.tokens, device)
        return TokenLayout.packed(torch.tensor(self.documents, device=device).expand(rows, self.tokens).contiguous())

    def documents_T(self) -> Tensor:
        return torch.tensor(self.documents or [0] * self.tokens)


def packed(tokens: int) -> tuple[int, ...]:
    """Documents of several lengths, one of a single token, and a padding at the end."""
    numbers: list[int] = []
    for document, length in enumerate((3, 6, 1, 2, 17, 40, 130, tokens)):
        numbers += [document] * length
    return (*numbers[: tokens - 1], -1)


def cases(lengths: Sequence[int], layouts: bool = True) -> Iterator[Case]:
    """Every row to perturb: the shortest first, whole, packed and padded on the left, in both modes."""
    for tokens in lengths:
        ways: list[tuple[int, ...] | None] = [None]
        if layouts and tokens > 4:
            ways += [packed(tokens)]
            ways += [(*(-1,) * 4, *(0,) * (tokens - 4))] if tokens == SHORT else []
        for documents in ways:
            for training in MODES:
                yield Case(tokens, documents, training)


def allowed(case: Case, reach: tuple[int | None, int | None]) -> Tensor:
    """(T, T) bool: [s, t] whether token s may change the output at t. At padding, every change is allowed."""
    before, after = (case.tokens if side is None else side for side in reach)
    documents_T, index_T = case.documents_T(), torch.arange(case.tokens)
    distance_ST = index_T[:, None] - index_T
    near_ST = (distance_ST >= -before) & (distance_ST <= after)
    same_ST = documents_T[:, None] == documents_T
    return (near_ST & same_ST) | (documents_T < 0) | torch.eye(case.tokens, dtype=torch.bool)


def perturbations(case: Case, allowed_ST: Tensor, most: int) -> Tensor:
    """(P, T) bool: the tokens that each perturbation changes; each must leave some output as it is.

    In a short row every token alone. In a long one, everything from a cut on, and everything before it: `most` of them.
    """
    tokens = case.tokens
    if tokens <= EVEN or (tokens == MIDDLE and most * tokens > READ // 2):
        places_PT = torch.eye(tokens, dtype=torch.bool)
        return places_PT[forbidden(allowed_ST, places_PT).any(1)]
    documents_T, index_T = case.documents_T(), torch.arange(tokens)
    cuts = {n + d for n in (2**power for power in range(1, 11)) for d in (-1, 0, 1)}
    cuts |= {*(torch.nonzero(documents_T[1:] != documents_T[:-1])[:, 0] + 1).tolist(), tokens // 2, tokens - 1}
    cuts |= {*random.Random(tokens).sample(range(1, tokens), min(16, tokens - 1))}
    cut_P1 = torch.tensor(sorted(cut for cut in cuts if 0 < cut < tokens))[:, None]
    places_PT = torch.cat([index_T >= cut_P1, index_T < cut_P1])
    places_PT = places_PT[forbidden(allowed_ST, places_PT).any(1)]
    return places_PT[torch.linspace(0, len(places_PT) - 1, min(most, len(places_PT))).round().long()]


def forbidden(allowed_ST: Tensor, places_PT: Tensor) -> Tensor:
    """(P, T) bool: the outputs that a change of the tokens at `places_PT[p]` must leave as they are."""
    return ~(places_PT.float() @ allowed_ST.float() > 0)


def affordable(work: int, tokens: int) -> int:
    """How many rows of perturbed tokens one pass may read. work: multiply-adds per token."""
    return max(4, min(READ, int(WORK / work)) // tokens)


def trespass(
    case: Case, allowed_ST: Tensor, places_PT: Tensor, read: Callable[[Tensor], Tensor], rounding: float
) -> tuple[int, int] | None:
    """(s, t) of a token s that changes the output at t though it may not; None if there is none.

    read: the outputs (P, T, D) of P rows of which row p is perturbed at `places_PT[p]`; an output that is not finite is
    no answer. A perturbation of many tokens is halved until one token is left.
    """
    if not len(places_PT):
        return None
    changed_PT = changes(read(torch.zeros_like(places_PT)), read(places_PT), rounding).cpu()
    changed_PT &= forbidden(allowed_ST, places_PT)
    if not changed_PT.any():
        return None
    p, t = (int(i) for i in torch.nonzero(changed_PT)[0])
    plain_1TD = read(torch.zeros_like(places_PT[:1]))
    members = torch.nonzero(places_PT[p])[:, 0].tolist()
    while len(members) > 1:
        half = members[: len(members) // 2]
        place_1T = torch.zeros_like(places_PT[:1])
        place_1T[0, half] = True
        members = half if changes(plain_1TD, read(place_1T), rounding)[0, t] else members[len(members) // 2 :]
    return members[0], t


def changes(plain_PTD: Tensor, other_PTD: Tensor, rounding: float) -> Tensor:
    """(P, T) bool: where two outputs differ by more than `rounding` of the largest value of the channel."""
    if not (plain_PTD.isfinite().all() and other_PTD.isfinite().all()):
        return torch.zeros(plain_PTD.shape[:2], dtype=torch.bool)
    size_D = torch.maximum(plain_PTD.abs(), other_PTD.abs()).amax((0, 1))
    return ((other_PTD - plain_PTD).abs() > rounding * size_D).any(-1)


def relation(case: Case, s: int, t: int) -> str:
    """What token s is to token t: of another `document`, `padding`, `later` or `earlier`."""
    documents_T = case.documents_T()
    if documents_T[s] != documents_T[t]:
        return "padding" if documents_T[s] < 0 else "document"
    return "later" if s > t else "earlier"


@functools.lru_cache(maxsize=32)
def sight(it: Subject) -> dict[str, tuple[Case, int, int]]:
    """{relation: (case, s, t)}: for each relation, the first token s found that changes an output t that must not see it."""
    seen: dict[str, tuple[Case, int, int]] = {}
    for case in cases(it.lengths, it.layouts):
        allowed_ST = allowed(case, it.reach)
        places_PT = perturbations(case, allowed_ST, affordable(it.work, case.tokens))
        x_1TD, other_1TD = drawn(it, 1, case.tokens, seed=case.tokens), drawn(it, 1, case.tokens, seed=9)
        for size in (1.0, LARGE) if case.tokens <= EVEN else (1.0,):

            def outputs(places_PT, case=case, x_1TD=x_1TD, other_1TD=size * other_1TD):
                x_PTD = torch.where(places_PT[..., None].to(it.device), other_1TD, x_1TD)
                return read(it, x_PTD, case.layout(len(x_PTD), it.device), case.training)

            pair = trespass(case, allowed_ST, places_PT, outputs, it.rounding)
            if pair:
                seen.setdefault(relation(case, *pair), (case, *pair))
    return seen


def sees_no_later_token(it: Subject) -> None:
    if it.reach[1] is None:
        raise NotAsked("it says that it sees all later tokens of its document")
    if "later" not in (seen := sight(it)):
        return
    case, s, t = seen["later"]
    after = it.reach[1]
    says = "says causal" if after == 0 else f"says that it sees at most {after} tokens ahead"
    raise Broken(f"{says}, but token {s} changes the output at {t}{case.words}")


def sees_no_token_before_its_reach(it: Subject) -> None:
    if it.reach[0] is None:
        raise NotAsked("it says that it sees all earlier tokens of its document")
    if "earlier" in (seen := sight(it)):
        case, s, t = seen["earlier"]
        says = f"says that it sees at most {it.reach[0]} tokens back"
        raise Broken(f"{says}, but token {s} changes the output at {t}{case.words}")


def sees_its_document_only(it: Subject) -> None:
    for other, words in (("document", "token {s} of one document changes the output at {t} of another"),
                         ("padding", "the padding at {s} changes the output at {t}")):  # fmt: skip
        if other in (seen := sight(it)):
            case, s, t = seen[other]
            raise Broken(f"must see its own document only, but {words.format(s=s, t=t)}{case.words}")


def works_on_each_token_alone(it: Subject) -> None:
    for case, s, t in sight(it).values():
        raise Broken(f"must work on each token alone, but token {s} changes the output at {t}{case.words}")
    x_BTD = drawn(it, 2, it.short)
    y_BTD = read(it, x_BTD)
    for t in range(it.short):
        far = apart(read(it, x_BTD[:, t : t + 1]), y_BTD[:, t : t + 1], y_BTD)
        if far > it.close:
            raise Broken(f"gives token {t} another output alone than in a row ({far:.2g} of the largest value)")


@functools.lru_cache(maxsize=32)
def slopes(it: Subject) -> Tensor:
    """(T, T): [s, t] the largest gradient of the output at t for token s, which shows a dependence that rounding hides."""
    x_1TD = drawn(it, 1, it.short).requires_grad_()
    y_1TD = run(it, x_1TD, training=True)[0]
    weight_D = torch.arange(1, it.dim + 1, device=it.device)
    pulled_T = (y_1TD[0] * weight_D).sum(-1)
    gradients = [torch.autograd.grad(pulled_T[t], x_1TD, retain_graph=True)[0] for t in range(it.short)]
    return torch.stack([gradient_1TD[0].abs().amax(-1) for gradient_1TD in gradients], dim=1).cpu()


def has_gradients_for_its_reach_only(it: Subject) -> None:
    slope_ST = slopes(it)
    beyond_ST = (slope_ST > it.rounding * slope_ST.amax(0)) & ~allowed(Case(it.short), it.reach)
    for s, t in torch.nonzero(beyond_ST).tolist():
        raise Broken(f"has a gradient of the output at {t} for token {s}, which it says it does not see")


def sees_every_token_in_reach(it: Subject) -> None:
    unseen_ST = (slopes(it) == 0) & allowed(Case(it.short), it.reach)
    for s, t in torch.nonzero(unseen_ST).tolist():
        raise Broken(f"says that the output at {t} may depend on token {s}, but it does not")


# --- what else it must keep


def says_what_it_is(it: Subject) -> None:
    module = it.module
    for name in ("causal", "state_size"):
        if not hasattr(module, name):
            raise Broken(f"has no `{name}`")
    if not isinstance(module.causal, bool):
        raise Broken(f"has `causal` = {module.causal!r}, expected True or False")
    if module.state_size not in STATE_SIZES:
        raise Broken(f"has `state_size` = {module.state_size!r}, expected {listed(map(repr, STATE_SIZES), 'or')}")
    if module.causal != (it.reach[1] == 0):
        raise Broken(f"says causal = {module.causal}, but its `reach` is {it.reach}")
    if module.causal and module.state_size is None:
        states = listed([repr(size) for size in STATE_SIZES if size], "or")
        raise Broken(f"says causal, but `state_size` is None, which is for a mixer that sees ahead; expected {states}")
    if module.state_size is not None and not hasattr(module, "init_state"):
        raise Broken("says that it has a state, but has no `init_state`")


def writes_out_its_defaults(it: Subject) -> None:
    """`Config.at_width`: the same component, with nothing left that follows from the model's width."""
    config, full = registry.config(it.kind, it.options), registry.whole(it.kind, it.options, it.dim)
    if not registry.follows_width(config):
        raise NotAsked("its `Config` has no `at_width`")
    if registry.whole(it.kind, full, 2 * it.dim) != full:
        raise Broken("has a `Config.at_width` that leaves an option which follows from the width")
    other = replace(it, module=_made(it.kind, full, it.context, it.device))
    ours, theirs = ({name: weight.shape for name, weight in each.module.named_parameters()} for each in (it, other))
    if ours != theirs:
        raise Broken("has other parameters with the options that its `Config.at_width` writes out")
    x_BTD = drawn(it, 2, it.short)
    if (far := apart(read(other, x_BTD), read(it, x_BTD))) > it.close:
        raise Broken(f"gives another output with the options of its `Config.at_width` ({far:.2g} of the largest value)")


def keeps_shape_and_type(it: Subject) -> None:
    for tokens in (1, 2, *it.lengths[:2]):
        x_BTD = drawn(it, 2, tokens)
        for training in MODES:
            _is_like(_wanted(it, x_BTD), run(it, x_BTD, training=training)[0], "")


def _wanted(it, x_BTD):
    """A tensor like the output that belongs to this input."""
    return x_BTD[:, :1] if it.kind == "pool" else x_BTD


def _is_like(x_BTD, y, where):
    if not isinstance(y, Tensor):
        raise Broken(f"gives {type(y).__name__} instead of a tensor{where}")
    if y.shape != x_BTD.shape:
        raise Broken(f"gives shape {tuple(y.shape)} for an input of shape {tuple(x_BTD.shape)}{where}")
    if y.dtype != x_BTD.dtype:
        raise Broken(f"gives {_type(y.dtype)} for an input of {_type(x_BTD.dtype)}{where}")


def _type(dtype):
    return str(dtype).removeprefix("torch.")


def computes_in_bfloat16(it: Subject) -> None:
    x_BTD = drawn(it, 2, it.short).bfloat16()
    layout = TokenLayout.whole(2, it.short, it.device)
    exact_BTD = read(it, x_BTD.float(), layout)
    y_BTD = read(replace(it, module=copy.deepcopy(it.module).to(torch.bfloat16)), x_BTD, layout)
    _is_like(_wanted(it, x_BTD), y_BTD, " in bfloat16")
    far = float((y_BTD.float() - exact_BTD).norm() / exact_BTD.norm())
    if not far < 0.05:
        raise Broken(f"in bfloat16 is {far:.1%} away from float32")


def is_finite(it: Subject) -> None:
    """Also at the first token alone, in a row of padding, and in the gradients."""
    documents = torch.zeros(2, it.short, dtype=torch.long, device=it.device)
    documents[1] = -1
    rows: list[tuple[int, TokenLayout | None, str]] = [(tokens, None, f"a row of {tokens}") for tokens in (1, *it.lengths)]
    if it.layouts:
        rows.append((it.short, TokenLayout.packed(documents), "a row of padding"))
    for tokens, layout, words in rows:
        x_BTD = drawn(it, 2, tokens).requires_grad_()
        it.module.zero_grad()
        y_BTD = run(it, x_BTD, layout, training=True)[0]
        if not y_BTD.isfinite().all():
            raise Broken(f"gives an output that is not finite for {words}")
        y_BTD.sum().backward()
        gradients = {"its input": x_BTD, **dict(it.module.named_parameters())}
        for name, weight in gradients.items():
            if weight.grad is not None and not weight.grad.isfinite().all():
                raise Broken(f"gives a gradient of {name} that is not finite for {words}")
    it.module.zero_grad()


def keeps_nothing_between_calls(it: Subject) -> None:
    """The same input gives the same output, whatever ran in between, in either mode."""
    x_BTD, others = drawn(it, 2, it.short), (drawn(it, 3, it.lengths[:2][-1], seed=7), drawn(it, 2, it.short, seed=8))
    before = {training: read(it, x_BTD, training=training) for training in MODES}
    for other_BTD, between in itertools.product(others, MODES):
        for training in MODES:
            read(it, other_BTD, training=between)
            if not torch.equal(read(it, x_BTD, training=training), before[training]):
                raise Broken(f"gives another output for the same input after other rows{in_mode(training)}: it keeps something")
    names = {*it.module.state_dict()} - {name for name, _ in it.module.named_parameters()}
    if names:
        raise Broken(f"keeps {listed(sorted(names))} in checkpoints beside its parameters; register it with persistent=False")


def keeps_rows_apart(it: Subject) -> None:
    for tokens in it.lengths[:2]:
        x_BTD, other_BTD = drawn(it, 3, tokens), drawn(it, 3, tokens, seed=9)
        other_BTD[1] = x_BTD[1]
        for training in MODES:
            y_BTD, z_BTD = read(it, x_BTD, training=training), read(it, other_BTD, training=training)
            if changes(y_BTD[1:2], z_BTD[1:2], it.rounding).any():
                raise Broken(f"must keep the rows of a batch apart, but one row changes the output of another{in_mode(training)}")


def uses_every_parameter(it: Subject) -> None:
    if not any(weight.requires_grad for weight in it.module.parameters()):
        raise NotAsked("it has no parameters")
    unused = None
    for tokens in it.lengths:
        x_BTD = drawn(it, 2, tokens)
        it.module.zero_grad()
        (run(it, x_BTD, training=True)[0] * drawn(it, 2, tokens, seed=5)).sum().backward()
        without = {n for n, w in it.module.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())}
        unused = without if unused is None else unused & without
        if not unused:
            break
    it.module.zero_grad()
    if unused:
        raise Broken(f"has parameters without an effect: {listed(sorted(unused))}")


def apart(got: Tensor, want: Tensor, size: Tensor | None = None) -> float:
    """The largest difference as a share of the largest value of `size` (by default `want`); inf if not finite."""
    largest = float((want if size is None else size).abs().max()) or 1.0
    far = float((got - want).abs().max()) / largest if got.numel() else 0.0
    return far if far == far else float("inf")


# --- pools


def _padded(it: Subject) -> Iterator[tuple[Tensor, TokenLayout]]:
    """(lengths (B,), their layout): texts of different lengths, padded on the right."""
    for tokens in it.lengths[:3]:
        lengths = sorted({n for n in (1, 2, tokens // 2, tokens - 1, tokens) if 0 < n <= tokens})
        lengths_B = torch.tensor(lengths, device=it.device)
        yield lengths_B, TokenLayout.right_padded(lengths_B, tokens)


def sees_no_padding(it: Subject) -> None:
    """Whatever is at padding changes nothing, even what is not finite; no gradient comes from there."""
    for (_, layout), training in itertools.product(_padded(it), MODES):
        x_BTD, padding_BT1 = drawn(it, *layout.shape), (layout.doc_BT < 0)[..., None]
        y_B1D = read(it, x_BTD, layout, training)
        for content in (LARGE, torch.nan):
            other_B1D = read(it, x_BTD.masked_fill(padding_BT1, content), layout, training)
            if not other_B1D.isfinite().all() or changes(y_B1D, other_B1D, it.rounding).any():
                what = "a large number" if content == LARGE else "a number that is not finite"
                raise Broken(f"must see no padding, but {what} there changes the vector{in_mode(training)}")
        x_BTD = x_BTD.masked_fill(padding_BT1, torch.nan).requires_grad_()
        run(it, x_BTD, layout, training=True)[0].square().sum().backward()
        weights = {"its input": x_BTD, **dict(it.module.named_parameters())}
        bad = [name for name, weight in weights.items() if weight.grad is not None and not weight.grad.isfinite().all()]
        it.module.zero_grad()
        if bad:
            raise Broken(f"must see no padding, but a number that is not finite there makes the gradient of {bad[0]} so")
        if x_BTD.grad is not None and x_BTD.grad.masked_select(padding_BT1).any():
            raise Broken("must see no padding, but its vector has a gradient for it")


def gives_a_text_what_it_gives_it_alone(it: Subject) -> None:
    for lengths_B, layout in _padded(it):
        x_BTD = drawn(it, *layout.shape)
        y_B1D = read(it, x_BTD, layout)
        for row, length in enumerate(lengths_B.tolist()):
            if (far := apart(y_B1D[row], read(it, x_BTD[row : row + 1, :length])[0])) > it.close:
                raise Broken(f"gives a padded text another vector than the text alone ({far:.2g} of the largest value)")


# --- documents and states


def gives_a_document_what_it_gives_it_alone(it: Subject) -> None:
    for tokens in it.lengths[:3]:
        for case in cases([tokens]):
            if case.documents is None or case.training:
                continue
            x_1TD, documents_T = drawn(it, 1, tokens), case.documents_T()
            y_1TD = read(it, x_1TD, case.layout(1, it.device))
            for document in documents_T[documents_T >= 0].unique().tolist():
                mine = documents_T == document
                alone = read(it, x_1TD[:, mine])
                if (far := apart(y_1TD[:, mine], alone)) > it.close:
                    row = "after padding" if case.documents[0] < 0 else "in a packed row"
                    raise Broken(f"gives a document another output {row} than alone ({far:.2g} of the largest value)")


def sees_no_end_to_come(it: Subject) -> None:
    """The outputs of a document's first tokens are the same wherever the document ends, and the row."""
    if it.reach[1] != 0:
        raise NotAsked("it sees ahead")
    for tokens in it.lengths:
        ends = range(1, tokens) if tokens <= EVEN else sorted({1, tokens // 4, tokens // 2, tokens - 2, tokens - 1})
        index_T, end_P1 = torch.arange(tokens), torch.tensor([*ends])[:, None]
        before_PT = (index_T < end_P1).to(it.device)
        x_PTD = drawn(it, 1, tokens).expand(len(end_P1), -1, -1).contiguous()
        for after, training in itertools.product((1, -1), MODES):
            long, short = (
                read(it, x_PTD, TokenLayout.packed(documents_PT), training)
                for documents_PT in (torch.zeros_like(before_PT, dtype=torch.long), torch.where(before_PT, 0, after))
            )
            changed_PT = changes(long, short, max(it.rounding, ROUNDING)).to(it.device) & before_PT
            for p, t in torch.nonzero(changed_PT).tolist():
                raise Broken(_ends(t, "document", ends[p], tokens) + (" in training mode" if training else ""))
        y_1TD = read(it, x_PTD[:1])
        for end in ends:
            far_T = (read(it, x_PTD[:1, :end]) - y_1TD[:, :end]).abs().amax((0, 2)) / (float(y_1TD.abs().max()) or 1.0)
            for t in torch.nonzero(far_T > it.close)[:, 0].tolist():
                raise Broken(_ends(t, "row", end, tokens))


def _ends(t, what, end, tokens):
    return f"says causal, but the output at {t} is another if its {what} ends after {end} tokens than after {tokens}"


def reads_in_chunks_as_at_once(it: Subject) -> None:
    """The whole row at once, without a state, equals the same row in chunks with one, of one token and of several."""
    _has_a_state(it)
    n = it.short
    plans = [[n], [1] * n, [5, 1, 1, n - 7], [1, n - 1], [2, n - 4, 2], [30, *[1] * 12, 30], [*[1] * 40, 32]]
    for chunks in plans:
        tokens = sum(chunks)
        if min(chunks) < 1 or tokens > it.lengths[-1]:
            continue
        x_BTD = drawn(it, 2, tokens)
        plain_BTD = read(it, x_BTD)
        state, parts, seen = it.module.init_state(2, tokens, x_BTD.dtype, x_BTD.device), [], 0
        for size in chunks:
            y_BTD, state = run(it, x_BTD[:, seen : seen + size], TokenLayout.whole(2, size, it.device, first=seen), state)
            parts.append(y_BTD)
            seen += size
        y_BTD = torch.cat(parts, dim=1)
        if (far := apart(y_BTD, plain_BTD)) > it.close:
            t = int((y_BTD - plain_BTD).abs().amax((0, 2)).nan_to_num(torch.inf).argmax())
            how = "token by token" if len({*chunks}) == 1 and chunks[0] == 1 else f"in chunks of {_sizes(chunks)}"
            raise Broken(f"reads a row {how} otherwise than at once: the output at {t} differs by {far:.2g} of the largest value")


def _has_a_state(it):
    if it.module.state_size is None:
        raise NotAsked("it sees ahead and has no state")


def _sizes(chunks):
    return listed([str(size) for size in chunks] if len(chunks) < 6 else [*map(str, chunks[:3]), "..."])


def decodes_prompts_together(it: Subject) -> None:
    """Prompts of different lengths, padded on the left and decoded together, equal each alone."""
    _has_a_state(it)
    lengths = torch.tensor([9, 4, 1], device=it.device).clamp(max=it.short)
    x_BTD = drawn(it, 3, it.short)
    prompt = int(lengths.max())
    layout = TokenLayout.left_padded(lengths, prompt)
    y_BTD, state = run(it, x_BTD[:, :prompt], layout, it.module.init_state(3, it.short, x_BTD.dtype, x_BTD.device))
    outputs = [y_BTD]
    for step in range(it.short - prompt):
        here = TokenLayout(torch.zeros_like(lengths)[:, None], (lengths + step)[:, None])
        y_BTD, state = run(it, x_BTD[:, prompt + step : prompt + step + 1], here, state)
        outputs.append(y_BTD)
    together_BTD = torch.cat(outputs, dim=1)
    for row, length in enumerate(lengths.tolist()):
        alone_BTD = read(it, x_BTD[row : row + 1, prompt - length :])
        if (far := apart(together_BTD[row : row + 1, prompt - length :], alone_BTD)) > it.close:
            raise Broken(f"decodes prompts of different lengths otherwise together than alone ({far:.2g} of the largest value)")


def has_the_state_it_says(it: Subject) -> None:
    _has_a_state(it)
    module = it.module

    def size(capacity):
        return sum(tensor.nbytes for tensor in tensors(module.init_state(1, capacity, torch.float32, it.device)))

    small, large, larger = size(1), size(10_000), size(20_000)
    fits = {
        "constant": small == large == larger,  # also nothing at all, where no earlier token matters
        "window": 0 < small <= large == larger,
        "growing": 0 < large < larger,
    }
    if not fits[module.state_size]:
        sizes = f"{small:,}, {large:,} and {larger:,} bytes for 1, 10,000 and 20,000 tokens"
        raise Broken(f"says that its state is of the size `{module.state_size}`, but it has {sizes}")
    x_1TD = drawn(it, 1, it.short)
    _, state = run(it, x_1TD, state=module.init_state(1, 10_000, torch.float32, it.device))
    if (after := sum(tensor.nbytes for tensor in tensors(state))) != large:
        raise Broken(f"has a state of {large:,} bytes before and {after:,} bytes after {it.short} tokens")


def keeps_streams_apart(it: Subject) -> None:
    """What one state has seen changes nothing for another."""
    _has_a_state(it)
    x_BTD, empty = drawn(it, 2, it.short), lambda: it.module.init_state(2, it.short, torch.float32, it.device)
    first, _ = run(it, x_BTD, state=empty())
    run(it, drawn(it, 2, it.short, seed=7), state=empty())
    again, _ = run(it, x_BTD, state=empty())
    if not torch.equal(first, again):
        raise Broken("gives another output for the same row after another stream: its state is not all in the state")


SHAPE = Point("keeps the shape and the type of its input", keeps_shape_and_type)
FINITE = Point("gives finite outputs and gradients", is_finite)
MEMORY = Point("keeps nothing between calls", keeps_nothing_between_calls)
ROWS = Point("keeps the rows of a batch apart", keeps_rows_apart)
PARAMETERS = Point("uses every parameter", uses_every_parameter)
GRADIENTS = Point("has gradients only for what it may see", has_gradients_for_its_reach_only, thorough=True)
BFLOAT16 = Point("computes in bfloat16 too", computes_in_bfloat16, remark=True)
DEFAULTS = Point("is the same with the defaults written out that follow from the width", writes_out_its_defaults)

MIXER = (
    Point("says whether it is causal, and how its state grows", says_what_it_is),
    DEFAULTS,
    SHAPE,
    MEMORY,
    ROWS,
    Point("sees no later token than it says", sees_no_later_token),
    Point("sees no earlier token than it says", sees_no_token_before_its_reach),
    Point("sees its own document only", sees_its_document_only),
    Point("gives a document what it gives it alone", gives_a_document_what_it_gives_it_alone),
    Point("sees no end of its document or row to come", sees_no_end_to_come),
    Point("reads a row in chunks as at once", reads_in_chunks_as_at_once),
    Point("decodes prompts of different lengths together", decodes_prompts_together),
    Point("has a state of the size that it says", has_the_state_it_says),
    Point("keeps streams apart", keeps_streams_apart),
    FINITE,
    PARAMETERS,
    GRADIENTS,
    BFLOAT16,
    Point("sees every token that it may see", sees_every_token_in_reach, remark=True),
)
FFN = (
    DEFAULTS,
    SHAPE,
    MEMORY,
    Point("works on each token alone", works_on_each_token_alone),
    FINITE,
    PARAMETERS,
    GRADIENTS,
    BFLOAT16,
)
POOL = (
    DEFAULTS,
    Point("gives a vector per row, in the type of its input", keeps_shape_and_type),
    MEMORY,
    ROWS,
    Point("sees no padding", sees_no_padding),
    Point("gives a text what it gives it alone", gives_a_text_what_it_gives_it_alone),
    FINITE,
    PARAMETERS,
    BFLOAT16,
)
