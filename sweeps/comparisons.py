"""`compare:` of a study: which pairs of arms, or which effects of its factors, every claim that compares arms asks about.

A claim that names its arms itself keeps asking about these. Without `compare`, every arm is compared with the first; on a
ladder with the first of the same size.
"""

from collections.abc import Mapping
from typing import Any

from arch import registry
from arch.document import Node, lay, node
from arch.errors import SpecError, nearest
from arch.words import listed
from sweeps import contrasts
from sweeps.contrasts import FACTORS, Contrast
from sweeps.ladder import sized

# Options by which a claim says itself what it compares.
NAMING = ("arm", "than", "arms", "to", "contrasts")


def with_contrasts(claims: Mapping[str, dict[str, Any]], spec: Any, study: Node) -> dict[str, dict[str, Any]]:
    """The resolved claims of a StudySpec with what they compare. Raises SpecError at the line in `compare`."""
    asked = compared(spec, study)
    if asked is None:
        return dict(claims)
    plain = {subject: contrast.dump() for subject, contrast in asked.items()}
    filled = {name: {**claim, "contrasts": plain} if _takes(claim) else claim for name, claim in claims.items()}
    if spec.compare is not None and filled == dict(claims):
        types = listed(sorted({claim["type"] for claim in claims.values()}))
        raise study.error(f"no claim asks about it: {types} of this study names its own arms", ("compare",))
    return filled


def _takes(claim: dict[str, Any]) -> bool:
    fields = registry.component("claim", claim["type"]).Config.model_fields
    return "contrasts" in fields and not any(claim.get(key) for key in NAMING)


def compared(spec: Any, study: Node) -> dict[str, Contrast] | None:
    """{subject: Contrast} of a StudySpec; None where every arm is compared with the first. Raises SpecError."""
    if spec.compare == FACTORS:
        return _effects(spec, study)
    if spec.compare is not None:
        return contrasts.pairs(_pairs(spec, study))
    if spec.ladder is not None:
        return contrasts.pairs(_within_sizes(spec)) or None
    return None


def _effects(spec, study):
    if not spec.grid:
        raise study.error("expected a `grid` of factors, whose effects these are; or pairs of arms [[A, B], ...]", ("compare",))
    grid = {factor: list(levels) for factor, levels in spec.grid.items()}
    sizes = list(spec.ladder.sizes) if spec.ladder else [""]
    made: dict[str, Contrast] = {}
    for size in sizes:
        made |= contrasts.factorial(grid, spec.arms, size)
    if not made:
        raise study.error("too many cells of the grid are dropped: no effect has both its arms", ("compare",))
    return made


def _within_sizes(spec):
    pairs = []
    for size in spec.ladder.sizes:
        first, *others = [label for label in spec.arms if sized(label, spec.ladder.sizes)[1] == size] or [None]
        pairs += [(first, other) for other in others]
    return pairs


def _pairs(spec, study):
    if not spec.compare:
        raise study.error("expected at least one pair of arms [A, B]", ("compare",))
    found: list[tuple[str, str]] = []
    for i, named in enumerate(spec.compare):
        if len(named) != 2:
            raise study.error(f"expected two arms [A, B], got {len(named)}: B is compared with A", ("compare", i))
        for pair in _at_sizes(spec, study, named, ("compare", i)):
            if pair[0] == pair[1]:
                raise study.error(f"{pair[0]!r} is compared with itself; expected two arms", ("compare", i))
            if set(pair) in map(set, found):
                raise study.error(f"{pair[0]!r} and {pair[1]!r} are compared already", ("compare", i))
            found.append(pair)
    return found


def _at_sizes(spec, study, named, path):
    """The pairs of labels that a pair stands for: on a ladder, two arms without a size stand for those of every size."""
    bases = list(dict.fromkeys(sized(label, spec.ladder.sizes)[0] for label in spec.arms)) if spec.ladder else []
    if all(label in bases and label not in spec.arms for label in named):
        made = [tuple(f"{label} {size}" for label in named) for size in spec.ladder.sizes]
        return [pair for pair in made if all(label in spec.arms for label in pair)]
    for j, label in enumerate(named):
        if label not in spec.arms:
            raise study.error(f"no arm {label!r}{nearest(label, [*spec.arms, *bases])}", (*path, j))
    return [tuple(named)]


def claims_on_ladder(study: Node, ladder: Any) -> Node:
    """The study's document in which claims may speak of a ladder's arms without their sizes.

    A claim with `groups` that names none (`power_law`) is about every arm over its sizes; a control named without a size
    stands for that arm at every size.
    """
    if ladder is None or not isinstance(study.value["claims"].value, dict):
        return study
    labels, sizes = list(study.value["arms"].value), list(ladder.sizes)
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(sized(label, sizes)[0], []).append(label)
    claims = study.value["claims"]
    new = {name: _on_ladder(claim, groups, labels) for name, claim in claims.value.items()}
    return Node({**study.value, "claims": Node(new, claims.file, claims.line)}, study.file, study.line)


def _on_ladder(claim, groups, labels):
    if not isinstance(claim.value, dict) or "type" not in claim.value:
        return claim
    try:
        fields = registry.component("claim", claim.value["type"].value).Config.model_fields
    except SpecError:
        return claim  # its own line says so
    if "groups" in fields and "groups" not in claim.value:
        claim = lay(claim, node({"groups": groups}, claim.file, claim.line))
    named = claim.value.get("known_worse")
    if named is not None and isinstance(named.value, list):
        each = [
            Node(label, one.file, one.line)
            for one in named.value
            for label in (groups.get(one.value, [one.value]) if one.value not in labels else [one.value])
        ]
        claim = Node({**claim.value, "known_worse": Node(each, named.file, named.line)}, claim.file, claim.line)
    return claim


def match_on_ladder(spec: Any) -> Any:
    """A StudySpec of a ladder in which each `match` is within a size: by default to the first arm of the same size.

    Arms named without a size stand for those of every size.
    """
    if spec.ladder is None or spec.match is None:
        return spec
    labels, sizes = list(spec.arms), list(spec.ladder.sizes)
    several = isinstance(spec.match, tuple)
    matches = tuple(_within_size(match, labels, sizes) for match in (spec.match if several else (spec.match,)))
    return spec.model_copy(update={"match": matches if several else matches[0]})


def _within_size(match, labels, sizes):
    size_of = {label: sized(label, sizes)[1] for label in labels}

    def at(name, size):
        """The label of an arm at a size; a number, and a label that has a size, as they are."""
        return f"{name} {size}" if f"{name} {size}" in labels else name

    def everywhere(by_name):
        """{label: value} of {name: value}, each name at every size."""
        found: dict[str, Any] = {}
        for name, value in by_name.items():
            here = [label for label in labels if label != name and sized(label, sizes)[0] == name]
            found |= {label: at(value, size_of[label]) if isinstance(value, str) else value for label in here or [name]}
        return found

    to = match.to
    if isinstance(to, dict):
        to = everywhere(to)
    elif to is None or (isinstance(to, str) and to not in labels):
        firsts: dict[str, str] = {}
        for label in labels:
            firsts.setdefault(size_of[label], label)
        targets = {label: firsts[size] if to is None else at(to, size) for label, size in size_of.items()}
        to = {label: target for label, target in targets.items() if label != target}
    vary = match.vary
    if isinstance(vary, dict):
        vary = {label: vary[name] for name in vary for label in everywhere({name: 0})}
    return match.model_copy(update={"to": to, "vary": vary})
