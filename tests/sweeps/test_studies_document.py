"""The snippets of docs/studies.md are checked as parts of a study: what the document shows can be written."""

import re

import pytest

from arch import document
from sweeps.study import check

TEXT = (document.ROOT / "docs" / "studies.md").read_text()
STUDY = """
schema: 1
extends: {base}
question: Does it work?
arms: {arms}
"""
ARMS = {
    "match": '{"1:1": {model.pattern: [local, global]}, wide: {model.pattern: [local], model.layers: 10}}',
    "budget": "{scratch: {}, wide: {model.blocks.local.ffn.hidden: 384}}",
    "grid": "{}",
    "ladder": '{"1:1": {model.pattern: [local, global]}, "5:1": {model.pattern: [5*local, global]}}',
    "search": "{all global: {model.pattern: [global]}}",
}
SNIPPETS = re.findall(r"```yaml\n((match|budget|grid|ladder|search):.*?)```", TEXT, re.DOTALL)


def test_every_way_to_say_what_the_arms_are_has_a_snippet():
    assert {key for _, key in SNIPPETS} == ARMS.keys()


@pytest.mark.parametrize(("snippet", "key"), SNIPPETS, ids=[key for _, key in SNIPPETS])
def test_a_snippet_is_a_part_of_a_study(snippet, key, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(base="experiments/tiny_gemma3", arms=ARMS[key]) + snippet)
    spec, arms = check(document.load(str(path), "sweeps"))
    made = {"grid": 4, "ladder": 6, "search": 1 + 3}
    assert len(arms) == made.get(key, 2) and len(spec.arms) == len(arms)


def test_the_study_that_it_shows_is_the_shipped_one():
    shown = re.search(r"```yaml\n(# Griffin .*?)```", TEXT, re.DOTALL)[1]
    assert shown == (document.ROOT / "sweeps" / "specs" / "griffin" / "versus_global.yaml").read_text()
    assert len(shown.splitlines()) <= 26
