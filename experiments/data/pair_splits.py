"""Reading a source of pairs, and dividing them into splits by group, so that no text is in two splits.

The hash of a group's name decides its split. Some texts stand in several groups (a function that was copied). Then a pair of
`select` of which a text is in `report` too is left out, and after that a pair of `train` of which one is in either: so what
is measured does not depend on what is trained on. Of several hard negatives, only those are left out.
"""

import hashlib
import json
from typing import Any

from arch import blame
from arch.errors import DataError
from arch.words import times
from experiments.data.left_out import LeftOut, sentences
from experiments.data.pair import Pair, check
from experiments.data.split import ALL, SPLITS, split_of

# Groups are few, and not of one size: with 5 % of them, as of documents, hardly anything would be left to measure. Of the 167
# top modules of the standard library, 23 and a tenth of the pairs are of `report`.
FRACTIONS = {"train": 0.75, "select": 0.125, "report": 0.125}
# Where a text is in several splits, its pairs stay in the first of these.
FIRST = ("report", "select", "train")
SAME = "pairs whose query is their positive"
AGAIN = "pairs that came before"
ELSEWHERE = "pairs with a text of another split"
# How much of a query is shown.
SHOWN = 40

Splits = dict[str, list[Pair]]


def read(component: Any, source: str, fractions: dict[str, float]) -> tuple[Splits, dict[str, Any]]:
    """({split: its pairs}, {content, left_out}) of a source of pairs. Raises DataError.

    content: a digest of the pairs in order, with their groups, labels and parts. left_out: `LeftOut.summary`.
    """
    out = component.left_out if hasattr(component, "left_out") else LeftOut()
    pairs: dict[tuple[str, str, str], Pair] = {}
    for number, pair in enumerate(component.pairs(), start=1):
        if not isinstance(pair, Pair):
            raise DataError(blame.gives(component, "pairs", pair, "Pair"))
        check(pair, f"pair {number:,} of the source {source}")
        key = (pair.part, pair.query, pair.positive)
        if pair.query == pair.positive or key in pairs:
            out.add(SAME if pair.query == pair.positive else AGAIN, shown(pair.query))
        else:
            pairs[key] = pair
    if not pairs:
        why = "; ".join(sentences({"skipped": out.summary().get("skipped", {})}))
        raise DataError(f"the source {source} has no pair of texts{f' ({why})' if why else ''}")
    content = hashlib.sha256()
    for pair in pairs.values():
        content.update(json.dumps(pair, ensure_ascii=False).encode() + b"\n")
    splits = divided(list(pairs.values()), source, fractions, out)
    return splits, {"content": content.hexdigest(), "left_out": out.summary()}


def shown(text: str) -> str:
    """The beginning of a text, for a message."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def group_of(pair: Pair) -> str:
    """The group of a pair; without one, the positive: pairs with the same positive are together."""
    return pair.group or pair.positive


def split_of_group(group: str, fractions: dict[str, float] = FRACTIONS) -> str:
    """The split of all pairs of a group: the hash of its name decides."""
    split: str = split_of(hashlib.sha256(group.encode()).digest(), fractions)
    return split


def divided(pairs: list[Pair], source: str, fractions: dict[str, float], out: LeftOut) -> Splits:
    """{split: its pairs}. Raises DataError where a split has no pair of a part."""
    if fractions is ALL:
        return dict.fromkeys(SPLITS, pairs)
    mine: Splits = {split: [] for split in FIRST}
    for pair in pairs:
        mine[split_of_group(group_of(pair), fractions)].append(pair)
    kept: Splits = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for split in FIRST:
        for pair in mine[split]:
            own = pair._replace(negatives=tuple(text for text in pair.negatives if seen.get(text, split) == split))
            if seen.keys().isdisjoint((pair.query, pair.positive)) and bool(own.negatives) == bool(pair.negatives):
                kept[split].append(own)
            else:
                out.add(ELSEWHERE, shown(pair.query))
        seen |= {text: split for pair in kept[split] for text in pair.texts}
    for part in dict.fromkeys(pair.part for pair in pairs):
        for split in SPLITS:
            if not any(pair.part == part for pair in kept[split]):
                lost = sum(pair.part == part for pair in mine[split])
                raise DataError(_without(split, part, [pair for pair in pairs if pair.part == part], source, lost))
    return kept


def _without(split, part, pairs, source, lost):
    shares = ", ".join(f"{fraction:.3g} {name}" for name, fraction in FRACTIONS.items())
    have = f"{times(len(pairs), 'pair')} in {times(len({group_of(pair) for pair in pairs}), 'group')}"
    begin = f"the {split} split has no pair{f' of the part {part}' if part else ''}"
    if lost:
        return f"{begin}: a text of each of its {times(lost, 'pair')} is in another split too; expected groups that share no text"
    return (
        f"{begin}: the source {source} has {have}, and groups are split whole, by their name ({shares}); "
        "give more groups (100 or so)"
    )
