"""Training on rows with images beside training on rows of text alone, of one model.

Shapes: B rows, T tokens, I images of a row, S side of an image in pixels.
"""

import torch

from arch import cost
from arch.errors import SpecError
from arch.images.places import numbered
from experiments import image_costs
from experiments.bench import products
from experiments.bench.sides import Ours, tokens_of, whole_rows
from experiments.data.batch import Batch


def images(journal, spec, name, context, bench_spec, device):
    """Time, in turns, training steps on as many tokens: `text`, `images` with soft tokens among them, and the `products` of the
    latter alone.

    `flops` among the facts is what a step costs by `arch.cost`: ideal FLOPs of all passes, the tower's too. Raises SpecError for
    a context in which no image has a place.
    """
    rows = bench_spec.tokens // context
    ours = Ours(spec, device, bench_spec.dtype)
    batch = with_images(spec, rows, context, device)
    steps = {"text": ours.training(rows, context), "images": ours.training_on(batch)}
    floor = products.noted(steps["images"])
    steps["products"] = products.alone(floor.products, device)
    facts = {
        "text": {"flops": text_flops(spec, rows, context)},
        "images": {"flops": flops(spec, batch), "images": len(batch["text"].extra["images"].flatten(0, 1))},
        "products": {"flops": floor.flops, "not in it": dict(floor.opaque)},
    }
    journal.time("images", steps, {"spec": name, "context": context}, rows * context, "tokens", facts)


def with_images(spec, rows, context, device):
    """A Batch of rows that begin with images, at most a quarter of their tokens; random tokens follow, and are what is learned."""
    vision, several = spec.vision, images_of_row(spec, context)
    each = vision["tokens"]
    tokens_BT = tokens_of(spec, rows, context, device)
    tokens_BT[tokens_BT == vision["placeholder"]] = (vision["placeholder"] + 1) % spec.vocab_size  # text has none
    tokens_BT[:, : several * each] = vision["placeholder"]
    text = whole_rows(tokens_BT)["text"]
    text.targets_BT[:, : several * each - 1] = -1
    text.layout = text.layout.with_images(numbered(tokens_BT, vision["placeholder"], each))
    size = rows, several, 3, vision["image_size"], vision["image_size"]
    pixels_BI3SS = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    text.extra["images"] = pixels_BI3SS.to(device)
    return Batch.text(text)


def images_of_row(spec, context):
    """How many images a row begins with. Raises SpecError for a context in which none has a place."""
    each = spec.vision["tokens"]
    if several := context // (4 * each):
        return several
    raise SpecError(f"an image has {each} tokens, which is over a quarter of {context:,}; expected longer rows", ("contexts",))


def text_flops(spec, rows, context):
    """Ideal FLOPs of a training step on text alone."""
    return rows * context * cost.summary(spec, context)["flops_per_token"]["ideal"]["train"]


def flops(spec, batch):
    """The same of a Batch with images: what `text_flops` has, the tower, and tokens that see later ones."""
    text = batch["text"]
    rows, context = text.tokens_BT.shape
    return text_flops(spec, rows, context) + rows * image_costs.of_row(spec, text.layout.image_BT[:1].cpu())
