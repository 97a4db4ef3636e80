"""Drawing a policy's own answers, as objectives of post-training do in each step, beside plain generation.

Shapes: B rows, T tokens.
"""

from types import SimpleNamespace

import tokenizers
import torch

from arch.cost import DTYPES
from arch.generate import generate
from arch.model import new_model
from experiments import sampled
from experiments.bench.sides import tokens_of, whole_rows


def answers(journal, spec, name, context, batch, bench_spec, device):
    """Time, in turns, `decode_tokens` tokens behind prompts of `context` tokens: `answers` and `generate`, at temperature 1.

    No answer ends early, so that both write as many tokens. Drawing by the row's number, cutting and decoding to text are part of
    the first.
    """
    model = new_model(spec, seed=0).to(device, DTYPES[bench_spec.dtype]).eval()
    prompt_BT, most = tokens_of(spec, batch, context, device), bench_spec.decode_tokens
    rows, dataset = prompts(prompt_BT, spec.vocab_size, most)
    sides = {
        "answers": lambda: sampled.answers(model, rows, dataset, 1.0, most),
        "generate": lambda: generate(model, prompt_BT, most),
    }
    journal.time("answers", sides, {"spec": name, "context": context, "batch": batch}, batch * most, "tokens")


def prompts(prompt_BT, vocabulary, room):
    """(rows whose prompts these are, with room for an answer; what `sampled.answers` asks a dataset for)."""
    count, context = prompt_BT.shape
    tokens_BT = torch.cat([prompt_BT, torch.zeros(count, room - 1, dtype=torch.long, device=prompt_BT.device)], 1)
    rows = whole_rows(tokens_BT)["text"]
    rows.key_B = torch.arange(count, device=prompt_BT.device)
    rows.extra["start"] = torch.full((count,), context, device=prompt_BT.device)
    rows.extra["split"] = torch.zeros(count, dtype=torch.long, device=prompt_BT.device)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(vocabulary)}))
    chat = SimpleNamespace(stops=frozenset({vocabulary}), said=words.decode)  # a token that is none ends an answer
    return rows, SimpleNamespace(prompt_tokens=context, chat=chat, pad=0)
