"""Open the queue of a study in a storage, and refuse one of another study, another folder of runs, other code or another Optuna."""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from arch.errors import SpecError
from experiments.code import CODE, sources
from sweeps import gone
from sweeps import storage as storages
from sweeps.leases import Terms
from sweeps.shared_queue import HOST, SharedQueue, commit_of

# In the study's folder: which queue its runs belong to.
TOKEN = ".queue"
LIVE = (TrialState.WAITING, TrialState.RUNNING)


def name_of(study: str, scale: str | None) -> str:
    """The name of a study's queue."""
    return f"{study}/{scale or 'base'}/runs"


def opened(storage: Any, study: Any, say: Callable[[str], None], again: bool = False) -> SharedQueue:
    """The queue of a StudyPlan, made if there is none. again: forgive what failed so far.

    Raises SpecError where the queue is of another study, of another folder of runs, of other code, or of another Optuna. Other
    code and another folder are refused while anybody works with them: it may take a lease to see that nobody does.
    """
    code = {**CODE, "sources": sources()}
    name = name_of(study.name, study.scale)
    terms = Terms.of_environment()
    sampler = optuna.samplers.RandomSampler()  # there is nothing to sample
    try:
        queue = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, sampler=sampler)
        attrs = queue.user_attrs
        _check_optuna(name, attrs.get("optuna"))
        shared = SharedQueue(queue, storage, Terms(*attrs.get("terms", terms)), say=say)
        gone.cleared(shared, lambda: _is_of_others(study, queue.user_attrs, code))
        attrs = queue.user_attrs
        live = [trial for trial in queue.get_trials(deepcopy=False) if trial.state in LIVE]
        about = _about(study, attrs, live)
        _check_code(name, attrs.get("code"), code, live)
        for key, value in {**about, "code": code, "optuna": optuna.__version__}.items():
            if attrs.get(key) != value:
                queue.set_user_attr(key, value)
        if "terms" not in attrs:
            queue.set_user_attr("terms", list(terms))
        if again:
            numbers = [trial.number for trial in queue.get_trials(deepcopy=False) if trial.state == TrialState.FAIL]
            queue.set_user_attr("forgiven", max(numbers, default=-1))
        attrs = queue.user_attrs
    except storages.away() as error:
        raise SpecError(f"the storage is away: {storages.why_away(error)}") from None
    return SharedQueue(queue, storage, Terms(*attrs["terms"]), attrs.get("forgiven", -1), say, code["sources"], attrs["token"])


def _is_of_others(study, attrs, code):
    """Whether drivers of other code, or of another folder of the same study, have made a queue."""
    other_code = (attrs.get("code") or code).get("sources") != code["sources"]
    other_folder = bool(attrs.get("token")) and attrs["token"] != _token(study.folder)
    return _is_this_study(study, attrs) if other_folder else other_code


def _is_this_study(study, attrs):
    """Whether a queue of another folder is of a study with the same question and the same file."""
    content = study.written.content if study.written else None
    return attrs.get("content") == content and attrs.get("question") == study.spec.question


def _about(study, attrs, live):
    """The attributes that tie a queue to a study and its folder. Raises SpecError where they are of another."""
    token = _token(study.folder)
    if attrs.get("token") and attrs["token"] != token:
        where = f"{attrs.get('host')}:{attrs.get('folder')}"
        if not _is_this_study(study, attrs):
            raise SpecError(
                f"the storage has another study {study.name!r} ({attrs.get('question')!r}, runs in {where}): "
                "rename one of the two, or use another database"
            )
        if live:
            raise SpecError(
                f"{study.folder} is not the folder in which this study's drivers write ({where}): all of them need the same "
                "--runs, on a file system that they share; if that folder is gone, use another database"
            )
    made = {
        "token": token or uuid.uuid4().hex,
        "question": study.spec.question,
        "content": study.written.content if study.written else None,
        "folder": str(study.folder.resolve()),
        "host": HOST,
    }
    if token is None:
        made["token"] = _new_token(study.folder, made["token"])
    if attrs.get("token") == made["token"]:  # an edited study goes on; the first place stays
        made |= {key: attrs[key] for key in ("folder", "host") if key in attrs}
    return made


def _token(folder):
    try:
        return (Path(folder) / TOKEN).read_text().strip() or None
    except OSError:
        return None


def _new_token(folder, token):
    """Name the queue of a folder. Of several drivers that start together the first one does. Raises OSError."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{TOKEN}.{uuid.uuid4().hex}"
    scratch.write_text(token + "\n")
    with suppress(FileExistsError):
        os.link(scratch, folder / TOKEN)
    scratch.unlink()
    return _token(folder) or token


def _check_code(name, other, code, live):
    if not other or other.get("sources") == code["sources"]:
        return
    if live:
        named = f"the code of {commit_of(other)}, and this is {commit_of(code)}"
        raise SpecError(f"the drivers of {name} run {named}: one study needs one version; end them first")


def _check_optuna(name, other):
    if other and other.split(".")[0] != optuna.__version__.split(".")[0]:
        raise SpecError(f"{name} was made by Optuna {other}, and here is Optuna {optuna.__version__}: use that version")
