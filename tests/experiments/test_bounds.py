"""The bounds that a schema states are true: a value at an inclusive bound works, or is refused in one line."""

import copy

import pytest
import torch
from pydantic import TypeAdapter

from arch import document, registry
from arch.errors import SpecError
from arch.layout import TokenLayout
from arch.parameters import Context, initialise
from experiments.plan import resolve
from experiments.spec import EvaluateSpec, ExperimentSpec

DIM, TOKENS = 16, 9


def at_bounds(kind):
    """[(name, dotted key, config)] of every example of a kind with one number set to each of its inclusive bounds."""
    cases = []
    for name in registry.names(kind):
        config = registry.component(kind, name).Config
        if not hasattr(config, "examples"):
            continue
        schema = TypeAdapter(config).json_schema(ref_template="{model}")
        for path, value in numbers(schema, schema.get("$defs", {})):
            for i, example in enumerate(config.examples()):
                data = copy.deepcopy(example.dump())
                if (options := inside(data, path[:-1])) is None:
                    continue
                options[path[-1]] = value
                cases.append(pytest.param(name, data, id=f"{name}-{i}-{'.'.join(path)}={value:g}"))
    return cases


def numbers(schema, definitions, path=()):
    """Yields (path, inclusive bound) of every number in a schema."""
    for key, part in schema.get("properties", {}).items():
        for choice in part.get("anyOf", [part]):
            stated = definitions.get(choice.get("$ref"), choice)
            yield from (((*path, key), stated[bound]) for bound in ("minimum", "maximum") if bound in stated)
            yield from numbers(stated, definitions, (*path, key))


def inside(data, path):
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else None


def parsed(kind, name, data):
    """The config, or None where the component refuses the value for a stated reason."""
    try:
        return registry.component(kind, name).Config.parse(data)
    except SpecError as error:
        assert error.reason
        return None


@pytest.mark.parametrize(("name", "data"), at_bounds("schedule"))
def test_a_schedule_at_its_bounds_stays_between_zero_and_the_peak(name, data):
    config = parsed("schedule", name, data)
    for steps in (1, 2, 7, 50) if config else ():
        rates = [registry.component("schedule", name)(config)(step, steps, 3e-3) for step in range(steps)]
        assert all(0 <= rate <= 3e-3 for rate in rates) and (max(rates) > 0 or steps == 1)


@pytest.mark.parametrize(("name", "data"), at_bounds("optimizer"))
def test_an_optimizer_at_its_bounds_makes_a_finite_step(name, data):
    config, model = parsed("optimizer", name, data), torch.nn.Linear(3, 2)
    if config:
        optimizer = registry.component("optimizer", name)(config).build(model.named_parameters())
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize(("kind", "name", "data"), [
    pytest.param(kind, *case.values, id=case.id) for kind in ("mixer", "ffn") for case in at_bounds(kind)
])  # fmt: skip
def test_a_component_of_the_model_at_its_bounds_is_finite(kind, name, data):
    if parsed(kind, name, data) is None:
        return
    try:
        module = registry.build(kind, {"type": name, **data}, Context(dim=DIM))
    except ValueError as error:
        assert str(error)  # planning makes it one line, at the component's place in the spec
        return
    initialise(module, seed=0)
    x_BTD = torch.randn(2, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    y_BTD = module(x_BTD, TokenLayout.whole(2, TOKENS))[0] if kind == "mixer" else module(x_BTD)
    assert y_BTD.shape == x_BTD.shape and y_BTD.isfinite().all()


def test_rotary_positions_on_no_channel_are_none():
    base = {"type": "attention", "heads": 2}
    outputs = []
    for rope in ({"fraction": 0.0}, None):
        module = registry.build("mixer", {**base, "rope": rope}, Context(dim=DIM))
        initialise(module, seed=0)
        x_BTD = torch.randn(2, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
        outputs.append(module(x_BTD, TokenLayout.whole(2, TOKENS))[0])
    torch.testing.assert_close(*outputs)


def nullable():
    """The dotted keys of an experiment whose default is null."""
    places = {"": ExperimentSpec, "evaluate": EvaluateSpec, "model": ExperimentSpec.model_fields["model"].annotation}
    places |= {"model.blocks.local.mixer": registry.component("mixer", "attention").Config}
    for place, spec in places.items():
        for name, field in spec.model_fields.items():
            if not field.is_required() and field.default is None:
                yield ".".join(filter(None, [place, field.alias or name]))


@pytest.mark.parametrize("key", list(nullable()))
def test_null_means_what_an_absent_key_means_where_it_is_the_default(tiny, key):
    data = copy.deepcopy({name: value for name, value in tiny.items() if name != "evaluate"})
    *place, name = key.split(".")
    if options := inside(data, place):
        options.pop(name, None)
    assert resolve(document.overridden(document.node(data), document.node({key: None}))) == resolve(data)
