"""`archbench study dashboard` opens the storage that a search keeps, and says in one line why it cannot."""

import sys
import types

import optuna
import pytest

from arch.errors import DataError
from sweeps import dashboard
from sweeps.search.storage import DATABASE, of_folder


@pytest.fixture
def served(monkeypatch):
    """What the dashboard is asked to serve, without the package."""
    asked = []
    package = types.ModuleType(dashboard.PACKAGE)
    package.run_server = lambda storage, host, port: asked.append((storage, host, port))
    package.__spec__ = types.SimpleNamespace(name=dashboard.PACKAGE)
    monkeypatch.setitem(sys.modules, dashboard.PACKAGE, package)
    return asked


def test_it_opens_the_trials_of_the_study(tmp_path, served, capsys):
    optuna.create_study(storage=of_folder(tmp_path), study_name="mine")
    dashboard.serve(tmp_path, None, 8123)
    ((storage, host, port),) = served
    assert [each.study_name for each in optuna.get_all_study_summaries(storage)] == ["mine"]
    assert (host, port) == ("localhost", 8123) and "http://localhost:8123/" in capsys.readouterr().out


def test_a_study_without_trials_is_one_line_and_makes_no_file(tmp_path, served):
    with pytest.raises(DataError, match="no such file; it is there once a search or a tuning has begun"):
        dashboard.serve(tmp_path, None, 8123)
    assert not (tmp_path / DATABASE).exists() and not served


def test_without_the_package_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install -e '.\[dashboard\]'"):
        dashboard.serve(tmp_path, None, 8123)


def test_a_shared_storage_is_opened_here(tmp_path, served):
    url = f"journal:{tmp_path / 'journal'}"
    with pytest.raises(DataError, match="nothing is stored there yet"):
        dashboard.serve(tmp_path, url, 8123)
    from sweeps import storage

    optuna.create_study(storage=storage.opened(url), study_name="shared")
    dashboard.serve(tmp_path, url, 8123)
    assert [each.study_name for each in optuna.get_all_study_summaries(served[0][0])] == ["shared"]
