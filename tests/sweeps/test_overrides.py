"""`--set`, `--seeds` and `--name`: applied last, checked as a spec is, and with a folder of their own."""

import json
import shlex
from pathlib import Path

import pytest

from arch import document
from arch.document import Node, lay, node
from arch.errors import SpecError
from sweeps import __main__ as commands
from sweeps import origin, study
from sweeps.overrides import selected
from sweeps.record import NAME, StudyRecord
from sweeps.spec import arm_document, split


@pytest.fixture
def file(study_data, tmp_path, monkeypatch):
    """The path of a study's file in the working folder; its first scale is `demo`."""
    monkeypatch.chdir(tmp_path)
    data = study_data | {"scales": {"demo": {"train.steps": 2, "train": {"accumulate": 2}}, "laptop": {"train.steps": 20}}}
    data["arms"]["longer"] = {"train.steps": 40}
    Path("my.yaml").write_text(json.dumps(data))
    return "my.yaml"


def of_arm(chosen, label, *path):
    _, own, base = split(chosen.root, chosen.scale)
    return arm_document(own, base, label).at(path).plain()


def test_an_override_comes_after_the_scale_and_before_the_arms(file):
    plain, chosen = selected(file), selected(file, changes=["train.steps=50", "model.dim=32"], seeds=24)
    assert of_arm(plain, "1:1", "train", "steps") == 2 and of_arm(chosen, "1:1", "train", "steps") == 50
    assert of_arm(chosen, "1:1", "train", "accumulate") == 2, "the other lines of the scale stay"
    assert of_arm(chosen, "1:1", "model", "dim") == 32 and split(chosen.root, "demo")[0].seeds == 24
    assert of_arm(chosen, "longer", "train", "steps") == 40
    assert chosen.remarks(split(chosen.root, "demo")[0]) == ["--set train.steps=50: 'longer' writes it itself and keeps its value"]
    named = selected(file, changes=["arms={longer: {train.steps: 7}, wide: {model.dim: 64}, all local: null}"])
    assert of_arm(named, "longer", "train", "steps") == 7 and [*split(named.root, "demo")[0].arms] == ["1:1", "longer", "wide"]


def test_it_comes_after_what_a_file_extends(file):
    Path("more.yaml").write_text("extends: my.yaml\ntrain: {steps: 9}\nquestion: And so?\n")
    assert of_arm(selected("more.yaml", "laptop", ["train.steps=50"]), "1:1", "train", "steps") == 50


def test_without_scales_it_overrides_the_study_itself(file):
    data = json.loads(Path(file).read_text())
    Path("flat.yaml").write_text(json.dumps({key: value for key, value in data.items() if key != "scales"}))
    chosen = selected("flat.yaml", changes=["train.steps=50"])
    assert chosen.scale is None and of_arm(chosen, "1:1", "train", "steps") == 50


BAD = {
    ("train.stepz=50",): "--set train.stepz=50: train.stepz: unknown key; did you mean 'steps'? known: ",
    ("trian.steps=50",): "--set trian.steps=50: trian: unknown key; did you mean 'train'? known: ",
    ("train.steps=ten",): "--set train.steps=ten: train.steps: expected a whole number, got the text 'ten'",
    ("optimizer.lr=.nan",): "--set optimizer.lr=.nan: optimizer.lr: .nan is not a finite number",
    ("train.steps=!!int ten",): "--set train.steps=!!int ten: train.steps: expected what the tag !!int says, got 'ten'",
    ("claims.quality={type: betterr}",): "--set claims.quality={type: betterr}: claims.quality.type: ",
    ("seeds=0",): "--set seeds=0: seeds: ",
    ("train.steps",): "--set train.steps: expected KEY=VALUE",
    ("=3",): "--set =3: expected KEY=VALUE",
    ("train.steps=[1",): "--set train.steps=[1: not valid YAML: ",
    ("extends=other.yaml",): "--set extends=other.yaml: extends cannot be set on the command line: a file says what it extends",
    ("scales.demo.seeds=3",): "--set scales.demo.seeds=3: scales.demo.seeds cannot be set on the command line: --scale chooses one",
    ("train.steps=1", "train={steps: 2}"): "--set train.steps=1: `train` is set as well; expected one of the two",
    ("train={steps: 2}", "train.steps=1"): "--set train.steps=1: `train` is set as well; expected one of the two",
}


@pytest.mark.parametrize("changes", BAD, ids=" ".join)
def test_a_bad_override_is_one_line_that_names_it(changes, file):
    with pytest.raises(SpecError) as refused:
        chosen = selected(file, changes=list(changes))
        study.check(chosen.root, chosen.scale)
    said = str(refused.value)
    assert said.startswith(BAD[changes]) and len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "///"])
def test_a_name_without_letters_is_refused(name, file):
    with pytest.raises(SpecError, match=r"^--name .*: expected at most 60 characters, with a letter"):
        selected(file, name=name)


def test_what_is_wrong_in_the_file_is_not_blamed_on_the_command_line(file):
    Path(file).write_text('question: "?"\narms: {a: {}}\nmodel: {dim: 8}\ntrain:\n  threads: 2\ndata: {context: 8, rows: 2}\n')
    chosen = selected(file, changes=["data.rows=4"])
    with pytest.raises(SpecError) as refused:
        study.check(chosen.root, chosen.scale)
    assert all("--set" not in line for line in str(refused.value).splitlines())
    assert "my.yaml:4: train.steps: missing" in str(refused.value)


def test_a_mapping_keeps_its_place_under_the_command_line_and_not_under_another_file():
    below = node({"a": {"b": 1}}, "x.yaml", 3)
    assert lay(below, Node({"a": node({"c": 2}, "--set a.c=2")}, "--set a.c=2")).at(("a",)).line == 3
    assert lay(below, node({"a": {"c": 2}}, "y.yaml", 7)).at(("a",)).file == "y.yaml"


@pytest.mark.parametrize(
    "options",
    [
        {"changes": ["train.steps=50"]},
        {"changes": ["train.steps=50", "model.blocks={local: {mixer: {window: 3}}}"], "seeds": 3, "scale": "laptop"},
        {"name": "mine"},
        {"changes": ["question=What's new? $HOME"], "name": "an odd name"},
    ],
)
def test_the_recorded_command_selects_the_same_study(options, file):
    """Parsed by the command line itself, it has the same document, name and origin."""
    import typer

    chosen = selected(file, **options)
    words = shlex.split(chosen.command("run", ["--workers", "1"]))
    assert words[:3] == ["archbench", "study", "run"]
    context = typer.main.get_command(commands.app).commands["run"].make_context("run", words[3:])
    given = context.params
    again = selected(given["study"], given["scale"], given["changes"], given["seeds"], given["name"])
    assert (again.root.plain(), again.name, again.origin) == (chosen.root.plain(), chosen.name, chosen.origin)


def test_a_study_with_overrides_has_a_name_and_a_folder_of_its_own(file):
    changes = ["train.steps=50", "model.dim=32"]
    chosen = selected(file, changes=changes)
    assert chosen.name == "my+model.dim=32+train.steps=50"
    assert chosen.folder("runs") == Path("runs/my+model.dim-32+train.steps-50/demo")
    assert selected(file, changes=changes[::-1]).folder("runs") == chosen.folder("runs"), "in any order"
    assert selected(file, changes=[], seeds=None).folder("runs") == Path("runs/my/demo")
    assert selected(file, changes=changes, name="short").folder("runs") == Path("runs/short/demo")
    others = [["model.pattern=[local]"], ["model.pattern=[global]"], ["question=a/b"], ["question=a:b"], [f"question={'x' * 80}"]]
    others += [[f"question={'x' * 81}"], ["train.steps=5"], ["train.steps=50"]]
    places = {selected(file, changes=each).folder("runs") for each in others}
    assert len(places) == len(others) and all(len(place.parts[1]) <= 60 for place in places)


@pytest.mark.usefixtures("plan_study")
def test_it_never_replaces_the_record_of_the_plain_study(file):
    def placed(**options):
        chosen = selected(file, **options)
        spec, arms = study.check(chosen.root, chosen.scale)
        planned = study.plan(chosen.name, chosen.scale, spec, arms, "runs", chosen.command("run"), chosen.origin)
        planned.folder.mkdir(parents=True, exist_ok=True)
        planned.record().write(planned.folder)
        return planned.folder

    plain = placed()
    before = (plain / NAME).read_bytes()
    folder = placed(changes=["optimizer.lr=0.002"])
    assert folder != plain and (plain / NAME).read_bytes() == before
    record = StudyRecord.read(folder)
    assert record.command == "archbench study run my.yaml --set optimizer.lr=0.002" and record.name == "my+optimizer.lr=0.002"
    # Under the name of a study of another file it is refused, and so it is found again under its own.
    Path("other.yaml").write_text(Path(file).read_text())
    with pytest.raises(SpecError, match=r"holds the record of another study"):
        other = selected("other.yaml", changes=["optimizer.lr=0.003"], name="my")
        origin.check(plain, other.name, other.scale, other.origin)


@pytest.mark.usefixtures("plan_study")
def test_status_finds_the_study_with_the_same_overrides(file, capsys):
    chosen = selected(file, changes=["optimizer.lr=0.002"])
    spec, arms = study.check(chosen.root, chosen.scale)
    planned = study.plan(chosen.name, chosen.scale, spec, arms, "runs", chosen.command("run"), chosen.origin)
    planned.folder.mkdir(parents=True)
    planned.record().write(planned.folder)
    commands.status(file, changes=["optimizer.lr=0.002"], runs=Path("runs"))
    assert "my+optimizer.lr=0.002" in capsys.readouterr().out
    commands.status(file, runs=Path("runs"))
    assert "not started" in capsys.readouterr().out


def test_models_and_experiments_take_overrides_too(tmp_path, monkeypatch, capsys):
    import archbench

    monkeypatch.chdir(tmp_path)
    archbench.show("tiny_gemma3", as_json=True, changes=["train.steps=50", "model.layers=6"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["train"]["steps"], shown["model"]["layers"]) == (50, 6)
    with pytest.raises(SpecError, match=r"^--set layerz=3: layerz: unknown key; did you mean 'layers'"):
        archbench.show("small/gemma3", changes=["layerz=3"])
    with pytest.raises(SpecError, match=r"^--seeds: expected a study, and tiny_gemma3 is of the kind experiment"):
        archbench.show("tiny_gemma3", seeds=3)


def test_a_single_run_records_the_command_that_does_it_again(tiny, tmp_path, monkeypatch, capsys):
    from experiments import __main__ as experiments
    from experiments.record import RunRecord

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of this process stay as they are
    data = tiny | {"evaluate": {"every": 4, "select_rows": 2, "report_rows": 2, "sample_tokens": 0}}
    Path("one.yaml").write_text(json.dumps({"schema": 1, **data}))
    experiments.run("one.yaml", changes=["train.steps=2"], seeds=2, name="short")
    folders = sorted(Path("runs/single/short").glob("run-*/seed-*"))
    records = [RunRecord.read(folder) for folder in folders]
    assert [(record.seed, record.steps, record.status) for record in records] == [(0, 2, "finished"), (1, 2, "finished")]
    assert records[1].command == "archbench run one.yaml --seed 1 --set train.steps=2 --name short"
    assert document.load("one.yaml", "experiments", ["train.steps=2"]).at(("train", "steps")).plain() == 2
    for options in ({"seed": 0, "seeds": 2}, {"name": "a/b"}):
        with pytest.raises(SpecError):
            experiments.run("one.yaml", **options)
