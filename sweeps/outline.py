"""What a study at one scale would run, in a few words and without planning it: runs, and tokens of a run."""

from math import prod

from arch import units
from arch.document import Node
from arch.errors import SpecError
from arch.words import times
from experiments.spec import ExperimentSpec
from sweeps.scale import default_scale
from sweeps.spec import arm_document, split


def outline(root: Node, scale: str | None) -> str:
    """`32 to 44 runs of 1.02 M tokens`: those of tuning are among them, and runs that arms share are counted for each arm.

    What must be made first, such as a teacher, and the trials of a search are only named. Raises SpecError.
    """
    spec, study, base = split(root, scale)
    labels = [label for label in spec.arms if label not in spec.winners]
    tokens = [ExperimentSpec.parse(arm_document(study, base, label)).tokens for label in labels]
    tuned = most_tuned = 0
    if spec.tune:
        points = prod(each.points for each in spec.tune.space.values())
        tuned = (spec.tune.trials or points) * spec.tune.seeds
        most_tuned = tuned + spec.tune.most_further_points() * spec.tune.seeds
    few, many = (len(spec.arms) * each for each in (spec.looks[0] + tuned, spec.most_seeds + most_tuned))
    runs = times(few, "run") if few == many else f"{few} to {many} runs"
    sizes = dict.fromkeys(units.count(each) for each in (min(tokens), max(tokens)))
    besides = ["helper runs"] * bool(spec.runs) + ["a search"] * bool(spec.search)
    each = f"of {' to '.join(sizes)} tokens" if max(tokens) else "without training"
    return f"{runs} {each}{''.join(f', and {more}' for more in besides)}"


def lines(root: Node, states: dict[str | None, str]) -> list[str]:
    """A line for each scale of a study, and for it as it is written where that is what runs without --scale.

    Its outline, and how it stands. states: {scale: words} of those that have begun.
    """
    scales = [*(root.value["scales"].value if "scales" in root.value else ())]
    default = default_scale(root)
    scales = [None, *scales] if default is None else scales
    said = []
    for scale in scales:
        try:
            about = outline(root, scale)
        except SpecError as error:
            about = error.reason
        state = f" ({states[scale]})" if scale in states else ""
        name = scale or ("as written" if len(scales) > 1 else "")
        mark = " (default)" if scale == default and len(scales) > 1 else ""
        said.append(f"{name}{mark}{': ' * bool(name)}{about}{state}")
    return said
