"""The files of a prepared dataset of pairs: every text once for each prompt, as text and as tokens, and the pairs as numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from arch.errors import DataError
from arch.spec import digest
from experiments.data import cache as cached
from experiments.data import texts
from experiments.data.encoded import Encoded
from experiments.data.pair import Pair, Part
from experiments.data.pair_splits import Splits, group_of
from experiments.data.pairs import Pairs, Split
from experiments.data.specials import Ends, load
from experiments.data.split import SPLITS

# Increase this when only these files change: older ones are not used, and data and runs stay what they are.
FORMAT = 1

ARRAYS = ("query", "positive", "negatives", "starts")

# A prompt, and the text behind it.
Entry = tuple[str, str]


def prompted(pair: Pair, parts: Mapping[str, Part]) -> list[Entry]:
    """The texts of a pair with their prompts: its query, its positive, its hard negatives."""
    prompts = parts[pair.part].prompts
    return [(prompts.query, pair.query), *((prompts.document, text) for text in pair.texts[1:])]


def write(
    folder: Path,
    splits: Splits,
    parts: Mapping[str, Part],
    mined: Mapping[str, Sequence[tuple[str, ...]]],
    entries: Sequence[Entry],
    made: Encoded,
    trained: tokenizers.Tokenizer,
    ends: Ends,
    facts: dict[str, Any],
) -> None:
    """Write all files into `folder`. mined: {part: the hard negatives of each of its training pairs}. facts: further ones."""
    number = {entry: i for i, entry in enumerate(entries)}
    sizes = {}
    for split in SPLITS:
        pairs: list[Pair] = []
        first: dict[str, tuple[int, int]] = {}
        for name in parts:
            mine = [pair for pair in splits[split] if pair.part == name]
            if split == "train" and name in mined:
                mine = [pair._replace(negatives=found) for pair, found in zip(mine, mined[name], strict=True)]
            first[name] = (len(pairs), len(mine))
            pairs += mine
        numbers = [[number[entry] for entry in prompted(pair, parts)] for pair in pairs]
        written = {
            "query": [each[0] for each in numbers],
            "positive": [each[1] for each in numbers],
            "negatives": [one for each in numbers for one in each[2:]],
            "starts": [0, *accumulate(len(each) - 2 for each in numbers)],
        }
        arrays = {name: np.array(each, dtype=np.int64) for name, each in written.items()}
        for name, array in arrays.items():
            np.save(folder / f"{split}.{name}.npy", array)
        about = {"first": first, "groups": [pair.group for pair in pairs], "labels": [pair.label for pair in pairs]}
        _store(folder / f"{split}.json", about)
        tokens = sum(int(made.length_E[arrays[kind]].sum()) for kind in ("query", "positive"))
        sizes[split] = {"pairs": len(pairs), "groups": len({group_of(pair) for pair in pairs}), "tokens": tokens}
    small = np.uint16 if facts["vocabulary"] <= 2**16 else np.uint32
    for name, whole in (("tokens", made.tokens.astype(small)), ("starts", made.starts), ("texts", made.text_E)):
        np.save(folder / f"{name}.npy", whole)
    _store(folder / "texts.json", [text for _, text in entries])
    (folder / "tokenizer.json").write_text(trained.to_str(pretty=True), encoding="utf-8")
    _store(folder / "pairs.json", {**facts, "ends": asdict(ends), "pad": made.pad, "sizes": sizes})


def _store(path, data):
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def opened(folder: Path, source: str, parts: dict[str, Part]) -> tuple[Pairs, dict[str, Any]]:
    """(the Pairs in a prepared folder, the facts of `write`). Opened again only if a file has changed. Raises DataError."""
    try:
        files = texts.stamps(sorted(folder.iterdir()))
        facts, tokenizer, made, splits = _open(folder, tuple(map(tuple, files)))
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise cached.damaged(folder, error) from None
    fingerprint = facts["fingerprint"]
    if len(parts) > 1:
        whole = sum(part.weight for part in parts.values())
        fingerprint = digest({"pairs": fingerprint, "weights": {name: part.weight / whole for name, part in parts.items()}})
    ends, vocabulary = Ends(**facts["ends"]), facts["vocabulary"]
    return Pairs(fingerprint, source, tokenizer, ends, vocabulary, parts, made, splits, facts["sizes"], folder, ""), facts


@lru_cache(maxsize=8)
def _open(folder, files):
    facts = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    made = Encoded(tokens, np.load(folder / "starts.npy"), np.load(folder / "texts.npy"), facts["ends"]["eos"], facts["pad"])
    if made.starts[-1] != len(tokens) or len(made.text_E) != len(made.starts) - 1:
        raise ValueError("not the tokens that were stored")
    splits = {}
    for split in SPLITS:
        query_N, positive_N, negatives, starts = (np.load(folder / f"{split}.{name}.npy") for name in ARRAYS)
        about = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        first = {name: tuple(each) for name, each in about["first"].items()}
        splits[split] = Split(query_N, positive_N, negatives, starts, first)
        if len(query_N) != facts["sizes"][split]["pairs"] or len(starts) != len(query_N) + 1:
            raise ValueError(f"{split}: not the pairs that were stored")
    return facts, load(folder / "tokenizer.json"), made, splits
