"""The tokens of a text in a folder of sentence-transformers: which stand around it, and how many are read at most.

transformers puts tokens around a text as the template in tokenizer.json says: `<bos> text <eos>` in EmbeddingGemma. Our own
tokenizers have no template, because who encodes puts them there (`arch.texts_to_rows`). So an export writes one, and an import
reads it. What else is said of texts stands in tokenizer_config.json and prompts.json (`arch.prompts`).
"""

import json
from pathlib import Path

from tokenizers.processors import TemplateProcessing

from arch import checkpoint, json_files, prompts
from arch.errors import DataError
from arch.tokenizer import PAD, around, read, special_tokens
from arch.words import listed

# `max_position_embeddings` of a Gemma 3 whose config.json does not say it.
POSITIONS = 131_072
# One class, whose first name only releases of transformers from 5 on know.
NEWER_CLASS, CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
BEGIN, END = prompts.FLAGS["bos"], prompts.FLAGS["eos"]
SPLITS = prompts.SPLITS


def limit(trunk, said):
    """How many tokens of a text are read, those around it included, as the library reads the folder of a trunk.

    said: `max_seq_length`, or None: then the smaller of the tokenizer's limit and the positions of the trunk. Raises DataError.
    """
    if said is not None:
        return said
    config = Path(trunk) / "config.json"
    positions = json_files.read(config).plain().get("max_position_embeddings") if config.is_file() else None
    return min(prompts.most_tokens(trunk) or POSITIONS, positions if type(positions) is int else POSITIONS)


def keep(said, most, trunk, folder):
    """Write prompts, the limit and what a trunk's tokenizer does into the checkpoint `folder`, beside its tokenizer's files."""
    own = prompts.of_tokenizer(trunk)
    about = {SPLITS: own.get(SPLITS, False)}  # transformers takes `<eos>` in a text for the token, unless it is told
    if own.get("tokenizer_class") == NEWER_CLASS:
        about["tokenizer_class"] = CLASS
    if (Path(trunk) / checkpoint.TOKENIZER).is_file():
        about |= _flags(around(read(Path(trunk) / checkpoint.TOKENIZER)), trunk)
    prompts.say_of_tokenizer(folder, about)
    prompts.keep(said, most, folder)


def check(folder):
    """Raises DataError where a folder's tokenizer puts around a text what our encoders cannot, or not in any release.

    Returns a note for a folder without a tokenizer.json, in a list.
    """
    path = Path(folder) / checkpoint.TOKENIZER
    if not path.is_file():
        return [f"no {checkpoint.TOKENIZER}: no text can be encoded before there is one"]
    tokenizer, said = read(path), prompts.of_tokenizer(folder)
    found, ours = around(tokenizer), _ids(folder)
    if not all(each in ([], [number]) for each, number in zip(found, ours, strict=True)):
        names = [listed(str(tokenizer.id_to_token(number)) for number in ids) or "nothing" for ids in found]
        own = ["nothing" if number is None else tokenizer.id_to_token(number) for number in ours]
        reason = (
            f"it puts {names[0]} in front of a text and {names[1]} behind it; by the ids that begin and end a text, our encoders"
        )
        raise DataError(f"{path}: {reason} put {own[0]} and {own[1]}", key=None)
    for flag, each in zip((BEGIN, END), found, strict=True):
        if {BEGIN, END} & said.keys() and bool(said.get(flag)) != bool(each):
            shown = json.dumps(said[flag]) if flag in said else "not said, which means false"
            reason = f"{flag}: {shown}, but the template in {checkpoint.TOKENIZER} says otherwise"
            reason += "; which one counts depends on the release of transformers"
            raise DataError(f"{Path(folder) / prompts.CONFIG}: {reason}", key=None)
    return []


def write(source, folder):
    """Write the tokenizer of an encoder's checkpoint as transformers needs it, where its files are already.

    What came with an import stays as it is. Returns how many tokens of a text it reads, or None. Raises DataError.
    """
    path, ends = Path(folder) / checkpoint.TOKENIZER, prompts.ends_of(source)
    if not path.is_file():
        raise DataError(f"{source}: no {checkpoint.TOKENIZER} in it, without which sentence-transformers encodes no text", key=None)
    tokenizer = read(path)
    wanted = tuple([] if number is None else [number] for number in (ends.bos, ends.eos))
    if around(tokenizer) != wanted:
        tokenizer.post_processor = _template(tokenizer, *wanted)
        tokenizer.save(str(path))
    if "tokenizer_class" not in prompts.of_tokenizer(folder):
        prompts.say_of_tokenizer(folder, _about(tokenizer, source, *wanted))
    check(folder)
    return prompts.most_tokens(source)


def _ids(folder):
    """(the id in front of a text, the id behind it) as a folder's configs name them, whatever its tokenizer does; None for none."""
    special = special_tokens(folder)
    end = special.get("eos_token_id")
    return special.get("bos_token_id"), end[0] if isinstance(end, list) else end


def _flags(found, folder):
    """What tokenizer_config.json must say where a text does not stand between both tokens that the folder's configs name.

    Both flags, because transformers takes one that is not there for false.
    """
    lacks = any(not each and number is not None for each, number in zip(found, _ids(folder), strict=True))
    return {BEGIN: bool(found[0]), END: bool(found[1])} if lacks else {}


def _template(tokenizer, before, after):
    begin, end = ([tokenizer.id_to_token(number) for number in ids] for ids in (before, after))
    named = [(tokenizer.id_to_token(number), number) for number in (*before, *after)]
    second = ["$B:1", *(f"{name}:1" for name in end)]
    return TemplateProcessing(single=[*begin, "$A", *end], pair=[*begin, "$A", *end, *second], special_tokens=named)


def _about(tokenizer, source, before, after):
    """What tokenizer_config.json says of a tokenizer of ours. Without the class, transformers would take Gemma's own splitting."""
    said = {"tokenizer_class": CLASS, "padding_side": "right", "clean_up_tokenization_spaces": False}
    said |= {SPLITS: prompts.splits(source)}
    said |= {key: tokenizer.id_to_token(ids[0]) for key, ids in {"bos_token": before, "eos_token": after}.items() if ids}
    pad = next((name for name in (*PAD, said.get("eos_token")) if name and tokenizer.token_to_id(name) is not None), None)
    return said | ({} if pad is None else {"pad_token": pad}) | _flags((before, after), source)
