"""The probe finds every way to break what a component says, is silent on honest ones, and changes nothing else."""

import random

import numpy
import pytest
import torch
from tiny_specs import examples, label, model_spec

from arch import block, document, model, probe, probe_model, registry, shrunk
from arch.errors import SpecError
from arch.express import loaded
from arch.layout import TokenLayout
from arch.model_spec import ModelSpec
from arch.norm import RMSNorm
from arch.parameters import Context

pytestmark = pytest.mark.usefixtures("plugins")
# {how: what the message must say} for every entry of own_cheats.WAYS.
SAYS = {
    "the next token": "says causal, but token 1 changes the output at 0",
    "the next token, a little": "says causal, but token 1 changes the output at 0",
    "the next token, beside a large channel": "says causal, but token 1 changes the output at 0",
    "a token 50 ahead": "says causal, but token 50 changes the output at 0 (in a row of 72 tokens)",
    "the last token, at the first": "says causal, but token 12 changes the output at 0",
    "the next token, at position 7": "says causal, but token 8 changes the output at 7",
    "the next token, at every 16th": "says causal, but token 16 changes the output at 15 (in a row of 72 tokens)",
    "the next token, beyond 64": "says causal, but token 65 changes the output at 64 (in a row of 72 tokens)",
    "the next token, beyond 200": "says causal, but token ",
    "the next token, in even rows": "says causal, but token 1 changes the output at 0 (in a row of 16 tokens)",
    "the next token, in odd rows": "says causal, but token 1 changes the output at 0",
    "the next token, in rows of the context": "says causal, but token ",
    "the next token, in training": "says causal, but token 1 changes the output at 0 (in training mode)",
    "the next token, in evaluation": "says causal, but token 1 changes the output at 0",
    "the next token, with gradients": "says causal, but token 1 changes the output at 0 (in training mode)",
    "the next token, in packed rows": "says causal, but token 1 changes the output at 0 (in a packed row of 13 tokens)",
    "the next token, by a gate that starts at 0": "says causal, but token 1 changes the output at 0",
    "the mean over time": "says causal, but token 1 changes the output at 0",
    "the largest of the row": "says causal, but token ",
    "later tokens behind a soft mask": "says causal, but token ",
    "the token before, of any document": "token 2 of one document changes the output at 3 of another",
    "the first token, of any document": "token 0 of one document changes the output at 3 of another",
    "the other rows": "one row changes the output of another",
    "the rows before": "it keeps something",
    "the rows before, of this shape": "it keeps something",
    "the state": "reads a row token by token otherwise than at once",
    "the window": "says that it sees at most 2 tokens back, but token 0 changes the output at 3",
    "the state of streams": "its state is not all in the state",
    "a buffer": "keeps table in checkpoints beside its parameters",
    "an unused parameter": "has parameters without an effect: idle",
    "another shape": "gives shape (2, 2, 1, 64) for an input of shape (2, 1, 64)",
    "an error": "raises RuntimeError",
    "not finite": "not finite",
    "where its document ends": "says causal, but the output at ",
    "the row's position": "gives a document another output in a packed row than alone",
}


def failures(kind, resolved, **about):
    """What planning refuses a component for."""
    it = probe.subject(kind, resolved, Context(dim=64, layers=2), **about)
    return [finding.failure for finding in probe.findings(it, thorough=False) if finding.wrong]


def own(kind, name, **options):
    return {"type": f"own_cheats:{name}", **options}


def test_every_way_to_cheat_is_tried(plugins):
    import own_cheats

    assert SAYS.keys() | {"the next token, in layer 5"} == own_cheats.WAYS.keys()


@pytest.mark.parametrize("how", SAYS)
def test_a_mixer_that_breaks_its_word_is_found(how):
    found = failures("mixer", own("mixer", "Leak", how=how))
    assert any(SAYS[how] in failure for failure in found), found


def test_a_causal_mixer_without_a_state_is_refused(monkeypatch):
    """None means that a mixer sees ahead; else nobody would ask how it decodes."""
    import own_cheats

    monkeypatch.setattr(own_cheats.Honest, "state_size", None)
    found = failures("mixer", own("mixer", "Honest"))
    assert found == ["says causal, but `state_size` is None, which is for a mixer that sees ahead; "
                     "expected 'constant', 'window' or 'growing'"]  # fmt: skip


def test_a_mark_at_the_end_of_a_document_is_named_where_it_is():
    it = probe.subject("mixer", own("mixer", "Leak", how="where its document ends"), Context(dim=16))
    with pytest.raises(probe.Broken, match="the output at 0 is another if its document ends after 1 tokens than after 13"):
        probe.sees_no_end_to_come(it)


def test_what_does_not_apply_is_not_said_to_pass():
    ahead = {"type": "attention", "heads": 2, "causal": False}
    it = probe.subject("mixer", registry.resolve_component("mixer", document.node(ahead), ()), Context(dim=16), tokens=40)
    unasked = {finding.point.check.__name__ for finding in probe.findings(it) if finding.unasked}
    assert unasked == {"sees_no_later_token", "sees_no_token_before_its_reach", "sees_no_end_to_come",
                       "reads_in_chunks_as_at_once", "decodes_prompts_together", "has_the_state_it_says",
                       "keeps_streams_apart"}  # fmt: skip


def pair(failure):
    """(s, t) of a message "token s changes the output at t"."""
    words = failure.split()
    return int(words[words.index("token") + 1]), int(words[words.index("at") + 1])


@pytest.mark.parametrize("how", ["the next token, beyond 200", "the next token, in rows of the context"])
def test_of_many_tokens_the_one_to_blame_is_named(how):
    s, t = pair(failures("mixer", own("mixer", "Leak", how=how))[0])
    assert s == t + 1 and (t >= 200 or how.endswith("context"))


MIXING = [
    "the token before",
    "the next token",
    "the next token, beyond 64",
    "the mean over time",
    "the tokens of the batch",
    "its position",
    "the busiest tokens",
]


@pytest.mark.parametrize("how", MIXING)
def test_an_ffn_that_mixes_tokens_is_found(how):
    import own_cheats

    assert [*own_cheats.MIXING] == MIXING
    found = failures("ffn", own("ffn", "Mixing", how=how))
    assert any("must work on each token alone, but" in each or "another output alone than in a row" in each for each in found), (
        found
    )


HONEST = [
    "attention, hidden by -inf",
    "attention, hidden by -1e9",
    "attention, hidden by -1e4",
    "linear attention",
    "a mean of what was",
    "dropout",
    "noise",
    "every second token",
    "numbers of 8 bits",
]


@pytest.mark.parametrize("how", HONEST)
def test_an_honest_mixer_passes(how):
    import own_cheats

    assert [*own_cheats.HONEST] == HONEST
    assert not failures("mixer", own("mixer", "Honest", how=how))


@pytest.mark.parametrize("kind, name", [("mixer", "Convolution"), ("ffn", "Experts")])
def test_what_is_honest_up_to_rounding_passes(kind, name):
    assert not failures(kind, own(kind, name))


@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("component", examples("mixer") + examples("ffn"), ids=label)
def test_every_shipped_component_passes_what_planning_asks(component, dim):
    kind = "ffn" if component["type"] in registry.names("ffn") else "mixer"
    it = probe.subject(kind, component, Context(dim=dim, layers=2), tokens=40)
    assert not [finding.failure for finding in probe.findings(it, thorough=False) if finding.failure]


def test_a_long_window_is_held_to_its_reach(monkeypatch):
    """A mixer that says 300 tokens passes if it sees 300, and not if it sees all."""
    attention = {**examples("mixer", ["attention"])[0], "window": 300}
    honest = probe.subject("mixer", attention, Context(dim=16, layers=2), tokens=600)
    assert not probe.sight(honest)
    liar = probe.subject("mixer", own("mixer", "Honest"), Context(dim=16, layers=2), tokens=600)
    monkeypatch.setattr(type(liar.module), "reach", (299, 0), raising=False)
    case, s, t = probe.sight(liar)["earlier"]
    assert t - s >= 300 and case.tokens > 300


def test_short_contexts_are_enough():
    """A component need not read rows longer than the run's."""
    for tokens in (2, 5, 16, 33):
        it = probe.subject("mixer", own("mixer", "Leak", how="the next token"), Context(dim=8), tokens=tokens)
        assert max(it.lengths) == tokens
        assert any("says causal" in finding.failure for finding in probe.findings(it))


def test_a_component_of_a_longest_row_is_asked_no_longer_one():
    """Also where its options would be halved: what raises an error then is tried as it is."""
    assert not failures("mixer", own("mixer", "Positions", longest=12), tokens=12)
    data = plain(own("mixer", "Positions", longest=400, width=1024), dim=1024, pattern=["mine"])
    spec = spec_of(data)
    assert shrunk.component("mixer", spec.blocks["mine"].mixer, Context(dim=1024), probe_model.COMPONENT)[1].dim < 1024
    assert probe_model.check_components(spec, document.node(data), tokens=400) == []
    assert probe_model.check_causal(spec, document.node(data), tokens=400) == []


def test_what_could_not_be_checked_is_noted(monkeypatch):
    monkeypatch.setattr(probe_model, "FULL", 1)
    data = plain(own("mixer", "Positions", longest=401, width=1024), dim=1024, pattern=["mine"])
    (note,) = probe_model.check_components(spec_of(data), document.node(data), tokens=400)
    assert note.startswith("own_cheats:Positions was not checked: made narrower, it raises RuntimeError")


def test_parameters_that_say_nothing_of_their_start_are_named():
    with pytest.raises(probe.Broken, match=r"has a parameter, o\.weight, that `arch\.layers\.parameter` did not make"):
        probe.subject("mixer", own("mixer", "Plain"), Context(dim=8))


def test_a_probe_leaves_no_trace():
    """Neither random state nor threads nor modes differ afterwards, whatever the component draws."""
    torch.manual_seed(5)
    states = torch.get_rng_state(), numpy.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()
    failures("mixer", own("mixer", "Honest", how="noise"))
    data = plain(own("mixer", "Honest", how="noise"))
    probe_model.check_causal(spec_of(data), document.node(data))
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == numpy.random.get_state()[1]).all()
    assert states[2:] == (random.getstate(), torch.get_num_threads()) and torch.is_grad_enabled()


# --- a model


def plain(mixer, ffn=None, **rest):
    """A model as plain data: two blocks, of which the second has the mixer and the ffn."""
    attention = {"type": "attention", "heads": 2, "window": 4}
    blocks = {
        "first": {"mixer": attention, "ffn": {"type": "gated", "hidden": 8}},
        "mine": {"mixer": mixer, "ffn": ffn or {"type": "gated", "hidden": 8}, "norm": "sandwich"},
    }
    return {"dim": 16, "vocab_size": 37, "layers": 6, "pattern": ["2*first", "mine"], "blocks": blocks, **rest}


def spec_of(data):
    return registry.resolve(ModelSpec.parse(data), data)


RECURRENT = {"type": "rg_lru", "blocks": 2}


@pytest.mark.parametrize("where", ["mixer", "ffn"])
def test_a_model_that_sees_ahead_is_refused_where_it_begins(where):
    parts = {"mixer": RECURRENT, "ffn": own("ffn", "Mixing", how="the next token"), "rest": {}}
    if where == "mixer":
        parts = {"mixer": own("mixer", "Leak"), "ffn": None}
    data = plain(parts["mixer"], parts["ffn"])
    with pytest.raises(SpecError) as raised:
        probe_model.check_causal(spec_of(data), document.node(data))
    assert raised.value.path == ("blocks", "mine", where)
    assert "lets the model see a later token (layer 2): token 1 changes the output at 0" in raised.value.reason


MODEL_WIDE = [
    "the next token, in training",
    "the next token, in layer 5",
    "the next token, beyond 200",
    "the first token, of any document",
]


@pytest.mark.parametrize("how", MODEL_WIDE)
def test_a_model_is_run_in_either_mode_on_long_rows_and_packed_ones(how):
    data = plain(own("mixer", "Leak", how=how))
    with pytest.raises(SpecError, match=r"lets the model see (a later token|another document)"):
        probe_model.check_causal(spec_of(data), document.node(data))


def test_a_norm_over_time_is_found(monkeypatch):
    class OverTime(RMSNorm):
        def forward(self, x):
            return super().forward(x) * (1 + x.mean(1, keepdim=True))

    monkeypatch.setattr(block, "RMSNorm", OverTime)
    spec = model_spec({"type": "attention", "heads": 2})
    where, words = probe_model.causal_failure(spec)
    assert where == ("blocks", "b0", "mixer")
    assert words.startswith("attention lets the model see a later token (layer 0): token ")


def test_a_model_put_together_wrongly_is_found(monkeypatch):
    class Turned(model.Model):
        def logits(self, hidden_BTD):
            return super().logits(hidden_BTD.flip(1))

    monkeypatch.setattr(probe_model, "Model", Turned)
    where, words = probe_model.causal_failure(model_spec({"type": "attention", "heads": 2}))
    assert where == () and words.startswith("the model sees a later token: token ")


@pytest.mark.parametrize("name", ["small/gemma3", "small/gemma2", "small/recurrentgemma", "gemma3/27b", "recurrentgemma/9b"])
def test_shipped_models_are_causal_and_the_largest_is_made_small(name):
    spec = loaded(name)
    small = shrunk.model(spec, probe_model.LAYERS)
    assert shrunk._size(small) <= probe_model.LAYERS
    assert small.layer_blocks() == spec.layer_blocks() or len(small.layer_blocks()) > len({*small.layer_blocks()})
    for block_name in {*spec.layer_blocks()}:
        assert small.blocks[block_name].mixer.get("window") == spec.blocks[block_name].mixer.get("window")
    probe_model.check_causal(spec, document.node({}), tokens=64)


def test_a_model_is_probed_once(monkeypatch):
    made, data = [], plain(RECURRENT, norm_eps=1e-5)

    class Counted(model.Model):
        def __init__(self, spec):
            made.append(spec)
            super().__init__(spec)

    monkeypatch.setattr(probe_model, "Model", Counted)
    for _ in range(3):
        probe_model.check_causal(spec_of(data), document.node(data))
    assert len(made) == 1


def test_a_wide_component_is_halved_and_still_found():
    resolved = own("mixer", "Leak", how="the next token, in training")
    data = plain(resolved, dim=2048)
    narrow, context = shrunk.component("mixer", resolved, Context(dim=2048), probe_model.COMPONENT)
    assert shrunk.parameters("mixer", narrow, context) <= probe_model.COMPONENT and context.dim < 2048
    with pytest.raises(SpecError, match="in training mode"):
        probe_model.check_components(spec_of(data), document.node(data))


def test_only_ones_own_components_and_only_where_used_are_asked():
    used, unused = plain(own("mixer", "Leak")), plain(own("mixer", "Leak"), pattern=["first"])
    with pytest.raises(SpecError, match="own_cheats:Leak says causal, but token 1 changes the output at 0") as raised:
        probe_model.check_components(spec_of(used), document.node(used))
    assert raised.value.path == ("blocks", "mine", "mixer")
    probe_model.check_components(spec_of(unused), document.node(unused))


def test_what_a_trained_model_must_not_see_is_found_in_any_row_and_nothing_is_drawn(monkeypatch):
    trained = model.new_model(model_spec({"type": "attention", "heads": 2}), 0).eval()
    tokens_BT = torch.randint(trained.spec.vocab_size, (3, 40), generator=torch.Generator().manual_seed(0))
    layout = TokenLayout.packed(torch.tensor([*[0] * 15, *[1] * 20, *[-1] * 5]).expand(3, 40))
    before = torch.get_rng_state()
    trunk = trained.trunk
    with torch.no_grad():
        probe_model.check_trained(trained, tokens_BT, layout)

        def leaking(tokens_BT, layout):
            hidden_BTD = trunk(tokens_BT, layout)[0].clone()
            hidden_BTD[2, 5] += tokens_BT[2, 33]
            return hidden_BTD, None

        monkeypatch.setattr(trained, "trunk", leaking)
        with pytest.raises(probe_model.NotCausal, match="token 33 changes the output at 5"):
            probe_model.check_trained(trained, tokens_BT, layout)
    assert torch.equal(before, torch.get_rng_state())


WIDTHS = (
    '"""A mixer whose width is twice the model\'s where it is not said."""\n'
    + """
from arch.layers import Linear
from arch.mixers.short_convolution import ShortConvolution as Base
from arch.parameters import Context
from arch.registry import mixer


@mixer
class Wide(Base):
    class Config(Base.Config):
        def at_width(self, dim):
            BODY

    def __init__(self, config, context):
        super().__init__(config.model_copy(update={"width": config.width or 2 * context.dim}), context)
"""
)


@pytest.mark.parametrize(
    "number, body, said",
    [
        (0, 'return self.model_copy(update={"width": self.width or 2 * dim})', None),
        (1, 'return self.model_copy(update={"width": self.width or dim})', "has other parameters with the options that"),
        (2, 'return self.model_copy(update={"width": 2 * dim})', "leaves an option which follows from the width"),
        (3, "pass", "its Config.at_width gives NoneType, expected a Config"),
        (4, 'return self.model_copy(update={"width": self.width or 2 * dim, "taps": 3})', "has other parameters"),
    ],
)
def test_what_a_component_says_follows_from_the_width_is_checked(number, body, said, tmp_path, monkeypatch):
    (tmp_path / f"wide_{number}.py").write_text(WIDTHS.replace("BODY", body))
    monkeypatch.syspath_prepend(tmp_path)
    found = failures("mixer", {"type": f"wide_{number}:Wide"})
    assert (not found) if said is None else (len(found) == 1 and said in found[0]), found


def test_an_option_may_be_called_at_width(tmp_path, monkeypatch):
    source = (
        "from torch import nn\n\nfrom arch.registry import ffn\nfrom arch.spec import Spec\n\n\n"
        "@ffn\nclass Same(nn.Module):\n    class Config(Spec):\n        at_width: int = 3\n\n"
        "    def __init__(self, config, context):\n        super().__init__()\n"
    )
    (tmp_path / "an_option.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.whole("ffn", {"type": "an_option:Same"}, 8) == {"type": "an_option:Same", "at_width": 3}
