"""Pages with names and numbers as pictures: rows, splits, scores, and what does not go together."""

import base64
import html
import io

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import shown_pictures
from analysis.evaluated import Evaluated
from arch import document, registry
from arch.__main__ import app
from arch.cli import main
from arch.contracts import CAPABILITIES, Given
from arch.document import node
from arch.errors import DataError, SpecError
from arch.images import asked
from arch.images.crops import PanAndScan
from arch.model import new_model
from arch.tokenizer import TextTokens
from experiments import capabilities, checkpoint, measuring
from experiments.data import pages
from experiments.data.dataset import prepare
from experiments.data.picture_rows import ANSWER, BLANK, PLACEHOLDER
from experiments.data.sources.pages import LINE, PageRows, Pages
from experiments.plan import plan, resolve, worth
from experiments.record import EvaluationRecord


def rows(**options):
    return PageRows(Pages.Config(**options))


def test_a_row_depends_on_its_number_alone():
    data = rows()
    batch = data.batch("train", 3, 1, 4, 20)["text"]
    again = data.numbered("train", batch.key_B[1:2].numpy(), 20)["text"]
    assert torch.equal(batch.tokens_BT[1:2], again.tokens_BT)
    assert torch.equal(batch.extra["images"][1:2], again.extra["images"])
    assert set(data.numbers("train", 4, 1, 4, 20)[12:]) == set(batch.key_B.tolist())
    assert not set(data.batch("train", 4, 1, 4, 20)["text"].key_B.tolist()) & set(batch.key_B.tolist())


def test_the_answer_is_the_number_of_the_line_that_is_asked_for():
    data = rows(lines=3, height=36)
    batch = data.numbered("report", range(20), 20)["text"]
    for number, (tokens_T, targets_T) in enumerate(zip(batch.tokens_BT, batch.targets_BT, strict=True)):
        page, line, _ = data.page("report", number)
        assert LINE + line in tokens_T.tolist()
        assert data.spelt(targets_T[targets_T >= 0].tolist()) == page[line].number
        assert set(tokens_T[targets_T >= 0].tolist()) == {ANSWER}  # no place sees a digit of the answer


def test_no_name_and_no_number_is_in_two_splits():
    for part in (0, 1):
        train, select, report = ({line[part] for line in pages.of_split(split)} for split in ("train", "select", "report"))
        assert not (train & select or train & report or select & report)
    assert min(len({line.number for line in rows().known[split]}) for split in ("train", "select", "report")) > 30


def test_every_line_that_is_drawn_fits_into_the_page():
    data = rows(width=128, height=32, lines=1, size=16, names=True)
    for line in data.known["train"]:
        assert all(pages.font(name, 16.0).getlength(f"{line.name} {line.number}") <= 128 for name in pages.FONTS)
    assert 0 < len(data.known["report"]) < len(rows().known["report"])
    # The letters reach neither the right edge nor the lower one: nothing is cut off.
    for number in range(40):
        ink_HW = 255 - np.asarray(rows(size=14, height=36).page("train", number)[2], dtype=int)
        assert not ink_HW[-1].any() and not ink_HW[:, -1].any() and ink_HW.max() > 100


def test_a_trained_tokenizer_reads_a_question_as_the_rows_have_it():
    data = rows(lines=12, height=132)
    row = data.numbered("report", [3], data.needed)["text"].tokens_BT[0].tolist()
    line = data.page("report", 3)[1]
    text = f"<start_of_image>{'<image_soft_token>' * 4}<end_of_image>\n\nline {line + 1} ????"
    assert data.tokenizer.encode(text).ids == row[1:]
    assert data.tokenizer.decode([LINE + 11, ANSWER, 8, 9]) == "line 12?12"


def test_what_is_pictured_does_not_depend_on_how_it_is_shown():
    crops = PanAndScan(min_crop=16)
    wide = {"width": 96, "height": 16, "lines": 1}
    same = [rows(**wide), rows(**wide, image_size=16), rows(**wide, crops=crops), rows(**wide, tokens=1)]
    assert len({data.pictured for data in same}) == 1 and len({data.fingerprint for data in same}) == 4
    assert rows(**wide, digits=2).pictured != same[0].pictured == same[0].summary()["pictured"]
    assert [same[0].page("report", 3)[:2]] == [same[2].page("report", 3)[:2]]


def test_pages_differ_where_their_numbers_do():
    data = rows()
    images = data.numbered("train", range(4), 20)["text"].extra["images"]
    assert images.shape == (4, 1, 3, 48, 48)
    assert images.amax() <= 1 and images.amin() >= -1
    assert all((images[i] - images[0]).abs().max() > 0.5 for i in range(1, 4))


def test_crops_are_further_images_of_the_row():
    data = rows(width=96, height=16, lines=1, image_size=16, crops=PanAndScan(min_crop=16))
    batch = data.numbered("train", [0, 1], data.needed)["text"]
    assert batch.extra["images"].shape[1] == 5
    assert int((batch.tokens_BT[0] == PLACEHOLDER).sum()) == 5 * 4
    assert batch.layout.image_BT.amax(1).tolist() == [4, 4]
    with pytest.raises(DataError, match=f"expected at least {data.needed}"):
        data.numbered("train", [0], data.needed - 1)


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [("123", "123", 1.0), ("12", "123", 2 / 3), ("1", "123", 0.0), ("", "1", 0.0), (" AB ", "ab", 1.0), ("1243", "1234", 0.0)],
)
def test_anls(said, right, score):
    assert pages.anls(said, right) == pytest.approx(score)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("model.vision=null", "the model has no `vision`"),
        ("data.source.image_size=24", "24, but the model's `vision` has 48"),
        ("model.vision.placeholder=9", "9, but 2 in the rows of pages"),
        ("train.compile=on", "expected off"),
        ("data.source.digits=1", "the report split has no line with a number of at most 1 digit"),
        ("data.source.width=12", "no line with a number of at most 3 digits that fits into 12 pixels"),
        ("data.source.size=17", "2 lines of 17 pixels do not fit into a height of 32"),
        ("data.context=16", "16 tokens cannot hold 1 image, a question and an answer"),
    ],
)
def test_what_does_not_go_together_is_refused(change, reason):
    with pytest.raises(SpecError, match=reason):
        plan(document.load("tiny_pages", "experiments", [change]))


@pytest.mark.parametrize("name", [name for name in registry.names("evaluator") if name != "lm_eval"])
def test_an_evaluator_that_knows_no_images_is_refused_when_the_run_is_planned(name):
    able = capabilities.Able(frozenset(CAPABILITIES), {})  # all but for the images it could work
    knows = {"objective", "gradients", "picture_answers", "decode_speed", "state_bytes"}
    told = node({"evaluate": {"report": {"x": {"type": name}}}})
    if name in knows:
        capabilities.check("evaluator", {"type": name}, able, told, ("evaluate", "report", "x"))
    else:
        with pytest.raises(SpecError, match=f"{name} reads texts alone, and the data have images"):
            capabilities.check("evaluator", {"type": name}, able, told, ("evaluate", "report", "x"))


def test_a_plan_names_the_evaluator_that_knows_no_images():
    with pytest.raises(SpecError, match=r"evaluate\.report\.x: activations reads texts alone, and the data have images"):
        resolve(document.load("tiny_pages", "experiments", ["evaluate.report.x={type: activations}"]))
    with pytest.raises(SpecError, match="objective: compress reads texts alone, and the data have images"):
        resolve(document.load("tiny_pages", "experiments", ["objective={type: compress}"]))


def test_blocks_that_read_images_are_never_compiled():
    large = ["train.accelerator=gpu", "model.dim=4096", "model.layers=40", "train.steps=1000000"]
    spec = resolve(document.load("tiny_pages", "experiments", large))
    assert spec.train.compile == "off" and worth(spec)[1] == "blocks that read images are not compiled"


def test_answers_of_texts_are_refused():
    with pytest.raises(SpecError, match="answers needs `images`"):
        resolve(document.load("tiny_gemma3", "experiments", ["evaluate.report.answers={type: picture_answers}"]))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(a folder as a finished run leaves it, its dataset, its model), of untrained weights."""
    spec = resolve(document.load("tiny_pages", "experiments", ["model.vision.layers=1", "model.tie_embeddings=false"]))
    dataset, folder = prepare(spec.data, spec.model.vocab_size), tmp_path_factory.mktemp("shown")
    model = new_model(spec.model, 3)
    with torch.no_grad():
        model.vision.project.weight.mul_(30)  # so that answers differ with the picture
        model.vision.encoder.embed.weight.mul_(100)
    checkpoint.save_weights(model, folder)
    checkpoint.save_tokenizer(dataset.tokenizer, folder, dataset.ends, dataset.answer_token)
    return folder, dataset, model.eval()


def test_generate_answers_as_the_evaluator_reads(shown, tmp_path, monkeypatch, capfd):
    """The command reads each place of an answer without the digits before it, as in training, and ends where the answer does."""
    folder, dataset, model = shown
    said = set()
    for number in range(4):
        rows = dataset.numbered("report", [number], dataset.needed)["text"]
        hidden_BTD, _ = model.trunk(rows.tokens_BT, rows.layout, images=rows.extra["images"])
        ids = model.logits(hidden_BTD)[rows.targets_BT >= 0].argmax(-1).tolist()
        ids = ids[: ids.index(BLANK)] if BLANK in ids else ids
        _, line, picture = dataset.page("report", number)
        picture.save(tmp_path / "page.png")
        arguments = ["--image", tmp_path / "page.png", "--prompt", f"<image>line {line + 1}?", "--temperature", 0]
        monkeypatch.setattr("sys.argv", ["arch", "generate", str(folder), *map(str, arguments), "--tokens", "4"])
        with pytest.raises(SystemExit) as end:
            main(app, "arch")
        said.add(capfd.readouterr().out.removesuffix("\n"))
        assert end.value.code == 0 and dataset.tokenizer.decode(ids) in said
    assert len(said) > 1


def test_crops_stand_where_they_stood_in_training(shown):
    """Right behind the picture: the tokenizer of pages has no words for a frame."""
    folder, _, model = shown
    crops = PanAndScan(min_crop=16)
    data = rows(width=96, height=24, lines=2, image_size=48, tokens=9, crops=crops)
    row = data.numbered("report", [3], data.needed)["text"]
    _, line, picture = data.page("report", 3)
    ids, seen = asked.asked(model, TextTokens(folder), f"<image>line {line + 1}?", [picture], crops)
    assert ids == row.tokens_BT[0, : len(ids)].tolist() and len(ids) == data.needed - data.places + 1
    assert torch.equal(seen.pixels_BI3SS, row.extra["images"]) and seen.pixels_BI3SS.shape[1] == 5
    assert torch.equal(seen.image_BT[0], row.layout.image_BT[0, : len(ids)])


def test_a_question_in_other_words_is_refused_in_one_line(shown, tmp_path, monkeypatch, capfd):
    Image.new("L", (48, 32)).save(tmp_path / "page.png")
    itself = "the prompt has the token 2 itself, which holds the place of a part of an image"
    for prompt, reason in {
        "<image>what is this?": "the tokenizer cannot encode 'what is this?'",
        "<image>\udcff": "not UTF-8",
        "<image><image_soft_token>": itself,
        f"<image>{'<image_soft_token>' * 9}": itself,
        "<image_soft_token>": itself,
    }.items():
        arguments = ["--image", str(tmp_path / "page.png")] if "<image>" in prompt else []
        arguments += ["--prompt", prompt]
        monkeypatch.setattr("sys.argv", ["arch", "generate", str(shown[0]), *arguments])
        with pytest.raises(SystemExit) as end:
            main(app, "arch")
        said = capfd.readouterr().err
        assert end.value.code == 2 and reason in said and said.count("\n") == 1, said


def test_the_report_shows_pictures_with_what_the_model_said(shown, tmp_path):
    _, dataset, model = shown
    evaluator = registry.build("evaluator", {"type": "picture_answers", "rows": 3})
    found = evaluator(model, dataset, Given(None, None, "report", dataset.needed, 8, "cpu", 0, None))
    assert [picture.text for picture in found.pictures] == found.text.split("\n") and len(found.pictures) == 3
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.pictures[0].png))), dtype=float)
    (batch,) = dataset.evaluation("report", 1, dataset.needed, 1)
    pixels_SS3 = batch["text"].extra["images"][0, 0].permute(1, 2, 0)
    assert read.shape == (48, 48, 3) and np.abs(read / 127.5 - 1 - pixels_SS3.numpy()).max() < 0.005
    assert all(len(picture.png) < 8000 for picture in found.pictures)
    record = EvaluationRecord(
        split="report", name="answers", evaluator={}, identity="a", seed=0, values=found.values, pictures=list(found.pictures)
    )
    evaluated = Evaluated("report", "answers", {}, "", {"full": {0: record}, "none": {}})
    page = shown_pictures.section([evaluated], ["full", "none"])
    assert page.count("<img") == 3 and html.escape(found.pictures[0].text) in page and found.pictures[2].png in page
    assert shown_pictures.section([evaluated], ["none"]) == ""


@pytest.mark.parametrize(
    ("source", "takes"), [("pages", False), ("mqar", False), ("python_stdlib", True), ("arithmetic", True), ("x", True)]
)
def test_the_tokenizer_of_a_checkpoint_is_for_data_of_texts(source, takes):
    assert measuring._takes_tokenizer(node({"type": source})) == takes


def test_texts_that_a_checkpoints_tokenizer_has_no_tokens_for_are_refused_in_words(shown, tmp_path):
    (tmp_path / "a.txt").write_text("no digits here\n" * 200)
    section = measuring.named(["objective"], [], "report")
    with pytest.raises(SpecError, match=r"data\.tokenizer: the tokenizer cannot encode these texts \(WordLevel"):
        measuring.of_checkpoint(shown[0], section, None, [str(tmp_path / "a.txt")])
