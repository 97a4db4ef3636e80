"""The runs that an experiment refers to: those whose weights it starts from, and those that its objective uses (a teacher)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from arch import registry
from arch.contracts import Dataset, Objective, Referred
from arch.errors import DataError, SpecError
from arch.plugins import plugin_sources
from arch.spec import digest
from experiments import image_costs, start_tokens
from experiments.record import RunRecord
from experiments.spec import DataSpec, ExperimentSpec, RunReference
from experiments.start import Parent, parent

if TYPE_CHECKING:
    from experiments.plan import RunPlan


class Named(NamedTuple):
    """A reference in a spec. key: its place. option: the objective's option; None for `init_from`."""

    key: tuple[str | int, ...]
    reference: str | RunReference
    option: str | None = None


def of(spec: ExperimentSpec) -> list[Named]:
    """The references of a resolved experiment: `init_from` first, then those of the objective's options."""
    return [*(Named(key, reference) for key, reference in spec.starts), *_of_objective(spec)]


def _of_objective(spec):
    options = getattr(registry.component("objective", spec.objective["type"]), "runs", ())
    config = registry.config("objective", spec.objective) if options else None
    for option in options:
        value = getattr(config, option)
        if isinstance(value, (str, RunReference)):  # not one that is left out, or that is no run
            yield Named(("objective", option), value, option)


class Used(NamedTuple):
    """What an objective uses. parents: {option: Parent}. referred: {option: Referred}. identity: what decides the result."""

    parents: dict[str, Parent]
    referred: dict[str, Referred]
    identity: dict[str, Any]


def used(spec: ExperimentSpec, made: Mapping[int, RunPlan]) -> Used:
    """The runs that the objective uses. made: {position in `of(spec)`: RunPlan} of those to be made. Raises DataError."""
    use = Used({}, {}, {})
    for position, (key, reference, option) in enumerate(of(spec)):
        if option is None:
            continue
        plan = made.get(position)
        if isinstance(reference, RunReference) and reference.stack:
            raise DataError("`as` is of `init_from`: a run that is used is used as it is", key=(*key, "as"))
        each, model, _ = parent(key, reference, plan)
        name = each.folder or each.name
        data: DataSpec | None
        if plan is not None:
            data = plan.spec.data
        else:
            record = RunRecord.read_whole(each.folder)
            data = ExperimentSpec.parse(record.spec).data if record else None
        tokenizer = start_tokens.of_parent(each, plan)
        use.parents[option] = each
        use.referred[option] = Referred(name, model, data, tokenizer, each.folder)
        # The same weights under another spec (a window, a softcap) or another plug-in are another teacher.
        use.identity[option] = each.identity if plan else {**each.identity, "model": digest(model), **_plugins(model)}
    return use


def _plugins(model):
    sources = plugin_sources(model.dump())
    return {"plugins": sources} if sources else {}


def referred(spec: ExperimentSpec, models: Mapping[int, ExperimentSpec]) -> dict[str, Referred]:
    """{option: Referred} without reading data. models: {position in `of(spec)`: ExperimentSpec} of runs to be made."""
    known = {}
    for position, (key, reference, option) in enumerate(of(spec)):
        if option is None:
            continue
        if position in models:
            other = models[position]
            label = reference if isinstance(reference, str) else reference.label
            known[option] = Referred(label, other.model, other.data, None)
        else:
            each, model, _ = parent(key, reference, None)
            known[option] = Referred(each.folder, model, None, None, each.folder)
    return known


def decides(spec: ExperimentSpec, dataset: Dataset, runs: Mapping[str, Referred]) -> dict[str, Any]:
    """What decides the result of an objective beside these runs' weights, as plain data; empty where nothing does."""
    component = registry.component("objective", spec.objective["type"])
    if not hasattr(component, "decides"):
        return {}
    found: dict[str, Any] = component.decides(registry.config("objective", spec.objective), dataset, runs)
    return found


def check(spec: ExperimentSpec, dataset: Dataset, runs: Mapping[str, Referred], root: Any) -> None:
    """Raises SpecError, at its line of the document `root`, for an objective that cannot work with these runs, rows or data."""
    component = registry.component("objective", spec.objective["type"])
    if hasattr(component, "check"):
        try:
            component.check(registry.config("objective", spec.objective), spec, dataset, runs)
        except SpecError as error:
            raise root.error(error.reason, ("objective", *error.path)) from None
        except DataError as error:
            raise root.error(str(error), error.key) from None


def costs(spec: ExperimentSpec, dataset: Dataset | None, runs: Mapping[str, Referred]) -> dict[str, float]:
    """What the objective (`Objective.costs`) and images cost beside the model's step. dataset: None where data is not read."""
    component, own = registry.component("objective", spec.objective["type"]), {}
    if hasattr(component, "costs"):
        own = component.costs(registry.config("objective", spec.objective), spec, dataset, runs)
    images = image_costs.flops(spec)
    return {**own, "flops": own.get("flops", 0.0) + images, "image_flops": images} if images else own


def objective(spec: ExperimentSpec, dataset: Dataset, parents: Mapping[str, Parent]) -> Any:
    """The objective of a resolved experiment. parents: {option: Parent} with folders, of an objective that uses runs."""
    folders = {option: Path(each.folder) for option, each in parents.items()}
    return registry.build("objective", spec.objective, dataset, *([folders] if folders else []))


def reporting(training: Objective, dataset: Dataset, device: Any) -> Objective:
    """The objective whose metrics are reported of a model that `training` trained: itself, or what it says, on a device."""
    name = getattr(training, "measured_by", None)
    return registry.build("objective", {"type": name}, dataset).to(device) if name else training


def measured_by(spec: ExperimentSpec) -> dict[str, Any]:
    """The objective (plain data) whose metrics are reported of a resolved experiment's model."""
    name = getattr(registry.component("objective", spec.objective["type"]), "measured_by", None)
    return {"type": name} if name else spec.objective
