"""sentence-transformers itself loads what we export, and its vectors are ours. `make test-embedding` installs it and runs this."""

import os

import pytest
import torch
from sentence_folders import LAYOUTS, folder
from test_sentence_transformers import encoder

from arch import checkpoint, hf, tokenizer
from arch.layout import TokenLayout
from arch.sentence import texts
from experiments.parity import sentence

if not os.environ.get("ARCHBENCH_NEEDS_EMBEDDING"):
    pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library and what it imports
TEXTS = ["Mars, the red planet", "a", "", "  spaces at the ends  ", "the quick brown fox " * 12]
EXPORTS = {
    "mean": {},
    "first": {"pool": {"type": "first"}},
    "last": {"pool": {"type": "last"}},
    "no maps": {"project": []},
    "causal": {"blocks.local.mixer.causal": True, "blocks.local.mixer.window": 4, "pool": {"type": "last"}},
    "scaled positions": {"blocks.global.mixer.rope.scale": 4.0},
}


def library(place):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(place), device="cpu", model_kwargs={"attn_implementation": "eager"})


@torch.no_grad()
def vectors(place, strings, prompt=""):
    """Ours, a text at a time."""
    model, trained = checkpoint.load(place), tokenizer.read(place / "tokenizer.json")
    before, after = texts.ends(place)
    most = (texts.most_tokens(place) or 10**6) - len(before) - len(after)
    rows = []
    for text in strings:
        ids_1T = torch.tensor([[*before, *trained.encode(prompt + text, add_special_tokens=False).ids[:most], *after]])
        rows.append(model.encode(ids_1T, TokenLayout.right_padded(torch.tensor([ids_1T.shape[1]]), ids_1T.shape[1])))
    return torch.cat(rows)


def assert_near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_the_recorded_vectors_are_those_of_the_library_and_of_our_export(tmp_path):
    strings, wanted = sentence.expected()
    hf.import_(folder(tmp_path / "theirs"), tmp_path / "ours")
    hf.export(tmp_path / "ours", tmp_path / "back")
    for place in (tmp_path / "theirs", tmp_path / "back"):
        model = library(place)
        assert model.max_seq_length == 64
        for kind, encode in (("query", model.encode_query), ("document", model.encode_document), ("no_prompt", model.encode)):
            assert_near(encode(strings, convert_to_tensor=True), wanted[kind])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_library_reads_every_layout_as_we_do(layout, tmp_path):
    """Otherwise the layouts of these tests would not be the library's."""
    LAYOUTS[layout](folder(tmp_path / "theirs"))
    hf.import_(tmp_path / "theirs", tmp_path / "ours")
    model = library(tmp_path / "theirs")
    assert model.max_seq_length == 64
    assert_near(vectors(tmp_path / "ours", TEXTS, model.prompts["query"]), model.encode_query(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_of_a_trained_encoder_gives_our_vectors(name, tmp_path):
    """Also of texts that are longer than the window and of an empty one; cut vectors are the first numbers of whole ones."""
    place = encoder(tmp_path / "ours", **EXPORTS[name])
    texts.keep({"query": "find: ", "document": ""}, 100, place)
    hf.export(place, tmp_path / "whole")
    hf.export(place, tmp_path / "cut", truncate_dim=4)
    whole, cut = library(tmp_path / "whole"), library(tmp_path / "cut")
    assert whole.prompts == {"query": "find: ", "document": ""} and whole.max_seq_length == 100
    mine = vectors(place, TEXTS, "find: ")
    assert_near(mine, whole.encode_query(TEXTS, convert_to_tensor=True))
    assert_near(vectors(place, TEXTS), whole.encode_document(TEXTS, convert_to_tensor=True))
    assert_near(mine[:, :4], cut.encode_query(TEXTS, convert_to_tensor=True))


def test_what_the_library_saves_of_our_export_comes_back(tmp_path):
    """It writes the newer layout, and the window that was in the file."""
    hf.import_(folder(tmp_path / "theirs"), tmp_path / "ours")
    hf.export(tmp_path / "ours", tmp_path / "back")
    library(tmp_path / "back").save(str(tmp_path / "saved"))
    found = hf.import_(tmp_path / "saved", tmp_path / "again")
    assert found.spec == checkpoint.open_checkpoint(tmp_path / "ours")[0] and found.notes == []
    mine, again = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("ours", "again"))
    assert again == mine and texts.prompts(tmp_path / "again") == texts.prompts(tmp_path / "ours")
    assert texts.most_tokens(tmp_path / "again") == 64
