"""Folders of Gemma 3 with its vision tower: parity with recorded numbers, four layouts of names, out and in again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from arch import checkpoint, hf, multimodal
from arch.errors import DataError, SpecError
from arch.images.places import numbered
from arch.layout import TokenLayout
from experiments.parity import peers, vision
from experiments.parity.vision import FOLDER


def test_equals_the_recorded_outputs():
    rows = vision.compare()
    assert {row.what for row in rows} == {"hidden states", "masks", "logits"}
    for row in rows:
        assert row.agrees, f"{row.what}: {row.error:.1e}"


def respanned(rule):
    def alter(model):
        model.vision.config = model.vision.config.model_copy(update={"spans": rule})

    return alter


def other_norm(model):
    model.vision.norm.weight.data += 0.1


@pytest.mark.parametrize("alter", [respanned("two_sided"), respanned("causal"), other_norm], ids=["two_sided", "causal", "norm"])
def test_without_this_fact_it_differs(alter):
    assert not all(row.agrees for row in vision.compare(alter))


LAYOUTS = {
    "saved by release 5": lambda name: name,
    "released in 2025": lambda name: name.replace("vision_tower.", "vision_tower.vision_model."),
    "one level up": lambda name: "model." + name.replace("language_model.model.", "language_model."),
    "one level up, with vision_model": lambda name: (
        "model." + name.replace("language_model.model.", "language_model.").replace("vision_tower.", "vision_tower.vision_model.")
    ),
}


def renamed(folder, change, config=lambda said: said):
    folder.mkdir()
    held = load_file(FOLDER / "model.safetensors")
    save_file({change(name): tensor for name, tensor in held.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(json.loads((FOLDER / "config.json").read_text()))))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_four_layouts_of_names_are_one_model(layout, tmp_path):
    folder = renamed(tmp_path / "a", LAYOUTS[layout])
    found = hf.find(folder)
    assert not found.ignored
    for (name, mine), (_, same) in zip(hf.load(folder).named_parameters(), hf.load(FOLDER).named_parameters(), strict=True):
        assert torch.equal(mine, same), name


def test_a_pooling_head_is_left_out_and_a_missing_tower_is_named(tmp_path):
    folder = renamed(tmp_path / "a", LAYOUTS["released in 2025"])
    held = load_file(folder / "model.safetensors")
    head = {"vision_tower.vision_model.head.probe": torch.ones(1, 1, 16)}
    save_file(held | head, folder / "model.safetensors")
    assert hf.find(folder).ignored == [*head]
    save_file({name: tensor for name, tensor in held.items() if "vision_tower" not in name}, folder / "model.safetensors")
    with pytest.raises(DataError, match="no vision tower"):
        hf.find(folder)
    text = hf.find(FOLDER).spec.model_copy(update={"vision": None})
    assert hf.find(folder, text).spec.vision is None


def test_sizes_that_do_not_divide_are_refused_with_the_line(tmp_path):
    folder = renamed(tmp_path / "a", lambda name: name, lambda said: said | {"mm_tokens_per_image": 16})
    with pytest.raises(SpecError, match="6 patches a side are not a multiple of the 4 tokens a side"):
        hf.find(folder)


def imported(tmp_path):
    hf.import_(FOLDER, tmp_path / "ours")
    return tmp_path / "ours"


@torch.no_grad()
def test_out_and_in_again_is_the_same_model(tmp_path):
    hf.export(imported(tmp_path), tmp_path / "theirs")
    mine, again = hf.load(tmp_path / "ours"), hf.load(tmp_path / "theirs")
    assert again.spec == mine.spec
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), again.parameters(), strict=True))
    assert hf.since(tmp_path / "theirs")["images"] == "4.50"


@torch.no_grad()
def test_transformers_loads_what_is_exported(tmp_path):
    library = peers.transformers()
    assert hf.export(imported(tmp_path), tmp_path / "theirs") == "Gemma3ForConditionalGeneration"
    model, said = library.Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    wanted = vision.expected()
    given = {name: wanted[name] for name in ("input_ids", "pixel_values", "token_type_ids")}
    torch.testing.assert_close(model.eval()(**given).logits, wanted["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"spans": "two_sided"}, "vision.spans: two_sided"), ({"spans": "causal"}, "causal"), ({"start": None}, "expected `start`")],
)
def test_what_transformers_does_not_compute_is_not_exported(changes, reason, tmp_path):
    folder = imported(tmp_path)
    spec, _ = checkpoint.open_checkpoint(folder)
    other = spec.model_copy(update={"vision": spec.vision | changes})
    shutil.rmtree(folder)
    folder.mkdir()
    checkpoint.write(other, hf.find(FOLDER).tensors, folder)
    with pytest.raises(DataError, match=reason):
        hf.export(folder, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_images_without_a_token_between_are_two():
    tokens_BT = torch.tensor([[5, 9, 9, 9, 9, 5, 9, 9]])
    assert numbered(tokens_BT, 9, 2).tolist() == [[-1, 0, 0, 1, 1, -1, 2, 2]]
    layout = TokenLayout.whole(1, 8).with_images(numbered(tokens_BT, 9, 2))
    assert layout.interval(None, 0)[1].tolist() == [[0, 2, 2, 4, 4, 5, 7, 7]]
    with pytest.raises(DataError, match="no whole number of images of 3"):
        numbered(tokens_BT, 9, 3)


def test_the_config_reads_back():
    spec = hf.find(FOLDER).spec
    assert multimodal.written(spec)["vision_config"]["vision_use_head"] is False
    assert spec.vision["placeholder"] == 60
