"""What is exported, releases of `transformers` before 5 compute too, or they stop with an error.

`make test-transformers` installs some releases, each in an environment of its own, and runs this with all of them. The paths
of their Pythons are in ARCHBENCH_TRANSFORMERS, separated by colons.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from exported import EXPRESSED, base, checkpoint_of, recurrent
from packaging.version import Version
from safetensors.torch import save_file
from tiny_specs import resolved

from arch import __main__ as command
from arch import document, hf
from arch.express import differences, express, read_back
from arch.families.recurrent_gemma import BEYOND_WINDOW
from experiments.parity import peers

BOUND = 1e-6
TOKENS = torch.arange(2, 40).view(2, 19) % 37
PYTHONS = [path for path in os.environ.get("ARCHBENCH_TRANSFORMERS", "").split(":") if path]


def wide(spec):
    """The same with a window that is longer than the texts here, because releases up to 5.0 ignore it in one pass."""
    return resolved(document.overridden(document.node(spec.dump()), document.node({"blocks.a.mixer.window": 32})).plain())


EXPORTS = {name: wide(spec) if name.startswith("recurrent") else spec for name, spec in EXPRESSED.items()} | {
    "gemma3, other bases": base(**{"blocks.local.mixer.rope.theta": 5e2, "blocks.global.mixer.rope.theta": 3e4}),
    "gemma3, scaled global positions": base(**{"blocks.global.mixer.rope.scale": 4.0}),
    "gemma3, two local and a global one": base(layers=5, pattern=["2*local", "global"]),
    "gemma3, the global one first": base(layers=3, pattern=["global", "2*local"]),
    "gemma2, another base, scaled": base(
        **{"blocks.local.mixer.qk_norm": False, "blocks.local.mixer.softcap": 5.0, "blocks.global.mixer.rope.theta": 5e2},
        **{"blocks.local.mixer.rope.theta": 5e2, "blocks.local.mixer.rope.scale": 3.0},
    ),
    "recurrent_gemma, another base, a quarter of the channels": wide(recurrent(theta=5e2, fraction=0.25)),
    "recurrent_gemma, another base": wide(recurrent(theta=5e2)),
}


def older(config):
    """An exported config.json without the keys that only release 5 reads."""
    return {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_older_keys_alone_say_the_same(name):
    family, config = express(EXPORTS[name])
    if "positions that are scaled in layers with a window" in config.since():
        assert config.written()["rope_local_base_freq"] is None  # they stop: None is no base of a power
        return
    theirs = resolved(family.Config.parse(json.loads(json.dumps(older(config.written())))).spec())
    assert differences(theirs, EXPORTS[name]) == {}


@pytest.mark.parametrize(
    "name", [name for name in document.shipped("arch") if name.startswith(("gemma", "recurrentgemma/", "emb"))]
)
def test_the_older_keys_can_say_the_papers_models(name):
    spec = resolved(document.load(name, "arch").plain())
    family, config = express(spec)
    # EmbeddingGemma came with 4.56, and RecurrentGemma's window was ignored for a long time.
    assert {*config.since()} == {"attention to later tokens"} if name.startswith("emb") else {*config.since()} <= {BEYOND_WINDOW}
    assert differences(read_back(family.Config.parse(older(config.written())), spec), spec) == {}


def test_an_export_says_the_type_of_its_weights_in_both_spellings(tmp_path):
    checkpoint_of(base(), tmp_path / "ours")
    hf.export(tmp_path / "ours", tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "float32"


@pytest.mark.parametrize(
    "spec, needs",
    [
        (base(), {}),
        (EXPRESSED["gemma3, scaled positions"], {"positions that are scaled in layers with a window": "5.0"}),
        (base(pattern=["global", "local"]), {"an order of layers that is no number of local ones and then a global one": "4.53"}),
        (EXPRESSED["gemma3, sees ahead"], {"attention to later tokens": "4.56"}),
        (recurrent(), {BEYOND_WINDOW: "5.5"}),
    ],
)
def test_an_export_says_which_release_it_needs(spec, needs, tmp_path, capsys):
    checkpoint_of(spec, tmp_path / "ours")
    command.export(tmp_path / "ours", tmp_path / "theirs")
    shown = capsys.readouterr().out.splitlines()
    assert hf.since(tmp_path / "theirs") == needs
    assert shown[1:] == [f"  needs transformers {release}: {what}" for what, release in needs.items()]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder of exports, each with tokens and what the newest release makes of them."""
    folder = tmp_path_factory.mktemp("older")
    (folder / "exports").mkdir()
    for name, spec in EXPORTS.items():
        checkpoint_of(spec, folder / name, noise=0.3)
        architecture = hf.export(folder / name, folder / "exports" / name)
        model = getattr(peers.transformers(), architecture).from_pretrained(folder / "exports" / name, attn_implementation="eager")
        with torch.no_grad():
            result = model.eval()(TOKENS, use_cache=False)[0]
        save_file({"tokens": TOKENS, "result": result.contiguous()}, folder / "exports" / name / "expected.safetensors")
    return folder / "exports"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="`make test-transformers` names other releases of transformers")
@pytest.mark.parametrize("python", PYTHONS)
def test_older_releases_compute_the_same(python, exports):
    """The result differs by at most 1e-6 of the largest logit from the newest release's, where `since` says it does."""
    script = Path(__file__).with_name("older_transformers.py")
    done = subprocess.run([python, str(script), str(exports)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    print(f"\ntransformers {answer['release']}")
    for name, found in answer["found"].items():
        print(f"  {found if isinstance(found, str) else f'{found:.1e}'}  {name}")
    for name, found in answer["found"].items():
        needs = {what: release for what, release in express(EXPORTS[name])[1].since().items() if what != BEYOND_WINDOW}
        if all(Version(answer["release"]) >= Version(release) for release in needs.values()):
            assert isinstance(found, float) and found <= BOUND, (name, found)
