"""`ladder:` of a study: every arm at several sizes, with training tokens and learning rate scaled by a stated rule.

The arms `ARM SIZE` are written into the study's document. A size's budget and rate are its own: they come from the first arm
of that size, and every arm of the size has the same, so that arms of one size are compared on the same batches.

Parameters are those without the embedding and the head, as in scaling laws (Kaplan et al. 2020; Hoffmann et al. 2022 count
all): those of a small model's vocabulary say little of what it can learn. Width is `model.dim`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from arch import units
from arch.document import Node, node
from arch.errors import nearest
from arch.spec import Positive, Spec
from arch.words import listed
from sweeps.grid import arms_of, overrides, refuse_clash, replaced, without

LR, STEPS = "optimizer.lr", "train.steps"
PARAMETERS, WIDTH = "parameters", "width"


class LrRule(Spec):
    """How the rate grows.

    power: it is multiplied by (size / first size) ** power. of: what the size is; parameters without the embedding and the head.
    """

    power: float
    of: Literal["parameters", "width"]


# muP scales the rate of hidden matrices under Adam by 1 / width (Yang et al. 2022, arXiv 2203.03466); here it is the one
# rate of all parameters.
RULES = {
    "none": None,
    "inverse_width": LrRule(power=-1.0, of="width"),
    "inverse_sqrt_width": LrRule(power=-0.5, of="width"),
}


class LadderSpec(Spec):
    """Every arm at every size.

    sizes: name -> dotted overrides; the first is the one that rates are scaled from. scale_lr: `none`, `inverse_width`,
    `inverse_sqrt_width`, or LrRule. tokens_per_parameter: training tokens for each parameter without the embedding and the
    head, of the first arm of a size; `train.steps` is rounded to whole steps. By default every size has the steps written.
    """

    sizes: dict[str, dict[str, Any]]
    scale_lr: Annotated[
        Annotated[Literal["none", "inverse_width", "inverse_sqrt_width"], Tag("Name")] | Annotated[LrRule, Tag("Rule")],
        Discriminator(lambda value: "Rule" if isinstance(value, (dict, LrRule)) else "Name"),
    ] = "none"
    tokens_per_parameter: Positive | None = Field(default=None)

    @property
    def rule(self) -> LrRule | None:
        """The rule by which the rate is scaled; None if it is not."""
        return self.scale_lr if isinstance(self.scale_lr, LrRule) else RULES[self.scale_lr]


def sized(label: str, sizes: Collection[str]) -> tuple[str, str]:
    """(arm, size) of a label `ARM SIZE`; the size is empty for an arm that has none."""
    arm, _, size = label.rpartition(" ")
    return (arm, size) if arm and size in sizes else (label, "")


def with_sizes(root: Node) -> Node:
    """The study's document with every arm at every size of its ladder. Raises SpecError at the line at fault.

    An arm's overrides come after those of a size, so an arm may replace a component that the size widens. Arms written as
    `ARM SIZE` add overrides to that one; null drops it.
    """
    if "ladder" not in root.value:
        return root
    ladder = root.value["ladder"]
    if ladder.value is None:
        return without(root, "ladder")
    if isinstance(ladder.value, dict) and "sizes" in ladder.value:
        sizes = overrides(root, ("ladder", "sizes"), "size", "a ladder needs two sizes; the claim `power_law` three")
        kept = Node(dict(sizes), ladder.value["sizes"].file, ladder.value["sizes"].line)
        root = replaced(root, "ladder", Node({**ladder.value, "sizes": kept}, ladder.file, ladder.line))
    spec = LadderSpec.parse(root, ("ladder",))
    written = arms_of(root)
    here = {label for label, arm in written.items() if arm.value is not None}
    bases = [label for label in written if label in here and not sized(label, sizes)[1]]
    for label in written:
        if sized(label, sizes)[1] and (arm := sized(label, sizes)[0]) not in bases:
            raise root.error(f"no arm {arm!r}{nearest(arm, bases)}; {sized(label, sizes)[1]!r} is a size", ("arms", label))
    arms: dict[str, Node] = {}
    for size, of_size in sizes.items():
        if spec.rule and LR in of_size.value:
            raise root.error(f"`scale_lr` computes {LR}; set it in the base experiment", ("ladder", "sizes", size, LR))
        if spec.tokens_per_parameter and STEPS in of_size.value:
            reason = f"`tokens_per_parameter` computes {STEPS}; drop one of the two"
            raise root.error(reason, ("ladder", "sizes", size, STEPS))
        for base in bases:
            refuse_clash(of_size, f"size {size!r}", written[base], f"arm {base!r}", ("ladder", "sizes", size))
            label = f"{base} {size}"
            more = written.get(label, Node({}))
            own = written[base]
            laid = None if more.value is None else {**of_size.value, **own.value, **more.value}
            arms[label] = Node(laid, own.file, own.line)
    dropped = {label: arm for label, arm in written.items() if label not in bases and label not in arms}
    place = root.value["arms"]
    return replaced(root, "arms", Node(arms | dropped, place.file, place.line))


@dataclass(frozen=True)
class Rung:
    """A size as it was solved. width, parameters: of its first arm. steps, tokens: of every run of the size. rates: {arm: rate}."""

    size: str
    width: int
    parameters: int
    steps: int
    tokens: int
    rates: Mapping[str, float]


def solved(spec: Any, study: Node, base: Node) -> Node:
    """The study node with the steps and the rates of its ladder as overrides of its arms. Needs the cost model.

    spec: the StudySpec. Raises SpecError, at the line of the rule, for a budget of less than one step.
    """
    if spec.ladder is None or not (spec.ladder.rule or spec.ladder.tokens_per_parameter):
        return study
    from experiments.plan import resolve
    from sweeps.spec import arm_document

    if spec.ladder.tokens_per_parameter and spec.budget is not None:
        raise study.error(f"`budget` computes {STEPS} too; drop one of the two", ("ladder", "tokens_per_parameter"))
    ladder, arms, first = spec.ladder, dict(study.value["arms"].value), None
    for size in ladder.sizes:
        labels = [label for label in arms if sized(label, ladder.sizes)[1] == size]
        if not labels:
            continue
        written = {label: resolve(arm_document(study, base, label)) for label in labels}
        head = written[labels[0]]
        first = first or head
        values: dict[str, Node] = {}
        if ladder.tokens_per_parameter is not None:
            values[STEPS] = _steps(study, ladder, size, non_embedding(head), head)
        for label in labels:
            own = dict(values)
            rule = ladder.rule
            if rule and head is not first:
                place, rate = study.at(("ladder", "scale_lr")), float(written[label].optimizer["lr"])
                own[LR] = node(rate * factor(rule, head, first), place.file, place.line)
            arms[label] = Node({**arms[label].value, **own}, arms[label].file, arms[label].line)
    place = study.value["arms"]
    return replaced(study, "arms", Node(arms, place.file, place.line))


def factor(rule: LrRule, here: Any, base: Any) -> float:
    """By how much a rule scales the rate of one resolved ExperimentSpec from that of another."""
    size = non_embedding if rule.of == PARAMETERS else lambda spec: spec.model.dim
    return float((size(here) / size(base)) ** rule.power)


def _steps(study, ladder, size, parameters, experiment):
    path = ("ladder", "tokens_per_parameter")
    tokens, step = ladder.tokens_per_parameter * parameters, experiment.data.rows * experiment.data.context
    if tokens < step:
        reason = (
            f"{ladder.tokens_per_parameter:g} x {parameters:,} parameters without embeddings is {tokens:,.0f} tokens for size "
            f"{size!r}, less than one step of {step:,} (data.rows x data.context)"
        )
        raise study.error(reason, path)
    place = study.at(path)
    return node(round(tokens / step), place.file, place.line)


def non_embedding(experiment: Any) -> int:
    """The parameters of a resolved ExperimentSpec without the embedding and the head."""
    from arch.cost import outline

    return int(outline(experiment.model, experiment.data.context)["parameters"]["non_embedding"])


def rungs(ladder: LadderSpec | None, specs: Mapping[str, Any], parameters: Mapping[str, int]) -> list[Rung]:
    """What a ladder was solved to. specs: {label: resolved ExperimentSpec}; parameters: {label: without the embedding}."""
    made = []
    for size in ladder.sizes if ladder else ():
        labels = [label for label in specs if ladder and sized(label, ladder.sizes)[1] == size]
        if labels:
            head = specs[labels[0]]
            rates = {label: float(specs[label].optimizer["lr"]) for label in labels}
            made.append(Rung(size, head.model.dim, parameters[labels[0]], head.train.steps, head.tokens, rates))
    return made


def said(ladder: LadderSpec, rung: Rung) -> str:
    """A Rung on one line: what was computed, and by which rule."""
    rates = dict.fromkeys(f"{rate:.3g}" for rate in rung.rates.values())
    budget = f" ({ladder.tokens_per_parameter:g} per parameter)" if ladder.tokens_per_parameter else ""
    rule = f" ({ladder.rule.of} ** {ladder.rule.power:g})" if ladder.rule else ""
    return (
        f"{rung.size}: width {rung.width:,}, {units.count(rung.parameters)} parameters without embeddings, {rung.steps:,} steps = "
        f"{units.count(rung.tokens)} tokens{budget}, learning rate {listed(rates)}{rule}"
    )


def remarks(spec: Any, specs: Mapping[str, Any]) -> list[str]:
    """Sentences on arms of different width that share a learning rate. spec: the StudySpec; specs: {label: ExperimentSpec}."""
    tuned = spec.tune is not None and LR in spec.tune.space
    if tuned or (spec.ladder is not None and spec.ladder.rule is not None):
        return []
    by_rate: dict[float, set[int]] = {}
    for each in specs.values():
        by_rate.setdefault(each.optimizer.get("lr"), set()).add(each.model.dim)
    widths = sorted(set().union(*(found for found in by_rate.values() if len(found) > 1)))
    if not widths:
        return []
    return [
        f"arms differ in width (model.dim {listed(f'{width:,}' for width in widths)}) and share a learning rate, which may suit "
        "one width better: `tune` it, scale it (`ladder.scale_lr`), or see `archbench study coordinate-check`"
    ]
