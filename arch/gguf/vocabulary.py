"""A checkpoint's tokenizer in a GGUF file: byte-level BPE, with GPT-2's words, as our `bpe` and `byte` are.

llama.cpp has no other form of our tokenizers. `character` is no BPE over bytes; Gemma's own needs the scores of its
`tokenizer.model`, which a tokenizer.json does not have. Without a tokenizer, tokens are numbers.
"""

import json
from pathlib import Path
from typing import Any

from arch import chat_template, checkpoint, prompts
from arch.errors import DataError
from arch.tokenizer import read, special_tokens

NORMAL, CONTROL, UNUSED = 1, 3, 5  # types of tokens
# What each part of a tokenizer.json must say, so that llama.cpp cuts every text into the same tokens.
PARTS = {
    "normalizer": (None,),
    "pre_tokenizer.type": ("ByteLevel",),
    "pre_tokenizer.add_prefix_space": (False,),
    "decoder.type": ("ByteLevel",),
    "model.type": ("BPE",),
    "model.dropout": (None,),
    "model.continuing_subword_prefix": (None, ""),
    "model.end_of_word_suffix": (None, ""),
    "model.byte_fallback": (False,),
    "model.ignore_merges": (False,),
}


def metadata(folder: Path | str | None, tokens: int, encoder: bool = False) -> dict[str, Any]:
    """What a file says of the tokenizer in a checkpoint's folder, for a model with so many rows in its embedding.

    folder: None for no tokenizer. encoder: whether what ends a text is put behind it, as encoders have it. Raises DataError.
    """
    path = None if folder is None else Path(folder) / checkpoint.TOKENIZER
    if folder is None or path is None or not path.is_file():
        return {"tokenizer.ggml.model": "no_vocab"}
    tokenizer = read(path)
    said = json.loads(tokenizer.to_str())
    if reason := _unfit(said):
        raise DataError(f"{path}: {reason}; a GGUF file holds byte-level BPE, as the tokenizers bpe and byte are", key=None)
    names = {number: name for name, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(names) >= tokens:
        reason = f"its highest id is {max(names):,}, but the model has {tokens:,} tokens"
        raise DataError(f"{path}: {reason}; llama.cpp wants a row in the embedding for each", key=None)
    control = {token["id"] for token in said["added_tokens"]}
    kinds = [CONTROL if i in control else NORMAL if i in names else UNUSED for i in range(tokens)]
    ends, special = _ends(folder, encoder), special_tokens(folder)
    if ends.get("eos") is None:
        raise DataError(f"{path}: no token that ends a text; llama.cpp would take number 11 for one", key=None)
    about = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [names.get(i, f"[PAD{i}]") for i in range(tokens)],
        "token_type": kinds,
        "merges": [" ".join(pair) if isinstance(pair, list) else pair for pair in said["model"]["merges"]],
        "add_bos_token": ends.get("add_bos", False),
        "add_eos_token": ends.get("add_eos", False),
        **{f"{kind}_token_id": ends[kind] for kind in ("bos", "eos", "eot") if ends.get(kind) is not None},
        **({"padding_token_id": special["pad_token_id"]} if "pad_token_id" in special else {}),
    }
    found = {f"tokenizer.ggml.{key}": value for key, value in about.items()}
    template = chat_template.find(path.parent)
    return found if template is None else found | {"tokenizer.chat_template": template}


def _unfit(said: dict[str, Any]) -> str:
    """Why a tokenizer.json cannot be written; empty if it can."""
    for key, allowed in PARTS.items():
        got: Any = said
        for part in key.split("."):
            got = got.get(part) if isinstance(got, dict) else None
        if got not in allowed:
            got = got.get("type") if isinstance(got, dict) else got
            return f"{key} is {json.dumps(got)}, expected {json.dumps(allowed[0])}"
    if said["model"]["merges"] and not said["pre_tokenizer"]["use_regex"]:
        return "its merges cross words"
    if not all(token["special"] for token in said["added_tokens"]):
        return "it has added tokens that are no special ones"
    return ""


def _ends(folder, encoder):
    """{bos, eos, eot: ids; add_bos, add_eos: whether they stand around a text}."""
    if encoder:
        ends = prompts.ends_of(folder)
        eos = special_tokens(folder).get("eos_token_id")
        eos = eos[0] if isinstance(eos, list) else eos
        return {"bos": ends.bos, "eos": eos, "add_bos": ends.bos is not None, "add_eos": ends.eos is not None}
    special = special_tokens(folder)
    eos = special.get("eos_token_id")
    first, *others = eos if isinstance(eos, list) else [eos]
    bos = special.get("bos_token_id")
    return {"bos": bos, "eos": first, "eot": others[0] if others else None, "add_bos": bos is not None}
