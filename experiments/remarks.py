"""What is probably not meant in an experiment or among the arms of a study (see `arch.remarks`): one sentence each.

Commands print them as warnings before anything is trained; they are kept in a run's notes and in a study's record.
"""

from collections.abc import Collection, Mapping
from typing import Any

from arch.remarks import computed, of_model
from arch.spec import diff, digest
from arch.words import listed
from experiments import auto
from experiments.spec import ExperimentSpec


def of_experiment(spec: ExperimentSpec, is_control: bool = False) -> list[str]:
    """Sentences about one resolved ExperimentSpec. is_control: whether a study says that it is to be worse (`known_worse`)."""
    return [*of_model(spec.model, spec.data.context, "model.", is_control), *_evaluated_once(spec), *auto.remarks(spec.train)]


def _evaluated_once(spec: ExperimentSpec) -> list[str]:
    """A sentence where a run is evaluated only at its end."""
    every, steps = spec.evaluate.every, spec.train.steps
    if not 0 < steps <= every:
        return []
    sign = ">" if every > steps else "="
    return [f"evaluate.every {every} {sign} steps {steps}: one evaluation, at the end; the curves are those of the training loss"]


def of_arms(
    specs: Mapping[str, ExperimentSpec],
    identities: Mapping[str, Any] | None = None,
    controls: Collection[str] = (),
    first_seeds: Mapping[str, int] | None = None,
) -> list[str]:
    """Sentences about the arms of a study, {label: resolved ExperimentSpec}: about each, and about arms that are the same.

    identities: of the arms' runs, where they are known; else the specs decide what is the same experiment, and first_seeds,
    {label: where its seeds begin}, if not at 0, what shares runs. controls: arms that the study's claims know to be worse.
    """
    said: dict[str, list[str]] = {}
    for label, spec in specs.items():
        for remark in of_experiment(spec, label in controls):
            said.setdefault(remark, []).append(label)
    return [
        *(f"{_who(labels, len(specs))}: {remark}" for remark, labels in said.items()),
        *_same(specs, identities, first_seeds or {}),
    ]


def _who(labels, arms):
    if len(labels) == arms > 1:
        return "every arm"
    return f"arm{'s' if len(labels) > 1 else ''} {listed(map(repr, labels))}"


def _same(specs, identities, first_seeds):
    experiments: dict[Any, str] = {}
    functions: dict[str, str] = {}
    for label, spec in specs.items():
        content = _deciding(spec)
        runs = identities[label] if identities else (digest(content), first_seeds.get(label, 0))
        twin = experiments.setdefault(runs, label)
        if twin != label:
            yield f"arms {twin!r} and {label!r} resolve to the same experiment and share their runs"
            continue
        context = spec.data.context
        twin = functions.setdefault(digest({**content, "model": computed(spec.model, context)}), label)
        if twin != label and digest(content) != digest(_deciding(specs[twin])):  # else the same with other seeds
            keys = [key for key in diff(specs[twin], spec) if key.startswith("model.")]
            effect = f"{listed(keys)} {'makes' if len(keys) == 1 else 'make'} no difference in a context of {context:,} tokens"
            yield f"arms {twin!r} and {label!r} compute the same, up to rounding: {effect}"


def _deciding(spec: ExperimentSpec) -> dict[str, Any]:
    """What decides the result of a resolved experiment, without reading any data."""
    return {**spec.dump(identity=True), "source": spec.data.source, "starts": spec.dump().get("init_from")}
