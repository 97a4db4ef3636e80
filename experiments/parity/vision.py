"""Compare our models that read images with recorded outputs of `Gemma3ForConditionalGeneration`.

Recorded with transformers 5.23.0 and torch 2.13.0. The folder is tests/fixtures/gemma3_vision_tiny: random weights, 3 layers, a
window of 5 keys, images of 36 patches that become 9 tokens. Its `expected.safetensors` holds two rows of 29 tokens, one with two
images and one with one; the images; what the tower and the projection give; which keys each token sees in a global and in a local
layer; logits with images, with images that are read causally (`logits_no_token_types`), and of rows of text.

Shapes: B rows, T tokens, N images, I images of a row.
"""

import torch
from safetensors.torch import load_file

from arch import hf
from arch.document import ROOT
from arch.images.places import numbered
from arch.kernels.attention.reference import visible
from arch.layout import TokenLayout
from experiments.parity.compare import Row, largest, recorded

FOLDER = ROOT / "tests" / "fixtures" / "gemma3_vision_tiny"
AGAINST = "`Gemma3ForConditionalGeneration`, recorded"
CASE = "two images, one image, none; a window shorter than an image"
BOUND = 1e-5


def expected():
    """{name: tensor} of what was recorded. Raises DataError if the file is missing."""
    return load_file(recorded(FOLDER / "expected.safetensors"))


def by_row(pixels_N3SS, counts):
    """The images of all rows, one after the other, as (B, I, 3, S, S), with zeros behind the last of a row."""
    images = pixels_N3SS.new_zeros(len(counts), max(counts), *pixels_N3SS.shape[1:])
    for row, part in zip(images, pixels_N3SS.split(counts), strict=True):
        row[: len(part)] = part
    return images


def seen(layout, window):
    """(B, T, T) bool: the keys that each token sees in a layer of attention with this window."""
    return visible(*layout.interval(None if window is None else window - 1, 0), torch.arange(layout.shape[1]))


@torch.no_grad()
def compare(alter=None):
    """The Rows of the folder. alter: changes our model first, so that a test can show that a detail matters."""
    wanted, model = expected(), hf.load(FOLDER)
    if alter:
        alter(model)
    vision, tokens_BT = model.vision.config, wanted["input_ids"]
    image_BT = numbered(tokens_BT, vision.placeholder, vision.tokens)
    images = by_row(wanted["pixel_values"], [int(row.max()) + 1 for row in image_BT])
    layout = TokenLayout.whole(*tokens_BT.shape).with_images(image_BT)
    shown = layout.seeing(vision.spans)
    window = next(block.mixer["window"] for block in model.spec.blocks.values() if block.mixer["window"])
    differ = [(seen(shown, w) != wanted[name].bool()).sum() for w, name in ((None, "mask_full"), (window, "mask_local"))]
    mixed = torch.cat([tokens_BT, _longer(wanted["text_ids"], tokens_BT.shape[1])])
    together = TokenLayout.whole(*mixed.shape).with_images(torch.cat([image_BT, torch.full_like(image_BT, -1)]))
    beside = model(mixed, together, torch.cat([images, torch.zeros_like(images)]))
    text = wanted["text_ids"].shape[1]
    found = [
        ("hidden states", largest(model.vision.encoder(wanted["pixel_values"]), wanted["vision_last_hidden"])),
        ("hidden states", largest(model.vision(wanted["pixel_values"]), wanted["image_features"])),
        ("masks", float(sum(differ))),
        ("logits", largest(model(tokens_BT, layout, images), wanted["logits"])),
        ("logits", largest(model(wanted["text_ids"]), wanted["text_logits"])),
        ("logits", largest(beside[: len(tokens_BT)], wanted["logits"])),
        ("logits", largest(beside[len(tokens_BT) :, :text], wanted["text_logits"])),
    ]
    x_BTD = model.embed_with_images(tokens_BT, layout, images)
    causal = model.logits(model.trunk(x_BTD, layout=TokenLayout.whole(*tokens_BT.shape))[0])
    found.append(("logits", largest(causal, wanted["logits_no_token_types"])))
    return [Row(AGAINST, CASE, what, error, BOUND) for what, error in found]


def _longer(tokens_BT, tokens):
    """Rows with further tokens behind them, which change nothing before."""
    return torch.nn.functional.pad(tokens_BT, (0, tokens - tokens_BT.shape[1]), value=3)
