"""Whether a tokenizer gives a text back, and where it does not.

A normalizer that composes characters (NFC, NFKC), lowers case or strips accents changes a text before it is encoded; some
pre-tokenizers drop spaces. What a model then learns is another text, and bits per byte count bytes that no token stands for.
"""

import json
from collections.abc import Sequence

import numpy as np
import tokenizers

from experiments.data.specials import Ends

# Parts that change no text.
EXACT = {"ByteLevel", "Split", "Digits"}
# How much of a text is shown around the place where it changes.
SHOWN = 12


def survives(
    trained: tokenizers.Tokenizer, texts: Sequence[str], ids: Sequence[Sequence[int]], lengths: np.ndarray, ends: Ends
) -> list[bool]:
    """For each text, whether decoding its `ids` gives it back, and none of them is a token that begins or ends a text.

    lengths: (V,), the bytes that each token stands for. Where nothing in the tokenizer can change a text, it is enough that
    they add up to its bytes. A text with an unknown token passes: that it loses something is what the token says.
    """
    exact, decodes = _is_exact(trained), trained.decoder is not None
    back: Sequence[str | None] = [None] * len(texts)
    if decodes and not exact:
        back = trained.decode_batch([list(each) for each in ids], skip_special_tokens=False)
    kept = []
    for text, numbers, decoded in zip(texts, ids, back, strict=True):
        adds_up = int(lengths[np.asarray(numbers, dtype=np.int64)].sum()) == len(text.encode())
        unknown = ends.unk is not None and ends.unk in numbers
        kept.append(not _ends_within(numbers, ends) and (unknown or (adds_up if decoded is None else decoded == text)))
    return kept


def _ends_within(numbers, ends):
    """Whether a text has a token that begins or ends one: some models have `</s>` as a word too."""
    return ends.eos in numbers or ends.bos in numbers


def _is_exact(trained):
    """Whether no part of a tokenizer can change a text, as far as its kind says."""
    parts = json.loads(trained.to_str())
    before = parts["pre_tokenizer"] or {"type": "Split"}
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    return parts["normalizer"] is None and all(
        step["type"] in EXACT and step.get("behavior") != "Removed" and not step.get("add_prefix_space") for step in steps
    )


def described(trained: tokenizers.Tokenizer, name: str, text: str, numbers: Sequence[int], lengths: np.ndarray, ends: Ends) -> str:
    """Where a text does not survive, with its line, and which part of the tokenizer changes it.

    name: of the document; a line is added where it is a whole file, and named as the document's own elsewhere.
    """
    if _ends_within(numbers, ends):
        token = trained.id_to_token(next(number for number in numbers if number in (ends.bos, ends.eos)))
        return f"{name}: the tokenizer reads {token!r} in this text as the token that begins or ends one"
    if trained.decoder is None or (back := trained.decode(list(numbers), skip_special_tokens=False)) == text:
        total = int(lengths[np.asarray(numbers, dtype=np.int64)].sum())
        return f"{name}: the tokenizer gives tokens for {total:,} bytes of a text that has {len(text.encode()):,}"
    at = next((i for i, (one, other) in enumerate(zip(text, back, strict=False)) if one != other), min(len(text), len(back)))
    line = text.count("\n", 0, at) + 1
    is_part = name.endswith("]") or "#" in name or name.rpartition(":")[2].isdigit()  # of a file: FILE[ROW], FILE#PIECE, FILE:LINE
    place = f"{name}, line {line} of it" if is_part else f"{name}:{line}"
    shown = [repr(each[at : at + SHOWN]) for each in (text, back)]
    return f"{place}: the tokenizer changes this text: {shown[0]} comes back as {shown[1]} ({_why(trained, text)})"


def _why(trained, text):
    normalizer = json.loads(trained.to_str())["normalizer"]
    if normalizer is None or trained.normalizer.normalize_str(text) == text:
        return "its pre-tokenizer or its decoder drops or adds characters"
    steps = normalizer.get("normalizers", [normalizer])
    return f"its normalizer: {', '.join(step['type'] for step in steps)}"
