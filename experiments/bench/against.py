"""The peers that a benchmark can compare with: what each is, what it needs, and what of it is measured.

The strongest of each kind: what a well-informed user would pick for training or for decoding on this machine. All are
optional packages; what is not installed is left out, and the record says so.
"""

import importlib.util
from dataclasses import dataclass
from typing import Literal, get_args

from arch.errors import install

PARITY, PEERS, EMBEDDING = install("parity"), install("peers"), install("embedding")
Name = Literal["hf", "hf-compiled", "hf-compiled-autocast", "x-transformers", "llama.cpp", "sentence-transformers"]


@dataclass(frozen=True)
class Peer:
    """title: in tables. package: the Python module that it needs. install: the command. measures: of what. licence: its own.

    same: whether it computes the same model; if not, one of the same sizes.
    """

    title: str
    package: str
    install: str
    licence: str
    measures: frozenset[str]
    same: bool = True

    def missing(self) -> str | None:
        """Why it cannot be measured here: the package that it needs, and how to install it; None if it is there."""
        return None if importlib.util.find_spec(self.package) else f"needs the package {self.package}: {self.install}"


KINDS: dict[str, Peer] = {
    "hf": Peer("`transformers`", "transformers", PARITY, "Apache-2.0", frozenset({"train", "decode", "memory"})),
    "hf-compiled": Peer("compiled `transformers`", "transformers", PARITY, "Apache-2.0", frozenset({"train"})),
    "hf-compiled-autocast": Peer(
        "compiled `transformers` under autocast to bfloat16", "transformers", PARITY, "Apache-2.0", frozenset({"train"})
    ),
    "x-transformers": Peer("compiled x-transformers", "x_transformers", PEERS, "MIT", frozenset({"train"}), same=False),
    "llama.cpp": Peer("llama.cpp", "llama_cpp", PEERS, "MIT", frozenset({"decode"})),
    "sentence-transformers": Peer("sentence-transformers", "sentence_transformers", EMBEDDING, "Apache-2.0", frozenset({"encode"})),
}
assert set(KINDS) == set(get_args(Name))


def installed(names: tuple[str, ...]) -> list[str]:
    """Those of the peers whose packages are there."""
    return [name for name in names if not KINDS[name].missing()]
