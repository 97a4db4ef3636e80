"""Gemma 3, table 3: the memory of weights by format, beside what `arch.packed` counts for our specs; gigabytes of 10^9 bytes.

The table's sizes are rounded to 0.1 GB and say neither which parts stay unquantised nor whether the vision tower is in them. So
nothing is fitted: every deviation is shown, of the text model alone, and with the tower of table 1 in bfloat16.
"""

from dataclasses import dataclass

from arch import cost, document, packed
from arch.express import resolved
from arch.model_spec import TEXT_ROLES

GIGA, CONTEXT = 1e9, 32_768
# {column of table 3: the format that it is compared with, None for bfloat16}
FORMATS = {"bf16": None, "int4 per channel": "int4_channel", "int4 in blocks of 32": "q4_0", "SFP8": "sfp8"}
# {model: weights in the columns of FORMATS}, and what the table's second rows add for keys and values at 32,768 tokens.
PUBLISHED = {
    "1b": (2.0, 0.5, 0.7, 1.0),
    "4b": (8.0, 2.6, 2.9, 4.4),
    "12b": (24.0, 6.6, 7.1, 12.4),
    "27b": (54.0, 14.1, 15.3, 27.4),
}
PUBLISHED_CACHE = {"1b": 0.9, "4b": 4.7, "12b": 14.9, "27b": 18.7}
VISION = {"1b": 0, "4b": 417e6, "12b": 417e6, "27b": 417e6}  # parameters, table 1
NOMINAL = {name: float(name.removesuffix("b")) * GIGA for name in PUBLISHED}  # the size that a model is called by


@dataclass(frozen=True)
class Weights:
    """One cell of the table. published, text, with_vision: gigabytes. nominal: of bf16, the model's nominal size in it."""

    model: str
    column: str
    published: float
    text: float
    with_vision: float
    nominal: float | None = None

    def deviation(self, ours: float) -> float:
        """Of our number from the published one, as a part of it."""
        return ours / self.published - 1


@dataclass(frozen=True)
class Cache:
    """Keys and values of one stream at 32,768 tokens, in gigabytes. numbers: how many a mixed cache keeps."""

    model: str
    published: float
    bfloat16: float
    eight_bits: float
    numbers: float

    @property
    def bytes_per_number(self) -> float:
        """What the published difference comes to."""
        return self.published * GIGA / self.numbers


def weights() -> list[Weights]:
    """All cells of weights."""
    found = []
    for name, cells in PUBLISHED.items():
        spec = _spec(name)
        for (column, kind), published in zip(FORMATS.items(), cells, strict=True):
            text = packed.total(packed.weights(spec, {role: {"type": kind} for role in TEXT_ROLES} if kind else {})) / GIGA
            with_vision = text + 2 * VISION[name] / GIGA
            nominal = None if kind else 2 * NOMINAL[name] / GIGA
            found.append(Weights(name, column, published, text, with_vision, nominal))
    return found


def caches() -> list[Cache]:
    """The cache of each model."""
    found = []
    for name, published in PUBLISHED_CACHE.items():
        size = cost.cache_bytes(_spec(name), CONTEXT, "bfloat16")["total"]
        found.append(Cache(name, published, size / GIGA, size / 2 / GIGA, size / 2))
    return found


def section():
    """The lines of the section in docs/parity.md."""
    yield ""
    yield "## Memory of weights"
    yield ""
    yield (
        "Gemma 3, table 3, in GB of 10^9 bytes, beside exact counts of our specs: every matrix packed in the format, norms in\n"
        "bfloat16. The table rounds to 0.1 GB and does not say what stays unquantised or whether the vision tower of table 1\n"
        "(417 M parameters) is in it; so both are shown, each with its deviation, and nothing is fitted. Its bf16 column is the\n"
        "size that the model is called by, times two bytes."
    )
    yield ""
    yield "| model | format | table 3 | text, exact | deviation | and vision in bfloat16 | deviation | nominal size | deviation |"
    yield "|---" * 9 + "|"
    for cell in weights():
        nominal = ("", "") if cell.nominal is None else (f"{cell.nominal:.1f}", _percent(cell.deviation(cell.nominal)))
        with_vision = (f"{cell.with_vision:.2f}", _percent(cell.deviation(cell.with_vision))) if VISION[cell.model] else ("", "")
        shown = f"{cell.text:.2f}", _percent(cell.deviation(cell.text)), *with_vision, *nominal
        yield f"| {cell.model} | {cell.column} | {cell.published} | {' | '.join(shown)} |"
    yield ""
    yield (
        "**Its column with keys and values is not reproduced.** The table adds the same term in all formats. One stream at\n"
        "32,768 tokens has this cache, and the term comes to about 12 bytes for each number in it; which batch or overhead\n"
        "that is, the report does not say."
    )
    yield ""
    yield "| model | term in table 3 | our cache, bfloat16 | 8 bits | bytes per number of the term |"
    yield "|---|---|---|---|---|"
    for each in caches():
        yield f"| {each.model} | {each.published} | {each.bfloat16:.3f} | {each.eight_bits:.3f} | {each.bytes_per_number:.1f} |"


def _percent(part):
    return f"{round(part, 3) + 0.0:+.1%}"  # 0.0 is added so that no -0.0 % is shown


def _spec(name):
    return resolved(document.load(f"gemma3/{name}", "arch").plain())
