"""Icons with their names: rows, splits, answers, and what does not go together."""

import numpy as np
import pytest
import torch

from arch import document
from arch.errors import DataError, SpecError
from experiments.data.picture_rows import ANSWER, FIRST_PART, PLACEHOLDER
from experiments.data.sources import icons
from experiments.data.sources.icons import IconRows, Icons
from experiments.plan import plan

if icons.importlib.util.find_spec("qtawesome") is None:
    pytest.skip("the extra icons is not installed", allow_module_level=True)


def rows(**options):
    return IconRows(Icons.Config(**options))


@pytest.mark.parametrize("font", icons.FONTS)
def test_every_font_gives_icons_whose_names_are_made_of_known_words(font):
    data = rows(font=font)
    for split, known in data.known.items():
        assert len(known) >= icons.LEAST, split
        assert all(word in data.parts for name in known for word in name.split("-"))
    splits = [{*known} for known in data.known.values()]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]
    taught = {word for name in data.known["train"] for word in name.split("-")}
    asked = [name for name in data.known["report"] if {*name.split("-")} <= taught]
    assert len(asked) > 0.9 * len(data.known["report"])  # what is measured can be put together


def test_a_row_shows_an_icon_and_its_answer_is_the_name():
    data = rows()
    batch = data.numbered("report", range(12), data.needed)["text"]
    assert batch.extra["images"].shape == (12, 1, 3, 48, 48)
    for number in range(12):
        asked = data.asked("report", number)
        targets = batch.targets_BT[number][batch.targets_BT[number] >= 0]
        name = data.spelt(targets.tolist())
        assert name.replace(" ", "-") in data.known["report"] and name == " ".join(data.parts[part] for part in asked.parts)
        assert set(batch.tokens_BT[number][batch.targets_BT[number] >= 0].tolist()) == {ANSWER}
        assert 255 - np.asarray(asked.pictures[0], dtype=int).min() > 150  # something is drawn
    again = data.numbered("report", [5], data.needed)["text"]
    assert torch.equal(batch.tokens_BT[5:6], again.tokens_BT) and torch.equal(batch.extra["images"][5:6], again.extra["images"])


def test_no_icon_is_blank_and_none_is_cut_off():
    data = rows(font="remix")
    for name in [*data.icons][::20]:
        ink_HW = np.asarray(icons.covered(data.file, data.icons[name], 32), dtype=int)
        assert ink_HW.max() > 100, name
        assert np.count_nonzero(ink_HW) > 8, name


def test_its_tokenizer_reads_the_question_and_writes_words():
    data = rows(words=64, longest=2)
    text = f"<start_of_image>{'<image_soft_token>' * 4}<end_of_image>\n\nname ???"
    assert data.tokenizer.encode(text).ids == data.row(0)[1:]
    assert data.row(0).count(PLACEHOLDER) == 4
    assert data.tokenizer.decode([FIRST_PART, FIRST_PART + 1]) == f"{data.parts[0]} {data.parts[1]}"


def test_the_fingerprint_is_of_options_names_and_font():
    assert rows().fingerprint == rows().fingerprint != rows(words=64).fingerprint
    assert rows(font="remix").fingerprint != rows().fingerprint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("data.source.words=1", "split has 0 icons|split has 1 icons|whose names are of at most 4 of these words"),
        ("data.context=24", "24 tokens cannot hold 1 image, a question and an answer; expected at least 25"),
        ("data.source.font=comic", "font: .*material"),
        ("data.source.image_size=16", "16, but the model's `vision` has 32"),
        ("model.vocab_size=100", "264 tokens but model.vocab_size is 100"),
    ],
)
def test_what_does_not_go_together_is_refused(change, reason):
    with pytest.raises(SpecError, match=reason):
        plan(document.load("tiny_icons", "experiments", [change]))


def test_without_the_package_the_extra_is_named(monkeypatch):
    icons.icons.cache_clear()
    monkeypatch.setattr(icons.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"icons need the package qtawesome: pip install -e '\.\[icons\]'"):
        rows(font="phosphor")
    icons.icons.cache_clear()


def test_a_plan_knows_how_many_icons_there_are():
    planned = plan(document.load("tiny_icons", "experiments", ["train.steps=2", "evaluate={every: 2}"]))
    assert planned.data["source"] == "icons" and planned.data["names"]["train"] > 2000
