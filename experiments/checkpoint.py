"""Checkpoints that resume bit for bit: they include the random state, and writing one is atomic and durable."""

import errno
import json
import pickle
import random
import zipfile
import zlib
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import arch.checkpoint
import arch.digests
from arch.errors import DataError
from arch.model import Model
from experiments import sharded
from experiments.files import Writing, durably, write_atomically
from experiments.leftovers import check_finished
from experiments.record import GONE, RunRecord
from experiments.sharded import Damaged
from experiments.spec import ExperimentSpec

NAME, PREVIOUS = "checkpoint.ckpt", "checkpoint.previous.ckpt"
WEIGHTS = arch.checkpoint.WEIGHTS
# What a checkpoint must have to go on from.
PARTS = ("global_step", "state_dict", "optimizer_states", "callbacks", "random_state")


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes to a scratch file, flushes it to disk, then renames it over the target. The one before it is kept beside it.

    If the process is killed at any moment, either the old checkpoint or the new one is on disk. Where there is no room for
    three, the older of the two that are there makes room.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        before = Path(path).with_name(PREVIOUS)
        try:
            _written(checkpoint, path, before)
        except OSError:
            if not before.exists() or not Path(path).exists():
                raise
            before.unlink()
            _written(checkpoint, path, before)

    def load_checkpoint(self, path, map_location=None, weights_only=True):
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def _written(checkpoint, path, before):
    def write(scratch):
        with Writing(scratch) as file:
            torch.save(checkpoint, file)

    durably(path, write, before)


def states(folder):
    """[(path, function)] of the checkpoints in a run's folder, the newest first: files, or the folders of a sharded run.

    The function reads the whole checkpoint and returns its optimizer step and the [identity, seed] of its run (None: it does
    not say). It raises `sharded.Damaged`, with what is wrong in a few words, or OSError where the machine does not let it read.
    """
    folder = Path(folder)
    files = [path for path in (folder / NAME, folder / PREVIOUS) if path.exists() or path.is_symlink()]
    return [*((place, partial(_read_folder, place)) for place in sharded.places(folder)),
            *((path, partial(_read_file, path)) for path in files)]  # fmt: skip


def newest(folder):
    """(step, names) of the newest checkpoint in a run's folder that can be read: its optimizer step, and the files and folders
    that all checkpoints there consist of. None if there is none that can be read.
    """
    found = states(folder)
    for _, read in found:
        with suppress(Damaged, OSError):
            pointer = [sharded.POINTER] if (Path(folder) / sharded.POINTER).is_file() else []
            return read()[0], [*pointer, *(path.name for path, _ in found)]
    return None


def _read_file(path):
    if not path.is_file():
        raise Damaged("it is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()  # torch does not look at checksums
            # To torch's reader, an entry with this attribute is a folder, and so empty.
            changed = changed or next((entry.filename for entry in archive.infolist() if entry.external_attr & 0x10), None)
        if changed is not None:
            raise Damaged(f"its bytes have changed: {changed} is not as it was written")
        return _told(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except OSError as error:
        if error.errno not in (None, errno.EIO, errno.EINVAL):  # a broken disk, and a place in a file that cannot be
            raise
        raise Damaged(f"it cannot be read: {error}") from None
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, AttributeError,
            zipfile.BadZipFile, zlib.error, pickle.UnpicklingError):  # fmt: skip
        raise Damaged("it is empty" if not path.stat().st_size else "it was cut short, or its bytes have changed") from None


def _read_folder(place):
    sharded.check_whole(place)
    try:
        return _told(dict.fromkeys(PARTS) | torch.load(place / sharded.REST, map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise Damaged(f"its {sharded.REST} cannot be read: {error}") from None


def _told(content):
    """(step, [identity, seed] or None) of the content of a checkpoint."""
    if missing := [name for name in PARTS if name not in content]:
        raise Damaged(f"it has no {missing[0]}")
    callbacks = content["callbacks"] or {}
    return int(content["global_step"]), callbacks.get("Watch", {}).get("run")


def is_whole(folder):
    """Whether the weights in the folder of a finished run can be opened; also True where the run was pruned and has none."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        return RunRecord.read_whole(folder).status == "pruned"
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def random_state():
    """The state of every random generator that a step may use, as plain data that loads without pickle."""
    kind, keys, position, has_gauss, gauss = numpy.random.get_state()
    version, internal, following = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), following],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state):
    """Set all random generators to a state returned by `random_state`."""
    torch.set_rng_state(state["torch"])
    numpy.random.set_state(tuple(state["numpy"]))
    version, internal, following = state["python"]
    random.setstate((version, tuple(internal), following))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_random_state():
    """Context manager: afterwards all random generators are as they were before."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


def save(trainer, folder):
    """Write the trainer's state into the run's folder, whole or not at all. All ranks must call it."""
    if isinstance(trainer.strategy, ModelParallelStrategy):
        sharded.save(trainer, folder)
    else:
        trainer.save_checkpoint(folder / NAME)


def discard(folder):
    """Remove the checkpoints of a run's folder, whatever their form."""
    for name in (NAME, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
    sharded.discard(folder)


def save_weights(model, folder):
    """Write the model's spec and weights, so that `arch` can load, export and sample from the folder."""
    durably(Path(folder) / arch.checkpoint.SPEC, lambda scratch: arch.checkpoint.write_spec(model.spec, scratch))
    weights = {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}
    arch.digests.discard(folder)
    durably(Path(folder) / WEIGHTS, lambda scratch: save_file(weights, scratch))
    durably(Path(folder) / arch.digests.NAME, lambda scratch: scratch.write_text(arch.digests.line(folder)))


def save_tokenizer(tokenizer, folder, ends=None, blind=None):
    """Write a tokenizer beside the weights, so that the folder can be sampled from.

    ends: `experiments.data.specials.Ends`; written beside it where the tokenizer's names for them are not ours. blind: the token
    that the model reads in place of each one that it writes, of data whose answers see no answer; None: it reads what it wrote.
    """
    named = {} if ends is None else {"bos": ends.bos, "eos": ends.eos}
    foreign = any(number is not None and tokenizer.id_to_token(number) != f"<{kind}>" for kind, number in named.items())
    if foreign or blind is not None:
        ids = {f"{kind}_token_id": number for kind, number in named.items() if number is not None}
        ids |= {} if blind is None else {arch.checkpoint.BLIND: blind}
        write_atomically(Path(folder) / arch.checkpoint.GENERATION, json.dumps(ids, indent=1).encode())
    write_atomically(Path(folder) / arch.checkpoint.TOKENIZER, tokenizer.to_str(pretty=True).encode())


def save_chat_template(jinja, folder):
    """Write a chat template beside the tokenizer, as Hugging Face's folders have it."""
    write_atomically(Path(folder) / arch.checkpoint.CHAT_TEMPLATE, jinja.encode())


def load_model(folder):
    """The trained model in a finished run's folder. Raises DataError if the folder has no finished run.

    The weights of a run that failed are a checkpoint of their own, see `experiments.leftovers`; `arch.checkpoint.load` opens it.
    """
    record = RunRecord.read(folder)
    check_finished(folder)
    if record is None:
        raise DataError(f"{folder}: no finished run in it")
    if not (Path(folder) / WEIGHTS).is_file():
        raise DataError(f"{folder}: {GONE}; expected {WEIGHTS} in it")
    model = Model(ExperimentSpec.parse(record.spec).model)
    try:
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{Path(folder) / WEIGHTS}: not the weights of this model: {error}", key=None) from None
    arch.digests.check(folder)
    return model
