"""What images cost in a run: FLOPs against products that are written out, memory against what autograd keeps."""

import copy
import io

import pytest
import torch
from rich.console import Console

from arch import cost, document
from arch.model import new_model
from arch.show import costs
from experiments import gpus, image_costs, references
from experiments.data.dataset import prepare
from experiments.metrics import objective_costs
from experiments.plan import plan, resolve
from sweeps.costs import cost_metric, exact_cost


def visible(image_T, window, rule):
    """Pairs of query and later key, counted one by one."""
    pairs = 0
    for q, mine in enumerate(image_T):
        for k in range(q + 1, len(image_T)):
            near = window is None or rule == "one_sided" or k - q < window
            pairs += mine >= 0 and image_T[k] == mine and near and rule != "causal"
    return pairs


@pytest.mark.parametrize("rule", ["one_sided", "two_sided", "causal"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_flops_of_images_are_the_products_of_the_tower_and_the_later_tokens_that_are_seen(rule, frozen):
    spec = resolve(
        document.load("tiny_pages", "experiments", [f"model.vision.spans={rule}", f"model.vision.frozen={str(frozen).lower()}"])
    )
    patches, width, hidden, layers, tokens, model = 36, 64, 128, 2, 9, 64
    maps = 3 * 8 * 8 * width + layers * (4 * width * width + 2 * width * hidden)
    encoder = 2 * patches * maps + layers * 2 * 2 * patches * patches * width
    projection = 2 * tokens * width * model
    tower = (1 if frozen else 3) * encoder + 3 * projection
    image_T = [-1, -1, *[0] * 9, -1, -1, -1, -1, -1, -1]
    ahead = sum(4 * 4 * 16 * visible(image_T, window, rule) for window in (4, None))
    rows = spec.data.rows * spec.train.steps
    assert image_costs.flops(spec) == rows * (tower + 3 * ahead) and (ahead > 0) == (rule != "causal")
    added = references.costs(spec, None, {})
    assert added == {"flops": image_costs.flops(spec), "image_flops": image_costs.flops(spec)}
    assert objective_costs(added).endswith(" for images")
    per_token = exact_cost("cost/flops_per_token", spec)
    assert exact_cost("cost/train_flops", spec, added) == pytest.approx(per_token * spec.tokens + added["flops"], rel=1e-12)


def test_crops_are_images_too_and_texts_have_none():
    one = document.load("tiny_pages", "experiments", ["data.source.crops={ratio: 1.2, min_crop: 16}", "data.context=40"])
    spec = resolve(one)
    image_1T = image_costs._image_1T(spec)
    dataset = prepare(spec.data, spec.model.vocab_size)
    assert torch.equal(image_1T, dataset.numbered("train", [0], 40)["text"].layout.image_BT) and int(image_1T.max()) == 2
    text = resolve(document.load("tiny_gemma3", "experiments"))
    assert image_costs.flops(text) == 0 and references.costs(text, None, {}) == {}
    assert image_costs.with_images({"training_bytes": {"total": 1}}, text) == {"training_bytes": {"total": 1}}


def kept_by(tower, images_N3SS):
    """Bytes of distinct storages that autograd keeps on the CPU, without parameters."""
    kept = {}
    weights = {weight.untyped_storage().data_ptr() for weight in tower.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tower(images_N3SS)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("frozen", [False, True])
def test_the_memory_of_images_is_what_autograd_keeps(frozen):
    planned = plan(document.load("tiny_pages", "experiments", [f"model.vision.frozen={str(frozen).lower()}", "data.rows=4"]))
    training = planned.cost["training_bytes"]
    assert training["images"] == planned.cost["vision"]["activations"] > 0
    assert training["total"] == sum(size for name, size in training.items() if name != "total")
    assert cost_metric("cost/training_memory_bytes", planned.spec, planned.cost) == training["total"]
    written = io.StringIO()
    Console(file=written, width=120).print(costs(planned.spec.model, "pages", planned.cost))
    assert "training memory, images" in written.getvalue()
    tower = new_model(planned.spec.model, 0).vision
    real = kept_by(tower, torch.zeros(1, 3, 48, 48))
    assert training["images"] == pytest.approx(real, rel=0.02)
    without = copy.deepcopy(planned.cost)
    without["training_bytes"] |= {"images": 0, "total": training["total"] - training["images"]}
    more = gpus.needed(planned) - gpus.needed(planned.model_copy(update={"cost": without}))
    assert more == 4 * training["images"]


def test_a_model_without_a_tower_sees_nothing_ahead():
    text = resolve(document.load("tiny_gemma3", "experiments"))
    assert cost.looking_ahead(text.model, torch.zeros(1, 8, dtype=torch.long)) == 0
