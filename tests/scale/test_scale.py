"""Drivers of one study are killed, stopped and lose their database, and nothing is lost or done twice. `make test-scale`."""

import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

import postgres
import pytest

from arch.errors import SpecError
from sweeps import storage

HERE = Path(__file__).parent
pytestmark = pytest.mark.scale
NEEDED = "ARCHBENCH_NEEDS_POSTGRESQL"


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL. Where none can be had the test is skipped, unless NEEDED is set."""
    try:
        running = postgres.Server().__enter__()
    except postgres.NoServer as error:
        if os.environ.get(NEEDED):
            pytest.fail(f"{error} ({NEEDED} is set)")
        pytest.skip(str(error))
    yield running
    running.__exit__(None, None, None)


def chaos(*words):
    """What the chaos test found; it must have found no fault."""
    done = subprocess.run([sys.executable, str(HERE / "chaos.py"), *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == [] and found["done"] == found["jobs"] and found["lost"] == found["twice"] == 0
    return found


def test_thirty_kills_on_a_journal():
    found = chaos("--storage", "journal", "--jobs", "60", "--kills", "30")
    assert found["kills"] == 30 and found["trials"].get("FAIL lost", 0) > 0


def test_kills_stops_and_a_restart_of_the_database(server):
    words = ("--steps", "150", "--kills", "12", "--stops", "6", "--restarts", "1", "--pause", "1")
    found = chaos("--storage", "postgresql", "--jobs", "8", *words)
    assert found["restarts"] == 1 and found["kills"] >= 10 and found["stops"] >= 4 and found["trials"].get("FAIL lost", 0) > 0


def test_a_password_with_a_brace_works_and_is_not_shown(server):
    opened = storage.opened(server.url)
    assert isinstance(opened.get_all_studies(), list)
    storage.close(opened)
    assert postgres.PASSWORD not in storage.shown(server.url) and postgres.QUOTED not in storage.shown(server.url)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((postgres.QUOTED, "wrong"), 'password authentication failed for user "postgres"'),
        (("/postgres", "/nothere"), 'database "nothere" does not exist'),
    ],
)
def test_what_is_wrong_with_a_database_is_one_line(server, change, reason):
    url = server.url.replace(*change) if change[0] != "/postgres" else server.url[: -len("postgres")] + "nothere"
    with pytest.raises(SpecError) as caught:
        storage.opened(url)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value) and postgres.QUOTED not in str(caught.value)
    assert urllib.parse.urlsplit(storage.shown(url)).password is None


def test_a_database_of_another_optuna_is_one_line_and_stays_as_it_is(server):
    import sqlalchemy

    storage.close(storage.opened(server.url))
    engine = sqlalchemy.create_engine(server.url)
    with engine.begin() as connection:
        before = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v2.6.0.a'"))
        connection.execute(sqlalchemy.text("UPDATE version_info SET library_version = '2.10.1'"))
    try:
        with pytest.raises(SpecError, match=r"set up by Optuna 2\.10\.1, and here is Optuna 5\.[\d.]+: use that version"):
            storage.opened(server.url)
    finally:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"UPDATE alembic_version SET version_num = '{before}'"))
        engine.dispose()
    storage.close(storage.opened(server.url))
