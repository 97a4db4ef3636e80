"""Where several drivers meet: a storage of Optuna's behind a URL. What is wrong with it is one line; passwords are not shown."""

import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from arch.errors import SpecError, install

VARIABLE = "ARCHBENCH_STORAGE"
FORMS = "postgresql+psycopg://USER@HOST/DATABASE, or journal:PATH for a file that all machines share"
SCHEMES = ("postgresql+psycopg", "postgresql", "postgres")
JOURNAL = "journal:"
# scheme://user, password and the rest, also where the scheme is mistyped; a password in place of a port, because `@HOST` is
# missing; what a password in the query looks like.
USER = r"(?s)((?!journal:)(?:[A-Za-z][A-Za-z+0-9]*:/+)?[^:/@]*):(?!/)(.*)@([^@]*)$"
NO_HOST = r"(?s)([A-Za-z][A-Za-z+0-9]*:/+[^:/@?]*):(?!\d+(?:[/?]|$))([^@/?]+)([^@]*)$"
QUERY = r"(?i)([?&](?:ssl)?passw(?:or)?d=)([^&]*)"
OTHER = "use that version, or another database"
# Seconds. A connection that does not answer is given up, so that beats of other runs are not late.
CONNECT, SILENT = 5, 20
# "Create the tables once": drivers that start together wait for each other behind this number of PostgreSQL's locks.
CREATING = 0x617263


def chosen(option: str | None) -> str | None:
    """The URL of the storage: the option, or else the environment variable. A password in the option leaves the process title.

    Raises SpecError where it would stay readable for every user of the machine.
    """
    if option and not all(map(_erased, _secrets(option))):
        reason = f"every user of this machine can read a password in a command: set ${VARIABLE} instead, or use ~/.pgpass"
        raise SpecError(reason, file="--storage")
    return option or os.environ.get(VARIABLE) or None


def shown(url: str) -> str:
    """A URL without its password."""
    found = re.match(USER, url)
    if found:
        url = f"{found[1]}@{found[3]}"
    elif found := re.match(NO_HOST, url):
        url = f"{found[1]}:***{found[3]}"
    return re.sub(QUERY, r"\1***", url)


def words(option: str | None) -> list[str]:
    """How a command names the storage: never with a password. Nothing where the environment names it."""
    return [] if option is None else ["--storage", shown(option)]


def opened(url: str, lease: float = 180.0, make: bool = True) -> Any:
    """The `optuna.storages` object of a URL. lease: seconds; a lock on a journal is broken well before a lease ends.

    make: whether it is set up where there is none; else None is returned then.
    Raises SpecError, in one line and before anything is written, for a URL of another form, SQLite, a package or a server
    that is not there, a wrong password, a storage of another version of Optuna, and a folder that cannot be written.
    """
    if url.startswith(JOURNAL):
        return _journal(url, lease, make)
    scheme = url.partition("://")[0]
    if scheme.startswith("sqlite"):
        raise _error(url, f"SQLite hands out the same run to two drivers; expected {FORMS}")
    if scheme not in SCHEMES:
        raise _error(url, f"expected {FORMS}")
    # Else the driver's own message would quote a part of the password.
    if re.match(NO_HOST, url):
        raise _error(url, f"no @HOST after the password; expected {FORMS}")
    if (found := re.match(USER, url)) and "@" in found[2]:
        raise _error(url, "a password with @ in it must have %40 in its place")
    if importlib.util.find_spec("psycopg") is None:
        raise _error(url, f"needs the package psycopg: {install('postgresql')}")
    return _database(url, make)


def close(storage: Any) -> None:
    """End the connections of a storage."""
    if hasattr(storage, "engine"):
        storage.remove_session()
        storage.engine.dispose()


def away() -> tuple[type[BaseException], ...]:
    """What a call raises while its storage is away for a time: no server, no disk, a lock that others broke."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError

    return StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError


def why_away(error: BaseException) -> str:
    """The cause of such an error in a few words, from its innermost cause: Optuna's own text speaks of invalid data."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _brief(error)


def _database(url, make):
    import optuna
    import sqlalchemy
    from optuna.storages import RDBStorage

    # ValueError: a server that goes away between two of the calls below becomes Optuna's own error.
    unusable: tuple[type[BaseException], ...] = (*away(), ValueError)
    full = "postgresql+psycopg" + url[url.index("://") :]
    # What is written in the URL comes before these.
    arguments = {"connect_timeout": CONNECT, "keepalives_idle": 30, "tcp_user_timeout": SILENT * 1000}
    engine_options = {"pool_pre_ping": True, "pool_size": 2, "connect_args": arguments}
    try:
        engine = sqlalchemy.create_engine(full, **engine_options)
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        raise _error(url, f"cannot be used: {_brief(error)}") from None
    try:
        with engine.connect() as connection, _alone(connection):
            exists = sqlalchemy.inspect(connection).has_table("alembic_version")
            if not exists and not make:
                return None
            # Optuna fills the URL in with `str.format`.
            made = full.replace("{", "{{").replace("}", "}}")
            storage = RDBStorage(made, engine_options, skip_compatibility_check=True, skip_table_creation=exists)
            if storage.get_current_version() != storage.get_head_version():
                close(storage)
                found = connection.execute(sqlalchemy.text("SELECT library_version FROM version_info")).scalar()
                raise _error(url, f"set up by Optuna {found}, and here is Optuna {optuna.__version__}: {OTHER}")
        return storage
    except SpecError:
        raise
    except unusable as error:
        raise _error(url, f"cannot be used: {why_away(error)}") from None
    finally:
        engine.dispose()


@contextmanager
def _alone(connection) -> Iterator[None]:
    """Hold a lock of the database, which ends with the connection at the latest."""
    import sqlalchemy

    connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({CREATING})"))
    try:
        yield
    finally:
        with suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_unlock({CREATING})"))


def _journal(url, lease, make):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path = Path(url.removeprefix(JOURNAL).removeprefix("//")).absolute()
    if path.name in ("", "..") or path.is_dir():
        raise _error(url, "expected the path of a file")
    if not make and not path.exists():
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        lock = Repairing(JournalFileSymlinkLock(str(path), grace_period=max(3, min(30, int(lease / 4)))), path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))  # type: ignore[arg-type]
    except OSError as error:
        raise _error(url, f"cannot be written: {error.strerror or error}") from None
    except (ValueError, KeyError, AssertionError) as error:
        raise _error(url, f"is no journal of Optuna's ({_brief(error)}); name another file") from None


class Repairing:
    """A lock of Optuna's journal that removes what a writer left unfinished: killed, or on a full disk, within a line.

    Without this the next line would follow on the same one, and no driver could read the journal again.
    """

    def __init__(self, lock: Any, path: Path):
        self.lock, self.path = lock, path

    def acquire(self) -> bool:
        """Wait for the lock. Raises OSError."""
        self.lock.acquire()
        try:
            with self.path.open("rb+") as file:
                end = file.seek(0, os.SEEK_END)
                while end and not _ends_line(file, end):
                    end = _last_line(file, end)
                    file.truncate(end)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens if others broke it, because this process stood still for so long."""
        with suppress(RuntimeError):
            self.lock.release()


def _ends_line(file, end):
    file.seek(end - 1)
    return file.read(1) == b"\n"


def _last_line(file, end):
    """Where the last, unfinished line of a file begins."""
    size = 1 << 16
    while True:
        start = max(0, end - size)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0 or start == 0:
            return start + found + 1
        size *= 2


def _error(url, reason):
    return SpecError(reason, file=shown(url))


def _brief(error):
    """The first line of an error, without what SQLAlchemy and libpq put around it."""
    line = re.sub(r"^\(\S+\) ", "", str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    line = line.partition(" failed: ")[2] or line
    return re.sub(r"^(FATAL|ERROR):\s+", "", line)


def _secrets(url):
    """The passwords in a URL, as they are written there."""
    found = re.match(USER, url) or re.match(NO_HOST, url)
    return [*([found[2]] if found and found[2] else []), *(secret for _, secret in re.findall(QUERY, url) if secret)]


def _erased(secret: str) -> bool:
    """Overwrite a secret in this process's command line, as other users see it. Returns whether it is gone from there."""
    path, needle = Path("/proc/self/cmdline"), secret.encode()
    try:
        if needle not in path.read_bytes():
            return True
        start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45])
        seen = path.read_bytes()
        at = seen.find(needle)
        while at >= 0:
            ctypes.memset(start + at, ord("*"), len(needle))
            at = seen.find(needle, at + len(needle))
        return needle not in path.read_bytes()
    except (OSError, ValueError, IndexError):
        return not any(secret in word for word in sys.orig_argv)
