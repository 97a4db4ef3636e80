"""What a study says of other texts like those it measured, from what its runs measured of each document.

Verdicts are about the texts of the report split. Beside them stands an interval for new seeds and new texts
(`sweeps.texts`), and a warning where few texts decide the means.

Shapes: S seeds, N documents.
"""

from dataclasses import dataclass, field

import numpy as np

from arch import units
from arch.contracts import UNSTABLE, Documents
from arch.words import listed_names
from experiments.metrics import is_measured_once
from experiments.record import documents_of
from sweeps.comparable import NOT_COMPARABLE
from sweeps.compare import on_scale
from sweeps.texts import FEW, TextInterval, effective_number, two_way

LEVEL = 0.05


# Of a task, whose rows are computed and are no texts.
ROWS = (
    "Verdicts are about the rows of the {split} split, which the task computes, the same for every arm and seed. More rows "
    "say more of the task as a whole; more seeds do not."
)


@dataclass(frozen=True)
class Texts:
    """What a claim's arms are for texts like these.

    effects: {subject: (low, high)}, as the metric shows its differences (`Shown.effect`), for the arms that have an interval,
    or for the contrasts of a claim that has some.
    intervals: the same on the scale of `sweeps.compare`, with mean and degrees of freedom. other_rows: {arm: why its rows
    are not the baseline's}. documents, effective: how many the baseline was measured on, and the number of equally long
    documents that would be as many; 0 if the runs say nothing of documents. called: what these documents are, in the plural.
    sentences: for the report. level: how often an interval may miss.
    """

    level: float = LEVEL
    documents: int = 0
    effective: float = 0.0
    intervals: dict[str, TextInterval] = field(default_factory=dict)
    effects: dict[str, tuple[float, float]] = field(default_factory=dict)
    other_rows: dict[str, str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    called: str = "documents"

    @property
    def column(self):
        """The heading of the intervals in a table."""
        return f"for texts like these [{units.share(1 - self.level)}]"


def of(study, judgement, level=LEVEL):
    """The Texts of a StudyData and one of its Judgements. level: how often an interval may miss. Reads files of the runs.

    A file that cannot be read counts as missing and is added to the study's problems.
    """
    baseline, name = judgement.baseline, judgement.shown.name
    if is_measured_once(name) or judgement.shown.metric.varies != "seed":
        return Texts()  # a cost, a count, or a time: nothing that texts decide
    measured = {arm: _measured(study, arm, judgement.scaled[arm], name) for arm in judgement.scaled}
    if len(measured) < 2:
        return Texts()
    split = judgement.shown.split
    about = f"Verdicts are about the texts of the {split} split; more seeds do not make them hold for other texts."
    if not any(measured.values()) and _computed(study, baseline):
        return Texts(sentences=[ROWS.format(split=split)])
    if not any(measured.values()):
        none = f"The runs do not say what {judgement.shown.short} each document has, so there is no interval for other texts."
        return Texts(sentences=[f"{about} {none}"])
    if not measured[baseline]:
        return Texts(sentences=[f"{about} {baseline} says nothing of each document, so there is no interval for other texts."])
    reference = next(iter(measured[baseline].values()))
    weights_N = _weights(reference, name)
    other_rows = {arm: text for arm in measured if (text := _other_rows(measured[arm], reference, name))}
    # Before its first look, an arm has no interval of any kind: whoever reads one has looked.
    # Nor has one whose survivors are all that is left.
    out = (UNSTABLE, NOT_COMPARABLE)
    read = [arm for arm in measured if arm in judgement.verdicts or not judgement.per_arm]
    read = [arm for arm in read if arm not in judgement.verdicts or judgement.verdicts[arm].word not in out]
    asked = {arm: {arm: 1.0, baseline: -1.0} for arm in read if arm != baseline}
    if judgement.contrasts:
        words = {subject: verdict.word for subject, verdict in judgement.verdicts.items()}
        asked = {name: each.weights for name, each in judgement.contrasts.items() if words.get(name, out[0]) not in out}
    elif study.record.spec.get("ladder"):
        return Texts(sentences=[about])  # a claim about how sizes differ; nobody asks about one size against another
    # Over texts and seeds, a difference is one of a seed: there is none between arms with other seeds.
    within = {subject: weights for subject, weights in asked.items() if judgement.differences[subject].paired}
    intervals = {subject: _interval(judgement, weights, measured, level) for subject, weights in within.items()}
    intervals = {subject: interval for subject, interval in intervals.items() if interval}
    effects = {
        arm: (judgement.shown.effect(interval.low), judgement.shown.effect(interval.high)) for arm, interval in intervals.items()
    }
    made = Texts(level, len(weights_N), effective_number(weights_N), intervals, effects, other_rows, called=reference.called)
    lacking = [arm for arm in measured if not measured[arm] and judgement.scaled[arm]]
    sentences = [
        about,
        _for_texts(made) if within or not asked else "Arms with different seeds have no interval for other texts.",
        _few(made, weights_N),
        *(f"{arm} was measured on other rows than {baseline}: {text}." for arm, text in other_rows.items()),
        f"Runs of {listed_names(lacking)} say nothing of each document." if lacking else "",
    ]
    made.sentences.extend(text for text in sentences if text)
    return made


def _computed(study, arm):
    """Whether an arm's rows are computed by a task: its data have no tokenizer."""
    data = [record.spec["data"] for (of, _), record in study.records.items() if of == arm and "data" in record.spec]
    return bool(data) and all(each.get("tokenizer") is None for each in data)


def _measured(study, arm, seeds, name):
    """{seed: Documents} of an arm's runs that measured SPLIT/METRIC of each document."""
    split, _, metric = name.rpartition("/")
    record, measured = study.record.arms[arm], {}
    for seed in seeds:
        files = [file for key, file in record.evaluations.items() if key.startswith(f"{split}.")]
        for documents in (_read(study, study.folder / record.runs[str(seed)], file) for file in files):
            if documents is not None and metric in documents.without:
                measured[seed] = documents
    return measured


def _read(study, folder, file):
    try:
        return documents_of(folder, file)
    except (OSError, ValueError) as error:
        problem = f"{folder}: the documents of {file} cannot be read: {error}"
        if problem not in study.problems:
            study.problems.append(problem)
        return None


def _weights(documents: Documents, name: str) -> np.ndarray:
    """(N,) what each document weighs in a metric: the weights of the mean of that name, else the targets of the loss."""
    means = documents.weights
    return np.array(means.get(name.rpartition("/")[2]) or means.get("loss") or next(iter(means.values())))


def _other_rows(measured, reference, name):
    """Why an arm's rows are not those of `reference`; empty if they are, or if nothing is known."""
    documents = next(iter(measured.values()), reference)
    here, there = _weights(documents, name), _weights(reference, name)
    if documents.names == reference.names and np.array_equal(here, there):
        return ""
    common = len({*documents.names} & {*reference.names})
    return (
        f"{len(here)} documents with {here.sum():,.0f} targets, against {len(there)} with {there.sum():,.0f} "
        f"({common} documents in common)"
    )


def _interval(judgement, weights, measured, level):
    """The TextInterval of a contrast, {arm: weight}; None without two seeds of its arms on the same documents."""
    name, metric, scaled = judgement.shown.name, judgement.shown.metric, judgement.scaled
    first = measured[next(iter(weights))]
    seeds = [seed for seed in first if all(seed in measured[arm] for arm in weights)]
    documents = [measured[arm][seed] for arm in weights for seed in seeds]
    if not seeds or any(each.names != documents[0].names for each in documents):
        return None
    w_N = np.mean([_shares(each, name) for each in documents], axis=0)

    def added(arm, seed):
        return _contributions(measured[arm][seed], scaled[arm][seed], name, metric)

    added_SN = np.array([sum(weight * added(arm, seed) for arm, weight in weights.items()) for seed in seeds])
    differences_S1 = np.array([[sum(weight * scaled[arm][seed] for arm, weight in weights.items())] for seed in seeds])
    # A document without a token of this metric adds nothing.
    values_SN = differences_S1 + np.divide(added_SN, w_N, where=w_N > 0, out=np.zeros_like(added_SN))
    return two_way(values_SN, w_N, level)


def _contributions(documents, value, name, metric):
    """(N,): what each document adds to a run's value, share x (its own value - the run's); they add up to 0.

    From the values without each document, so it holds for whatever an objective derives from its means. (Its share is that
    of its targets also in a metric per byte; the two differ by little, and only 1 - share is needed.)
    """
    without_N = np.array([on_scale(each, metric) for each in documents.without[name.rpartition("/")[2]]])
    return (value - without_N) * (1 - _shares(documents, name))


def _shares(documents, name):
    weights_N = _weights(documents, name)
    return weights_N / weights_N.sum()


def _for_texts(made):
    """The sentence with the intervals."""
    how_many = f"{made.documents:,} {made.called}, in effect {made.effective:.0f}"
    if not made.intervals:
        return f"An interval for texts like these ({how_many}) needs two seeds."
    sides: dict[str, list[str]] = {"exclude": [], "include": []}
    for subject, interval in made.intervals.items():
        sides["exclude" if interval.low > 0 or interval.high < 0 else "include"].append(subject)
    each = " and ".join(f"{side} zero for {listed_names(subjects)}" for side, subjects in sides.items() if subjects)
    return f"For texts like these ({how_many}), {units.share(1 - made.level)} intervals over seeds and texts {each}."


def _few(made, weights_N):
    """A warning where few texts decide the means; empty where they do not."""
    if made.effective >= FEW:
        return ""
    heaviest = units.share(weights_N.max() / weights_N.sum())
    if made.called != "documents":
        return (
            f"Few texts decide these means: the {made.documents:,} {made.called} count as {made.effective:.0f} of equal size "
            f"(fewer than {FEW}), and the largest holds {heaviest} of all. Give more {made.called}."
        )
    return (
        f"Few texts decide these means: the {made.documents:,} documents count as {made.effective:.0f} of equal length "
        f"(fewer than {FEW}), and the longest holds {heaviest} of all targets. Give more documents."
    )
