"""A PostgreSQL of one's own on loopback: fresh data, a free port, a password with a brace."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PASSWORD = "s3cret{0}%"  # with what Optuna and SQLAlchemy each take for their own
QUOTED = "s3cret{0}%25"
USER = "postgres"


class NoServer(RuntimeError):
    """PostgreSQL cannot be had here; the text says why."""


def programs():
    """The folder of initdb and pg_ctl. Raises NoServer."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]), reverse=True)
    which = shutil.which("initdb")
    if not found and not which:
        raise NoServer("no PostgreSQL here: `apt-get install postgresql`")
    return found[0].parent if found else Path(which).parent


class Server:
    """A running server; a context manager."""

    def __init__(self):
        self.bin = programs()
        self.as_root = os.geteuid() == 0
        if self.as_root and shutil.which("runuser") is None:
            raise NoServer("initdb refuses root, and there is no `runuser` to become postgres")

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="archbench-postgres-"))
        (self.folder / "password").write_text(PASSWORD)
        if self.as_root:
            shutil.chown(self.folder, USER, USER)
            shutil.chown(self.folder / "password", USER, USER)
        data = ["--pgdata", str(self.folder / "data"), "--username", USER]
        self._call("initdb", *data, "--auth=scram-sha-256", "--pwfile", str(self.folder / "password"), "--no-sync")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self):
        """Of the database, with its password."""
        return f"postgresql+psycopg://{USER}:{QUOTED}@127.0.0.1:{self.port}/postgres"

    def start(self):
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        self._call("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-o", options, "-l", str(self.folder / "log"))

    def stop(self):
        """Kill the server as a crash would."""
        self._call("pg_ctl", "stop", "-w", "-D", str(self.folder / "data"), "-m", "immediate")

    def restart(self, away):
        """A crash, `away` seconds without a server, and a start."""
        self.stop()
        time.sleep(away)
        self.start()

    def _call(self, program, *words):
        command = [str(self.bin / program), *words]
        if self.as_root:
            command = ["runuser", "-u", USER, "--", *command]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        except subprocess.CalledProcessError as error:
            if program == "initdb":
                raise NoServer(f"initdb failed: {error.stderr.strip().splitlines()[-1:]}") from None
            raise
