"""Checkpoints that resume bit for bit: they include the random state, and writing one is atomic and durable."""

import json
import pickle
import random
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import arch.checkpoint
from arch.errors import DataError
from arch.model import Model
from experiments import sharded
from experiments.files import durably, write_atomically
from experiments.leftovers import check_finished
from experiments.record import RunRecord
from experiments.spec import ExperimentSpec

NAME = "checkpoint.ckpt"
WEIGHTS = arch.checkpoint.WEIGHTS


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes to a scratch file, flushes it to disk, then renames it over the target.

    If the process is killed at any moment, either the old checkpoint or the new one is on disk.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        durably(Path(path), lambda scratch: torch.save(checkpoint, scratch))

    def load_checkpoint(self, path, map_location=None, weights_only=True):
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def newest(folder):
    """(step, names) of the newest checkpoint in a run's folder that can be read: its optimizer step, and the files and folders
    that it consists of. None if there is none, or it was cut short.
    """
    folder = Path(folder)
    latest = sharded.step_of(folder)
    if latest is not None:
        return latest, [sharded.POINTER, sharded.latest(folder).name]
    step = _step_of(folder / NAME)
    return None if step is None else (step, [NAME])


def _step_of(path):
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError):
        return None


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
    (folder / NAME).unlink(missing_ok=True)
    sharded.discard(folder)


def save_weights(model, folder):
    """Write the model's spec and weights, so that `arch` can load, export and sample from the folder."""
    durably(Path(folder) / arch.checkpoint.SPEC, lambda scratch: arch.checkpoint.write_spec(model.spec, scratch))
    weights = {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}
    durably(Path(folder) / WEIGHTS, lambda scratch: save_file(weights, scratch))


def save_tokenizer(tokenizer, folder, ends=None):
    """Write a tokenizer beside the weights, so that the folder can be sampled from.

    ends: `experiments.data.specials.Ends`; written beside it where the tokenizer's names for them are not ours.
    """
    named = {} if ends is None else {"bos": ends.bos, "eos": ends.eos}
    if any(number is not None and tokenizer.id_to_token(number) != f"<{kind}>" for kind, number in named.items()):
        ids = {f"{kind}_token_id": number for kind, number in named.items() if number is not None}
        write_atomically(Path(folder) / arch.checkpoint.GENERATION, json.dumps(ids, indent=1).encode())
    write_atomically(Path(folder) / arch.checkpoint.TOKENIZER, tokenizer.to_str(pretty=True).encode())


def load_model(folder):
    """The trained model in a finished run's folder. Raises DataError if the folder has no finished run.

    The weights of a run that failed are a checkpoint of their own, see `experiments.leftovers`; `arch.checkpoint.load` opens it.
    """
    record = RunRecord.read(folder)
    check_finished(folder)
    if record is None or not (Path(folder) / WEIGHTS).is_file():
        raise DataError(f"{folder}: no finished run in it")
    model = Model(ExperimentSpec.parse(record.spec).model)
    try:
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{Path(folder) / WEIGHTS}: not the weights of this model: {error}", key=None) from None
    return model
