"""Fixtures: a small study, planned without reading data."""

import sys
from pathlib import Path

import pytest

# Worker processes import the fakes by name; they inherit this process's path.
sys.path.insert(0, str(Path(__file__).parent))

import sweeps_fakes


@pytest.fixture
def study_data(tiny):
    """A study as plain data, with two arms and two seeds."""
    return {
        **tiny,
        "question": "Is it?",
        "arms": {"1:1": {}, "all local": {"model.pattern": ["local"]}},
        "seeds": 2,
        "scales": {"small": {"train.steps": 2}, "laptop": {"train.steps": 20}},
        "long_context": 64,
    }


@pytest.fixture
def plan_study(tmp_path, monkeypatch):
    """plan_study(data, name, scale) gives a StudyPlan under tmp_path/runs. Its identities need no data."""
    from arch import document
    from sweeps import study

    monkeypatch.setattr("experiments.plan.plan", sweeps_fakes.plan)
    monkeypatch.setattr("arch.cost.summary", lambda spec, context, **options: {"cache_bytes": {"total": context}})
    monkeypatch.setattr("arch.cost.cache_bytes", lambda spec, context: {"total": context})

    def planned(data, name="asked", scale=None):
        spec, arms = study.check(document.node(data), scale)
        return study.plan(name, scale, spec, arms, tmp_path / "runs")

    return planned


@pytest.fixture
def console():
    """A console that is not a terminal and keeps its output: `console.file.getvalue()`."""
    import io

    from rich.console import Console

    return Console(file=io.StringIO(), width=200)
