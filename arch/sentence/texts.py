"""The tokens of a text in a folder of sentence-transformers: which stand around it, and how many are read at most.

transformers puts tokens around a text as the template in tokenizer.json says: `<bos> text <eos>` in EmbeddingGemma. Our own
tokenizers have no template, because who encodes puts them there. So an export writes one, and an import checks it.
"""

import json
from pathlib import Path

from tokenizers.processors import TemplateProcessing

from arch import checkpoint
from arch.errors import DataError
from arch.tokenizer import around, read, special_tokens
from arch.words import listed

CONFIG, PROMPTS = "tokenizer_config.json", "prompts.json"
# `max_position_embeddings` of a Gemma 3 whose config.json does not say it.
POSITIONS = 131_072
# transformers writes a number beyond this one (1e30) for a tokenizer without a limit.
UNLIMITED = 10**9
# {their flag: the end of a text to which it adds a token}
FLAGS = {"add_bos_token": 0, "add_eos_token": 1}


def prompts(folder):
    """{name: text} of the prompts of an encoder's checkpoint; {} where it has none. Raises DataError."""
    said = _mapping(Path(folder) / PROMPTS)
    if not all(isinstance(text, str) for text in said.values()):
        raise DataError(f"{Path(folder) / PROMPTS}: expected a text for each name", key=None)
    return said


def most_tokens(folder):
    """How many tokens of a text an encoder reads, those around it included, or None where its checkpoint does not say."""
    number = _mapping(Path(folder) / CONFIG).get("model_max_length")
    if number is None or (type(number) in (int, float) and number >= UNLIMITED):
        return None
    if type(number) is not int or number < 1:
        reason = f"model_max_length: expected a number of tokens, got {json.dumps(number)}"
        raise DataError(f"{Path(folder) / CONFIG}: {reason}", key=None)
    return number


def limit(trunk, said):
    """The same of a folder of sentence-transformers, which takes the smaller number where `said` (max_seq_length) is None."""
    if said is not None:
        return said
    positions = _mapping(Path(trunk) / "config.json").get("max_position_embeddings")
    return min(most_tokens(trunk) or UNLIMITED, positions if type(positions) is int else POSITIONS)


def keep(said, most, folder):
    """Write the prompts and the limit of an imported encoder into its checkpoint, beside its tokenizer."""
    _write(said, Path(folder) / PROMPTS)
    _write(_mapping(Path(folder) / CONFIG) | {"model_max_length": most}, Path(folder) / CONFIG)


def check(folder):
    """Raises DataError where a folder's tokenizer puts around a text what our encoders do not, in any release of transformers.

    Returns a note for a folder without a tokenizer.json, in a list.
    """
    path = Path(folder) / checkpoint.TOKENIZER
    if not path.is_file():
        return [f"no {checkpoint.TOKENIZER}: no text can be encoded before there is one"]
    tokenizer, said = read(path), _mapping(Path(folder) / CONFIG)
    found = around(tokenizer)
    if found != ends(folder):
        names = [listed(str(tokenizer.id_to_token(number)) for number in ids) or "nothing" for ids in (*found, *ends(folder))]
        raise DataError(
            f"{path}: it puts {names[0]} in front of a text and {names[1]} behind it; our encoders put {names[2]} and {names[3]}",
            key=None,
        )
    for flag, end in FLAGS.items():
        if FLAGS.keys() & said.keys() and bool(said.get(flag)) != bool(found[end]):
            shown = json.dumps(said[flag]) if flag in said else "not said, which means false"
            reason = f"{flag}: {shown}, but the template in {checkpoint.TOKENIZER} says otherwise"
            raise DataError(f"{Path(folder) / CONFIG}: {reason}; which one counts depends on the release of transformers", key=None)
    return []


def write(source, folder):
    """Write the tokenizer of an encoder's checkpoint as transformers needs it. Returns how many tokens of a text it reads, or None.

    Files that came with an import stay as they are. Raises DataError.
    """
    path, (before, after) = Path(folder) / checkpoint.TOKENIZER, ends(source)
    if not path.is_file():
        raise DataError(f"{source}: no {checkpoint.TOKENIZER} in it, without which sentence-transformers encodes no text", key=None)
    tokenizer = read(path)
    if around(tokenizer) != (before, after):
        named = [(tokenizer.id_to_token(number), number) for number in (*before, *after)]
        begin, end = ([tokenizer.id_to_token(number) for number in ids] for ids in (before, after))
        tokenizer.post_processor = TemplateProcessing(
            single=[*begin, "$A", *end], pair=[*begin, "$A", *end, "$B:1", *(f"{name}:1" for name in end)], special_tokens=named
        )
        tokenizer.save(str(path))
    config = Path(folder) / CONFIG
    if "tokenizer_class" not in _mapping(config):
        _write(_mapping(config) | _config(tokenizer, before, after), config)
    check(folder)
    return most_tokens(source)


def ends(folder):
    """([the id in front of a text], [the id behind it]) of a folder, ours or one of transformers; empty without one."""
    special = special_tokens(folder)
    begin, end = special.get("bos_token_id"), special.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    return [] if begin is None else [begin], [] if end is None else [end]


def _config(tokenizer, before, after):
    """What tokenizer_config.json says of a tokenizer of ours. Without the class, transformers would take Gemma's own splitting."""
    names = {"bos_token": before, "eos_token": after}
    said = {key: tokenizer.id_to_token(ids[0]) for key, ids in names.items() if ids}
    pad = next((name for name in ("<pad>", said.get("eos_token")) if name and tokenizer.token_to_id(name) is not None), None)
    said |= {"pad_token": pad} if pad else {}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", "clean_up_tokenization_spaces": False, **said}


def _mapping(path):
    """A JSON file as plain data; {} where there is none. Raises DataError for what is no mapping."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})", key=None) from None
    if not isinstance(said, dict):
        raise DataError(f"{path}: expected a mapping of keys", key=None)
    return said


def _write(data, path):
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
