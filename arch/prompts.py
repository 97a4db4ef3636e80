"""What the checkpoint of an encoder says of its texts, beside its tokenizer: prompts by task, and the tokens that it reads.

`prompts.json` is {name: what stands in front of a text}; training uses the names `query` and `document`. The most tokens of a
row are where transformers has them, `model_max_length` in tokenizer_config.json; so are `add_bos_token` and `add_eos_token`,
false where the tokenizer has a token that training did not put around texts, and `split_special_tokens`: true, as in training,
where it is not said, and false in checkpoints of others.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arch import json_files
from arch.errors import DataError
from arch.tokenizer import Ends, special_tokens
from arch.whole_file import appearing

PROMPTS, CONFIG = "prompts.json", "tokenizer_config.json"
# transformers writes a number beyond this one (1e30) for a tokenizer without a limit.
UNLIMITED = 10**9
FLAGS = {"bos": "add_bos_token", "eos": "add_eos_token"}
SPLITS = "split_special_tokens"


def prompts(folder: Path | str) -> dict[str, str]:
    """{name: text} of the prompts of an encoder's checkpoint; {} where it has none. Raises DataError."""
    said = _mapping(Path(folder) / PROMPTS)
    for name, text in said.items():
        if not isinstance(text, str):
            raise DataError(f"{Path(folder) / PROMPTS}: {name}: expected a text, got {json.dumps(text)}", key=None)
    return said


def most_tokens(folder: Path | str) -> int | None:
    """How many tokens of a text an encoder reads, those around it included; None where its checkpoint does not say.

    Raises DataError.
    """
    number = of_tokenizer(folder).get("model_max_length")
    if number is None or (type(number) in (int, float) and number >= UNLIMITED):
        return None
    if type(number) is not int or number < 1:
        reason = f"model_max_length: expected a number of tokens, got {json.dumps(number)}"
        raise DataError(f"{Path(folder) / CONFIG}: {reason}", key=None)
    return number


def ends_of(folder: Path | str) -> Ends:
    """What stands around a text that an encoder reads. Of several tokens that end a text, the first. Raises DataError."""
    ids, said = special_tokens(folder), of_tokenizer(folder)
    found = {kind: None if said.get(flag) is False else ids.get(f"{kind}_token_id") for kind, flag in FLAGS.items()}
    return Ends(**{kind: each[0] if isinstance(each, list) else each for kind, each in found.items()})


def splits(folder: Path | str) -> bool:
    """Whether the name of a special token in a text, such as `<eos>`, is text. Else it is the token. Raises DataError."""
    return bool(of_tokenizer(folder).get(SPLITS, True))


def of_tokenizer(folder: Path | str) -> dict[str, Any]:
    """A folder's tokenizer_config.json as plain data; {} where there is none. Raises DataError."""
    return _mapping(Path(folder) / CONFIG)


def say_of_tokenizer(folder: Path | str, about: Mapping[str, Any]) -> None:
    """Write some keys of a folder's tokenizer_config.json; the others stay."""
    _write(of_tokenizer(folder) | dict(about), Path(folder) / CONFIG)


def keep(said: Mapping[str, str], most: int | None, folder: Path | str, ends: Ends | None = None) -> None:
    """Write prompts, the most tokens of a row and what is not around a text into a checkpoint's folder.

    What else its tokenizer_config.json says stays.
    """
    about = {} if most is None else {"model_max_length": most}
    about |= {flag: False for kind, flag in FLAGS.items() if ends is not None and getattr(ends, kind) is None}
    if about:
        say_of_tokenizer(folder, about)
    _write(dict(said), Path(folder) / PROMPTS)


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON file as plain data; {} where there is none. Raises DataError for what is no mapping."""
    return json_files.mapping(path) if path.is_file() else {}


def _write(data: dict[str, Any], path: Path) -> None:
    """Write a file whole or not at all."""
    with appearing(path) as scratch:
        scratch.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
