"""Comments and the code below them, and names as queries."""

import textwrap

from experiments.data.sources import comments, docstrings

CODE = textwrap.dedent("""
    #! /usr/bin/env python
    # Reads all of the file at once,
    # whatever its size is.
    text = path.read_text()
    lines = text.splitlines()

    def f(x):
        ## Double the number.
        y = 2 * x
        # Then return it to the caller.
        return y
    # Alone at the end.
""")


def test_a_comment_has_the_code_below_it():
    assert list(comments.comments(CODE)) == [
        ("Reads all of the file at once, whatever its size is.", "text = path.read_text()\nlines = text.splitlines()"),
        ("Double the number.", "y = 2 * x"),
        ("Then return it to the caller.", "return y"),
    ]


def test_the_pairs_of_comments_are_long_enough_and_come_once(monkeypatch):
    long = "value = compute_everything(first_argument, second_argument, third)"
    files = {
        "a/__init__.py": f"# Says what is done with it here\n{long}\n# Too short\n{long}\n# Has five words and more\nx = 1\n",
        "b.py": f"if x:\n    # Says what is done with it here\n    {long}\n    # Says what else is done over there\n    {long}\n",
    }
    made = comments.Comments(comments.Comments.Config())
    monkeypatch.setattr(made.read, "_library", files.items)
    assert [(pair.query, pair.positive, pair.group, pair.label) for pair in made.pairs()] == [
        ("Says what is done with it here", long, "a", "a"),
        ("Says what else is done over there", long, "b", "b"),
    ]
    assert {reason: entry[0] for reason, entry in made.left_out.reasons.items()} == {
        "short comments, or with short code": 2,
        "comments that came before": 1,
    }


def test_a_name_is_the_query_of_its_paragraph(monkeypatch):
    body = '    """{}"""\n    a = 1  # so that the code is long enough for a pair of texts\n    return a + 1\n'
    text = "def read_allLines():\n" + body.format("Reads every line of a file.\n\n    More.")
    text += "def close():\n" + body.format("Closes the file that was opened.")
    made = docstrings.Docstrings(docstrings.Docstrings.Config(query="name"))
    monkeypatch.setattr(made, "_library", lambda: [("files.py", text)])
    assert [(pair.query, pair.positive, pair.group) for pair in made.pairs()] == [
        ("read all lines", "Reads every line of a file.", "files")
    ]
    assert made.left_out.reasons["functions whose name is one word"][0] == 1


def test_names_are_cut_into_words():
    words = {name: " ".join(docstrings.in_words(name)) for name in ("readHTTPHeader_2", "__init__", "as_URL", "getX", "x")}
    assert list(words.values()) == ["read http header 2", "init", "as url", "get x", "x"]
