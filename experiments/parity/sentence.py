"""Compare our encoders with recorded outputs of sentence-transformers 6.2.0 on a small folder of EmbeddingGemma's kind.

The folder is tests/fixtures/st_embeddinggemma_tiny (24 channels, 3 layers, a window of 4 tokens on each side, random weights),
made with transformers 5.23.0 and torch 2.13.0. Its `expected.safetensors` holds `input_ids` and `attention_mask` of three texts
with the prompt `query`, the longest of them cut; their `last_hidden_state`; and the vectors `query`, `document`, `no_prompt` and
`query_trunc8_not_renormalised`, the first 8 numbers of `query`.

Shapes: B rows, T tokens, D width, E numbers of a vector.
"""

import json

import torch
from safetensors import safe_open

from arch import hf, tokenizer
from arch.document import ROOT
from arch.layout import TokenLayout
from arch.prompts import ends_of
from arch.sentence import read
from arch.texts_to_rows import rows_of
from experiments.parity.compare import Row, largest, recorded

FOLDER = ROOT / "tests" / "fixtures" / "st_embeddinggemma_tiny"
AGAINST = "`sentence-transformers`, recorded"
CASE = "mean of a bidirectional trunk, two maps"
BOUND = 1e-5
CUT = 8


def expected():
    """(texts, {name: tensor}) of what was recorded. Raises DataError if the file is missing."""
    with safe_open(recorded(FOLDER / "expected.safetensors"), "pt") as file:
        return json.loads(file.metadata()["texts"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def tokens_of(texts, prompt):
    """(tokens (B, T), lengths (B,)) of texts behind a prompt, as an encoder of the folder reads them."""
    found = rows_of(tokenizer.read(FOLDER / "tokenizer.json"), ends_of(FOLDER), texts, prompt, read.read(FOLDER).limit)
    return found[:2]


@torch.no_grad()
def compare(alter=None):
    """The Rows of the folder. alter: changes our model first, so that a test can show that a detail matters."""
    texts, wanted = expected()
    model, prompts = hf.load(FOLDER), read.read(FOLDER).prompts
    if alter:
        alter(model)
    lengths_B, tokens = wanted["attention_mask"].sum(1), wanted["input_ids"].shape[1]
    layout = TokenLayout.right_padded(lengths_B, tokens)
    hidden_BTD = model.trunk(wanted["input_ids"], layout)[0]
    found = [("hidden states", largest(hidden_BTD[layout.seen_BT], wanted["last_hidden_state"][layout.seen_BT]))]
    for kind in ("query", "document", "no_prompt"):
        tokens_BT, lengths_B = tokens_of(texts, prompts.get(kind, ""))
        vector_BE = model.encode(tokens_BT, TokenLayout.right_padded(lengths_B, tokens_BT.shape[1]))
        found.append(("vectors", largest(vector_BE, wanted[kind])))
        if kind == "query":
            found.append(("vectors", largest(vector_BE[:, :CUT], wanted["query_trunc8_not_renormalised"])))
    return [Row(AGAINST, CASE, what, error, BOUND) for what, error in found]
