"""The systems of the papers: what each stands on is there, and what is not is said."""

import pytest

import archbench
from analysis import systems
from analysis.systems import SYSTEMS, is_built, is_proven, standings, verdicts
from arch import document
from arch.cli import main
from sweeps.catalog import Entry

# Studies that are of no paper's system: of the workbench itself.
OURS = {"calibration/aa", "calibration/precision", "tasks/mqar"}


def test_every_system_stands_on_what_is_there():
    found = list(standings(()))
    assert {each.system for each in found} == set(SYSTEMS) and {each.paper for each in SYSTEMS} == set(systems._LINES)
    assert [(each.system.what, each.missing) for each in found if each.missing] == []
    assert all(each.built and each.proven and each.studies for each in SYSTEMS)


def test_every_study_of_a_paper_is_of_a_system():
    named = {study for each in SYSTEMS for study in each.studies}
    assert named == set(document.shipped("sweeps")) - OURS


@pytest.mark.parametrize("what", ["mixer atention", "mixer attention.windw", "model.visoin", "gemma9/1b", "nothing attention"])
def test_what_no_spec_can_say_is_not_built(what):
    assert not is_built(what)


def test_what_differs_or_has_no_row_is_not_proven(monkeypatch, tmp_path):
    assert not is_proven("tests/arch/test_nothing.py") and not is_proven("Gemma9ForCausalLM")
    (tmp_path / "docs").mkdir()
    rows = ["| `A` | one | agrees |", "| `B` | two | **differs** |", "| `C` | three | agrees |", "| `C` | four | **differs**: 1 |"]
    (tmp_path / systems.PARITY).write_text("\n".join([*rows, "| `D` | no verdict | 0.3 |"]))
    monkeypatch.setattr(document, "ROOT", tmp_path)
    systems._parity.cache_clear()
    try:
        assert [is_proven(name) for name in "ABCD"] == [True, False, False, False]
        assert is_proven("C: three") and not is_proven("thre")
    finally:
        systems._parity.cache_clear()


def entry(folder, name, scale, ended, words=()):
    folder.mkdir()
    if words:
        (folder / systems.CLAIMS).write_text("\n".join(["claim,verdict,reason", *(f'a,{word},"x, y"' for word in words)]))
    return Entry(folder, folder.name, name=name, scale=scale, state="finished", ended=ended, planned=ended)


def test_runs_and_verdicts_are_those_of_the_scale_with_most_runs(tmp_path):
    words = ["baseline", "worse", "reproduced", "worse"]
    large = entry(tmp_path / "large", "gemma3/window", "laptop", 20, words)
    small = entry(tmp_path / "small", "gemma3/window", "demo", 3, ["better"])
    smoke = entry(tmp_path / "smoke", "gemma2/gqa", "smoke", 90, ["better"])
    found = {each.system.what: each for each in standings([small, large, smoke])}
    each = found["five local layers to a global one, short windows"]
    assert each.trained == {"gemma3/window": 20} and each.judged == {"worse": 2, "reproduced": 1}
    assert found["grouped-query attention"].trained == found["grouped-query attention"].judged == {}
    assert verdicts(Entry(tmp_path / "nowhere", "x")) == []
    cells = systems._cells(each)
    assert cells[2:] == ("20 runs; not yet: gemma3/local_global", "2 worse, 1 reproduced")


def test_the_command_lists_one_part_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.argv", ["archbench", "list", "systems"])
    with pytest.raises(SystemExit) as end:
        main(archbench.app, "archbench")
    said = capsys.readouterr().out
    assert end.value.code == 0 and "(missing)" not in said and "mixer attention.qk_norm" in said
    assert "claim better" not in said and "20 runs" in said  # of the results that come with the project
