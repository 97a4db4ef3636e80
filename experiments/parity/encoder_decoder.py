"""Compare our encoder-decoders with recorded outputs of `transformers` 5.23.0 on small folders of T5Gemma's and T5Gemma 2's kind.

The folders are tests/fixtures/t5gemma_tiny and t5gemma2_tiny (24 channels, 3 + 3 layers, windows of 6, random weights, made with
torch 2.13.0). Each `expected.safetensors` holds `input_ids` and `attention_mask` of two sources, `encoder_last_hidden`,
`decoder_input_ids` and their `logits`; T5Gemma's also `labels` (-100 for none) and their `loss`. The decoder then reads the labels
one place later, behind the token that begins a text.

Shapes: B rows, S tokens of the source, T tokens of the target.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from arch import hf
from arch.document import ROOT
from arch.layout import TokenLayout
from experiments.parity.compare import Row, largest, recorded, relative

FOLDERS = {
    "t5gemma": ("t5gemma_tiny", "`T5GemmaForConditionalGeneration`, recorded", "cross-attention, softcaps"),
    "t5gemma2": ("t5gemma2_tiny", "`T5Gemma2ForConditionalGeneration`, recorded", "merged attention, QK-norm"),
}
BEGIN, PAD = 2, 0
BOUND = 1e-5


def expected(name):
    """(the folder, {name: tensor} of what was recorded). Raises DataError if it is missing."""
    folder = ROOT / "tests" / "fixtures" / FOLDERS[name][0]
    return folder, load_file(recorded(folder / "expected.safetensors"))


@torch.no_grad()
def compare(name, alter=None):
    """The Rows of a folder. alter: changes our model first, so that a test can show that a detail matters."""
    folder, wanted = expected(name)
    model = hf.load(folder)
    if alter:
        alter(model)
    real_BS = wanted["attention_mask"].bool()
    encoded = model.read(wanted["input_ids"], TokenLayout.packed(torch.where(real_BS, 0, -1)))
    found = {
        "encoder states": largest(encoded.hidden_BSD[real_BS], wanted["encoder_last_hidden"][real_BS]),
        "logits": largest(model(wanted["decoder_input_ids"], encoded=encoded), wanted["logits"]),
    }
    if "loss" in wanted:
        labels_BT = wanted["labels"]
        before_BT = F.pad(torch.where(labels_BT < 0, PAD, labels_BT)[:, :-1], (1, 0), value=BEGIN)
        logits_BTV = model(before_BT, encoded=encoded)
        found["loss"] = relative(F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten()), wanted["loss"])
    _, against, case = FOLDERS[name]
    return [Row(against, case, what, error, BOUND) for what, error in found.items()]
