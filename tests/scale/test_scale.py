"""Drivers of one study are killed, stopped and lose their database, and nothing is lost or done twice. `make test-scale`."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import chaos as chaos_test
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
    assert found["restarts"] == 1 and found["kills"] >= 6 and found["stops"] >= 3 and found["trials"].get("FAIL lost", 0) > 0


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


WHOLE = """
schema: 1
question: Who sees a password?
model:
  dim: 16
  vocab_size: 300
  layers: 1
  pattern: [only]
  blocks: {only: {mixer: {type: attention, heads: 1, head_dim: 16, window: 8}, ffn: {type: gated, hidden: 16}}}
data: {source: {type: text, files: [TEXTS], field: text}, tokenizer: {type: byte}, context: 32, rows: 2}
optimizer: {lr: 3e-3}
train: {steps: 4, checkpoint_every: 2, threads: 1}
evaluate: {every: 2, select_rows: 2, report_rows: 2, sample_tokens: 0}
arms: {one: {}}
seeds: 1
"""


def test_a_password_is_in_nothing_that_a_whole_study_writes_prints_or_shows(server, tmp_path):
    """In no file of the study, its report and TensorBoard, not in what is printed, and in no command line once it was read."""
    texts = [json.dumps({"text": f"{number} green hills over the old mat " * 8}) for number in range(200)]
    (tmp_path / "texts.jsonl").write_text("".join(f"{line}\n" for line in texts))
    (tmp_path / "whole.yaml").write_text(WHOLE.replace("TEXTS", str(tmp_path / "texts.jsonl")))
    secrets = [secret.encode() for secret in (postgres.PASSWORD, postgres.QUOTED, urllib.parse.quote(postgres.PASSWORD, safe=""))]
    hidden = lambda text: not any(secret in text for secret in secrets)  # noqa: E731
    command = [sys.executable, str(HERE.parent.parent / "archbench.py"), "study", "run", "whole.yaml", "--storage", server.url]
    environment = {**os.environ, "ARCHBENCH_CACHE": str(tmp_path / "cache")}
    seen = []
    with (tmp_path / "printed").open("wb") as printed:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=printed, stderr=printed)
        while process.poll() is None:
            own, *others = commands(process.pid)
            if seen or (own and hidden(own)):  # from when the command has read its words
                seen += [own, *others]
            time.sleep(0.2)
    assert process.returncode == 0, (tmp_path / "printed").read_text()
    assert any(b"--storage" in each for each in seen) and any(b"spawn" in each for each in seen)
    assert [each for each in seen if not hidden(each)] == []
    shown = subprocess.run(
        [sys.executable, "-c", AFTERWARDS, server.url], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert b"1 complete" in shown.stdout and hidden(shown.stdout + shown.stderr)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.name.partition(".")[0] for path in files} | {path.suffix for path in files}
    assert {"record", "study", "report", "events", "printed", ".log", ".csv"} <= kinds
    assert [path for path in files if not hidden(path.read_bytes())] == []
    assert b"postgres@127.0.0.1" in (tmp_path / "runs/whole/base/study.json").read_bytes()


AFTERWARDS = """
import sys
from pathlib import Path
from rich.console import Console
from analysis.tensorboard import write_logs
from sweeps.queue_status import printed
write_logs(Path("runs/whole/base"))
printed(sys.argv[1], "whole", None, Console())
"""


def commands(process):
    """The command lines of a process and of those that it started."""
    with contextlib.suppress(OSError):
        yield Path(f"/proc/{process}/cmdline").read_bytes()
        for child in chaos_test.children(process):
            yield from commands(child)
