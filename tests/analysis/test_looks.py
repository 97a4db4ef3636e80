"""What a page says and shows: sentences on what was run, letters of every script, control characters, curves with one point."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from analysis import drawing, glyphs, live, plots, ran, style, tables
from analysis.claims import judge
from analysis.report import write_report
from analysis.runs import load
from arch.words import visible
from experiments.record import HISTORY_NAME, RunRecord
from sweeps.record import StudyRecord

SPEC = {
    "model": {"dim": 64, "layers": 12},
    "data": {"context": 256, "rows": 4, "tokenizer": {"type": "bpe"}},
    "optimizer": {"type": "adamw", "lr": 0.012, "clip": 1.0},
    "schedule": {"type": "cosine", "warmup": 0.05, "final": 0.1},
    "train": {"steps": 300, "precision": "32-true"},
    "evaluate": {"every": 50, "select": {"loss": {"type": "objective", "rows": 32}}},
}


def recorded(arm="a", seed=0, **changes):
    data = {"source": "texts", "vocabulary": 1024, "splits": {"train": {"documents": 580, "tokens": 3233079}}}
    spec = {key: value | changes.get(key, {}) for key, value in SPEC.items()}
    return (arm, seed), RunRecord(identity="x", seed=seed, status="finished", spec=spec, data=data, threads=1)


def test_what_was_run_is_said_with_context_batch_rate_and_schedule():
    said = " ".join(ran.sentences(dict([recorded(), recorded(seed=1)]), planned=4)).replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "4 runs of 1 arm with 2 seeds, 2 finished.",
        "300 steps with a batch of 1,024 tokens (4 rows with a context of 256 tokens): 307 k tokens in all.",
        "adamw with a peak rate of 0.012 (clip: 1",
        "a warm-up of 15 steps and a fall like half a cosine over 285 steps to 10 % of it.",
        "32 rows of the select split every 50 steps.",
        "3.23 M tokens of 580 documents in train",
    ):
        assert part in said, part


def test_what_differs_between_arms_is_said_of_each():
    wsd = {"type": "wsd", "warmup": 0.1, "decay": 0.2, "final": 0.0}
    runs = dict([recorded("a"), recorded("b", train={"steps": 600}, schedule=wsd), recorded("c", optimizer={"lr": 0.5})])
    said = " ".join(ran.sentences(runs, 3)).replace("\N{NO-BREAK SPACE}", " ")
    assert "614 k tokens in all (b)" in said and "(a and c)" in said and "peak rate of 0.5" in said
    assert "a warm-up of 60 steps, 420 steps at the peak and a fall linearly over 120 steps to 0 % of it" in said
    own = dict([recorded(schedule={"type": "mine:Root", "warmup": 0.5})])
    assert "schedule of the rate is mine:Root (warmup: 0.5" in " ".join(ran.sentences(own, 1))


def test_control_characters_are_shown_and_not_written(make_study):
    nasty = "a\x1b[31mb\x00\x7f\u202ec\x85\ud800"
    assert visible(nasty) == r"a\x1b[31mb\x00\x7f\u202ec\x85\ud800" and visible("ä\n\tß 短") == "ä\n\tß 短"
    folder = make_study(seeds=2)
    path = folder / StudyRecord.read(folder).arms["1:1"].runs["0"]
    run = RunRecord.read(path)
    run.model_copy(update={"sample": nasty[:-1]}).write(path)
    page = write_report(folder).read_text()
    assert visible(nasty[:-1]) in page
    assert not {*"\x1b\x00\x7f\u202e\x85"} & {*page}
    assert "\x1b" not in style.page("\x1b", ["\x1b"])


LABELS = ["短い窓", "окно", "حجم", "a$b$c", "_under", "𓀀 hieroglyph", "\x1b[1m"]


def test_figures_have_letters_of_every_script(make_study):
    """A missing letter is a warning of matplotlib, and an error here."""
    folder = make_study(effects={label: 0.02 * i for i, label in enumerate(LABELS)}, seeds=2, known_worse=())
    page = write_report(folder).read_text()
    study = load(folder)
    for figure in plots.figures(study, judge(study)).values():
        assert drawing.svg(figure, "x")
    for label, shown in glyphs.rewritten(LABELS).items():
        assert visible(f"No installed font has the letters of {label}; in pictures it is {shown}.") in page
    assert "a$b$c" not in glyphs.rewritten(LABELS), "dollars are dollars"


def test_without_a_font_labels_are_written_in_latin_letters(monkeypatch):
    monkeypatch.setattr(glyphs, "_others", list)
    glyphs._font.cache_clear()
    try:
        assert glyphs.legible("短い窓 ok") == "DuanichuangSHI ok" or glyphs.legible("短い窓 ok").isascii()
        assert glyphs.rewritten(["окно", "短い窓"]).keys() == {"短い窓"}
        figure = Figure()
        axes = figure.subplots()
        axes.set_yticks([0, 1], ["短い窓", "окно"])
        axes.set_title("短い窓")
        drawing.svg(glyphs.apply(figure), "x")
        texts = {text.get_text() for text in figure.findobj(Text)}
        assert "окно" in texts and "短い窓" not in texts and glyphs.legible("短い窓") in texts
    finally:
        glyphs._font.cache_clear()


def test_the_verdict_stands_first_in_every_form(make_study):
    study = load(make_study(spread=0.0005))
    raw = tables.results(study, judge(study))
    assert list(tables.readable(raw))[:2] == ["arm", "verdict"]
    page = write_report(study.folder).read_text()
    head = page[page.index("<table class=results>") :]
    assert head.index("<th>verdict</th>") < head.index("perplexity")
    words = "local-only is worse; 3:1 and 5:1 are no different by more than the margin of 1 %."
    assert judge(study).answer.replace("\N{NO-BREAK SPACE}", " ") == f"Perplexity compared with 1:1: {words}"
    told = tables.words_first([judge(study)], [raw], list(study.record.arms))
    assert "worse" in told and "+6" in told and "FLOP" not in told


@pytest.mark.parametrize("every", [200, 400, 1000])
def test_curves_with_fewer_than_two_evaluations_are_of_the_training_loss(make_study, plant_run, every):
    import numpy as np

    folder = make_study(seeds=2)
    random = np.random.default_rng(0)
    for arm, record in StudyRecord.read(folder).arms.items():
        for seed, path in record.runs.items():
            plant_run(folder / path, arm, int(seed), 4.1, random, every=every)
    study = load(folder)
    (left, right) = plots.learning_curves(study, judge(study)).axes
    split = "select" if every == 200 else "train"
    assert left.get_ylabel() == f"loss on the {split} split, nats per token" and "1:1" in right.get_ylabel()
    assert all(len(line.get_xdata()) > 1 for line in left.get_lines())
    for path in folder.glob("arm*/seed-*/" + HISTORY_NAME):
        import pandas as pd

        pd.read_parquet(path)[:1].to_parquet(path)
    study = load(folder)
    assert plots.learning_curves(study, judge(study)) is None, "one point is no curve"


def test_a_page_that_is_watched_loads_itself_anew_and_no_other_does(make_study):
    study = load(make_study(seeds=2))
    from analysis.report import write

    watched = write(study, [judge(study)], again=20).read_text()
    assert "http-equiv=refresh content=20" in watched and "location.reload" in watched
    assert "http-equiv=refresh" not in write(study, [judge(study)]).read_text()


@pytest.mark.slow
def test_watch_writes_again_after_a_change_and_ends_at_ctrl_c(make_study):
    import signal

    folder = make_study(seeds=2, missing=[("5:1", 1)])
    code = "import signal, sys; from pathlib import Path; from analysis import watch; from analysis.__main__ import _watched\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
    code += "watch.SHARE, watch.follow.__defaults__ = 1, (lambda: True, 0.2)\n_watched(Path(sys.argv[1]), None)"
    words = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "7 of 8 runs finished" in process.stdout.readline()
        page = (folder / "report.html").read_text()
        path = folder / StudyRecord.read(folder).arms["5:1"].runs["0"]
        RunRecord.read(path).model_copy(update={"status": "failed"}).write(path)
        assert "6 of 8 runs finished" in process.stdout.readline()
        assert (folder / "report.html").read_text() != page
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and str(folder / "report.html") in out and errors == ""
        assert "http-equiv=refresh" not in (folder / "report.html").read_text()
    finally:
        process.kill()
        process.communicate()


def test_long_names_fit_and_stay_apart(make_study):
    """Names that differ at their ends alone; without the warning that a figure has no room left for its panels."""
    names = [f"{'a rather long label ' * 6}{i}" for i in range(3)]
    study = load(make_study(effects=dict.fromkeys(names, 0.0), seeds=3))
    for figure in plots.figures(study, judge(study)).values():
        drawing.svg(figure, "x")
        shown = {each["shown"]: each["name"] for each in json.loads(live.chart(figure))["names"]}
        assert all(len(short) <= drawing.LONGEST for short in shown) and (not shown or set(shown.values()) == set(names))


def test_letters_are_outlined_once_in_a_page_and_stay_what_they_are():
    figures = []
    for number, text in enumerate(("Loss 12", "Loss 21")):
        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, text)
        figures.append(drawing.svg(figure, f"figure {number}"))
    page = drawing.shared_glyphs("<main>" + "".join(figures) + "</main>")
    names = [found["name"] for found in drawing.GLYPH.finditer(page)]
    assert len(names) == len(set(names)) == 5  # L, o, s, 1, 2
    assert {*re.findall(r'href="#([\w-]+)"', page)} >= {*names}
    assert figures[0] in page and drawing.EMPTY.sub("", drawing.GLYPH.sub("", figures[1])) in page
    assert drawing.shared_glyphs("<p>no figure</p>") == "<p>no figure</p>"


def test_places_in_a_figure_have_two_digits():
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1 / 3, 1], [0, 2 / 7, 1 / 9])
    drawn = drawing.svg(figure, "figure")
    assert not re.search(r' d="[^"]*\.\d{3}', re.sub(drawing.GLYPH, "", drawn)) and "scale(0.015625)" in drawn


def test_a_figure_has_no_blanks_between_its_elements_and_its_texts_and_ids_are_whole():
    figure = Figure(figsize=(2, 1))
    figure.add_subplot(title="a --> b").plot([0, 1, 2], [2, 0, 1])
    drawn = drawing.svg(figure, "figure")
    assert not re.search(r">\s+<|<!--|\n\s*\"", drawn)
    root = ElementTree.fromstring(drawn)
    named = {each.get("id") for each in root.iter() if each.get("id")}
    used = {each.get("href")[1:] for each in root.iter() if each.get("href")}
    assert used and used <= named


def test_a_saved_picture_has_few_colours_and_looks_the_same(tmp_path):
    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot([0, 1, 2], [2, 0, 1], color="#0072b2")
    drawing.save(figure, tmp_path / "small.png")
    figure.savefig(tmp_path / "large.png", dpi=120, facecolor="white")
    small, large = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), dtype=int) for name in ("small", "large"))
    assert np.abs(small - large).max() <= 24 and np.abs(small - large).mean() < 0.5
    assert (tmp_path / "small.png").stat().st_size < (tmp_path / "large.png").stat().st_size
