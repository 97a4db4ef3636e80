"""Fixtures: a small study, planned without reading data."""

import sys
from pathlib import Path

import pytest

# Worker processes import the fakes by name; they inherit this process's path.
sys.path.insert(0, str(Path(__file__).parent))

import search_cases
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


@pytest.fixture
def search_data(study_data):
    """A study whose blocks are written out, so that one of them can become a recurrence."""
    blocks = study_data["model"]["blocks"]
    return study_data | {"model": study_data["model"] | {"blocks": dict.fromkeys(("local", "global", "rec"), blocks["local"])}}


@pytest.fixture
def searched(plan_study, search_data, monkeypatch):
    """searched(**search) gives a StudyPlan with a search and creates its folder. A cache has 10 bytes per window."""

    def cost(spec, context):
        window = spec.blocks["local"].mixer.get("window") or 0
        return {"cache_bytes": {"total": 10 * window}, "parameters": {"total": 1000 * window}}

    def made(name="asked", scale=None, **search):
        monkeypatch.setattr("arch.cost.summary", cost)
        monkeypatch.setattr("arch.cost.cache_bytes", lambda spec, context: cost(spec, context)["cache_bytes"])
        planned = plan_study(search_data | {"search": {**search_cases.SEARCH, **search}}, name, scale)
        planned.folder.mkdir(parents=True, exist_ok=True)
        return planned

    return made
