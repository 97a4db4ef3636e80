"""What figures share: nothing sticks out of a figure, whatever its arms are called."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing import LEGEND_LINE, WIDTH, legend_above, styled

PARTS = ["griffin", "no recurrence", "no convolution", "convolution and global", "global", "global, QK-norm", "no context"]
HORIZONS = [f"horizon=middle{i} teacher=small" for i in range(7)]


@pytest.mark.parametrize(("names", "columns"), [(["1:1", "3:1"], 2), (HORIZONS, 2), (PARTS, 4)])
def test_a_legend_has_as_many_columns_as_fit(names, columns):
    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    figure.subplots()
    styled(legend_above)(figure, {name: Line2D([], []) for name in names})
    (legend,) = figure.legends
    FigureCanvasAgg(figure).draw()
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and [text.get_text() for text in legend.get_texts()] == names
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == columns
    lines = len({round(text.get_window_extent().y0) for text in legend.get_texts()})
    assert figure.get_size_inches()[1] == pytest.approx(4.1 + LEGEND_LINE * max(0, lines - 2))


def test_one_long_name_is_a_column_of_its_own():
    figure = Figure(figsize=(2, 2))
    styled(legend_above)(figure, {"a name of more than two inches": Line2D([], [])})
    assert len(figure.legends) == 1
    styled(legend_above)(empty := Figure(), {})
    assert not empty.legends


@pytest.mark.parametrize("label", ["perplexity, %", "perplexity against horizon=short teacher=small: " + "longer and longer " * 3])
def test_a_label_is_no_longer_than_its_y_axis(label):
    @styled
    def drawn():
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        figure.subplots().set_ylabel(label.strip())
        return figure

    figure = drawn()
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    assert axes.yaxis.label.get_window_extent().height <= axes.bbox.height
    assert " ".join(axes.get_ylabel().split()) == label.strip() and ("\n" in axes.get_ylabel()) == (len(label) > 20)
