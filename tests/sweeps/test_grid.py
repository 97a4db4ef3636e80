"""`grid:` makes plain arms; `compare:` says which of them are compared. Mistakes are errors at their line."""

import pytest

from arch import document
from arch.errors import SpecError
from sweeps.judge import counted, questions
from sweeps.spec import split

BASE = """\
schema: 1
question: Do they interact?
model:
  {dim: 16, vocab_size: 300, layers: 2, pattern: [local],
   blocks: {local: {mixer: {type: attention, heads: 2, window: 4}, ffn: {type: gated, hidden: 8}}}}
data: {source: {type: python_stdlib}, tokenizer: {type: byte}, context: 32, rows: 2}
optimizer: {lr: 1e-3}
train: {steps: 2}
"""
WINDOW, CAP = "model.blocks.local.mixer.window", "model.blocks.local.mixer.softcap"
GRID = f"grid: {{W: {{4: {{{WINDOW}: 4}}, 16: {{{WINDOW}: 16}}}}, cap: {{off: {{}}, on: {{{CAP}: 5.0}}}}}}\n"
CELLS = ["W=4 cap=off", "W=4 cap=on", "W=16 cap=off", "W=16 cap=on"]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(text, scale) gives what `split` makes of a study with this text after BASE (8 lines)."""
    monkeypatch.chdir(tmp_path)

    def made(text, scale=None):
        (tmp_path / "study.yaml").write_text(BASE + text)
        return split(document.load("study.yaml", "sweeps"), scale)

    return made


def test_a_grid_is_the_same_study_as_its_arms_written_out(read):
    """Keys that YAML 1.1 would read as numbers or booleans are labels as typed; every value keeps its line."""
    by_grid, node, _ = read(GRID)
    arms = {
        "W=4 cap=off": {WINDOW: 4},
        "W=4 cap=on": {WINDOW: 4, CAP: 5.0},
        "W=16 cap=off": {WINDOW: 16},
        "W=16 cap=on": {WINDOW: 16, CAP: 5.0},
    }
    assert list(by_grid.arms) == CELLS and by_grid.arms == arms
    place = node.at(("arms", "W=16 cap=on", CAP))
    assert (place.file, place.line) == ("study.yaml", 9)


def test_arms_stand_beside_a_grid_and_a_scale_drops_cells_levels_and_factors(read):
    scales = (
        'arms: {control: {model.layers: 1}, "W=4 cap=on": {train.steps: 3}}\n'
        'scales: {cell: {arms: {"W=16 cap=on": null}}, level: {grid: {W: {4: null, 8: {train.rows: 8}}}}, '
        "factor: {grid: {cap: null}}, none: {grid: null}}\n"
    )
    assert list(read(GRID + scales)[0].arms) == [*CELLS, "control"]
    assert read(GRID + scales)[0].arms["W=4 cap=on"] == {WINDOW: 4, CAP: 5.0, "train.steps": 3}
    assert list(read(GRID + scales, "cell")[0].arms) == [*CELLS[:3], "control"]
    assert list(read(GRID + scales, "level")[0].arms)[:2] == ["W=16 cap=off", "W=16 cap=on"]
    assert list(read(GRID + scales, "factor")[0].arms) == ["W=4", "W=16", "control"]
    assert list(read(GRID + scales, "none")[0].arms) == ["control", "W=4 cap=on"]


def test_comparing_factors_asks_for_each_effect_and_each_interaction(read):
    spec, _, _ = read(
        GRID
        + "arms: {control: {model.layers: 1}}\ncompare: factors\n"
        + "claims: {q: {type: equivalent, known_worse: [control]}, b: {type: better}}\n"
    )
    asked = questions(spec.claims, spec.arms)
    assert [each.subject for each in asked["q"]] == ["W=16", "cap=on", "cap=on × W=16"]
    assert [each.subject for each in asked["b"]] == ["W=16", "cap=on", "cap=on × W=16"]
    assert counted(spec.claims, spec.arms) == 6
    assert set(asked["q"][0].arms) == {*CELLS, "control"} and set(asked["b"][2].arms) == set(CELLS)


def test_a_dropped_cell_leaves_only_what_is_complete(read):
    spec, _, _ = read(GRID + 'compare: factors\narms: {"W=16 cap=on": null}\n')
    weights = {name: each["weights"] for name, each in spec.claims["quality"]["contrasts"].items()}
    assert weights == {
        "W=16": {"W=16 cap=off": 1.0, "W=4 cap=off": -1.0},
        "cap=on": {"W=4 cap=on": 1.0, "W=4 cap=off": -1.0},
    }


def test_pairs_are_the_questions_of_every_claim_that_names_no_arms(read):
    text = "arms: {a: {}, b: {train.steps: 3}, c: {train.steps: 4}}\ncompare: [[b, c]]\n"
    spec, _, _ = read(text + "claims: {q: {type: not_worse}, own: {type: better, arm: b}}\n")
    asked = questions(spec.claims, spec.arms)
    assert [(each.subject, each.arms) for each in asked["q"]] == [("c against b", ("b", "c"))]
    assert [(each.subject, each.arms) for each in asked["own"]] == [("b", ("a", "b"))]


ARMS = "arms: {a: {}, b: {train.steps: 3}}\n"
BAD = {
    "a pair with an unknown arm": (ARMS + "compare: [[a, bb]]\n", "study.yaml:10: compare.0.1: no arm 'bb'; did you mean 'b'?"),
    "a pair of one arm": (ARMS + "compare: [[b, b]]\n", "study.yaml:10: compare.0: 'b' is compared with itself"),
    "a pair twice": (ARMS + "compare: [[a, b], [b, a]]\n", "study.yaml:10: compare.1: 'b' and 'a' are compared already"),
    "three arms in a pair": (ARMS + "compare: [[a, b, a]]\n", "study.yaml:10: compare.0: expected two arms [A, B], got 3"),
    "no pair": (ARMS + "compare: []\n", "study.yaml:10: compare: expected at least one pair"),
    "factors without a grid": (ARMS + "compare: factors\n", "study.yaml:10: compare: expected a `grid` of factors"),
    "another word": (ARMS + "compare: factor\n", "study.yaml:10: compare: 'factor' is not one of them; did you mean 'factors'?"),
    "no claim that compares": (
        ARMS + "compare: [[a, b]]\nclaims: {v: {type: value, metric: cost/parameters, arm: a, value: 1, within: 0.1}}\n",
        "study.yaml:10: compare: no claim asks about it: value of this study names its own arms",
    ),
    "a level that is no mapping": ("grid: {W: {4: 4, 16: {}}}\n", "study.yaml:9: grid.W.4: expected a mapping of dotted keys"),
    "a factor that is no mapping": ("grid: {W: [4, 16]}\n", "study.yaml:9: grid.W: expected a mapping of levels"),
    "a factor without levels": ("grid: {W: {}}\n", "study.yaml:9: grid.W: no level; a factor needs two levels"),
    "one level": ("grid: {W: {4: {}, 16: null}}\n", "study.yaml:9: grid.W: only '4'; a factor needs two levels"),
    "no such cell": (
        GRID + 'arms: {"W=4 cap=no": null}\n',
        "study.yaml:10: arms.W=4 cap=no: no cell 'W=4 cap=no'; did you mean 'W=4 cap=on'",
    ),
    "no factor": ("grid: {}\n", "study.yaml:9: grid: no factor"),
    "a name with a space": ("grid: {W: {a b: {}, c: {}}}\n", "study.yaml:9: grid.W.a b: 'a b' becomes a part of the arms' labels"),
    "a name with =": ("grid: {W=: {a: {}, c: {}}}\n", "study.yaml:9: grid.W=: 'W=' becomes a part of the arms' labels"),
    "two factors of one key": (
        "grid:\n  W: {a: {train.steps: 3}, b: {}}\n  V: {c: {}, d: {train: {steps: 4}}}\n",
        "study.yaml:11: grid.V.d: V=d overrides train.steps, and so does W=a on line 10",
    ),
    "a key inside another": (
        f"grid:\n  W: {{a: {{model.blocks.local.mixer: null}}, b: {{}}}}\n  V: {{c: {{}}, d: {{{WINDOW}: 3}}}}\n",
        f"study.yaml:11: grid.V.d: V=d overrides {WINDOW}, and so does W=a on line 10",
    ),
    "weights": (
        ARMS + "claims: {q: {type: equivalent, contrasts: {x: {weights: {a: 1.0, b: 1.0}}}}}\n",
        "study.yaml:10: claims.q.contrasts.x.weights: weights that add up to 2",
    ),
}


@pytest.mark.parametrize("text, message", BAD.values(), ids=BAD.keys())
def test_mistakes_are_one_line(read, text, message):
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).startswith(message), str(caught.value)
    assert "\n" not in str(caught.value)
