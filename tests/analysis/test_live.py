"""Charts that can be looked around in are made from the drawn figures: the same values, and a page has all it needs once."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from self_contained import charts_of

from analysis import charts, drawing, live, plots
from analysis.claims import judge
from analysis.evaluated import Evaluated
from analysis.report import write_report
from analysis.runs import load
from arch.contracts import Chart
from experiments.record import EvaluationRecord


def chart_of(figure):
    drawing.svg(figure, "x")
    return json.loads(live.chart(figure))


def values(node, name):
    """Every value of a key below a node of JSON."""
    if isinstance(node, dict):
        yield from ([node[name]] if name in node else [])
        for each in node.values():
            yield from values(each, name)
    elif isinstance(node, list):
        for each in node:
            yield from values(each, name)


def columns(chart):
    """{name of a column: its values} of every source that names whose it is."""
    for data in values(chart["documents"], "data"):
        entries = dict(data["entries"]) if isinstance(data, dict) and "entries" in data else data
        if isinstance(entries, dict) and "name" in entries:
            yield entries


def test_a_chart_has_the_values_of_its_figure(make_study):
    study = load(make_study(seeds=3))
    figure = plots.figures(study, judge(study))["curves"]
    chart = chart_of(figure)
    assert [each["title"] for each in chart["panels"]] == [
        "Loss after the first third of training",
        "Paired difference during training",
    ]
    assert [each["name"] for each in chart["names"]] == list(study.record.arms)
    assert chart["names"][1]["colour"] == drawing.COLOURS[0]
    found = [each for each in columns(chart) if each["name"][0] == "3:1"]
    for source, axes in zip(found, figure.axes, strict=True):
        (line,) = [each for each in axes.get_lines() if each.get_label() == "3:1"]
        assert source["y_is"] == pytest.approx(line.get_ydata(), rel=1e-4)
        assert (np.array(source["low"]) < source["y"]).all() and (np.array(source["high"]) > source["y"]).all()


def test_every_figure_of_a_study_has_a_chart_with_its_arms(make_study, tuning_trials):
    study = load(make_study(trials=tuning_trials(["1:1", "3:1"])))
    for name, figure in plots.figures(study, judge(study)).items():
        named = {name for each in columns(chart_of(figure)) for name in each["name"]}
        assert named & {*study.record.arms} and named <= {*study.record.arms}, name


def test_rows_with_long_names_are_taller(tmp_path, plant):
    tall = {}
    for arm in ("b", "a name of rows in four lines or even more"):
        study = load(plant(tmp_path / arm[:4], {"a": 0.0, arm: 0.01}, known_worse=()))
        chart = chart_of(plots.differences(study, judge(study)))
        (tall[arm],) = [root["attributes"]["height"] for document in chart["documents"].values() for root in document["roots"]]
    assert min(tall.values()) == 60 + live.ROW and max(tall.values()) >= 60 + 4 * live.LINE


def test_what_a_chart_cannot_show_stays_a_picture():
    figure = Figure()
    figure.subplots().scatter([1, 2], [1, 2])
    assert "class=live" not in live.pictured(figure, "dots", "Dots") and "<svg" in live.pictured(figure, "dots", "Dots")


def test_cells_are_a_chart_with_their_places_and_values():
    random = np.random.default_rng(0)
    table = [{"layer": i, "head": j, "entropy": random.uniform(0, 4), "of": of} for i in range(3) for j in (1, 2, 4) for of in "ab"]
    chart = Chart(kind="grid", x="head", y="layer", value="entropy", by="of")
    record = EvaluationRecord(split="report", name="n", evaluator={"type": "n"}, identity="i", seed=0, values={}, table=table)
    figure = charts.draw(Evaluated("report", "n", {"type": "n"}, "0" * 12, {"one": {0: record}}), chart, ["one"])
    found = chart_of(figure)
    images = list(arrays(found))
    for of, image in zip("ab", images, strict=True):
        given = [[row["entropy"] for row in table if row["layer"] == i and row["of"] == of] for i in range(3)]
        assert image == pytest.approx(np.ravel(given), rel=1e-6)
    assert [each["title"] for each in found["panels"]] == ["a", "b"]
    named = [value for pairs in values(found["documents"], "entries") for key, value in pairs if key == "names"]
    assert ["1", "2", "4"] in named and ["0", "1", "2"] in named
    low, middle, high = map(float, found["scale"]["texts"])
    assert low == pytest.approx(min(row["entropy"] for row in table), rel=1e-3) and low < middle < high
    assert found["scale"]["label"] == "entropy"


def arrays(node):
    """Every array of numbers below a node."""
    for each in values(node, "array"):
        if isinstance(each, dict) and "data" in each:
            packed = base64.b64decode(each["data"])
            yield np.frombuffer(gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed, np.float32)


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
def test_values_are_read_as_they_are_on_every_scale(scale):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0 if scale == "symlog" else 1, 10, 1000], [1, 2, 3], label="a")
    axes.set_xscale(scale)
    axes.set_xticks([1, 10, 1000], ["one", "ten", "many"])
    (source,) = columns(chart_of(figure))
    assert source["x_is"][1:] == [10, 1000] and (np.diff(source["x"]) > 0).all()
    assert (source["x"] == source["x_is"]) == (scale != "symlog")


def test_a_page_has_the_library_once_with_its_licence_and_is_small(make_study, tuning_trials):
    page = write_report(
        make_study(trials=tuning_trials(["1:1", "3:1"]), effects={"</script><b>": 0.0, "$x_1$": 0.0, "_c": 0.1})
    ).read_text()
    assert len(page) < 3_000_000 and page.count("class=live>") > 2
    (packed,) = re.findall(r"id=bokeh>(.*?)</script>", page)
    library = gzip.decompress(base64.b64decode(packed)).decode()
    assert "Bokeh Contributors" in library[:400] and "Redistributions in binary form" in library[:2000]
    assert any("</script><b>" in {each["name"] for each in chart["names"]} for chart in charts_of(page))
    assert "</script><b>" not in page
