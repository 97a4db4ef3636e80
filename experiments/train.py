"""Train a planned run with a seed and return its record. Read `train` from top to bottom.

A run on several devices has a process for each, its ranks (`experiments.ranks`). Each of them does all of `train` up to the
end of the training. The first one alone writes into the run's folder, measures and finishes the record.
"""

import atexit
import importlib.metadata
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from arch import checkpoint as checkpoints
from arch import probe_model, prompts, registry
from arch.contracts import Reading
from arch.errors import DataError
from arch.kernels import paths
from arch.model import new_model
from arch.plugins import plugin_sources
from experiments import (
    capabilities,
    checkpoint,
    compiled,
    device,
    evaluations,
    launch,
    leftovers,
    nonfinite,
    precision,
    ranks,
    references,
    resume,
    sharded,
)
from experiments.blamed import blamed
from experiments.code import CODE
from experiments.data.dataset import prepare
from experiments.evaluate import evaluating, explained
from experiments.module import TrainingModule
from experiments.nonfinite import NonFinite
from experiments.orders import ABANDON
from experiments.plan import identity_plugins
from experiments.record import Failure, RunRecord, shown
from experiments.start import Parent
from experiments.watch import Abandoned, Interrupted, Pruned, Watch

# A failure names at most so many tensors.
NAMED = 20
PACKAGES = ("torch", "pytorch-lightning", "numpy", "tokenizers", "optuna", "pydantic")


def train(plan, seed, folder, progress=None, stop=None, runs_at_once=None, home=None):
    """Train the run of `plan` and `seed` in `folder`. Resumes an interrupted run; returns at once if it is finished.

    progress: called about once per second and after every evaluation with {step, steps, loss, select_loss,
    tokens_per_second, selected}; `selected` has the metrics of the select split if they were just measured. Before the first
    step with {warning: a sentence} where a checkpoint could not be used.
    stop: called after every step; returns a word of `experiments.orders`, or nothing. STOP: a checkpoint is saved and the
    run ends as `interrupted`. PRUNE: it ends as `pruned`. ABANDON: it ends and writes nothing; the record returned is
    `interrupted`.
    runs_at_once: how many runs share this machine, at most, if that is known; for the record. home: the folder that the
    run is moved to in the end, by default this one: the record names other runs as seen from there.
    Returns the RunRecord. An error in the run is not raised: the record then has the status `failed` and the reason.
    Numbers that are not finite fail a run: then its folder is no checkpoint (see `experiments.leftovers`).
    A run on several devices of this machine gets its processes here, unless this process is one of them already; then
    progress and stop matter in the first. Raises DataError for a checkpoint of another number of processes, and
    `experiments.launch.RankLost` if a process dies.
    """
    ranks.check_started(plan.spec.train)
    shared, rank = Path(folder), ranks.number(plan.spec.train)
    record = RunRecord.read_whole(shared)
    if record and record.status == "finished" and (record.identity, record.seed) == (plan.identity, seed):
        return record if rank else _measured_again(record, plan, shared)
    sharded.check(shared, plan.spec.train.processes)
    if plan.spec.train.processes > 1 and ranks.environment(plan.spec.train) is None:
        return launch.train(plan, seed, shared, progress, stop, runs_at_once, home)
    folder = shared if rank == 0 else _scratch_folder()
    earlier = record if record and (record.identity, record.seed) == (plan.identity, seed) else None
    earlier_seconds = earlier.wall_seconds if earlier else 0.0
    record = _new_record(plan, seed, home or folder)
    started, compiled_seconds = time.perf_counter(), compiled.seconds_so_far()
    watch = unmeasured = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder)
        leftovers.discard(folder)
        spec = plan.spec
        pl.seed_everything(seed, verbose=False)
        corpus = prepare(spec.data, spec.model.vocab_size)
        _unchanged(corpus, plan)
        if corpus.tokenizer is not None:
            beside = getattr(corpus, "ends", None), getattr(corpus, "answer_token", None)
            checkpoint.save_tokenizer(corpus.tokenizer, folder, *beside)
        if hasattr(corpus, "chat_template"):
            checkpoint.save_chat_template(corpus.chat_template, folder)
        if spec.model.pool is not None and hasattr(corpus, "prompts"):
            prompts.keep(corpus.prompts, spec.data.context, folder, corpus.ends)
        model = new_model(spec.model, seed)
        if plan.start:
            plan.start.fill(model)
            _finite(model, -1, plan)
        if spec.train.compile == "on":
            record = _compiled(record, model, spec)
            record.write(folder)
        for parent in plan.runs.values():
            parent.check()
        objective = references.objective(spec, corpus, plan.runs)
        module = TrainingModule(model, objective, spec, corpus, seed, _origin(plan))
        watch = Watch(corpus, spec, (plan.identity, seed), folder, progress, stop)
        trainer = new_trainer(spec.train, [watch], folder)
        if spec.train.steps:
            ranks.connect(trainer)
            _begin(objective, plan, seed, corpus, trainer, progress, stop)
            origin = ranks.agreed(lambda: resume.origin(shared, plan.identity, seed, earlier))
            record = resume.told(record, origin, earlier)
            if origin.again:
                record.write(folder)
            if origin.warning and progress:
                progress({"warning": origin.warning})
            trainer.fit(module, ckpt_path=origin.path)
            ranks.disconnect()
            if rank:
                return record
            model = module.trained if module.root else model

        where = trainer.strategy.root_device
        model = trainer.precision_plugin.convert_module(model).to(where)  # where nothing was trained, nobody did it yet
        objective.to(where)
        _finite(model, spec.train.steps, plan)
        _causal(model, spec, seed, corpus, trainer)
        checkpoint.save_weights(model, folder)
        metrics = {name: value for name, value in watch.history.last.items() if name.startswith(("select/", "train/"))}
        info = {f"train/{name}": metric for name, metric in objective.metrics.items()}
        sample, own = "", set(evaluations.files(spec).values())
        try:
            for evaluation, measured in _measure(plan.evaluations, plan, seed, folder, model, objective, corpus, trainer):
                if evaluation.file in own:
                    metrics |= measured.values
                    info |= measured.metric_info
                    sample = sample or measured.text
        except NonFinite:
            leftovers.set_aside(folder)
            raise
        except (Exception, SystemExit) as error:  # what was trained is kept: a new start only measures
            unmeasured = _failure(error, watch)
        _close(watch, folder, metrics, sample)
        timing = _timing(watch, spec, compiled.seconds_so_far() - compiled_seconds, runs_at_once)
        outcome = {"status": "finished", "metrics": metrics, "metric_info": info, "sample": sample, "timing": timing}
    except ranks.Elsewhere:
        return record.model_copy(update={"status": "interrupted"})
    except Abandoned:
        if watch and watch.events:
            watch.events.close()
        return record.model_copy(update={"status": "interrupted"})
    except (Interrupted, KeyboardInterrupt):
        outcome = {"status": "interrupted"}
    except Pruned:
        outcome = {"status": "pruned"}
    except (Exception, SystemExit) as error:  # it ends only this run, whose record says why; a plug-in may call sys.exit
        outcome = {"status": "failed", "failure": _failure(error, watch)}
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):  # so Lightning ends after Ctrl-C
            outcome = {"status": "interrupted"}
    record = _ended(record, outcome, folder, watch, earlier_seconds + time.perf_counter() - started)
    return record if unmeasured is None else record.model_copy(update={"status": "failed", "failure": unmeasured})


def _new_record(plan, seed, folder):
    return RunRecord(
        status="running",
        identity=plan.identity,
        seed=seed,
        spec=plan.spec.dump(),
        data=plan.data,
        plugins=plan.plugins,
        versions=_versions(plan.spec.train),
        git=CODE,
        hardware=device.hardware(),
        threads=torch.get_num_threads(),
        cost=plan.cost,
        started=_now(),
        runs=_recorded(plan, folder),
        notes=list(plan.notes),
    )


def _recorded(plan, folder):
    """{option: Parent as plain data} of the runs that the objective uses, with folders as seen from the run's own."""
    parents = {option: parent for option, parent in plan.runs.items() if parent.folder}
    return {option: {**each.dump(), "folder": os.path.relpath(each.folder, folder)} for option, each in parents.items()}


def runs_of(record, folder):
    """{option: Parent} of what `_recorded` wrote into the record of the run in `folder`."""
    place = lambda each: os.path.normpath(Path(folder) / each["folder"])  # noqa: E731
    return {option: Parent.parse({**each, "folder": place(each)}) for option, each in record.runs.items()}


def _begin(objective, plan, seed, dataset, trainer, progress, stop):
    """Let the objective do what is best done once for all steps, such as filling a cache: the first rank does it, then the
    others find it done.
    """
    if not hasattr(objective, "begin"):
        return

    def told(done, total, counted):
        if progress:
            progress({"preparing": counted, "done": done, "total": total})
        word = stop and stop()
        if word:
            raise Abandoned if word == ABANDON else Interrupted

    data, where = plan.spec.data, trainer.strategy.root_device
    objective.to(where)
    reading = Reading(dataset, seed, plan.spec.train.steps, data.rows, data.context, where, told)
    with trainer.precision_plugin.forward_context(), torch.no_grad():
        ranks.agreed(lambda: objective.begin(reading))
        if trainer.global_rank:
            objective.begin(reading)


def _origin(plan):
    """Where a plan's first weights come from, in words; empty if all are drawn from the seed."""
    return plan.start.source if plan.start else ""


def _finite(model, step, plan):
    """Raise NonFinite for weights that are not finite: such a run has no result, even if every metric happens to be finite."""
    if error := nonfinite.weights(step, model, _origin(plan)):
        raise error


def _causal(model, spec, seed, dataset, trainer):
    """Raise NotCausal for a model that says it is causal and is not: planning has seen neither these weights nor such rows."""
    if "causal" not in capabilities.of(spec).words:
        return
    exact = spec.train.precision == "32-true" and spec.train.products == "exact"
    rounding = probe_model.ROUNDING if exact else probe_model.COARSE
    with evaluating(model), trainer.precision_plugin.forward_context():
        for rows in _real_rows(spec.data, seed, dataset).to(trainer.strategy.root_device).values():
            probe_model.check_trained(model, rows.tokens_BT, rows.layout, rounding)


def _real_rows(data, seed, dataset):
    """The first Batch of the report split; of the training split where the report split has no rows, which few runs need."""
    try:
        batch = next(iter(dataset.evaluation("report", rows=data.rows, context=data.context, batch_rows=data.rows)), None)
    except DataError:
        batch = None
    return batch or dataset.batch("train", 0, seed, data.rows, data.context)


def _compiled(record, model, spec):
    """Set up compilation of the model's blocks; returns the record with the compiler noted."""
    shape = spec.data.rows // (spec.train.accumulate * spec.train.shares), spec.data.context
    said = compiled.compile_blocks(model, spec.train.accelerator, *shape, spec.train.precision)
    return record.model_copy(update={"versions": record.versions | {"blocks": said}})


def _versions(train):
    """What can change a run's last bits besides its identity: package versions, kernel paths, how the blocks run.

    Blocks count as eager here; `_compiled` overrides this.
    """
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return (
        packages
        | {"python": platform.python_version()}
        | paths.recorded(train.precision)
        | precision.path(train)
        | {"blocks": compiled.EAGER}
    )


def _scratch_folder():
    """Where a rank that is not the first writes: nobody reads it."""
    scratch = tempfile.TemporaryDirectory(prefix="archbench-")
    atexit.register(scratch.cleanup)
    return Path(scratch.name)


def _unchanged(corpus, plan):
    if corpus.fingerprint != plan.data["fingerprint"]:
        raise DataError("the corpus has changed since the run was planned; plan it again", key=None)
    if identity_plugins(plan.spec) != plan.plugins:
        raise DataError("a plug-in's source has changed since the run was planned; plan it again", key=None)
    for evaluation in plan.evaluations:
        if plugin_sources(evaluation.evaluator) != evaluation.plugins:
            raise DataError(f"the source of {evaluation.key} has changed since the run was planned; plan it again", key=None)


def new_trainer(spec, callbacks, folder):
    """Lightning's Trainer for a TrainSpec, without logs, checkpoints and progress, which Archbench handles itself.

    In a process that is no rank of several it is one for a single device, with which a run can be measured.
    """
    started, own = ranks.environment(spec), precision.plugin(spec)
    files = None if started and spec.sharded else checkpoint.DurableCheckpointIO()
    return pl.Trainer(
        max_steps=spec.steps,
        accelerator=spec.accelerator,
        devices=spec.devices if started else 1,
        num_nodes=spec.nodes if started else 1,
        strategy=_strategy(spec) if started else "auto",
        precision=None if own else spec.precision,
        callbacks=callbacks,
        plugins=[each for each in (started, own, files) if each],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _strategy(spec):
    """Lightning's strategy for several processes. It is not asked to have patience: `ranks.connect` has."""
    if spec.sharded:
        return ModelParallelStrategy(data_parallel_size=spec.processes, tensor_parallel_size=1)
    return DDPStrategy()


def _measure(wanted, plan, seed, folder, model, objective, dataset, trainer):
    """Yields (evaluation, its EvaluationRecord) of each wanted evaluation, written to its file. Raises NonFinite."""
    for evaluation in wanted:
        with trainer.precision_plugin.forward_context():
            where, run = trainer.strategy.root_device, (plan.identity, seed)
            about = objective, dataset, plan.spec, run, where, folder
            measured = explained(plan.spec.train.steps, _origin(plan), evaluation, model, *about)
        measured.write(folder, evaluation.file)
        yield evaluation, measured


def measure(plan, seed, folder):
    """Do the evaluations of the plan that a finished run, or a checkpoint, in `folder` lacks. Yields each new EvaluationRecord.

    Nothing is trained. Raises DataError where the data, the weights or a plug-in's source are not what they were, and
    whatever an evaluator raises.
    """
    wanted = [evaluation for evaluation in plan.evaluations if not _is_readable(evaluation, folder)]
    if not wanted:
        return
    dataset = prepare(plan.spec.data, plan.spec.model.vocab_size)
    _unchanged(dataset, plan)
    record, trainer = RunRecord.read(folder), new_trainer(plan.spec.train, [], folder)
    model = checkpoint.load_model(folder) if record else checkpoints.load(folder, torch.float32)
    model = trainer.precision_plugin.convert_module(model).to(trainer.strategy.root_device)
    runs = plan.runs
    if record and not (runs and all(parent.folder for parent in runs.values())):  # a finished run's plan need not say where
        runs = runs_of(record, folder)
    if any("teacher" in getattr(registry.component("evaluator", each.evaluator["type"]), "needs", ()) for each in wanted):
        for parent in runs.values():  # a result that names this run must be of the teacher that it had
            parent.check()
    objective = references.objective(plan.spec, dataset, runs).to(trainer.strategy.root_device)
    for _, measured in _measure(wanted, plan, seed, folder, model, objective, dataset, trainer):
        yield measured


def _is_readable(evaluation, folder):
    """Whether an evaluation's record can be read, and what it left beside the record, such as a cache, is still there."""
    try:
        record = evaluation.record(folder)
        if record is None:
            return False
        lasting = getattr(registry.build("evaluator", evaluation.evaluator), "lasting", None)
        return lasting is None or lasting(record.table)
    except (OSError, ValueError):
        return False


def _measured_again(record, plan, folder):
    """The record of a finished run with what the plan's own spec measures, after doing what is missing of the plan.

    The run on disk stays as it is: finished. The record returned is `failed` if something could not be measured.
    """
    try:
        for _ in measure(plan, record.seed, folder):
            pass
    except (Exception, SystemExit) as error:
        return record.model_copy(update={"status": "failed", "failure": _failure(error, None)})
    return shown(record, folder, evaluations.files(plan.spec), [])


def _close(watch, folder, metrics, sample):
    watch.history.write(folder)
    if not watch.events:  # no step was trained
        return
    step = int(watch.history.last["step"])
    watch.events.scalars(step, metrics)
    if sample:
        watch.events.text(step, "sample", sample)


def _timing(watch, spec, compile_seconds, runs_at_once):
    """What RunRecord.timing says. What could not be measured is left out."""
    measured = {
        "compile_seconds": compile_seconds if spec.train.compile == "on" else None,
        "runs_at_once": runs_at_once,
        "memory_before_bytes": watch.memory and watch.memory.before,
        "speed/tokens_per_second": watch.tokens_per_second,
        "memory/peak_bytes": watch.peak_bytes,
    }
    train_seconds = watch.history.seconds - watch.evaluate_seconds
    if spec.train.processes > 1:
        measured["processes"] = spec.train.processes
    timing = {"train_seconds": train_seconds, "evaluate_seconds": watch.evaluate_seconds}
    return timing | {name: float(value) for name, value in measured.items() if value is not None}


def _failure(error, watch):
    last = watch.history.last if watch else {}
    about = {"step": int(last.get("step", -1))}
    if isinstance(error, NonFinite):
        about = {"step": error.step, "what": error.what, "where": error.where, "parameters": list(error.tensors[:NAMED])}
    said = blamed(error)
    about = {"where": said.where, **about}
    return Failure(error=said.error, message=said.message, machine=_by_machine(error), **about)


def _by_machine(error):
    """Whether an error comes from the machine or its files: no memory, no disk, no GPU, no compiler, data that changed.

    Or from a fast path of ours: such a number is no evidence about the model.
    """
    if isinstance(error, NonFinite):
        return error.fault != nonfinite.MODEL
    if isinstance(error, RuntimeError) and "allocate memory" in str(error):  # how torch says it on a CPU
        return True
    kinds = OSError | MemoryError | ImportError | torch.OutOfMemoryError | compiled.CompileError | MisconfigurationException
    return isinstance(error, kinds) or type(error) is DataError


def _ended(record, outcome, folder, watch, wall_seconds):
    """The final record, written to disk. If it cannot be written, its status is `failed` and a note says why."""
    last = watch.history.last if watch else {}
    if watch and watch.events:
        watch.events.close()
    record = record.model_copy(
        update=outcome
        | {
            "ended": _now(),
            "wall_seconds": max(wall_seconds, last.get("seconds", 0.0)),  # a killed process left no wall time in its record
            "steps": int(last.get("step", 0)),
            "tokens": int(last.get("tokens", 0)),
        }
    )
    try:
        if record.status == "failed" and last:
            watch.history.write(folder)
        record.write(folder)
        if record.status in ("finished", "pruned"):
            checkpoint.discard(folder)
            (folder / resume.MARKER).unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        note = f"no record could be written to {folder}: {error}"
        failure = record.failure or Failure(step=record.steps, error=type(error).__name__, message=str(error))
        record = record.model_copy(update={"status": "failed", "failure": failure, "notes": [*record.notes, note]})
    return record


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")
