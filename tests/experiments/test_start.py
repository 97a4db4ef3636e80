"""Runs that start from a checkpoint: which parameters are taken, which are new, and what the record says."""

import copy
import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import arch.checkpoint
from arch import hf
from arch.errors import SpecError
from experiments import checkpoint
from experiments.plan import plan
from experiments.train import train


def changed(data, **dotted):
    data = copy.deepcopy(data)
    for key, value in dotted.items():
        *path, last = key.split("__")
        place = data
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return data


@pytest.fixture
def trained(tiny, tmp_path):
    """The folder of a finished run of the tiny experiment."""
    record = train(plan(tiny), 0, tmp_path / "first")
    assert record.status == "finished", record.failure
    return tmp_path / "first"


def first_weights(planned, seed, folder, monkeypatch):
    """(the model's weights before the first step, the run's record)"""
    seen = {}
    from experiments.module import TrainingModule

    whole = TrainingModule.training_step

    def spy(self, batch, index):
        if not seen:
            seen.update({name: weight.detach().clone() for name, weight in self.model.named_parameters()})
        return whole(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", spy)
    record = train(planned, seed, folder)
    assert record.status == "finished", record.failure
    return seen, record


def test_a_run_starts_from_the_weights_of_another(tiny, trained, tmp_path, monkeypatch):
    start, record = first_weights(plan(changed(tiny, init_from=str(trained))), 5, tmp_path / "second", monkeypatch)
    stored = load_file(trained / "model.safetensors")
    assert start.keys() == stored.keys() and all(torch.equal(start[name], stored[name]) for name in stored)
    sha256 = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert record.notes == [f"started from {trained} ({sha256[:12]}): {len(stored)} of {len(stored)} parameters"]


def test_what_the_checkpoint_lacks_is_new_and_said(tiny, trained, tmp_path, monkeypatch):
    """A replaced mixer, a wider FFN, one more layer and QK-norm each give their own reason; the rest is taken."""
    other = changed(tiny, init_from=str(trained))
    other["model"]["layers"] = 4
    blocks = other["model"]["blocks"]
    blocks["local"]["mixer"]["qk_norm"] = True
    blocks["local"]["ffn"]["hidden"] = 20
    blocks["rec"] = {"like": "local", "mixer": {"type": "attention", "heads": 2, "kv_heads": 1, "window": 3}}
    planned = plan(other)
    start, record = first_weights(planned, 5, tmp_path / "second", monkeypatch)
    new = planned.start.new
    assert new["blocks.1.mixer.component.q_norm.weight"] == "not in the checkpoint"
    assert new["blocks.3.mixer.before.weight"] == "not in the checkpoint"
    assert new["blocks.0.mixer.component.o.weight"] == "part of attention where the checkpoint has rg_lru"
    assert new["blocks.1.ffn.component.up.weight"] == "different shape in the checkpoint"
    stored = load_file(trained / "model.safetensors")
    assert {"embedding", "norm.weight", "blocks.1.mixer.component.q.weight"} <= set(planned.start.taken)
    assert set(planned.start.taken) | set(new) == set(start)
    for name in planned.start.taken:
        assert torch.equal(start[name], stored[name])
    for name in new.keys() & stored.keys():
        assert start[name].shape != stored[name].shape or not torch.equal(start[name], stored[name])
    said = " ".join(record.notes)
    assert "new, not in the checkpoint:" in said and "blocks.{0,1,2,3}.mixer.component.q_norm.weight" in said
    assert "in the checkpoint, but not in the model: blocks.0.mixer.component.conv.bias" in said


def test_identity_is_the_content_and_not_the_path(tiny, trained, tmp_path):
    """The same weights in another folder give the same identity; other weights, or none, give another."""
    here = plan(changed(tiny, init_from=str(trained)))
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("spec.yaml", "model.safetensors"):
        (moved / name).write_bytes((trained / name).read_bytes())
    assert plan(changed(tiny, init_from=str(moved))).identity == here.identity != plan(tiny).identity
    weights = load_file(moved / "model.safetensors")
    weights["norm.weight"] += 1
    save_file(weights, moved / "model.safetensors")
    assert plan(changed(tiny, init_from=str(moved))).identity != here.identity


def test_weights_that_change_after_planning_fail_the_run(tiny, trained, tmp_path):
    planned = plan(changed(tiny, init_from=str(trained)))
    weights = load_file(trained / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, trained / "model.safetensors")
    record = train(planned, 0, tmp_path / "second")
    assert record.status == "failed" and "have changed since the run was planned" in record.failure.message


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda folder: folder / "nowhere", "no checkpoint: expected spec.yaml and model.safetensors"),
        (lambda folder: broken(folder), "missing    norm.weight"),  # noqa: PLW0108  defined below
    ],
)
def test_what_cannot_be_started_from_is_said_at_its_key(make, text, tiny, trained):
    with pytest.raises(SpecError) as caught:
        plan(changed(tiny, init_from=str(make(trained))))
    assert caught.value.path == ("init_from",) and text in str(caught.value)


def test_models_of_other_shapes_have_no_mean(tiny, trained, tmp_path):
    other = train(plan(changed(tiny, model__pool={"type": "mean"}, model__project=[8])), 0, tmp_path / "other")
    assert other.status == "finished", other.failure
    with pytest.raises(SpecError, match=r"first: project.0.weight: not in the checkpoint, but \S+other can give it") as caught:
        plan(changed(tiny, model__pool={"type": "mean"}, model__project=[8], init_from=[str(trained), str(tmp_path / "other")]))
    assert caught.value.path == ("init_from", 0)
    assert plan(changed(tiny, init_from=[str(trained), str(tmp_path / "other")])).start.new == {}


@pytest.mark.parametrize("name", ["modules.json", "config.json"])
def test_a_folder_of_another_library_names_the_command_that_converts_it(tmp_path, name):
    (tmp_path / "2_Dense").mkdir()
    for path in (tmp_path / name, tmp_path / "2_Dense" / "model.safetensors"):
        path.write_text("{}")
    with pytest.raises(ValueError, match=r"no checkpoint: .* another library: `archbench import \S+ OUT` converts it$"):
        arch.checkpoint.open_checkpoint(tmp_path)


def broken(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, folder / "model.safetensors")
    return folder


def test_a_run_is_a_checkpoint_that_loads_writes_and_goes_out(tiny, tmp_path):
    """A small trained Gemma 3 is loaded by `arch` and by `experiments`, and exported for `transformers`."""
    from experiments.parity import peers

    tiny["model"] |= {"pattern": ["local", "global"], "embed_scale": "sqrt_dim"}
    tiny["model"]["blocks"]["local"] |= {"norm": "sandwich"}
    tiny["model"]["blocks"]["local"]["mixer"] |= {"qk_norm": True}
    del tiny["model"]["blocks"]["rec"]
    folder = tmp_path / "run"
    assert train(plan(tiny), 0, folder).status == "finished"
    mine, same = hf.load(folder), checkpoint.load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), same.parameters(), strict=True))
    assert hf.export(folder, tmp_path / "out") == "Gemma3ForCausalLM"
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    library = peers.transformers()
    theirs = library.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    tokens = torch.arange(3, 43).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, mine(tokens), rtol=1e-4, atol=1e-5)


def test_an_imported_model_goes_on_with_its_own_tokenizer(tiny, tmp_path):
    """Fine-tuning from start to end: import a model, then train it with its own spec, weights and tokenizer."""
    from experiments.parity import peers

    peers.peer(peers.CASES["gemma3"]).save_pretrained(tmp_path / "theirs")
    tokenizer = {"type": "character"}
    first = plan(changed(tiny, data__tokenizer=tokenizer))
    from experiments.checkpoint import save_tokenizer
    from experiments.data.corpus import prepare

    save_tokenizer(prepare(first.spec.data, 300).tokenizer, tmp_path / "theirs")
    hf.import_(tmp_path / "theirs", tmp_path / "ours")
    study = {
        **{key: value for key, value in tiny.items() if key != "model"},
        "model": arch.checkpoint.open_checkpoint(tmp_path / "ours")[0].dump(),
        "init_from": str(tmp_path / "ours"),
    }
    study["data"] = {**tiny["data"], "tokenizer": {"type": "file", "path": str(tmp_path / "ours" / "tokenizer.json")}}
    planned = plan(study)
    assert not planned.start.new and planned.data["vocabulary"] == first.data["vocabulary"]
    assert train(planned, 0, tmp_path / "run").status == "finished"
    text = json.loads((tmp_path / "run" / "tokenizer.json").read_text())
    assert text["model"] == json.loads((tmp_path / "ours" / "tokenizer.json").read_text())["model"]


def test_all_parameters_are_taken_though_a_special_token_lies_beyond_the_embedding(tiny, tmp_path):
    """Gemma 3's tokenizer has a soft token for images, one past its embedding, which no text gives."""
    from dataclasses import replace

    from experiments.checkpoint import save_tokenizer
    from experiments.data.corpus import prepare
    from experiments.parity import peers

    tokenizer = prepare(plan(changed(tiny, data__tokenizer={"type": "character"})).spec.data, 300).tokenizer
    size, gemma3 = tokenizer.get_vocab_size(), peers.CASES["gemma3"]
    options = gemma3.options | {"num_hidden_layers": 2, "vocab_size": size}
    peers.peer(replace(gemma3, options=options)).save_pretrained(tmp_path / "theirs")
    tokenizer.add_special_tokens(["<image_soft_token>"])
    assert tokenizer.token_to_id("<image_soft_token>") == size
    save_tokenizer(tokenizer, tmp_path / "theirs")
    hf.import_(tmp_path / "theirs", tmp_path / "ours")
    study = {
        **{key: value for key, value in tiny.items() if key != "model"},
        "model": arch.checkpoint.open_checkpoint(tmp_path / "ours")[0].dump(),
        "init_from": str(tmp_path / "ours"),
        "data": {**tiny["data"], "tokenizer": {"type": "file", "path": str(tmp_path / "ours" / "tokenizer.json")}},
    }
    planned = plan(study)
    assert planned.notes[0].endswith(": 28 of 28 parameters") and not planned.start.new
    assert planned.data["vocabulary"] == size


def test_a_language_model_provides_the_trunk_of_an_encoder(tiny, trained, tmp_path, monkeypatch):
    """What is behind the trunk is new, and drawn from the seed; another pool is not taken for this one."""
    pooled = changed(tiny, init_from=str(trained), model__pool={"type": "attention", "heads": 2}, model__project=[12])
    start, record = first_weights(plan(pooled), 5, tmp_path / "second", monkeypatch)
    stored = load_file(trained / "model.safetensors")
    assert all(torch.equal(start[name], stored[name]) for name in stored)
    behind = ["pool.query", "pool.k.weight", "pool.v.weight", "pool.o.weight", "project.0.weight"]
    assert [name for name in start if name not in stored] == behind
    assert record.notes[1] == f"new, not in the checkpoint: {', '.join(behind)}"
    again = plan(changed(pooled, init_from=str(tmp_path / "second"), model__pool={"type": "mean"}))
    assert "project.0.weight" in again.start.taken and sorted(again.start.unused) == sorted(behind[:4])
    assert {"pool.query", "embedding"} <= {*plan(changed(pooled, init_from=str(tmp_path / "second"))).start.taken}


def test_an_embedding_is_only_taken_by_a_run_with_the_same_tokens(tiny, trained):
    other = changed(tiny, init_from=str(trained), data__tokenizer={"type": "bpe", "vocab_size": 270})
    with pytest.raises(SpecError) as caught:
        plan(other)
    assert caught.value.path == ("init_from",)
    assert "reads other tokens: of its 259 tokens, " in str(caught.value) and "embedding would be taken" in str(caught.value)
    # A vocabulary of another size has an embedding of its own, so nothing is misread.
    anew = plan(changed(other, model__vocab_size=tiny["model"]["vocab_size"] + 1)).start
    assert anew.new["embedding"] == "different shape in the checkpoint" and "norm.weight" in anew.taken
    # What a folder without a tokenizer reads, nobody knows.
    (trained / "tokenizer.json").unlink()
    assert "embedding" in plan(other).start.taken


def test_an_encoder_leaves_its_prompts_and_its_limit_in_its_folder(tiny, tmp_path, monkeypatch):
    from arch.prompts import ends_of, most_tokens, prompts
    from experiments.data.corpus import Corpus

    said = {"query": "q: ", "document": "d: "}
    monkeypatch.setattr(Corpus, "prompts", said, raising=False)
    train(plan(tiny), 0, tmp_path / "plain")
    assert not (tmp_path / "plain" / "prompts.json").exists()
    assert train(plan(changed(tiny, model__pool={"type": "mean"})), 0, tmp_path / "pooled").status == "finished"
    folder = tmp_path / "pooled"
    assert (prompts(folder), most_tokens(folder), ends_of(folder).eos) == (said, tiny["data"]["context"], 2)
