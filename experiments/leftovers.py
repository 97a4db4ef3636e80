"""What a run leaves behind that did not finish, and who may open it: its weights are no result.

Weights of a run that failed after its last step lie in its subfolder FAILED, a checkpoint of its own. So the run's folder
is none, and whoever wants these weights names that subfolder.
"""

import os
import shutil
from pathlib import Path

from arch import digests
from arch.checkpoint import CHAT_TEMPLATE, SPEC, TOKENIZER, WEIGHTS
from arch.errors import DataError
from arch.prompts import CONFIG, PROMPTS
from experiments.record import RunRecord

FAILED = "failed"
ENDS = {"failed": "failed", "running": "has not ended", "interrupted": "was interrupted", "pruned": "was pruned"}


def set_aside(folder):
    """Move the weights of a run that failed to its subfolder FAILED, a checkpoint of its own: to be looked at if named."""
    aside = Path(folder) / FAILED
    aside.mkdir(exist_ok=True)
    for name in (SPEC, TOKENIZER, CHAT_TEMPLATE, PROMPTS, CONFIG):
        if (Path(folder) / name).is_file():
            shutil.copyfile(Path(folder) / name, aside / name)
    digests.discard(aside)
    os.replace(Path(folder) / WEIGHTS, aside / WEIGHTS)
    if (Path(folder) / digests.NAME).is_file():
        os.replace(Path(folder) / digests.NAME, aside / digests.NAME)


def discard(folder):
    """Remove the weights that an earlier start of a run left in its folder."""
    digests.discard(folder)
    (Path(folder) / WEIGHTS).unlink(missing_ok=True)
    shutil.rmtree(Path(folder) / FAILED, ignore_errors=True)


def check_finished(folder, key=None):
    """Raise DataError, with this key, if a folder belongs to a run that is not finished: its weights are no result."""
    record = RunRecord.read_whole(folder)
    if record is None or record.status == "finished":
        return
    why = f" ({record.failure.reason})" if record.failure else ""
    aside = Path(folder) / FAILED
    where = f"; they are in {aside}" if (aside / WEIGHTS).is_file() else ""
    raise DataError(f"{folder}: its run {ENDS[record.status]}{why}, so its weights are no result{where}", key=key)
