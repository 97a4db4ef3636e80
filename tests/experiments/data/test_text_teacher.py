"""A teacher of vectors with a tokenizer of its own: it reads the texts of a student's rows, as it would alone."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pair_data import made_up, store

from arch import hf, registry
from arch.encoding import load_encoder
from arch.errors import DataError, SpecError
from arch.model import new_model
from arch.tokenizer import read
from experiments import grad_cache
from experiments.data.dataset import prepare
from experiments.data.encoded import text_number
from experiments.distillation import vector_teacher
from experiments.means import Means, prepared
from experiments.objectives.contrastive import Contrastive
from experiments.parity.sentence import FOLDER
from experiments.plan import plan
from experiments.train import train

MIXER = {"type": "attention", "heads": 2, "causal": False}
MODEL = {
    "dim": 16,
    "vocab_size": 512,
    "layers": 1,
    "pattern": ["all"],
    "pool": {"type": "mean"},
    "project": [24],
    "blocks": {"all": {"mixer": MIXER, "ffn": {"type": "gated", "hidden": 24}}},
}


@pytest.fixture
def teacher(tmp_path):
    """An imported encoder of sentence-transformers with vectors of 24 numbers, prompts, and a vocabulary of 77 tokens."""
    hf.import_(FOLDER, tmp_path / "teacher")
    return tmp_path / "teacher"


def spec_of(teacher, tmp_path, monkeypatch):
    """A student of `teacher`, the option of its objective, on made-up pairs with hard negatives."""
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path / "cache"))
    rows = [row | {"negatives": [f"wrong {i}"]} for i, row in enumerate(made_up(groups=40, each=2))]
    source = {"type": "pairs", "files": [store(tmp_path / "pairs.jsonl", rows)], "prompts": {"query": "q: ", "document": "d: "}}
    return {
        "model": MODEL,
        "data": {"source": source, "tokenizer": {"type": "bpe", "vocab_size": 300}, "context": 16, "rows": 8},
        "objective": {"type": "contrastive", "teacher": teacher, "weights": {"matching": 1.0}},
        "optimizer": {"lr": 1e-3},
        "train": {"steps": 3, "accumulate": 2},
        "evaluate": {"every": 3, "select_rows": 8, "report_rows": 8},
    }


@pytest.fixture
def spec(tmp_path, teacher, monkeypatch):
    return spec_of(str(teacher), tmp_path, monkeypatch)


def assert_matched(spec, folders, parts, encode):
    """`matching` is the mean over rows of the sum over kinds of the squared distance from encode(texts, task); nothing trains the
    teacher."""
    resolved = plan(spec).spec
    dataset, model = prepare(resolved.data, resolved.model.vocab_size), new_model(resolved.model, 0)
    objective = Contrastive(registry.config("objective", resolved.objective), dataset, folders)
    means, batch = Means(objective), dataset.numbered("train", range(8), 16)
    with torch.no_grad():
        whole = prepared(objective, model, batch, parts)
    for part in whole.split(parts):
        means.include(objective(model, part))

    text_of, apart = {text_number(text): text for pair in dataset.pairs("train") for text in pair.texts}, 0.0
    for kind, x_BE in grad_cache.vectors(model, batch).items():
        texts = [text_of[number] for number in batch[kind].extra["text"].tolist()]
        theirs = torch.from_numpy(encode(texts, "query" if kind == "query" else "document"))
        apart += (F.normalize(x_BE.detach(), dim=1) - theirs).square().sum(1).mean()
    assert means.values()["matching"] == pytest.approx(float(apart), rel=1e-5)
    assert not any(weight.requires_grad for weight in objective.teacher.model.parameters()) and not list(objective.children())
    assert any(len(text) > 40 for pair in dataset.pairs("train")[:8] for text in pair.texts), "it reads beyond the student's row"


@pytest.mark.parametrize("parts", [1, 2])
def test_it_is_matched_on_the_texts_themselves_with_its_own_prompts(spec, teacher, parts):
    encoder = load_encoder(teacher, device="cpu")
    assert_matched(spec, {"teacher": teacher}, parts, lambda texts, task: encoder.encode(texts, task=task))


def test_a_student_of_other_tokens_learns_from_it(spec, tmp_path):
    record = train(plan(spec), 0, tmp_path / "run")
    assert record.status == "finished", record.failure
    assert 0 < record.metrics["report/matching"] < 8
    assert plan(spec).identity != plan(spec | {"objective": {"type": "contrastive"}}).identity


@pytest.mark.parametrize("name", ["tokenizer.json", "prompts.json"])
def test_how_it_reads_is_part_of_what_a_run_is(spec, teacher, name):
    before = plan(spec).identity
    assert plan(spec).identity == before
    said = json.loads((teacher / name).read_text())
    if name == "prompts.json":
        said["query"] = "another: "
    (teacher / name).write_text(json.dumps(said, indent=3))
    assert plan(spec).identity != before


def test_a_teacher_with_the_students_tokens_reads_its_rows(spec, teacher):
    dataset = SimpleNamespace(tokenizer=read(teacher / "tokenizer.json"))
    config = Contrastive.Config.parse({"teacher": str(teacher), "weights": {"matching": 1.0}})
    assert isinstance(vector_teacher.load(config, teacher, dataset), vector_teacher.OfTokens)
    dataset.tokenizer.add_tokens(["more"])
    assert isinstance(vector_teacher.load(config, teacher, dataset), vector_teacher.OfTexts)


def test_a_damaged_tokenizer_is_one_line_at_the_teachers_key(spec, teacher):
    (teacher / "tokenizer.json").write_text("{")
    with pytest.raises((SpecError, DataError), match=r"teacher/tokenizer.json: cannot be read as a tokenizer") as error:
        plan(spec)
    assert "\n" not in str(error.value)


def test_without_a_tokenizer_it_must_have_the_students_tokens(spec, teacher):
    (teacher / "tokenizer.json").unlink()
    with pytest.raises(SpecError, match=r"the teacher's model has a vocabulary of 77 tokens, this run's model 512"):
        plan(spec)
