"""Autocast to bfloat16 (`precision: bf16-mixed`).

Operations with a gradient of their own must be as close to float32 as plain torch under autocast. Weights and their
gradients must stay float32.
"""

import pytest
import torch
from closeness import relative_error
from test_kernels import layout_of
from tiny_specs import DIM, context, examples, label, model_spec

from arch import registry
from arch.kernels import attention, cross_entropy, rg_lru
from arch.layout import TokenLayout
from arch.model import new_model
from arch.norm import RMSNorm, rms_norm_reference
from arch.parameters import initialise

TOKENS, DRAWS = 70, 4
ATTENTION = {"type": "attention", "heads": 4, "kv_heads": 2, "head_dim": 16}
MODELS = {
    "local/global": [{**ATTENTION, "window": 4, "qk_norm": True}, {**ATTENTION, "qk_norm": True}],
    "softcap": [{**ATTENTION, "window": 20, "softcap": 5.0}, {**ATTENTION, "softcap": 5.0}],
    "recurrent": [{"type": "rg_lru", "blocks": 2}, {"type": "rg_lru"}, {**ATTENTION, "kv_heads": 1, "window": 60}],
}
# Lightning's manual optimization runs the backward pass inside of autocast, a plain loop outside.
each_place = pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
each_packing = pytest.mark.parametrize("packing", ["whole", "packed"])


def found_by(run, weights, pull=None, inside=True, autocast=True):
    """[result of `run`, its gradient for each of the weights]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = run()
        pull = None if pull is None else pull.to(y.dtype)
        gradients = torch.autograd.grad(y, weights, pull) if inside else None
    return [y.detach(), *(gradients or torch.autograd.grad(y, weights, pull))]


def errors(got, want):
    """Relative errors; a gradient that vanishes is measured against the largest one."""
    size = max(float(y.norm() / y.numel() ** 0.5) for y in want)
    return [relative_error(x, y, 1e-3 * size) for x, y in zip(got, want, strict=True)]


def layout_for(packing):
    made = layout_of(packing, TOKENS)
    return lambda: TokenLayout(made.doc_BT, made.pos_BT, made.first)


def plain_attend(q, k, v, low, high, scale, reach, whole, softcap, memo):
    return attention.reference(q, k, v, low, high, scale, softcap)


@each_packing
@each_place
@pytest.mark.parametrize("mixers", MODELS.values(), ids=MODELS)
def test_a_training_step_rounds_as_plain_torch_does(mixers, inside, packing, monkeypatch):
    """After several layers, some gradients keep only two or three of bfloat16's eight bits, on either path.

    Which one is nearer is chance in a single draw, and depends on how a CPU sums; over DRAWS it is not.
    """
    found = []
    for draw in range(DRAWS):
        with monkeypatch.context() as patch:
            names, *both = rounding_of(mixers, inside, packing, draw, patch)
        found.append(both)
    mine_N, theirs_N = torch.tensor(found, dtype=torch.float64).square().mean(0).sqrt()
    assert float(mine_N.mean()) <= 1.3 * float(theirs_N.mean()) + 2e-3, f"{mine_N.mean():.1e}, plain {theirs_N.mean():.1e}"
    for name, mine, theirs in zip(names, mine_N.tolist(), theirs_N.tolist(), strict=True):
        assert mine <= 2 * theirs + 2e-3 and mine <= 0.15, f"{name}: {mine:.1e}, plain {theirs:.1e}"


def rounding_of(mixers, inside, packing, draw, patch):
    """(names, our errors, those of plain torch) of the loss and of each gradient, at weights and tokens of this draw."""
    model, generator = new_model(model_spec(*mixers, logit_softcap=10.0), seed=draw), torch.Generator().manual_seed(1 + draw)
    with torch.no_grad():
        for weight in model.parameters():  # else attention is nearly uniform and its gradients nearly 0
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    tokens = torch.randint(37, (2, TOKENS), generator=torch.Generator().manual_seed(draw))
    layout, weights = layout_for(packing), list(model.parameters())

    def loss_by(cross_entropy_of):
        hidden_ND = model.trunk(tokens, layout())[0].flatten(0, 1)
        return cross_entropy_of(hidden_ND, model.head_weight, tokens.roll(-1, 1).flatten(), 10.0) / tokens.numel()

    got = found_by(lambda: loss_by(cross_entropy.linear_cross_entropy), weights, inside=inside)
    patch.setattr("arch.mixers.attention.attend", plain_attend)
    patch.setattr(rg_lru, "rg_lru", rg_lru.reference)
    patch.setattr(RMSNorm, "forward", lambda norm, x: rms_norm_reference(x, norm.weight, norm.eps))
    plain = found_by(lambda: loss_by(cross_entropy.reference), weights)
    exact = found_by(lambda: loss_by(cross_entropy.reference), weights, autocast=False)
    assert all(each.dtype == torch.float32 for each in [*got, *exact])
    return ["loss", *(name for name, _ in model.named_parameters())], errors(got, exact), errors(plain, exact)


@each_packing
@each_place
@pytest.mark.parametrize("component", examples("mixer"), ids=label)
def test_a_mixer_is_that_of_float32(component, inside, packing):
    mixer = registry.build("mixer", component, context())
    initialise(mixer, seed=0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, TOKENS, DIM, generator=generator, requires_grad=True)
    pull, layout = torch.randn(x.shape, generator=generator), layout_for(packing)
    names, weights = zip(*mixer.named_parameters(), strict=True)
    got, want = (found_by(lambda: mixer(x, layout())[0], [x, *weights], pull, inside, autocast) for autocast in (True, False))
    for name, error, gradient in zip(["y", "x", *names], errors(got, want), got, strict=True):
        assert error <= 0.03 and (name == "y" or gradient.dtype == torch.float32), f"{name}: {error:.1e}"
