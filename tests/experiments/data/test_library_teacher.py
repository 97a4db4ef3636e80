"""A teacher that the library sentence-transformers reads. `make test-embedding` installs it and runs all of this file."""

import json
import os
import sys

import pytest
import torch
from test_text_teacher import MODEL, assert_matched, spec_of

from arch import hf
from arch.errors import DataError, SpecError
from experiments.distillation import library_teacher, vector_teacher
from experiments.distillation.library_teacher import Library, OfLibrary
from experiments.parity.sentence import FOLDER
from experiments.plan import plan
from experiments.spec import TrainSpec
from experiments.train import train

WIDTH, LIMIT = 24, 32
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library and what it imports


@pytest.fixture
def library():
    """The library itself; a test that takes it is left out where it is not installed, unless that is an error."""
    if not os.environ.get("ARCHBENCH_NEEDS_EMBEDDING"):
        pytest.importorskip("sentence_transformers")
    import sentence_transformers

    return sentence_transformers


@pytest.fixture
def bert(tmp_path, library):
    """A folder of an encoder that none of our models is: a BERT with tokens of letters, a mean, and norms of 1."""
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(c) for c in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *"0123456789.,:"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokens), max_position_embeddings=64, **shape)).save_pretrained(tmp_path / "trunk")
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "trunk")
    modules = [Transformer(str(tmp_path / "trunk"), max_seq_length=LIMIT), Pooling(WIDTH, "mean"), Normalize()]
    prompts = {"query": "find: ", "document": "text: "}
    library.SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(tmp_path / "bert"))
    return tmp_path / "bert"


@pytest.fixture
def spec(bert, tmp_path, monkeypatch):
    return spec_of({"sentence_transformers": str(bert)}, tmp_path, monkeypatch)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_student_is_matched_to_what_the_library_gives_of_each_text(spec, bert, library, parts):
    theirs = library.SentenceTransformer(str(bert), device="cpu")
    assert_matched(spec, None, parts, lambda texts, task: theirs.encode(texts, prompt_name=task))


def test_of_a_folder_that_we_can_import_both_ways_give_the_same_vectors(tmp_path, library):
    hf.import_(FOLDER, tmp_path / "ours")
    texts = ["Mars, the red planet", "a", "the quick brown fox " * 12]
    dataset = type("Texts", (), {"tokenizer": None, "written": lambda self, numbers: [texts[n] for n in numbers.tolist()]})()
    encoder = vector_teacher.load_encoder(tmp_path / "ours", device="cpu")
    rows = type("Rows", (), {"tokens_BT": torch.zeros(3, 1), "extra": {"text": torch.arange(3)}})()
    for kind in ("query", "positive"):
        mine = vector_teacher.OfTexts(encoder, dataset).vectors(rows, kind)
        theirs = OfLibrary(Library(sentence_transformers=str(FOLDER)), "float32", dataset).vectors(rows, kind)
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-6)


def test_a_run_learns_from_it_and_goes_on_after_an_interruption_with_the_same_bits(spec, tmp_path):
    spec["train"] |= {"steps": 4, "checkpoint_every": 2}
    whole = train(plan(spec), 0, tmp_path / "whole")
    assert whole.status == "finished", whole.failure
    assert 0 < whole.metrics["report/matching"] < 12
    asked = []
    stopped = train(plan(spec), 0, tmp_path / "stopped", stop=lambda: asked.append(1) or len(asked) == 2)
    assert (stopped.status, stopped.steps) == ("interrupted", 2)
    again = train(plan(spec), 0, tmp_path / "stopped")
    assert again.status == "finished", again.failure
    assert again.metrics["report/loss"] == whole.metrics["report/loss"]


def test_with_its_vectors_kept_a_run_learns_the_same(spec, tmp_path):
    plain = train(plan(spec), 0, tmp_path / "plain")
    spec["objective"]["cache"] = True
    kept = train(plan(spec), 0, tmp_path / "kept")
    assert kept.status == "finished", kept.failure
    assert kept.metrics["report/loss"] == pytest.approx(plain.metrics["report/loss"], rel=1e-5)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "config_sentence_transformers.json", "1_Pooling/config.json", "model.safetensors"]
)
def test_every_file_that_decides_its_vectors_is_part_of_what_a_run_is(spec, bert, name):
    before = plan(spec).identity
    assert plan(spec).identity == before
    (bert / "README.md").write_text("another word")
    assert plan(spec).identity == before
    path = bert / name
    if name.endswith(".json"):
        path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    else:
        path.write_bytes(bytes(path.read_bytes()[:-1]) + b"\x01")
    assert plan(spec).identity != before


def test_its_cost_is_counted_and_timed(bert):
    library = Library(sentence_transformers=str(bert))
    short, long = (library.cost("float32", tokens, TrainSpec(steps=1)) for tokens in (8, 16))
    maps = 2 * (4 * WIDTH * WIDTH + 2 * WIDTH * 32)  # of two layers; each number is multiplied and added
    assert short.flops_per_token > 2 * maps and short.seconds_per_token > 0
    more = 2 * 4 * WIDTH * 8  # two layers, two products of attention, 8 tokens more to look at
    assert long.flops_per_token - short.flops_per_token == pytest.approx(more, rel=0.3)
    assert library.cost("float32", 8, TrainSpec(steps=1, accelerator="gpu")).seconds_per_token is None


def test_a_width_that_does_not_fit_is_refused_with_the_ways(spec):
    with pytest.raises(
        SpecError, match=rf"its vectors have {WIDTH} numbers, the model's 16; expected `model.project` that ends in {WIDTH}"
    ):
        plan(spec | {"model": MODEL | {"project": []}})


def test_what_the_library_cannot_read_is_one_line_at_its_key(spec, bert):
    (bert / "config.json").write_text("{}")
    with pytest.raises((SpecError, DataError), match=r"objective.teacher.*sentence-transformers cannot read it") as error:
        plan(spec)
    assert "\n" not in str(error.value)


def test_where_it_cannot_be_imported_the_way_to_use_it_is_said(bert, tmp_path):
    said = rf"model_type 'bert'.*It can teach as it is: `teacher: {{sentence_transformers: {bert}}}`"
    with pytest.raises(DataError, match=said):
        hf.import_(bert, tmp_path / "out")


def test_loading_it_uses_up_no_random_number(bert):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    library_teacher.load(bert)
    assert torch.rand(1) == wanted


# What needs no library.


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "no modules.json; expected a folder of sentence-transformers"),
        ("{", "modules.json: not valid JSON"),
        ("{}", "modules.json: expected a list of modules"),
        ('[{"path": 1}]', "modules.json: expected a list of modules, each with a `path` and a `type`"),
        ("[]", "modules.json: expected a list of modules"),
    ],
)
def test_a_folder_that_is_none_is_refused(content, said, tmp_path, monkeypatch):
    if content:
        (tmp_path / "modules.json").write_text(content)
    with pytest.raises(SpecError, match=rf"objective.teacher.sentence_transformers: .*{said}"):
        plan(spec_of({"sentence_transformers": str(tmp_path)}, tmp_path, monkeypatch))


def test_without_the_library_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SpecError, match=r"needs the package sentence-transformers: pip install -e '.\[embedding\]'"):
        plan(spec_of({"sentence_transformers": str(FOLDER)}, tmp_path, monkeypatch))


def test_it_is_either_a_run_or_a_librarys(tmp_path, monkeypatch):
    spec = spec_of({"sentence_transformers": str(tmp_path), "run": "big"}, tmp_path, monkeypatch)
    with pytest.raises(SpecError, match=r"objective.teacher.run: unknown key; known: sentence_transformers"):
        plan(spec)
