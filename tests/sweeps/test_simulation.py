"""The rule of verdicts keeps its promises on simulated studies, judged by the functions that judge real ones."""

import numpy as np
import pytest

from arch.errors import DataError
from sweeps import __main__ as command
from sweeps import judge
from sweeps.simulation import record as records
from sweeps.simulation import run, scenarios, study

LEVEL = "Identical arms, read again and again"


def chosen(table, column=None, row=None):
    """The scenarios of the tables whose title starts so."""
    found = [each for each in scenarios.scenarios() if each.table.startswith(table) and column in (None, each.column)]
    found = [each for each in found if row is None or row in each.rows]
    assert found
    return found


def simulated(studies, picked):
    return run.simulate(studies, picked, processes=1)


@pytest.fixture(scope="module")
def short():
    """The short form of `make simulate`."""
    return run.record("short", run.SHORT, processes=1)


@pytest.mark.slow
def test_every_number_of_the_short_form_is_as_expected(short):
    assert not short.faults
    assert len(short.cells) > 200 and all(cell.studies >= run.SHORT / 2 for cell in short.cells)


@pytest.mark.slow
def test_over_all_tables_false_words_stay_below_their_level(short):
    """Each number alone is uncertain in the short form; together they are not."""
    promised = [cell for cell in short.cells if cell.at_most == scenarios.ALPHA]
    studies = sum(cell.studies for cell in promised)
    wrong = sum(cell.value * cell.studies for cell in promised) / studies
    assert studies > 5000 and wrong < 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5


@pytest.mark.slow
def test_looks_are_paid_for_and_reading_without_a_plan_is_not():
    planned = simulated(1200, chosen(LEVEL, "plan 3 to 12"))
    assert all(cell.value < 0.05 + 3.5 * (0.05 * 0.95 / cell.studies) ** 0.5 and cell.value > 0.015 for cell in planned)
    (unpaid,) = simulated(1200, chosen(LEVEL, "without a plan, at 3, 5, 8, 12", "1 asked"))
    assert unpaid.value > 0.10 and not unpaid.faults


def test_a_rule_that_does_not_pay_for_its_looks_is_found_out(monkeypatch):
    monkeypatch.setattr(judge, "levels", lambda looks, questions=1: [0.05 / max(1, questions)] * len(looks))
    (cell,) = simulated(1200, chosen(LEVEL, "plan 3 to 12", "1 asked"))
    assert "expected at most 0.05" in cell.faults


def test_a_rule_that_drops_failed_runs_is_found_out(monkeypatch):
    monkeypatch.setattr(judge._Hearing, "_unstable", lambda hearing, number: {})
    cells = simulated(200, chosen("One of four arms loses runs", "n = 8", "called unstable"))
    praised = next(cell for cell in cells if "though it lost runs" in cell.row)
    assert praised.value > 0.2 and praised.faults


@pytest.mark.slow
def test_seeds_stop_for_what_is_decided(short):
    seeds = {cell.row: cell.value for cell in short.cells if cell.table.startswith("Seeds until")}
    assert 5 < seeds["mean seeds, 5.83 sd"] < seeds["mean seeds, 2 sd"] < seeds["mean seeds, 1 sd"] <= 12


def test_paired_differences_have_the_spread_that_is_said_and_are_correlated_through_the_baseline():
    (scenario, *_) = chosen("Identical arms: any", "n = 12", "4 arms")
    random = np.random.default_rng(0)
    differences = []
    for _ in range(400):
        runs = study.drawn(scenario, random)
        losses = {arm: np.array([runs[arm, seed].metrics[study.METRIC] for seed in range(12)]) for arm in scenario.arms}
        differences.append([losses[arm] - losses["baseline"] for arm in ("arm 1", "arm 2")])
    one, two = np.array(differences).transpose(1, 0, 2).reshape(2, -1)
    assert one.std() == pytest.approx(study.PAIRED_SD, rel=0.05) and np.corrcoef(one, two)[0, 1] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("noise", [study.normal, scenarios.t3, scenarios.exponential, scenarios.lognormal])
def test_noise_has_mean_0_and_spread_1(noise):
    values = noise(np.random.default_rng(1), (400_000,))
    assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(1, rel=0.15)


def test_no_word_depends_on_the_advice_on_seeds():
    (scenario,) = chosen("Two identical arms, two at the margin", "3 to 12", "margin 2 %")
    for seed in range(5):
        runs = study.drawn(scenario, np.random.default_rng(seed))
        plain = study.outcome(scenario, scenario.plans[0], runs)
        with study.without_advice():
            quick = study.outcome(scenario, scenario.plans[0], runs)
        assert quick.seeds == plain.seeds
        words = [{arm: verdict.word for arm, verdict in each.rulings["quality"].verdicts.items()} for each in (plain, quick)]
        assert words[0] == words[1] and len(words[0]) == 6


def test_the_numbers_do_not_depend_on_the_number_of_processes():
    picked = chosen("Identical arms: any", "n = 3", "2 arms")
    assert run.simulate(20, picked, processes=2) == run.simulate(20, picked, processes=1)


def test_every_scenario_has_random_numbers_of_its_own():
    names = [scenario.name for scenario in scenarios.scenarios()]
    assert len(set(names)) == len(names)


def test_a_number_has_the_error_of_its_mean():
    (scenario,) = chosen("Identical arms: any", "n = 3", "2 arms")
    (cell,) = run.cell_list(scenario, 100, np.array([20.0]), np.array([20.0]))
    assert (cell.value, cell.error) == (0.2, pytest.approx(0.04)) and "expected at most 0.05" in cell.faults
    assert not run.cell_list(scenario, 100, np.array([6.0]), np.array([6.0]))[0].faults


def test_the_documents_tables_come_from_the_committed_run():
    done = records.SimulationRecord.read()
    text = records.DOCUMENT.read_text()
    assert records.rewritten(text, done) == text, "`make simulate` writes both"
    assert not done.faults and done.hardware["cpu"] and done.command in text
    assert {(cell.table, cell.row, cell.column) for cell in done.cells} == {
        (each.table, row, each.column) for each in scenarios.scenarios() for row in each.rows
    }


def test_the_command_prints_the_tables_and_writes_only_if_asked(tmp_path, monkeypatch, capsys):
    done = records.SimulationRecord.read()
    monkeypatch.setattr(run, "record", lambda words, studies, told: done)
    document = tmp_path / "statistics.md"
    monkeypatch.setattr(records, "DOCUMENT", document)
    monkeypatch.setattr(records, "FILE", tmp_path / "simulation.json")
    assert command.simulate(short=True) == 0 and not list(tmp_path.iterdir())
    assert "without a plan" in capsys.readouterr().out
    document.write_text("no marks\n")
    with pytest.raises(DataError, match="expected the lines"):
        command.simulate(write=True)
    assert [each.name for each in tmp_path.iterdir()] == ["statistics.md"]
    document.write_text(f"before\n{records.START}old\n{records.END}after\n")
    assert command.simulate(write=True) == 0
    assert document.read_text().startswith("before\n") and "old" not in document.read_text()
    assert records.SimulationRecord.read(tmp_path / "simulation.json") == done
    wrong = done.cells[0].model_copy(update={"value": 0.5})
    monkeypatch.setattr(run, "record", lambda words, studies, told: done.model_copy(update={"cells": [wrong]}))
    assert command.simulate() == 1 and "expected at most 0.05" in capsys.readouterr().err
