"""The gated short convolution beyond the battery: it is the recurrent block without its recurrence."""

import pytest
import torch
from tiny_specs import DIM, context, model_spec

from arch import registry, remarks
from arch.convolution import CausalConvolution
from arch.layout import TokenLayout
from arch.model import new_model
from arch.parameters import initialise


def made(kind, **options):
    mixer = registry.build("mixer", {"type": kind, **options}, context())
    initialise(mixer, seed=0)
    return mixer


def test_it_is_the_recurrent_block_whose_state_is_forgotten_at_once():
    """With decays of 0 and open input gates, h_t = u_t: both blocks give the same, over two documents and on from a state."""
    recurrent = made("rg_lru", width=24, taps=3)
    short = made("short_convolution", width=24, taps=3)
    torch.nn.init.constant_(recurrent.decay, -30.0)
    torch.nn.init.constant_(recurrent.recurrence_gate.bias, 30.0)
    torch.nn.init.constant_(recurrent.input_gate.bias, 30.0)
    for name in ("x", "y", "o", "conv"):
        getattr(short, name).load_state_dict(getattr(recurrent, name).state_dict())
    x = torch.randn(2, 12, DIM)
    layout = TokenLayout.packed(torch.tensor([[0] * 5 + [1] * 7, [0] * 12]))
    (want, state), (got, short_state) = recurrent(x, layout), short(x, layout)
    torch.testing.assert_close(got, want)
    assert torch.equal(short_state.tail_BJR, state.tail_BJR)
    after = TokenLayout(torch.zeros(2, 1, dtype=torch.long), torch.tensor([[7], [12]]))
    torch.testing.assert_close(short(x[:, :1], after, short_state)[0], recurrent(x[:, :1], after, state)[0])


def test_a_token_sees_as_many_before_it_as_it_says():
    mixer = made("short_convolution", taps=4)
    x = torch.randn(1, 9, DIM, requires_grad=True)
    y, _ = mixer(x, TokenLayout.whole(1, 9))
    y[0, 6].sum().backward()
    assert x.grad[0].abs().sum(-1).nonzero().flatten().tolist() == [3, 4, 5, 6] and mixer.reach == (3, 0)


def test_it_costs_what_the_recurrent_block_does_without_gates_and_decays():
    count = {}
    for kind in ("short_convolution", "rg_lru"):
        count[kind] = sum(each.numel() for each in new_model(model_spec({"type": kind, "width": 24}), seed=0).parameters())
    two_gates, decays = 2 * (24 * 24 + 24), 24
    assert count["rg_lru"] - count["short_convolution"] == two_gates + decays


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_the_tail_has_as_many_tokens_whatever_came(taps):
    convolution = CausalConvolution(3, taps)
    initialise(convolution, seed=0)
    x, tail, seen = torch.randn(2, 9, 3), convolution.empty(2), 0
    for tokens in (1, 5, 1, 2):
        _, tail = convolution(x[:, seen : seen + tokens], TokenLayout.whole(2, tokens, first=seen), tail)
        seen += tokens
        past = torch.cat([convolution.empty(2), x[:, :seen]], dim=1)
        assert torch.equal(tail, past[:, past.shape[1] - taps + 1 :])


def test_taps_as_long_as_the_context_hide_nothing():
    said = remarks.of_model(model_spec({"type": "short_convolution"}, {"type": "attention", "heads": 2}), 4)
    assert said == ["blocks.b0.mixer: what it sees is limited to no less than the context of 4 tokens, so the limit does nothing"]
