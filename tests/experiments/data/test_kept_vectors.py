"""A teacher's vectors on disk: whoever reads a text gives it the same bits, and nobody reads it again."""

import json
from types import SimpleNamespace

import pytest
import torch
from pair_data import made_up, store
from test_text_teacher import spec_of, teacher  # noqa: F401

from arch.contracts import Reading
from arch.errors import DataError, SpecError
from experiments.data.cache import root
from experiments.data.dataset import prepare
from experiments.distillation import kept_vectors, vector_teacher
from experiments.distillation.kept_vectors import FOLDER, KeptTeacher, Vectors
from experiments.objectives.contrastive import Contrastive
from experiments.plan import plan
from experiments.train import train


@pytest.fixture(params=["tokens", "texts"])
def spec(request, tmp_path, monkeypatch, teacher):  # noqa: F811
    """A student whose teacher reads the student's tokens, or texts with a tokenizer of its own; its vectors are kept."""
    written = spec_of(str(teacher), tmp_path, monkeypatch)
    if request.param == "tokens":
        big = plan({**written, "objective": {"type": "contrastive"}, "train": {"steps": 0}})
        assert train(big, 0, tmp_path / "big").status == "finished"
        written["objective"]["teacher"] = str(tmp_path / "big")
    written["objective"]["cache"] = True
    return written


@pytest.fixture
def read(monkeypatch):
    """The texts that a teacher read for the cache, as (kind, how many)."""
    texts = []
    for reader in (vector_teacher.OfTokens, vector_teacher.OfTexts):
        each = reader.each
        monkeypatch.setattr(
            reader, "each", lambda self, rows, kind, each=each: texts.append((kind, len(rows))) or each(self, rows, kind)
        )
    return texts


def files():
    return sorted((root() / FOLDER).glob("*/*.safetensors"))


def begun(spec, steps=20):
    """(the objective, its dataset) once the cache is filled for so many steps."""
    resolved = plan(spec).spec
    dataset = prepare(resolved.data, resolved.model.vocab_size)
    config = Contrastive.Config.parse({key: value for key, value in spec["objective"].items() if key != "type"})
    objective = Contrastive(config, dataset, {"teacher": spec["objective"]["teacher"]})
    told = []
    objective.begin(Reading(dataset, 0, steps, 8, 16, torch.device("cpu"), lambda *each: told.append(each)))
    assert told[-1][0] == told[-1][1] == len(dataset.numbers("train", steps, 0, 8, 16)) and "pairs" in told[-1][2]
    return objective, dataset


def test_the_bits_of_a_text_depend_on_no_other_text(spec):
    objective, dataset = begun(spec, steps=0)
    reader = objective.teacher.teacher
    batch = dataset.numbered("train", range(40), 16)
    for kind, rows in batch.items():
        whole = reader.each(rows, kind)
        torch.testing.assert_close(whole, reader.vectors(rows, kind), rtol=0, atol=1e-6)
        for numbers in ([3], [39, 3, 17], list(range(30, 8, -1))):
            assert torch.equal(reader.each(rows.part(torch.tensor(numbers)), kind), whole[numbers])


def test_what_is_kept_is_what_the_teacher_gives_and_is_read_once(spec, read):
    objective, dataset = begun(spec)
    every = dataset.numbered("train", range(dataset.rows("train", 16)), 16)
    texts = {(kind, text) for kind, rows in every.items() for text in dataset.written(rows.extra["text"])}
    assert sum(count for _, count in read) == len(texts) and files()
    read.clear()
    batch = dataset.batch("train", 7, 0, 8, 16)
    for kind, rows in batch.items():
        torch.testing.assert_close(
            objective.teacher.vectors(rows, kind), objective.teacher.teacher.vectors(rows, kind), rtol=0, atol=1e-6
        )
    assert not read
    _, _ = begun(spec)
    assert not read, "another run finds them there"
    seen = next(iter(dataset.evaluation("report", 8, 16, 8)))
    first = objective.teacher.vectors(seen["query"], "query")
    assert torch.equal(first, objective.teacher.vectors(seen["query"], "query")) and read == [("query", len(first))]


def test_who_asks_first_changes_nothing(spec, tmp_path, read):
    """Filled by a shorter run, by itself, or interrupted and with an emptied cache: the same bits."""
    spec["train"] |= {"steps": 6, "checkpoint_every": 2}
    whole = train(plan(spec), 0, tmp_path / "whole")
    assert whole.status == "finished", whole.failure
    assert sum(count for _, count in read if count) and 0 < whole.metrics["report/matching"] < 12
    read.clear()
    again = train(plan(spec), 0, tmp_path / "again")
    assert (
        again.metrics == pytest.approx(whole.metrics, rel=0, abs=0) or again.metrics["report/loss"] == whole.metrics["report/loss"]
    )
    assert all(count <= 8 for _, count in read), "only what is evaluated is read again"
    asked = []
    stopped = train(plan(spec), 0, tmp_path / "stopped", stop=lambda: asked.append(1) or len(asked) == 4)
    assert stopped.status == "interrupted"
    for file in files():
        file.unlink()
    short = {**spec, "train": {**spec["train"], "steps": 2}}
    assert train(plan(short), 1, tmp_path / "short").status == "finished"
    resumed = train(plan(spec), 0, tmp_path / "stopped")
    assert resumed.status == "finished", resumed.failure
    assert resumed.metrics["report/loss"] == whole.metrics["report/loss"]


def test_with_a_cache_it_learns_as_without(spec, tmp_path):
    spec["train"]["steps"] = 6
    kept = train(plan(spec), 0, tmp_path / "kept")
    spec["objective"]["cache"] = False
    plain = train(plan(spec), 0, tmp_path / "plain")
    assert kept.identity != plain.identity
    assert kept.metrics["report/loss"] == pytest.approx(plain.metrics["report/loss"], rel=1e-5)


def test_several_hard_negatives_come_later_than_the_first_and_are_read_then(tmp_path, monkeypatch, teacher, read):  # noqa: F811
    spec = spec_of(str(teacher), tmp_path, monkeypatch)
    rows = [row | {"negatives": [f"wrong {i}", f"other {i}"]} for i, row in enumerate(made_up(groups=12, each=2))]
    store(tmp_path / "pairs.jsonl", rows)
    spec["objective"]["cache"] = True
    objective, dataset = begun(spec, steps=8)
    read.clear()
    numbers = torch.arange(8).numpy()
    second = dataset._batch("train", numbers, numbers * 0 + 1, 16)["negative"]
    vectors = objective.teacher.vectors(second, "negative")
    assert read == [("negative", 8)] and torch.equal(vectors, objective.teacher.vectors(second, "negative")) and len(read) == 1


def test_each_teacher_has_vectors_of_its_own(spec, tmp_path):
    objective, _ = begun(spec)
    coarse, _ = begun({**spec, "objective": {**spec["objective"], "precision": "bfloat16"}})
    assert objective.teacher.about.folder != coarse.teacher.about.folder
    about = json.loads((coarse.teacher.about.folder / "about.json").read_text())
    assert about["precision"] == "bfloat16" and len(about["files"]["model.safetensors"]) == 64


def test_it_is_loaded_only_where_a_text_is_missing(spec, monkeypatch):
    begun(spec)
    monkeypatch.setattr(KeptTeacher, "teacher", property(lambda self: pytest.fail("loaded")))
    begun(spec)


def test_its_cost_is_that_of_each_text_once(spec):
    spec["train"] |= {"steps": 100, "accumulate": 1}
    kept = plan(spec).cost["objective"]
    plain = plan({**spec, "objective": {**spec["objective"], "cache": False}}).cost["objective"]
    resolved = plan(spec).spec
    pairs = prepare(resolved.data, resolved.model.vocab_size).rows("train", 16)
    saved = 3 * 16 * (100 * 8 - pairs) * kept["teacher_flops_per_token"]
    assert plain["flops"] - kept["flops"] == pytest.approx(saved) and 2 * pairs < 100 * 8
    assert kept["disk_bytes"] == 3 * pairs * (8 + 4 * 24) and "disk_bytes" not in plain


# Bad input.


def test_a_damaged_file_is_one_line_and_says_what_to_do(spec):
    begun(spec)
    content = bytearray(files()[0].read_bytes())
    content[-1] ^= 1
    files()[0].write_bytes(content)
    with pytest.raises(
        DataError, match=r"\.safetensors: damaged \(its content is not what its name says\); delete it and start again"
    ):
        begun(spec)
    files()[0].unlink()
    begun(spec)
    assert len(Vectors.read(files()[0].parent).place) > 0


def test_a_place_that_cannot_be_written_is_one_line(spec, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_vectors, "write_atomically", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); set ARCHBENCH_CACHE to another folder"):
        begun(spec)
    assert not files()


def test_without_a_teacher_or_without_numbers_there_is_no_cache(spec, monkeypatch):
    with pytest.raises(SpecError, match=r"objective.cache: there is no teacher; expected `teacher`, or none of its options"):
        plan({**spec, "objective": {"type": "contrastive", "cache": True}})
    unnumbered = SimpleNamespace(tokenizer=None)
    config = Contrastive.Config.parse({"teacher": "somewhere", "weights": {"matching": 1.0}, "cache": True})
    given = SimpleNamespace(data=SimpleNamespace(source={"type": "mine:Words"}), model=SimpleNamespace(vector_dim=24))
    with pytest.raises(SpecError, match=r"the source mine:Words has no rows by number, which a cache needs; expected false"):
        vector_teacher.check(config, given, unnumbered, None)
