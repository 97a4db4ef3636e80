"""A study never replaces another's record: each has a folder of its own, or is refused with the other's name."""

import json
import shutil
import unicodedata

import pytest

from arch import document
from arch.errors import SpecError
from sweeps import folders, origin, study
from sweeps.record import NAME, StudyRecord

pytestmark = pytest.mark.usefixtures("plan_study")  # plans need no data


@pytest.fixture
def place(tmp_path, monkeypatch):
    """place(file, data, scale) plans the study in a file, as the command does, and writes its record; returns its folder."""
    monkeypatch.chdir(tmp_path)

    def placed(file, data, scale=None):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(data, ensure_ascii=False))
        root = document.load(str(file), "sweeps")
        spec, arms = study.check(root, scale)
        name = folders.study_name(str(file))
        planned = study.plan(name, scale, spec, arms, tmp_path / "runs", "", origin.of(str(file), root))
        planned.folder.mkdir(parents=True, exist_ok=True)
        planned.record().write(planned.folder)
        return planned.folder

    return placed


def test_two_files_of_one_name_are_two_studies(place, study_data, tmp_path):
    folder = place("a/x.yaml", study_data)
    before = (folder / NAME).read_bytes()
    with pytest.raises(SpecError) as refused:
        place("b/x.yaml", study_data | {"question": "Another?"})
    said = str(refused.value)
    assert said.startswith("b/x.yaml:1: ") and "a/x.yaml" in said and "'Is it?'" in said and "--runs" in said
    assert (folder / NAME).read_bytes() == before


def test_an_edited_study_goes_on_and_a_moved_one_too(place, study_data, tmp_path):
    folder = place("a/x.yaml", study_data)
    assert place("a/x.yaml", study_data | {"question": "Better said?"}) == folder
    (tmp_path / "c").mkdir()
    shutil.move(tmp_path / "a" / "x.yaml", tmp_path / "c" / "x.yaml")
    assert place("c/x.yaml", study_data | {"question": "Better said?"}) == folder
    assert place("c/x.yaml", study_data | {"question": "Edited there?"}) == folder
    with pytest.raises(SpecError, match=r"c/x\.yaml"):
        place("a/x.yaml", study_data)


def test_a_project_may_be_moved_with_its_runs(place, study_data, tmp_path):
    place("here/x.yaml", study_data)
    (tmp_path / "here" / "runs").parent.mkdir(exist_ok=True)
    record = StudyRecord.read(tmp_path / "runs/x/base")
    assert record.origin.file == "../../../here/x.yaml"
    shutil.copytree(tmp_path / "runs", tmp_path / "there/runs")
    shutil.move(tmp_path / "here", tmp_path / "there" / "here")
    moved = origin.Origin(file=str(tmp_path / "there/here/x.yaml"), content="edited since")
    origin.check(tmp_path / "there/runs/x/base", "x", None, moved)


@pytest.mark.parametrize("names", [("窓", "層"), ("étude", "tude"), ("क", "कि"), ("a", "á")])
def test_names_of_every_script_have_folders_of_their_own(names, place, study_data):
    made = [place(f"{name}.yaml", study_data | {"question": name}) for name in names]
    assert len(set(made)) == 2
    assert [StudyRecord.read(folder).question for folder in made] == list(names)


@pytest.mark.parametrize("names", [("a b", "a-b"), ("☀", "☂"), ("x" * 70, "x" * 71)])
def test_names_that_no_folder_can_tell_apart_are_refused(names, place, study_data):
    place(f"{names[0]}.yaml", study_data)
    with pytest.raises(SpecError, match=names[0]):
        place(f"{names[1]}.yaml", study_data | {"question": "Another?"})


def test_both_forms_of_an_accent_are_one_name():
    forms = [unicodedata.normalize(form, "étude") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1] and len({folders.safe_name(form) for form in forms}) == 1


def test_a_safe_name_fits_into_a_file_system():
    for label in ("窓" * 100, "\U00020000" * 100, "x" * 300, "e\u0301" * 200):
        assert 0 < len(folders.safe_names([label, label + "x"])[label + "x"].encode()) < 200


def test_every_scale_has_a_folder_of_its_own(place, study_data):
    study_data["scales"] = {name: {"train.steps": 2 + i} for i, name in enumerate(("a b", "a-b", "A-B", "base"))}
    made = {place("x.yaml", study_data, scale) for scale in (None, *study_data["scales"])}
    assert len({str(folder).lower() for folder in made}) == 5
    assert {StudyRecord.read(folder).scale for folder in made} == {None, *study_data["scales"]}


def test_a_folder_of_another_scale_is_refused(place, study_data):
    study_data["scales"] = {"a b": {}, "a-b": {}}
    folder = place("x.yaml", study_data, "a-b")
    del study_data["scales"]["a-b"]
    study_data["scales"]["a-b"], study_data["scales"]["a b"] = {}, study_data["scales"].pop("a b")
    with pytest.raises(SpecError, match="at scale a-b"):
        place("x.yaml", study_data, "a b")
    assert StudyRecord.read(folder).scale == "a-b"


def test_a_shipped_study_and_a_file_of_its_folders_name_are_two(place, study_data, tmp_path):
    shipped = origin.of("gemma3/local_global", document.load("gemma3/local_global", "sweeps"))
    folder = place("gemma3-local_global.yaml", study_data)
    with pytest.raises(SpecError, match=r"gemma3-local_global\.yaml"):
        origin.check(folder, "gemma3/local_global", None, shipped)


def test_a_record_that_cannot_be_read_is_not_replaced(place, study_data):
    folder = place("x.yaml", study_data)
    later = json.dumps(json.loads((folder / NAME).read_text()) | {"of a later release": 1})
    (folder / NAME).write_text(later)
    with pytest.raises(SpecError, match=r"study\.json: cannot be read .*of a later release"):
        place("x.yaml", study_data)
    assert (folder / NAME).read_text() == later


def test_one_file_by_two_names_is_one_study(place, study_data, tmp_path):
    """As on a file system that ignores case."""
    folder = place("x.yaml", study_data)
    (tmp_path / "X.yaml").hardlink_to(tmp_path / "x.yaml")
    origin.check(folder, "X", None, origin.Origin(file=str(tmp_path / "X.yaml"), content="edited since"))


def test_an_older_record_belongs_to_its_name(place, study_data):
    folder = place("x.yaml", study_data)
    record = StudyRecord.read(folder).model_copy(update={"origin": None})
    record.write(folder)
    assert "origin" not in json.loads((folder / NAME).read_text())
    assert place("x.yaml", study_data | {"question": "Edited?"}) == folder
    record.model_copy(update={"name": "y"}).write(folder)
    with pytest.raises(SpecError, match="another study, y"):
        place("x.yaml", study_data)


def test_the_status_of_another_study_is_not_shown(place, study_data, tmp_path):
    from sweeps import __main__ as command

    place("a/x.yaml", study_data)
    place("b/other.yaml", study_data)
    (tmp_path / "b/x.yaml").write_text(json.dumps(study_data | {"question": "Another?"}))
    command.status("a/x.yaml", None, tmp_path / "runs")
    with pytest.raises(SpecError, match=r"a/x\.yaml"):
        command.status("b/x.yaml", None, tmp_path / "runs")
