"""Texts as rows of tokens for an encoder: `<bos>`, prompt, text, `<eos>`, cut with `<eos>` kept, padded on the right.

A prompt and a text are cut into tokens as one string, because a tokenizer may merge the space between them with a word.

Shapes: B rows, T tokens.
"""

from collections.abc import Sequence

import tokenizers
import torch
from torch import Tensor

from arch.tokenizer import PAD, Ends


def ids_of(
    tokenizer: tokenizers.Tokenizer, ends: Ends, texts: Sequence[str], prompt: str = "", max_tokens: int | None = None
) -> tuple[list[list[int]], int]:
    """(the ids of each text with what stands around it, how many of them were cut). max_tokens: the most of a row; None: any.

    A text that is too long loses its end; the token that ends it stays.
    """
    before, after = ([] if number is None else [number] for number in (ends.bos, ends.eos))
    found = tokenizer.encode_batch_fast([prompt + text for text in texts], add_special_tokens=False)
    room = None if max_tokens is None else max_tokens - len(before) - len(after)
    rows, cut = [], 0
    for each in found:
        ids = each.ids
        cut += room is not None and len(ids) > room
        rows.append([*before, *ids[:room], *after])
    return rows, cut


def within(tokenizer: tokenizers.Tokenizer, ends: Ends, texts: Sequence[str], prompt: str, max_tokens: int) -> list[str]:
    """What of each text stands in its row of at most `max_tokens` tokens: its beginning, or all of it."""
    room = max_tokens - (ends.bos is not None) - (ends.eos is not None)
    found = tokenizer.encode_batch([prompt + text for text in texts], add_special_tokens=False)
    kept = []
    for text, each in zip(texts, found, strict=True):
        end = len(text) if len(each.ids) <= room else each.offsets[room - 1][1] - len(prompt) if room > 0 else 0
        kept.append(text[: max(0, end)])
    return kept


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(tokens (B, T), lengths (B,)) of rows of ids, with `pad` behind the shorter ones; T is the length of the longest."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    tokens_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], dtype=torch.long)
    return tokens_BT, torch.tensor(lengths)


def padding_of(tokenizer: tokenizers.Tokenizer) -> int:
    """The id that stands at padding. Nothing reads it, so where a tokenizer has none, any id will do."""
    return next((number for name in PAD if (number := tokenizer.token_to_id(name)) is not None), 0)


def rows_of(
    tokenizer: tokenizers.Tokenizer, ends: Ends, texts: Sequence[str], prompt: str = "", max_tokens: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """(tokens (B, T), lengths (B,), how many texts were cut) of a few texts; see `ids_of` and `padded`."""
    rows, cut = ids_of(tokenizer, ends, texts, prompt, max_tokens)
    return *padded(rows, padding_of(tokenizer)), cut
