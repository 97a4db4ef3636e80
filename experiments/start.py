"""Starting a run from trained weights (`init_from`): of a checkpoint, of a run made for it, or of several that are merged."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from arch import checkpoint, digests, document, registry, tensors
from arch.errors import DataError, SpecError
from arch.model_spec import ENCODER, SUBLAYER_NAME
from arch.spec import List, Spec, later
from arch.words import listed
from experiments import stacks
from experiments.leftovers import check_finished
from experiments.record import RunRecord
from experiments.spec import Merge

# The rule that a list, or one run, stands for; a Start has None in its place.
MEAN = {"type": "mean", "weights": None}


class Parent(Spec):
    """One run or checkpoint that another run starts from.

    name: as the spec names it. folder: where its weights are; empty while its run is not made.
    sha256: of the weights file in a folder that the spec names. run: the identity of a run to be made, instead.
    seed: that run's seed; None where the spec names a folder. stack: how its stack becomes ours (`RunReference`'s `as`).
    """

    name: str
    folder: str = ""
    sha256: str = ""
    run: str = ""
    seed: int | str | None = None
    stack: str | None = later(None)

    @property
    def identity(self):
        """The part that determines a run's result: the weights' content, or the run that makes them; and how they are used."""
        weights = {"run": self.run, "seed": self.seed} if self.run else {"sha256": self.sha256}
        return {**weights, "as": self.stack} if self.stack else weights

    def located(self, seed, folders):
        """This parent of a run with this seed. folders: {(identity, seed): folder} of the runs that were made for it."""
        if not self.run:
            return self
        at = seed if self.seed == "same" else self.seed
        return self.model_copy(update={"seed": at, "folder": str(folders[self.run, at])})

    def check(self):
        """Raise DataError unless the folder holds the weights that were planned."""
        if not self.run:
            if not checkpoint.is_checkpoint(Path(self.folder)):
                raise DataError(f"{self.folder}: the checkpoint that was planned is not there", key=None)
            if content(self.folder) != self.sha256:
                raise DataError(f"{self.folder}: its weights have changed since the run was planned; plan it again", key=None)
            return
        record = RunRecord.read_whole(self.folder) if self.folder else None
        if record is None or (record.status, record.identity, record.seed) != ("finished", self.run, self.seed):
            raise DataError(f"{self.folder}: expected the finished run {self.name!r} with seed {self.seed}", key=None)

    def __str__(self):
        used = f" as {self.stack}" if self.stack else ""
        if not self.run:
            return f"{self.folder} ({self.sha256[:12]}){used}"
        return (
            f"the run {self.name!r} ({self.run[:12]}) with {'the same seed' if self.seed == 'same' else f'seed {self.seed}'}{used}"
        )


class Start(Spec):
    """Where a model's initial weights come from: its parents' parameters, merged by a rule.

    rule: the merge, complete; None means the plain mean. origin: what the parents started from, where the rule needs it.
    taken: names of the parameters that start from the parents. new: {name: reason} of the parameters that are drawn
    from the seed instead. unused: names of the parents' parameters that the model does not have.
    moved: {our name: the parents'} of those that start from a parameter of another name, where a stack becomes another.
    """

    parents: List[Parent]
    taken: List[str]
    new: dict[str, str]
    unused: List[str]
    moved: dict[str, str] = later({})
    rule: dict[str, Any] | None = later(None)
    origin: Parent | None = later(None)

    @property
    def all_parents(self):
        """The parents, and the origin behind them, in the order of `ExperimentSpec.starts`."""
        return (*self.parents, *([self.origin] if self.origin else ()))

    @property
    def identity(self):
        """The part that determines a run's result: what each parent is, how they are merged, and the names taken."""
        weights = [parent.identity for parent in self.parents]
        if self.rule is not None:
            origin = self.origin and self.origin.identity
            merged = {"merge": registry.decisive("merge", self.rule), "of": weights, "start": origin}
        else:
            merged = weights[0] if len(weights) == 1 else {"mean": weights}
        return {**merged, "taken": sorted(self.taken)}

    def located(self, seed, folders):
        """The Start of a run with this seed. folders: {(identity, seed): folder} of the runs that were made for it."""
        parents = tuple(parent.located(seed, folders) for parent in self.parents)
        return self.model_copy(update={"parents": parents, "origin": self.origin and self.origin.located(seed, folders)})

    @property
    def source(self):
        """Where the weights come from, in a few words."""
        folders = [parent.folder or parent.name for parent in self.parents]
        return f"{self._how}{', '.join(folders)}"

    @property
    def _how(self):
        """What stands before the parents in a sentence."""
        if self.rule is not None:
            return f"the merge {self.rule['type']} of "
        return "the mean of " if len(self.parents) > 1 else ""

    def notes(self):
        """Yields sentences for the record: what was taken, what is new and why, what is unused."""
        total = len(self.taken) + len(self.new)
        seen_from = f", seen from {self.origin}" if self.origin else ""
        yield f"started from {self._how}{', '.join(map(str, self.parents))}{seen_from}: {len(self.taken)} of {total} parameters"
        for what, names in stacks.told(self.moved).items():
            yield f"{what}: {_short(names)}"
        by_reason = {}
        for name, why in self.new.items():
            by_reason.setdefault(why, []).append(name)
        for why, names in by_reason.items():
            yield f"new, {why}: {_short(names)}"
        if self.unused:
            yield f"in the checkpoint, but not in the model: {_short(self.unused)}"

    def fill(self, model):
        """Copy the taken parameters into `model`. Raises DataError if the weights are not those that were planned."""
        for parent in self.all_parents:
            parent.check()
        table = {name: tensors.As(self.moved.get(name, name)) for name in self.taken}
        each = [tensors.renamed(checkpoint.open_checkpoint(parent.folder)[1], table) for parent in self.all_parents]
        if self.rule is not None:
            merged = _merged(registry.build("merge", self.rule), each, self)
        else:
            merged = each[0] if len(each) == 1 else _mean(each)
        checkpoint.fill(model, merged)


def _mean(several):
    """The mean of Tensors with the same names, as Tensors in float64; of all files, one tensor is in memory at a time."""
    total = {}
    for found in several:
        for name, tensor in found.read():
            total[name] = total.get(name, 0) + tensor.double()
    return tensors.of_mapping({name: tensor / len(several) for name, tensor in total.items()})


def _merged(rule, every, start):
    """Tensors (float64) that a rule makes of others with the same names. every: of the parents, then of the origin."""
    held = [dict(found.read()) for found in every]
    parents, origin = (held[:-1], held[-1]) if start.origin else (held, None)
    made = {}
    for name in held[0]:
        try:
            made[name] = rule(name, [each[name].double() for each in parents], origin and origin[name].double())
        except ValueError as error:
            raise DataError(f"{start.source}: {name}: {error}", key=None) from None
    return tensors.of_mapping(made)


def plan_start(spec, made=None):
    """The Start of an ExperimentSpec (resolved), or None if all weights are drawn from the seed.

    made: {position in `spec.starts`: RunPlan} of the runs that will be made for this one; every other reference is to a
    checkpoint folder (`~` is expanded). Raises DataError.

    A parameter is taken if its name, its shape and the type of its component agree with every parent, and with the origin. So if
    another mixer type replaces the checkpoint's, all its parameters are new, even where a name and a shape happen to match.
    """
    if not spec.starts:
        return None
    expected, parents, new, unused = checkpoint.parameters(spec.model), [], {}, {}
    rule = _rule(spec.init_from)
    ways = {None if isinstance(reference, str) else reference.stack for _, reference in spec.starts}
    if len(ways) > 1:
        raise DataError("a merge is of parameters that are used alike; say the same `as` for each", key=("init_from",))
    (way,) = ways
    moved, lacking = {}, []
    for i, (key, reference) in enumerate(spec.starts):
        origin, model, shapes = parent(key, reference, (made or {}).get(i))
        origin = origin.model_copy(update={"stack": way})
        if way and (refused := stacks.refusal(way, spec.model, model)):
            raise DataError(refused, key=(*key, "as"))
        sources = stacks.sources(way, expected, shapes)
        moved |= {name: source for name, source in sources.items() if name != source}
        reasons = _differences(spec.model, expected, model, shapes, sources)
        if len(reasons) == len(expected):
            raise DataError(f"{origin.folder or origin.name}: it has no parameter of this model", key=key)
        parents.append(origin)
        lacking.append(reasons)
        new = reasons | new
        used = {sources[name] for name in expected if name in sources and name not in reasons}
        unused |= dict.fromkeys(name for name in shapes if (name not in used if way else name not in expected))
    taken = tuple(name for name in expected if name not in new)
    if not taken:
        raise DataError("no parameter of this model is in all of them", key=("init_from",))
    _check_alike(spec, parents, lacking)
    for (key, _), origin in zip(spec.starts, parents, strict=True):
        _check_finite(key, origin, [moved.get(name, name) for name in taken])
    new = {name: new[name] for name in expected if name in new}
    moved = {name: moved[name] for name in taken if name in moved}
    origin = parents.pop() if rule and spec.init_from.start is not None else None
    return Start(parents=tuple(parents), taken=taken, new=new, unused=tuple(unused), rule=rule, origin=origin, moved=moved)


def _check_alike(spec, parents, lacking):
    """Raises DataError for a merge in which one has a parameter of the model and another has not: part of it would be no merge.

    lacking: for each of the parents, {name: reason} of what it cannot provide.
    """
    for (key, _), parent, reasons in zip(spec.starts, parents, lacking, strict=True):
        if some := [name for name in reasons if any(name not in others for others in lacking)]:
            who = parent.folder or parent.name
            others = listed(other.folder or other.name for other, each in zip(parents, lacking, strict=True) if some[0] not in each)
            reason = f"{who}: {some[0]}: {reasons[some[0]]}, but {others} can give it; expected models of one shape"
            raise DataError(reason, key=key)


def _rule(start):
    """The rule of an `init_from`, complete, if it is a Merge other than the plain mean. Raises DataError where it does not fit."""
    if not isinstance(start, Merge):
        return None
    try:
        registry.component("merge", start.merge["type"]).check(
            registry.config("merge", start.merge), len(start.of), start.start is not None
        )
    except SpecError as error:
        raise DataError(error.reason, key=("init_from", *error.path)) from None
    return None if start.merge == MEAN else start.merge


def parent(key, reference, plan):
    """(Parent, its ModelSpec, {name: shape} of its parameters) of a reference at `key` of a spec. Raises DataError.

    plan: the RunPlan of a run that is to be made; None for a checkpoint's folder.
    """
    if plan:
        made = Parent(name=reference.label, run=plan.identity, seed=reference.seed)
        return made, plan.spec.model, checkpoint.parameters(plan.spec.model)
    if isinstance(reference, str):
        name = reference
    else:
        name, key = reference.run, (*key, "run")
        if is_spec(name) and not checkpoint.is_checkpoint(Path(name).expanduser()):
            raise DataError(
                f"{name} has to be trained first; a single run cannot do that: put both into a study (`archbench study run`), "
                "or give the folder of the finished run",
                key=key,
            )
        if reference.set or reference.seed != "same":
            raise DataError(
                f"{name}: here it names a folder, whose weights are as they are: leave out `set` and `seed`; "
                "only a study has `runs` with names",
                key=key,
            )
    folder = Path(name).expanduser()
    check_finished(folder, key)
    try:
        model, found = checkpoint.open_checkpoint(folder)
    except ValueError as error:
        raise DataError(str(error), key=key) from None
    shapes = {name: entry.shape for name, entry in found.entries.items()}
    return Parent(name=name, folder=str(folder), sha256=content(folder)), model, shapes


def _check_finite(key, parent, taken):
    """Raise DataError for a checkpoint whose tensors, of those taken, have values that are not finite."""
    bad = [
        each
        for each in (_not_finite(*digests.state(Path(parent.folder) / checkpoint.WEIGHTS)) if parent.folder else ())
        if each[0] in taken
    ]
    if bad:
        name, count, size = bad[0]
        more = f", and {len(bad) - 1} more of its tensors" if len(bad) > 1 else ""
        raise DataError(f"{parent.folder}: {name} has {count:,} of {size:,} values that are not finite{more}", key=key)


@lru_cache(maxsize=64)
def _not_finite(path, size, modified):
    """((name, number of values that are not finite, number of values), ...) of the tensors in a file that have some."""
    found = []
    for name, tensor in tensors.open_tensors(path).read():
        if count := int((~tensor.isfinite()).sum()):
            found.append((name, count, tensor.numel()))
    return tuple(found)


def is_spec(name):
    """Whether a reference names an experiment's spec: a path ending in .yaml, or a shipped name."""
    return name.endswith((".yaml", ".yml")) or name.removeprefix("experiments/") in document.shipped("experiments")


def _differences(spec, expected, theirs, shapes, sources):
    """{name: reason} of the parameters of `spec` that another model, `theirs`, cannot provide.

    sources: {our name: the name of the parameter of theirs that it starts from}.
    """
    new = {}
    for name, shape in expected.items():
        source = sources.get(name)
        if source not in shapes:
            new[name] = "not in the checkpoint"
        elif not stacks.alike(mine := _component(spec, name), other := _component(theirs, source)):
            new[name] = f"part of {mine} where the checkpoint has {other}"
        elif shapes[source] != shape:
            new[name] = "different shape in the checkpoint"
    return new


def content(folder):
    """sha256 (hex) of a checkpoint's weights file."""
    return digests.of(Path(folder) / checkpoint.WEIGHTS)


def _component(spec, name):
    """The type of the component that a parameter belongs to; None for norms, embedding, head and projections."""
    if name.startswith("pool."):
        return spec.pool["type"]
    if name.startswith(ENCODER):
        return _component(spec.encoder_spec, name.removeprefix(ENCODER))
    match = SUBLAYER_NAME.fullmatch(name)
    if match is None or not match[3].startswith("component."):
        return None
    return spec.blocks[spec.layer_blocks()[int(match[1])]].sublayers()[match[2]]["type"]


def _short(names):
    """Parameter names in one line, merged over layers: `blocks.{0,1,2}.mixer.component.q.weight`."""
    layers = {}
    for name in names:
        match = re.fullmatch(rf"({re.escape(ENCODER)})?blocks\.(\d+)\.(.*)", name)
        layers.setdefault((match[1] or "", match[3]) if match else ("", name), []).append(match and match[2])
    shown = []
    for (stack, rest), numbers in layers.items():
        inside = numbers[0] if len(numbers) == 1 else "{" + ",".join(map(str, numbers)) + "}"
        shown.append(rest if numbers[0] is None else f"{stack}blocks.{inside}.{rest}")
    return ", ".join(shown)
