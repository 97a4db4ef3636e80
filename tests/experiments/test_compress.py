"""The objective `compress`: everything goes through the hidden state of the last token, and nothing else does."""

import pytest
import torch

from arch import registry
from arch.layout import TokenLayout
from arch.model import new_model
from arch.model_spec import ModelSpec
from experiments.data.batch import Batch, Rows
from experiments.objectives.compress import codes
from experiments.spec import DataSpec

SOURCE = {"type": "random_tokens", "vocabulary": 8}
MIXERS = {
    "attention": {"type": "attention", "heads": 2},
    "window": {"type": "attention", "heads": 2, "window": 3},
    "rg_lru": {"type": "rg_lru", "blocks": 2},
}


@pytest.fixture
def batch():
    data = DataSpec(source=SOURCE, context=10, rows=6)
    return registry.build("source", SOURCE).dataset(data).batch("train", 0, 0, 6, 10)


def made(mixer):
    block = {"mixer": MIXERS[mixer], "ffn": {"type": "gated", "hidden": 16}}
    spec = ModelSpec.parse({"dim": 16, "vocab_size": 8, "layers": 2, "pattern": ["a"], "blocks": {"a": block}})
    model = new_model(registry.resolve(spec), 0)
    return model, registry.build("objective", {"type": "compress"}, None)


@pytest.mark.parametrize("mixer", MIXERS)
def test_each_target_depends_on_the_last_hidden_state_and_its_own_position_alone(mixer, batch):
    """Computed once more position by position, from the last hidden state: the same sum."""
    model, objective = made(mixer)
    rows = batch["text"]
    with torch.no_grad():
        means = objective(model, batch)
        hidden_BTD, _ = model.trunk(rows.tokens_BT, rows.layout)
        code_TD, total, right = codes(10, 16), 0.0, 0
        for t in range(10):
            alone_B1D = hidden_BTD[:, -1:] + code_TD[t]
            logits_BV = model.logits(model.trunk(alone_B1D, TokenLayout.whole(6, 1))[0])[:, 0]
            for logits_V, target in zip(logits_BV, rows.targets_BT[:, t].tolist(), strict=True):
                if target >= 0:
                    total -= float(logits_V.log_softmax(0)[target])
                    right += int(logits_V.argmax()) == target
    assert float(means["loss"].sum) == pytest.approx(total, rel=1e-4) and int(means["accuracy"].sum) == right
    assert means["loss"].weight == batch.weight == 6 * 8, "every random token but the first"


def test_the_loss_is_that_of_the_micro_batches_together(batch):
    model, objective = made("rg_lru")
    whole = objective(model, batch)["loss"]
    parts = [objective(model, part)["loss"] for part in batch.split(3)]
    assert sum(float(part.sum.detach()) for part in parts) == pytest.approx(float(whole.sum.detach()), rel=1e-5)
    assert sum(part.weight for part in parts) == whole.weight
    whole.sum.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_what_the_last_token_does_not_see_cannot_be_reconstructed(batch):
    """Two layers with a window of 3 see 5 tokens: a change before them changes no prediction."""
    model, objective = made("window")
    rows = batch["text"]
    other = rows.tokens_BT.clone()
    other[:, :5] = (other[:, :5] + 1) % 7
    changed = Batch.text(Rows(other, rows.layout, rows.targets_BT))
    with torch.no_grad():
        assert float(objective(model, batch)["loss"].sum) == float(objective(model, changed)["loss"].sum)
        other[:, 5:] = (other[:, 5:] + 1) % 7
        assert float(objective(model, batch)["loss"].sum) != float(objective(model, changed)["loss"].sum)


@pytest.mark.parametrize(("tokens", "dim"), [(32, 64), (5, 7), (3, 1)])
def test_codes_are_as_large_as_an_embedding_and_differ(tokens, dim):
    code_TD = codes(tokens, dim)
    assert code_TD.shape == (tokens, dim) and torch.cdist(code_TD, code_TD)[~torch.eye(tokens, dtype=bool)].min() > 1e-3
    if dim % 2 == 0:
        assert torch.allclose((code_TD**2).mean(1), torch.ones(tokens), atol=1e-5)
