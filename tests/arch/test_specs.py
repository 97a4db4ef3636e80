"""Specs as documents and as data: overrides, digests, differences, initialisation; and every shipped model spec."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from tiny_specs import examples, model_spec, resolved

from arch import cost, document, registry
from arch.model import new_model
from arch.model_spec import BlockSpec, ModelSpec
from arch.parameters import initialise
from arch.schema import json_schema
from arch.show import realised
from arch.spec import ABSENT, Spec, diff, digest, later, place, spelt, unwritten

GOLDEN = Path(__file__).parent.parent / "golden" / "digests.json"
SHIPPED = document.shipped("arch")
ATTENTION = {"type": "attention", "heads": 2}


def loaded(name):
    root = document.load(name, "arch")
    spec = registry.resolve(ModelSpec.parse(root), root)
    cost.check_builds(spec, root)
    return spec


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_spec_resolves_builds_and_is_costed(name):
    spec = loaded(name)
    summary = cost.summary(spec, 64)
    assert summary["parameters"]["total"] > 1e6
    assert all("sees ahead" in note for note in summary["notes"])
    assert resolved(spec.dump()) == spec


def test_shipped_specs_mean_what_they_meant():
    """A run's identity includes this digest. If it changed, stored runs would no longer be found."""
    now = {name: digest(loaded(name)) for name in SHIPPED}
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(now, indent=2) + "\n")
    then = json.loads(GOLDEN.read_text())
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    assert not changed, (
        f"digests differ for {changed}: runs stored under the old ones would not be found again. A field added with "
        "`later(neutral)` leaves them alone. If the models were meant to change: "
        "RENEW_GOLDEN=1 pytest tests/arch/test_specs.py"
    )


def shuffled(value, draw):
    if not isinstance(value, dict):
        return value
    items = list(value.items())
    draw.shuffle(items)
    return {key: shuffled(child, draw) for key, child in items}


def test_digest_does_not_depend_on_the_order_of_keys():
    spec = loaded("gemma3/1b")
    for seed in range(5):
        assert digest(resolved(shuffled(spec.dump(), random.Random(seed)))) == digest(spec)


def test_two_architectures_never_share_a_digest():
    """A field typed as a base class would dump as {}. Every example of every component needs its own digest."""
    specs = [model_spec(mixer) for mixer in examples("mixer")]
    specs += [model_spec(ATTENTION, ffn=ffn) for ffn in examples("ffn")[1:]]
    assert len({digest(spec) for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.dump()["blocks"]["b0"]["mixer"]["type"] and spec.dump()["init"]["matrix"]["type"] == "fan_in"


def test_a_nested_spec_dumps_its_own_fields():
    class Inner(Spec):
        width: int = 3

    class Outer(Spec):
        inner: Spec = Inner()

    assert Outer().dump() == {"inner": {"width": 3}}


def test_a_later_field_at_neutral_leaves_the_digest_alone():
    class Before(Spec):
        width: int

    class After(Spec):
        width: int
        dropout: float = later(0.0)
        workers: int = place(1)

    assert digest(After(width=2)) == digest(Before(width=2))
    assert digest(After(width=2, workers=5)) == digest(Before(width=2))
    assert digest(After(width=2, dropout=0.1)) != digest(Before(width=2))
    assert After.parse(After(width=2, workers=5).dump()).workers == 5


class Mixed(Spec):
    given: int
    clip: float | None = 1.0
    rope: dict | None = {"theta": 1e4}
    added: str = later("old")


def test_a_default_null_and_absent_are_three_different_things():
    """What a spec does not write is at its default, which is a value; null is another; a missing key is neither."""
    assert diff(Mixed(given=1), Mixed(given=1, clip=1.0)) == {}
    assert diff(Mixed(given=1), Mixed(given=1, clip=None)) == {"clip": (1.0, None)}
    assert diff(Mixed(given=1), Mixed(given=1, added="new")) == {"added": ("old", "new")}
    assert diff({"a": {"x": None}}, {"a": {}}) == {"a.x": (None, ABSENT)}
    assert diff({"on": 1}, {"on": True}) == {"on": (1, True)}
    looks = [spelt(value) for value in (None, ABSENT, 1.0, "null", str(ABSENT), "1.0", "", True, "true")]
    assert len(set(looks)) == len(looks) and looks[:3] == ["null", "\N{EN DASH}", "1"]


def test_a_mapping_against_null_is_one_difference_and_two_mappings_are_compared_key_by_key():
    found = diff(Mixed(given=1), Mixed(given=1, rope=None))
    assert found == {"rope": ({"theta": 1e4}, None)} and spelt(found["rope"][0]) == "{theta: 10000}"
    assert diff(Mixed(given=1), Mixed(given=1, rope={"theta": 5.0})) == {"rope.theta": (1e4, 5.0)}


def test_values_that_differ_look_different():
    assert spelt(0.1) == "0.1" and spelt(0.1234567) != spelt(0.12345671)
    assert spelt(["3*local", 2, None]) == "[3*local, 2, null]"


def test_only_options_that_somebody_wrote_are_named_beside_another_type():
    changes = diff({"m": {"type": "a", "x": 1, "y": 2, "both": 3}}, {"m": {"type": "b", "z": 0, "w": 9, "both": 4}})
    assert set(changes) == {"m.type", "m.x", "m.y", "m.z", "m.w", "m.both"}
    written = {"m": {"type": "a", "x": 1}}, {"m": {"type": "b", "z": 0}}
    assert unwritten(changes, *written) == ["m.y", "m.w"]
    same_type = diff({"m": {"type": "a", "x": 1}}, {"m": {"type": "a"}})
    assert same_type == {"m.x": (1, ABSENT)} and unwritten(same_type, {}, {}) == []


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


BASE = """
dim: 16
vocab_size: 40
layers: 3
pattern: [a]
blocks:
  a: {mixer: {type: attention, heads: 2, window: 4}, ffn: {type: gated, hidden: 8}}
"""


def test_extends_lays_a_file_over_a_file(tmp_path):
    write(tmp_path, base=BASE, top="extends: base.yaml\nlayers: 5\nblocks: {a: {mixer: {window: null}}}\n")
    base, top = (loaded(str(tmp_path / f"{name}.yaml")) for name in ("base", "top"))
    assert diff(base, top) == {"layers": (3, 5), "blocks.a.mixer.window": (4, None)}


def test_extends_reaches_a_shipped_spec_and_may_stand_inside(tmp_path):
    write(
        tmp_path,
        top="extends: gemma3/1b\nlayers: 2\n",
        inner="extends: base.yaml\ninit: {extends: init.yaml}\n",
        base=BASE,
    )
    write(tmp_path, init="matrix: {type: normal, std: 0.02}\n")
    assert diff(loaded("gemma3/1b"), loaded(str(tmp_path / "top.yaml"))) == {"layers": (26, 2)}
    assert loaded(str(tmp_path / "inner.yaml")).init.matrix.std == 0.02


def test_another_type_drops_the_old_options(tmp_path):
    write(tmp_path, base=BASE, top="extends: base.yaml\nblocks: {a: {mixer: {type: rg_lru, blocks: 2}}}\n")
    mixer = loaded(str(tmp_path / "top.yaml")).blocks["a"].mixer
    assert mixer["type"] == "rg_lru" and mixer["blocks"] == 2 and not {"heads", "window"} & set(mixer)


def test_like_lays_a_block_over_a_sibling():
    blocks = {
        "a": {"mixer": {**ATTENTION, "window": 4}, "ffn": {"type": "gated", "hidden": 8}, "norm": "sandwich"},
        "b": {"like": "a", "mixer": {"window": None}},
        "c": {"like": "b", "mixer": {"type": "rg_lru"}},
        "d": {"like": "c", "ffn": None},
    }
    spec = resolved({"dim": 16, "vocab_size": 40, "layers": 4, "pattern": list(blocks), "blocks": blocks})
    assert spec.blocks["b"].mixer == {**spec.blocks["a"].mixer, "window": None}
    assert spec.blocks["c"].ffn == spec.blocks["a"].ffn and spec.blocks["c"].mixer["type"] == "rg_lru"
    assert spec.blocks["d"].ffn is None and spec.blocks["d"].norm == "sandwich"


def test_a_dotted_override_and_like_see_each_other():
    """An override of a block also changes the blocks that are `like` it, as if it were written in the file."""
    root = document.node(
        {
            "blocks": {"a": {"mixer": ATTENTION}, "b": {"like": "a"}},
            "dim": 8,
            "vocab_size": 9,
            "layers": 2,
            "pattern": ["a", "b"],
        }
    )
    root = document.overridden(root, document.node({"blocks.a.mixer.heads": 4, "layers": 3}))
    spec = registry.resolve(ModelSpec.parse(root), root)
    assert [spec.blocks[name].mixer["heads"] for name in "ab"] == [4, 4] and spec.layers == 3


def test_numbers_of_yaml_1_2(tmp_path):
    write(tmp_path, top="extends: base.yaml\nnorm_eps: 1e-5\nlogit_softcap: 30\n", base=BASE)
    spec = loaded(str(tmp_path / "top.yaml"))
    assert spec.norm_eps == 1e-5 and spec.logit_softcap == 30.0


def test_resolving_fills_every_default_in():
    mixer = model_spec(ATTENTION).blocks["b0"].mixer
    assert mixer["kv_heads"] == 2 and mixer["rope"] == {"theta": 10_000.0, "scale": 1.0, "fraction": 1.0}


@pytest.mark.parametrize(
    "pattern, layers, text",
    [
        (["5*a", "b"], 62, "10 x (5 a, b), 2 a: 52 a, 10 b"),
        (["5*a", "b"], 12, "2 x (5 a, b): 10 a, 2 b"),
        (["a", "b"], 5, "2 x (a, b), a: 3 a, 2 b"),
        (["7*a", "b"], 6, "6 a: 6 a"),
        (["2*a", "b"], 3, "2 a, b: 2 a, 1 b"),
        (["b"], 4, "4 b"),
    ],
)
def test_the_pattern_is_shown_as_realised(pattern, layers, text):
    blocks = {name: {"mixer": ATTENTION} for name in "ab"}
    spec = resolved({"dim": 8, "vocab_size": 9, "layers": layers, "pattern": pattern, "blocks": blocks})
    assert realised(spec) == text


def test_common_random_numbers():
    """Two models that share a parameter (same name and shape) start from the same values, whatever else differs."""
    one = new_model(model_spec(ATTENTION, layers=2), seed=3)
    two = new_model(model_spec({**ATTENTION, "window": 3}, {"type": "rg_lru"}, layers=4), seed=3)
    mine, theirs = dict(one.named_parameters()), dict(two.named_parameters())
    # The initialisation of matrices that write into the residual stream depends on depth, which differs here.
    shared = [n for n in mine.keys() & theirs.keys() if mine[n].shape == theirs[n].shape and ".o." not in n and ".down." not in n]
    assert "blocks.0.mixer.component.q.weight" in shared and "embedding" in shared and len(shared) > 8
    assert all(torch.equal(mine[name], theirs[name]) for name in shared)


def test_first_values_depend_on_the_seed_and_on_nothing_else():
    spec = model_spec(ATTENTION, {"type": "rg_lru"})
    first, other = new_model(spec, 0), new_model(spec, 1)
    torch.manual_seed(123)
    again = new_model(spec, 0)
    initialise(other, 0)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, again.get_parameter(name)) and torch.equal(weight, other.get_parameter(name))
    assert not torch.equal(first.embedding, new_model(spec, 1).embedding)


def test_initialisers_named_in_the_spec():
    init = {"matrix": {"type": "normal", "std": 0.5}, "embedding": {"type": "normal", "std": 2.0}}
    model = new_model(model_spec({"type": "attention", "heads": 32, "head_dim": 16}, layers=8, vocab_size=500, init=init), 0)
    component = model.blocks[0].mixer.component
    assert model.embedding.std().item() == pytest.approx(2.0, rel=0.05)
    assert component.q.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert component.o.weight.std().item() == pytest.approx((2 / 8 / 512) ** 0.5, rel=0.05)


def test_the_schema_offers_every_component_and_requires_no_key():
    schema = json_schema(ModelSpec)
    json.dumps(schema)
    assert "required" not in schema and "required" not in schema["$defs"]["BlockSpec"]
    assert {"extends", "dim", "schema"} <= set(schema["properties"]) and "like" in schema["$defs"]["BlockSpec"]["properties"]
    branches = {branch["title"]: branch for branch in schema["$defs"]["mixer"]["oneOf"]}
    assert set(registry.names("mixer")) < set(branches)
    for name in registry.names("mixer"):
        assert branches[name]["properties"]["type"] == {"const": name}
        assert set(registry.component("mixer", name).Config.model_fields) < set(branches[name]["properties"])

    def references(tree):
        if isinstance(tree, dict):
            yield from [tree["$ref"]] if "$ref" in tree else []
            tree = list(tree.values())
        for child in tree if isinstance(tree, list) else []:
            yield from references(child)

    assert all(ref.removeprefix("#/$defs/") in schema["$defs"] for ref in references(schema))
    assert set(BlockSpec.model_fields) < set(schema["$defs"]["BlockSpec"]["properties"])
