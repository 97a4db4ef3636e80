"""sentence-transformers itself loads what we export, and its vectors are ours. `make test-embedding` installs it and runs this."""

import os

import pytest
import torch
from sentence_folders import LAYOUTS, edited, folder
from test_sentence_transformers import encoder, template

from arch import checkpoint, hf, prompts
from arch.encoding import load_encoder
from experiments.parity import sentence

if not os.environ.get("ARCHBENCH_NEEDS_EMBEDDING"):
    pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library and what it imports
TEXTS = ["Mars, the red planet", "a", "  spaces at the ends  ", "a <eos> and <pad>", "the quick brown fox " * 12]
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


def vectors(place, prompt=""):
    return torch.from_numpy(load_encoder(place).encode(TEXTS, prompt=prompt))


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
    assert_near(vectors(tmp_path / "ours", model.prompts["query"]), model.encode_query(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_of_a_trained_encoder_gives_our_vectors(name, tmp_path):
    """Also of texts that are longer than the window, or too long, and with names of tokens. A cut vector: the first numbers."""
    place = encoder(tmp_path / "ours", **EXPORTS[name])
    prompts.keep({"query": "find: ", "document": ""}, 100, place)
    hf.export(place, tmp_path / "whole")
    hf.export(place, tmp_path / "cut", truncate_dim=4)
    whole, cut = library(tmp_path / "whole"), library(tmp_path / "cut")
    assert whole.prompts == {"query": "find: ", "document": ""} and whole.max_seq_length == 100
    mine = vectors(place, "find: ")
    assert_near(mine, whole.encode_query(TEXTS, convert_to_tensor=True))
    assert_near(vectors(place), whole.encode_document(TEXTS, convert_to_tensor=True))
    assert_near(mine[:, :4], cut.encode_query(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("begin, end", [([("<bos>", 2)], ()), ([], ("<eos>", 1)), ([], ())], ids=["bos", "eos", "none"])
def test_fewer_tokens_around_a_text_give_its_vectors_too(begin, end, tmp_path):
    source = folder(tmp_path / "theirs")
    edited(source / "tokenizer.json", {"post_processor": template(*begin, end=end)})
    hf.import_(source, tmp_path / "ours")
    hf.export(tmp_path / "ours", tmp_path / "back")
    for place in (source, tmp_path / "back"):
        assert_near(vectors(tmp_path / "ours"), library(place).encode(TEXTS, convert_to_tensor=True))


def test_what_the_library_saves_of_our_export_comes_back(tmp_path):
    """It writes the newer layout, and the window that was in the file."""
    hf.import_(folder(tmp_path / "theirs"), tmp_path / "ours")
    hf.export(tmp_path / "ours", tmp_path / "back")
    library(tmp_path / "back").save(str(tmp_path / "saved"))
    found = hf.import_(tmp_path / "saved", tmp_path / "again")
    assert found.spec == checkpoint.open_checkpoint(tmp_path / "ours")[0] and found.notes == []
    mine, again = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("ours", "again"))
    assert again == mine and prompts.prompts(tmp_path / "again") == prompts.prompts(tmp_path / "ours")
    assert prompts.most_tokens(tmp_path / "again") == 64
