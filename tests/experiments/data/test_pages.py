"""Pages with names and numbers as pictures: rows, splits, scores, and what does not go together."""

import pytest
import torch

from arch import document
from arch.errors import DataError, SpecError
from arch.images.crops import PanAndScan
from experiments.data import pages
from experiments.data.sources.pages import ANSWER, LINE, PLACEHOLDER, PageRows, Pages
from experiments.plan import resolve


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
    data = rows(lines=3)
    batch = data.numbered("report", range(20), 20)["text"]
    for number, (tokens_T, targets_T) in enumerate(zip(batch.tokens_BT, batch.targets_BT, strict=True)):
        page, asked, _ = data.page("report", number)
        assert LINE + asked in tokens_T.tolist()
        assert data.spelt(targets_T[targets_T >= 0].tolist()) == page[asked].number
        assert set(tokens_T[targets_T >= 0].tolist()) == {ANSWER}  # no place sees a digit of the answer


def test_no_name_is_in_two_splits():
    names = [{line.name for line in pages.of_split(split)} for split in ("train", "select", "report")]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    assert len(names[0]) > 200 and min(map(len, names)) > 5


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
    ],
)
def test_what_does_not_go_together_is_refused(change, reason):
    with pytest.raises(SpecError, match=reason):
        resolve(document.load("tiny_pages", "experiments", [change]))


def test_answers_of_texts_are_refused():
    with pytest.raises(SpecError, match="answers needs `images`"):
        resolve(document.load("tiny_gemma3", "experiments", ["evaluate.report.answers={type: picture_answers}"]))
