"""Tables of results fit the terminal, where there is one or $COLUMNS says how wide it is."""

import re

import pandas as pd
import pytest

from analysis import forms
from arch import terminal

SHOWN = pd.DataFrame(
    {
        "arm": ["1:1", "no context"],
        "verdict": ["baseline", "no difference"],
        "paired difference [together 95 %]": ["–", "+0.74 % [−1.16, +2.69]"],
        "perplexity [95 %]": ["74.61 [72.21, 77.09]", "75.16 [71.95, 78.52]"],
        "training speed, tokens/s [min, max]": ["5,327 [4,759, 5,830]", "5,788 [5,080, 6,347]"],
        "peak memory [min, max]": ["689 MB [687 MB, 692 MB]", "691 MB [687 MB, 697 MB]"],
    }
)


@pytest.mark.parametrize("columns", [30, 60, 80])
def test_a_table_that_is_wider_than_columns_is_stacked_with_names(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    said = forms.text(SHOWN)
    assert max(map(len, said.splitlines())) <= columns
    words = set(re.findall(r"[^\s│]+", said))
    for name, *cells in SHOWN.items():
        assert {word for cell in (name, *cells[0]) for word in cell.split()} <= words
    assert said.count("verdict") == len(SHOWN)


def test_a_pipe_and_a_wide_terminal_get_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    piped = forms.text(SHOWN)
    assert max(map(len, piped.splitlines())) > 100 and piped.count("verdict") == 1
    monkeypatch.setenv("COLUMNS", "300")
    assert forms.text(SHOWN) == piped


@pytest.mark.parametrize("columns", ["0", "19", "-80", "wide", ""])
def test_a_width_that_nobody_can_read_counts_as_none(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.terminal().width == terminal.PIPED
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal.terminal().width == 20
