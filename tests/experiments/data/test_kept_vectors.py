"""A teacher's vectors on disk: whoever reads a text gives it the same bits, and nobody reads it again."""

import json
import threading
from types import SimpleNamespace

import pytest
import torch
from pair_data import made_up, store
from test_text_teacher import spec_of, teacher  # noqa: F401

from arch.contracts import Reading
from arch.errors import DataError, SpecError
from arch.kernels import products
from arch.layout import TokenLayout
from experiments.data.batch import Rows
from experiments.data.cache import root
from experiments.data.dataset import prepare
from experiments.data.draws import hashed
from experiments.distillation import kept_vectors, vector_teacher
from experiments.distillation.kept_vectors import FOLDER, KeptTeacher, Vectors
from experiments.objectives.contrastive import Contrastive
from experiments.plan import plan
from experiments.train import train

# Most queries and hard negatives are shorter, so that the rows of different batches have different widths.
CONTEXT, KINDS = 40, 3


@pytest.fixture(params=["tokens", "texts"])
def spec(request, tmp_path, monkeypatch, teacher):  # noqa: F811
    """A student whose teacher reads the student's tokens, or texts with a tokenizer of its own; its vectors are kept."""
    written = spec_of(str(teacher), tmp_path, monkeypatch)
    written["data"]["context"] = CONTEXT
    if request.param == "tokens":
        big = plan({**written, "objective": {"type": "contrastive"}, "train": {"steps": 0}})
        assert train(big, 0, tmp_path / "big").status == "finished"
        written["objective"]["teacher"] = str(tmp_path / "big")
    written["objective"]["cache"] = True
    return written


@pytest.fixture
def read(monkeypatch):
    """[(kind, how many texts)], each time that a teacher reads what is to be kept."""
    texts = []
    for reader in (vector_teacher.OfTokens, vector_teacher.OfTexts):
        each = reader.each

        def noted(self, rows, kind, each=each):
            texts.append((kind, len(rows)))
            return each(self, rows, kind)

        monkeypatch.setattr(reader, "each", noted)
    return texts


def files():
    return sorted((root() / FOLDER).glob("*/*.safetensors"))


def made(spec):
    """(the objective, its dataset) before it begins."""
    resolved = plan(spec).spec
    dataset = prepare(resolved.data, resolved.model.vocab_size)
    config = Contrastive.Config.parse({key: value for key, value in spec["objective"].items() if key != "type"})
    return Contrastive(config, dataset, {"teacher": spec["objective"]["teacher"]}), dataset


def begun(spec, steps=20):
    """(the objective, its dataset) once the cache is filled for so many steps."""
    objective, dataset = made(spec)
    told = []
    device = torch.device("cpu")
    objective.begin(Reading(dataset, 0, steps, 8, CONTEXT, device, lambda *each: told.append(each)))
    assert told[-1][0] == told[-1][1] == len(dataset.numbers("train", steps, 0, 8, CONTEXT)) and "pairs" in told[-1][2]
    return objective, dataset


def steps_of(dataset, seeds=(0, 1), steps=12):
    return [dataset.batch("train", step, seed, 8, CONTEXT) for seed in seeds for step in range(steps)]


def bits(spec, order):
    """{(kind, text): its vector} of teachers that read the train split in batches of these sizes, into an empty cache."""
    objective, dataset = made(spec)
    found, first = {}, 0
    for size in order:
        batch = dataset.numbered("train", range(first, first + size), CONTEXT)
        first += size
        for kind, rows in batch.items():
            vectors = objective.teacher.vectors(rows, kind)
            found |= {(kind, text): vector for text, vector in zip(rows.extra["text"].tolist(), vectors, strict=True)}
    return found


def test_the_bits_of_a_text_depend_on_no_other_text(spec):
    """Alone, in pairs or with all others, in rows of other widths."""
    whole = bits(spec, [40])
    for order in ([1] * 40, [3] * 13 + [1], [25, 15]):
        again = bits(spec, order)
        assert again.keys() == whole.keys() and all(torch.equal(again[key], whole[key]) for key in whole)
    objective, dataset = made(spec)
    for kind, rows in dataset.numbered("train", range(40), CONTEXT).items():
        for text, vector in zip(rows.extra["text"].tolist(), objective.teacher.teacher.vectors(rows, kind), strict=True):
            torch.testing.assert_close(whole[kind, text], vector, rtol=0, atol=1e-6)


@pytest.mark.parametrize("around", [products.casting, products.rounded, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_the_run_computes_in_changes_nothing(spec, around):
    whole = bits(spec, [8])
    with around():
        again = bits(spec, [8])
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_weights_of_the_teacher_are_loaded_in_float32_whatever_the_default_type_is(spec):
    whole = bits(spec, [8])
    torch.set_default_dtype(torch.bfloat16)
    try:
        again = bits(spec, [8])
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(again[key].dtype == torch.float32 and torch.equal(again[key], whole[key]) for key in whole)


def test_a_key_is_of_the_tokens_and_not_of_the_padding():
    tokens_BT = torch.tensor([[5, 7, 0, 0], [5, 7, 0, 9], [7, 5, 0, 0]]).numpy()
    inside_BT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool().numpy()
    one, other, turned = hashed(tokens_BT, inside_BT)
    assert len({one, other, turned}) == 3
    assert one == hashed(tokens_BT[:1, :2])[0] == hashed(tokens_BT[:1, :3], inside_BT[:1, :3])[0]
    assert one != hashed(tokens_BT[:1, :3])[0], "a padding token that is a token counts"


def test_a_text_that_is_a_query_and_a_document_is_read_as_both(tmp_path, monkeypatch, teacher):  # noqa: F811
    """Its prompts differ, whether they are the student's or the teacher's own."""
    spec = spec_of(str(teacher), tmp_path, monkeypatch)
    rows = made_up(groups=40, each=1)
    store(tmp_path / "pairs.jsonl", rows + [row | {"query": row["positive"], "positive": row["query"]} for row in rows])
    spec["objective"]["cache"] = True
    found = bits(spec, [40])
    texts = {text for kind, text in found if kind == "query" and ("positive", text) in found}
    assert len(texts) > 8 and not any(torch.equal(found["query", text], found["positive", text]) for text in texts)


def test_rows_padded_on_the_left_are_the_same_texts(spec):
    objective, dataset = made(spec)
    keys, reader = objective.teacher.keys, objective.teacher.teacher
    rows = dataset.numbered("train", range(8), CONTEXT)["query"]
    shift_B = rows.tokens_BT.shape[1] - rows.layout.seen_BT.sum(1)
    assert len(set(shift_B.tolist())) > 1
    index_BT = (torch.arange(rows.tokens_BT.shape[1]) - shift_B[:, None]) % rows.tokens_BT.shape[1]
    layout = TokenLayout(rows.layout.doc_BT.gather(1, index_BT), rows.layout.pos_BT.gather(1, index_BT))
    left = Rows(rows.tokens_BT.gather(1, index_BT), layout, extra=rows.extra)
    assert (keys(left, "query") == keys(rows, "query")).all()
    assert torch.equal(reader.each(left, "query"), reader.each(rows, "query"))


def test_an_evaluation_finds_what_a_run_has_kept(spec, read):
    begun(spec)
    read.clear()
    objective, dataset = made(spec)
    for kind, rows in dataset.numbered("train", range(8), CONTEXT).items():
        objective.teacher.vectors(rows, kind)
    assert not read


def test_what_is_kept_is_read_once_and_by_no_step(spec, read):
    objective, dataset = begun(spec)
    batches = steps_of(dataset)
    assert len({batch["query"].tokens_BT.shape[1] for batch in batches}) > 2, "rows of different widths"
    every = dataset.numbered("train", range(dataset.rows("train", CONTEXT)), CONTEXT)
    texts = {(kind, text) for kind, rows in every.items() for text in rows.extra["text"].tolist()}
    assert sum(count for _, count in read) == len(texts) and files()
    read.clear()
    again, _ = begun(spec)
    for batch in batches:
        for kind, rows in batch.items():
            found = objective.teacher.vectors(rows, kind)
            assert torch.equal(again.teacher.vectors(rows, kind), found)
            torch.testing.assert_close(found, objective.teacher.teacher.vectors(rows, kind), rtol=0, atol=1e-6)
    assert not read, "another run finds them there, and so does every step"
    seen = next(iter(dataset.evaluation("report", 8, CONTEXT, 8)))
    first = objective.teacher.vectors(seen["query"], "query")
    assert torch.equal(first, objective.teacher.vectors(seen["query"], "query")) and read == [("query", len(first))]


def test_who_asks_first_changes_nothing(spec, tmp_path):
    """Filled by the run itself, by an earlier one, or anew where it was interrupted: the same bits."""
    spec["train"] |= {"steps": 6, "checkpoint_every": 2}
    whole = train(plan(spec), 0, tmp_path / "whole")
    assert whole.status == "finished", whole.failure
    assert 0 < whole.metrics["report/matching"] < 12
    again = train(plan(spec), 0, tmp_path / "again")
    assert again.metrics["report/loss"] == whole.metrics["report/loss"]
    stopped = train(plan(spec), 0, tmp_path / "stopped", stop=after(3))
    assert stopped.status == "interrupted" and 0 < stopped.steps < 6
    for file in files():
        file.unlink()
    short = {**spec, "train": {**spec["train"], "steps": 2}}
    assert train(plan(short), 1, tmp_path / "short").status == "finished"
    resumed = train(plan(spec), 0, tmp_path / "stopped")
    assert resumed.status == "finished", resumed.failure
    assert resumed.metrics["report/loss"] == whole.metrics["report/loss"]


def after(steps):
    """A `stop` that says so after so many steps; it is asked while the cache is filled, too."""
    asked = []
    return lambda: asked.append(1) or len(asked) == 2 + steps


def test_with_a_cache_it_learns_as_without(spec, tmp_path):
    spec["train"]["steps"] = 6
    kept = train(plan(spec), 0, tmp_path / "kept")
    spec["objective"]["cache"] = False
    plain = train(plan(spec), 0, tmp_path / "plain")
    assert kept.identity != plain.identity
    assert kept.metrics["report/loss"] == pytest.approx(plain.metrics["report/loss"], rel=1e-5)


def test_two_processes_fill_one_after_the_other(spec, read, monkeypatch):
    """The second waits, says so, and finds what the first wrote."""
    first, _ = made(spec)
    inside, go_on, told = threading.Event(), threading.Event(), []
    write = Vectors.write
    monkeypatch.setattr(Vectors, "write", lambda *each: inside.set() or (go_on.wait(20) and write(*each)))
    objective, dataset = made(spec)

    def reading(progress):
        return Reading(dataset, 0, 20, 8, CONTEXT, torch.device("cpu"), progress)

    def waits(done, total, counted):
        told.append(counted)
        if "waiting" in counted:
            go_on.set()

    filling = threading.Thread(target=lambda: first.begin(reading(lambda *_: None)))
    filling.start()
    assert inside.wait(20)
    objective.begin(reading(waits))
    filling.join()
    assert any("waiting for another process" in each for each in told)
    assert len(read) == KINDS, "each kind once"


def test_several_hard_negatives_come_later_than_the_first_and_are_read_then(tmp_path, monkeypatch, teacher, read):  # noqa: F811
    spec = spec_of(str(teacher), tmp_path, monkeypatch)
    rows = [row | {"negatives": [f"wrong {i}", f"other {i}"]} for i, row in enumerate(made_up(groups=12, each=2))]
    store(tmp_path / "pairs.jsonl", rows)
    spec["objective"]["cache"] = True
    objective, dataset = begun(spec, steps=8)
    read.clear()
    numbers = torch.arange(8).numpy()
    second = dataset._batch("train", numbers, numbers * 0 + 1, CONTEXT)["negative"]
    vectors = objective.teacher.vectors(second, "negative")
    assert read == [("negative", 8)] and torch.equal(vectors, objective.teacher.vectors(second, "negative")) and len(read) == 1


def test_each_teacher_has_vectors_of_its_own(spec):
    begun(spec)
    begun({**spec, "objective": {**spec["objective"], "precision": "bfloat16"}})
    abouts = [json.loads(path.read_text()) for path in (root() / FOLDER).glob("*/about.json")]
    assert sorted(about["precision"] for about in abouts) == ["bfloat16", "float32"]
    assert all(len(about["files"]["model.safetensors"]) == 64 and about["device"] == "cpu" for about in abouts)
    assert all(about["threads"] == torch.get_num_threads() and about["versions"]["torch"] == torch.__version__ for about in abouts)


def test_it_is_loaded_only_where_a_text_is_missing(spec, monkeypatch):
    begun(spec)
    monkeypatch.setattr(KeptTeacher, "teacher", property(lambda self: pytest.fail("loaded")))
    objective, dataset = begun(spec)
    for kind, rows in steps_of(dataset)[0].items():
        objective.teacher.vectors(rows, kind)


def test_what_a_killed_process_left_is_removed(spec):
    objective, _ = made(spec)
    folder = objective.teacher.about("cpu").folder
    folder.mkdir(parents=True)
    (folder / ".half.safetensors.123").write_bytes(b"half")
    begun(spec)
    assert not list(folder.glob(".*"))


def test_its_cost_is_that_of_each_text_once(spec):
    spec["train"] |= {"steps": 100, "accumulate": 1}
    kept = plan(spec).cost["objective"]
    plain = plan({**spec, "objective": {**spec["objective"], "cache": False}}).cost["objective"]
    resolved = plan(spec).spec
    pairs = prepare(resolved.data, resolved.model.vocab_size).rows("train", CONTEXT)
    saved = KINDS * CONTEXT * (100 * 8 - pairs) * kept["teacher_flops_per_token"]
    assert plain["flops"] - kept["flops"] == pytest.approx(saved) and 2 * pairs < 100 * 8
    assert kept["disk_bytes"] == KINDS * pairs * (8 + 4 * 24) and "disk_bytes" not in plain


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
    assert files()


def test_a_place_that_cannot_be_written_is_one_line(spec, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_vectors, "write_atomically", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); set ARCHBENCH_CACHE to another folder"):
        begun(spec)
    assert not files()


def test_without_a_teacher_or_without_numbers_there_is_no_cache(spec):
    with pytest.raises(SpecError, match=r"objective.cache: there is no teacher; expected `teacher`, or none of its options"):
        plan({**spec, "objective": {"type": "contrastive", "cache": True}})
    unnumbered = SimpleNamespace(tokenizer=None)
    config = Contrastive.Config.parse({"teacher": "somewhere", "weights": {"matching": 1.0}, "cache": True})
    given = SimpleNamespace(data=SimpleNamespace(source={"type": "mine:Words"}), model=SimpleNamespace(vector_dim=24))
    with pytest.raises(SpecError, match=r"the source mine:Words has no rows by number, which a cache needs; expected false"):
        vector_teacher.check(config, given, unnumbered, None)
