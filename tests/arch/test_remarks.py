"""What a spec says though it changes nothing is named, and nothing else is."""

import pytest
import torch
from tiny_specs import DIM, examples, label

from arch import registry, remarks
from arch.express import resolved
from arch.parameters import Context, initialise

ATTENTION = {"type": "attention", "heads": 2, "head_dim": 8}
FFN = {"type": "gated", "hidden": 8}


def model(pattern=("local", "global"), layers=4, window=4, **blocks):
    mixers = {"local": {**ATTENTION, "window": window}, "global": ATTENTION} | blocks
    return resolved(
        {
            "dim": 16,
            "vocab_size": 40,
            "layers": layers,
            "pattern": list(pattern),
            "blocks": {name: {"mixer": mixer, "ffn": FFN} for name, mixer in mixers.items()},
        }
    )


@pytest.mark.parametrize("window, does_something", [(31, True), (32, False), (33, False), (None, True)])
def test_a_window_must_be_shorter_than_the_context_to_hide_anything(window, does_something):
    said = remarks.of_model(model(window=window), 32, "model.")
    text = f"model.blocks.local.mixer.window: {window} is not shorter than the context of 32 tokens, so the window does nothing"
    assert said == ([] if does_something else [text])


@pytest.mark.parametrize("before, after, does_something", [(31, 31, False), (30, 31, True), (31, 30, True), (40, 2, True)])
def test_the_window_of_an_encoder_has_two_sides(before, after, does_something):
    both = {**ATTENTION, "causal": False, "window": {"before": before, "after": after}}
    said = remarks.of_model(model(("both",), both=both), 32)
    idle = [remark for remark in said if f"before {before}, after {after}" in remark]
    assert bool(idle) != does_something


def test_a_mixer_of_ones_own_is_judged_by_its_reach(tmp_path, monkeypatch):
    """An option need not be called `window`."""
    source = (
        "from arch.mixers.rg_lru import RGLRU as Base\nfrom arch.registry import mixer\nfrom arch.spec import Count\n\n\n"
        "@mixer\nclass Short(Base):\n    class Config(Base.Config):\n        span: Count = 3\n\n"
        "    @property\n    def reach(self):\n        return self.config.span, 0\n"
    )
    (tmp_path / "short_reach.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for span, count in ((30, 0), (31, 1)):
        own = model(("own", "global"), own={"type": "short_reach:Short", "span": span})
        said = remarks.of_model(own, 32)
        assert len(said) == count and all(remark.startswith("blocks.own.mixer: ") for remark in said)


@pytest.mark.parametrize(
    "pattern, layers, text",
    [
        (["local", "global"], 4, None),
        (["5*local", "global"], 6, None),
        (["5*local", "global"], 5, "pattern: it has 6 layers and the model 5, so no layer is 'global'"),
        (["local"], 4, "pattern: every layer is 'local', though there are also blocks for 'global'"),
        (["local", "global"], 1, "pattern: it has 2 layers and the model 1, so no layer is 'global'"),
    ],
)
def test_a_block_that_no_layer_has_is_named(pattern, layers, text):
    assert remarks.of_model(model(pattern, layers), 32) == ([] if text is None else [text])


def test_one_block_alone_is_no_mistake():
    alone = {"dim": 16, "vocab_size": 40, "layers": 2, "pattern": ["a"], "blocks": {"a": {"mixer": ATTENTION}}}
    assert remarks.of_model(resolved(alone), 32) == []


def test_models_that_compute_the_same_are_the_same_data():
    base = remarks.computed(model(window=32), 32)
    renamed = model(("a", "b"), a={**ATTENTION, "window": 50}, b={**ATTENTION, "query_scale": 8**-0.5})
    assert remarks.computed(renamed, 32) == base
    assert remarks.computed(model(["local", "global", "2*global"], window=64), 32) == base
    for other in (model(window=31), model(layers=5), model(window=32, **{"global": {**ATTENTION, "rope": None}})):
        assert remarks.computed(other, 32) != base
    assert remarks.computed(model(window=32), 33) != remarks.computed(model(window=64), 33)


def test_the_data_of_a_model_are_right():
    """Windows that are said to do nothing change no output; the longest that is said to do something does."""
    import torch

    from arch.layout import TokenLayout
    from arch.model import new_model

    tokens_BT = torch.randint(40, (1, 16), generator=torch.Generator().manual_seed(0))
    outputs = {}
    for window in (15, 16, 17, None):
        with torch.no_grad():
            outputs[window] = new_model(model(window=window), 0)(tokens_BT, TokenLayout.whole(1, 16))
    same = {window: torch.allclose(outputs[window], outputs[None], atol=1e-5) for window in outputs}
    assert same == {15: False, 16: True, 17: True, None: True}
    assert [not remarks.of_model(model(window=window), 16) for window in (15, 16, 17)] == [True, False, False]


@pytest.mark.parametrize("kind, component", [(kind, each) for kind in ("mixer", "cross") for each in examples(kind)], ids=label)
def test_a_default_that_follows_from_the_width_is_the_same_written_out(kind, component):
    """Of every component: the parameters and what they begin with do not change, and nothing is left to write out."""
    plain = Context(dim=DIM, layers=2, **({"source_dim": DIM} if kind == "cross" else {}))
    full = registry.whole(kind, component, DIM)
    made = [registry.build(kind, options, plain) for options in (component, full)]
    for module in made:
        initialise(module, seed=0)
    ours, theirs = (module.state_dict() for module in made)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert registry.whole(kind, full, DIM) == full and registry.whole(kind, full, 2 * DIM) == full
    left = {name for name, value in full.items() if value is None}
    assert left <= {"window", "softcap", "rope"}  # of which null is a value of its own
