"""Turn a document into a run that is ready to start: complete, checked, costed and with an identity."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from arch import cost, registry
from arch.document import Node, lay, node
from arch.errors import DataError, SpecError
from arch.model import Model
from arch.model_spec import expand_like
from arch.plugins import plugin_sources
from arch.spec import List, Spec, digest
from experiments import (
    auto,
    capabilities,
    costs,
    evaluations,
    image_costs,
    precision,
    probes,
    references,
    remarks,
    seeing,
    start_tokens,
)
from experiments.compiled import kinds
from experiments.data import texts
from experiments.data.dataset import gives_rows, prepare
from experiments.evaluations import Evaluation
from experiments.spec import DEFAULT_TYPES, EvaluateSpec, ExperimentSpec, Merge, with_types
from experiments.start import Parent, Start, plan_start


@dataclass(frozen=True)
class Resolved:
    """An experiment's document and its spec, in which every default is filled in.

    notes: what `train.precision: auto` and `train.compile: auto` became and why; what of the model could not be checked (`probed`).
    """

    document: Node
    spec: ExperimentSpec
    notes: tuple[str, ...] = ()

    @property
    def written(self) -> dict[str, Any]:
        """What files and overrides say, as plain data, with every `extends` and `like` resolved but no default."""
        return expand_like(self.document, ("model",)).plain()


class RunPlan(Spec):
    """A run without its seed, as plain data. `identity` covers everything that determines the result besides the seed.

    data: fingerprint and sizes of the corpus. plugins: digests of plug-in sources. cost: as `arch.cost` computes it.
    start: where initial weights come from; None if all are drawn from the seed. runs: {option of the objective: the run
    that it names}, such as a teacher.
    notes: remarks for the record: what came from the checkpoint, what `auto` became and why, what has no effect
    (`experiments.remarks`).
    texts: what is known of the texts (see `experiments.data.texts`), so that another process need not read them.
    evaluations: what to measure; those of the spec, and those of other arms that share the run.
    """

    spec: ExperimentSpec
    identity: str
    data: dict[str, Any] = {}
    plugins: dict[str, str] = {}
    cost: dict[str, Any] = {}
    start: Start | None = None
    runs: dict[str, Parent] = {}
    notes: List[str] = ()
    texts: dict[str, dict[str, Any]] = {}
    evaluations: List[Evaluation] = ()

    def needs(self, seed):
        """[(identity, seed)] of the runs that must be finished before this one with `seed` can start."""
        return [(parent.run, seed if parent.seed == "same" else parent.seed) for parent in self.parents if parent.run]

    @property
    def parents(self):
        """Every run and checkpoint whose weights this one uses, in the order of `references.of(spec)`."""
        return [*(self.start.all_parents if self.start else ()), *self.runs.values()]

    def located(self, seed, folders):
        """The plan of the run with this seed. folders: {(identity, seed): folder} of the runs that it needs."""
        start = self.start.located(seed, folders) if self.start else None
        return self.model_copy(
            update={"start": start, "runs": {option: run.located(seed, folders) for option, run in self.runs.items()}}
        )


# The assumed costs and gains of compiling on a GPU. GPU_RATE: FLOPs (6 per parameter and token) per second and device
# in an eager step. GPU_GAIN: the share of the step's time that compiling saves. GPU_SECONDS: seconds to compile one
# distinct block. These are careful guesses; none of them has been measured.
GPU_RATE, GPU_GAIN, GPU_SECONDS = 2e14, 0.1, 60.0


def worth(spec):
    """(whether compiling pays off, why) for an ExperimentSpec.

    Computed from the spec alone: if a timing decided, a run's identity would depend on the machine's speed.
    """
    if spec.model.encoder is not None:
        return False, "blocks of one stack are compiled, and the model has an `encoder`"
    if spec.model.quantise is not None:
        return False, "quantised weights are not compiled"
    if spec.model.vision is not None:
        return False, "blocks that read images are not compiled"
    if spec.model.pool is not None:
        return False, "texts have many lengths, and each would be compiled anew"
    if spec.train.accelerator == "cpu":
        return False, "on a CPU our own kernels are already as fast"
    if spec.train.accelerator != "gpu":
        return False, f"compiling has not been tried on {spec.train.accelerator}"
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in Model(spec.model).parameters())
    saved = GPU_GAIN * 6 * parameters * spec.tokens / (GPU_RATE * spec.train.shares)
    cost = GPU_SECONDS * len(kinds(spec.model))
    return saved > cost, f"saves about {saved:,.0f} s, takes {cost:,.0f} s to compile (assumed, never measured on a GPU)"


def resolve(source):
    """The ExperimentSpec of a document, with every component's defaults filled in. Reads no data. Raises SpecError."""
    return resolved(source).spec


def resolved(source):
    """The Resolved experiment of a document. Reads no data. Raises SpecError."""
    root = with_types(node(source))
    spec = ExperimentSpec.parse(root)
    model = registry.resolve(spec.model, root, ("model",))
    cost.check_builds(model, root, ("model",))
    parts = [kind for kind in ("source", "tokenizer") if getattr(spec.data, kind) is not None]
    data = spec.data.model_copy(update={kind: registry.resolve_component(kind, root, ("data", kind)) for kind in parts})
    components = {kind: registry.resolve_component(kind, root, (kind,)) for kind in DEFAULT_TYPES}
    spec = spec.model_copy(update={"model": model, "data": data, **components})
    if isinstance(spec.init_from, Merge):
        rule = registry.resolve_component("merge", root, ("init_from", "merge"))
        spec = spec.model_copy(update={"init_from": spec.init_from.model_copy(update={"merge": rule})})
    able = capabilities.of(spec)
    capabilities.check("objective", spec.objective, able, root, ("objective",))
    if model.encoder is not None:
        for key, value in (("strategy", "fsdp2"), ("compile", "on")):
            if getattr(spec.train, key) == value:
                raise root.error(f"{value} is for models of one stack, and this one has an `encoder`", ("train", key))
    if "pairs" in able.words and spec.train.compile == "on":
        reason = "on is for rows of one length; the texts of pairs have many, and each would be compiled anew; expected off"
        raise root.error(reason, ("train", "compile"))
    seeing.check(spec, able, root)
    spec, notes = auto.decided(spec.model_copy(update={"evaluate": _evaluations(root, spec.evaluate, able)}))
    spec, more = _with_compile(spec)
    return Resolved(root, spec, (*notes, *more))


def probed(complete):
    """The Resolved experiment, after its model was run at small size. Raises SpecError where it is not what it says."""
    return replace(complete, notes=(*complete.notes, *probes.check(complete.spec, complete.document)))


def whole(spec):
    """A resolved ExperimentSpec as plain data with every field and option: what two experiments are compared by.

    Everything is in it, also what decides no result (files, how often a checkpoint is written) or only what is measured.
    """
    data = spec.dump(neutral=True)
    data["model"] = registry.whole_model(spec.model)
    parts = {kind: getattr(spec.data, kind) for kind in ("source", "tokenizer")}
    data["data"] |= {kind: registry.whole(kind, part) for kind, part in parts.items() if part is not None}
    data |= {kind: registry.whole(kind, getattr(spec, kind)) for kind in DEFAULT_TYPES}
    for split in evaluations.SPLITS:
        named = getattr(spec.evaluate, split)
        data["evaluate"][split] = {name: registry.whole("evaluator", evaluator) for name, evaluator in named.items()}
    return data


def _evaluations(root, written, able):
    """The EvaluateSpec with every evaluator complete."""
    here = lay(node({"evaluate": {}}), root)
    here = Node({**here.value, "evaluate": evaluations.section(root, written, set(able.words))}, here.file, here.line)
    complete = {}
    for split in evaluations.SPLITS:
        complete[split] = {}
        for name in here.value["evaluate"].value[split].value:
            where = ("evaluate", split, name)
            complete[split][name] = registry.resolve_component("evaluator", here, where)
            capabilities.check("evaluator", complete[split][name], able, here, where)
        _measured_once(complete[split], here, ("evaluate", split))
    return EvaluateSpec(every=written.every, **complete)


def _measured_once(evaluators, root, path):
    """Raises SpecError where two evaluators of a split give the same metric. None stands for all of the objective's."""
    first = {}
    for name, resolved_evaluator in evaluators.items():
        metrics = registry.build("evaluator", resolved_evaluator).metrics
        for metric in ["the objective's metrics"] if metrics is None else metrics:
            if metric in first:
                raise root.error(f"{metric}: measured by {first[metric]!r} already", (*path, name))
            first[metric] = name


def _with_compile(spec):
    """(the spec with `train.compile: auto` decided, notes on it)"""
    if spec.train.compile != "auto":
        return spec, ()
    pays, why = worth(spec)
    choice = "on" if pays else "off"
    train = spec.train.model_copy(update={"compile": choice})
    return spec.model_copy(update={"train": train}), (f"train.compile: auto became {choice}: {why}",)


def plan(source, made=None):
    """The RunPlan of an experiment: a document, or one that is Resolved. Tokenizes the corpus unless the cache has it.

    made: {position in `references.of(spec)`: RunPlan} of the runs that will be made because this one uses them.
    Raises SpecError for errors in the spec or in the data it names and for a model that is not what it says (`probed`),
    and DataError if the token cache is unusable.
    """
    complete = probed(source if isinstance(source, Resolved) else resolved(source))
    root, spec, notes = complete.document, complete.spec, complete.notes
    with at_its_line(root):
        start = plan_start(spec, made)
        used = references.used(spec, made or {})
        corpus = prepare(spec.data, spec.model.vocab_size)
        start_tokens.check(spec, start, made or {}, corpus)
    wanted = evaluations.planned(spec)
    check_evaluations(wanted, spec.model, corpus, root)
    references.check(spec, corpus, used.referred, root)
    content = _decisive(spec)
    plugins = identity_plugins(spec)
    decides = {"spec": content, "data": corpus.fingerprint, "plugins": plugins}
    if gives_rows(registry.component("source", spec.data.source["type"])):
        # What such a source calls the fingerprint of its rows may forget one of its options.
        decides["source"] = spec.data.source
    if start:
        decides["init_from"] = start.identity
    if used.identity:
        decides["runs"] = used.identity
    if more := references.decides(spec, corpus, used.referred):
        decides["of runs"] = more
    if start:
        notes = (*start.notes(), *notes)
    notes = (*notes, *remarks.of_experiment(spec), *getattr(corpus, "notes", ()))
    own = image_costs.with_images(costs.summary(spec.model, spec.data.context, plugins, precision.is_mixed(spec.train)), spec)
    return RunPlan(
        spec=spec,
        identity=digest(decides),
        data=corpus.summary(),
        plugins=plugins,
        cost=with_objective(own, spec, corpus, used.referred),
        start=start,
        runs=used.parents,
        notes=notes,
        texts=texts.remembered(spec.data.source),
        evaluations=wanted,
    )


@contextmanager
def at_its_line(root):
    """Context manager: a DataError that names a key becomes a SpecError at the key's line of the document `root`."""
    try:
        yield
    except DataError as error:
        if error.key is None:
            raise
        raise root.error(str(error), error.key) from None


def with_objective(cost, spec, dataset, runs):
    """A cost summary with what the objective costs beside the model's step, at the key `objective`, if it does.

    runs: {option: Referred}. dataset: None where no data is read.
    """
    more = references.costs(spec, dataset, runs)
    return {**cost, "objective": more} if more else cost


def _decisive(spec):
    """What of a resolved ExperimentSpec decides a run's result, as plain data."""
    content = spec.dump(identity=True)
    if spec.data.tokenizer is not None:
        content["data"]["tokenizer"] = registry.decisive("tokenizer", spec.data.tokenizer)
    if spec.train.sharded:
        content["train"]["strategy"] = spec.train.strategy
    return content | {kind: registry.decisive(kind, content[kind]) for kind in DEFAULT_TYPES}


def check_evaluations(wanted, model, dataset, root):
    """Raises SpecError, at its line, for an evaluator that this model or this dataset cannot serve."""
    for evaluation in wanted:
        evaluator = registry.build("evaluator", evaluation.evaluator)
        try:
            if hasattr(evaluator, "check_model"):
                evaluator.check_model(model)
            if hasattr(evaluator, "check"):
                evaluator.check(dataset, evaluation.split)
        except SpecError as error:
            raise root.error(error.reason, ("evaluate", evaluation.split, evaluation.name, *error.path)) from None


def identity_plugins(spec):
    """`{module: sha256}` of every plug-in that decides a run's result: all that its identity names, and its dataset.

    A source of texts is not among them: the fingerprint of its texts says all of it.
    """
    content = _decisive(spec)
    parts = [content]
    if gives_rows(registry.component("source", spec.data.source["type"])):
        parts.append(spec.data.source)
    if isinstance(spec.init_from, Merge):
        parts.append(spec.init_from.merge)
    return plugin_sources(parts)
