"""Which runs may be compared in a metric, and what must be said of those that differ in more than their specs.

A loss per token depends on the tokenizer, and every measurement depends on the rows it was made on. So two runs are
comparable in a metric if they were measured on the same rows, and if the metric does not depend on the tokenizer or
both have the same.
"""

from arch import registry, units
from arch.errors import SpecError
from arch.words import listed, listed_names
from experiments.metrics import OF_RUNS
from experiments.spec import DEFAULT_TYPES

# The word for a subject whose runs were not measured on the same rows, or not in the same unit.
NOT_COMPARABLE = "not comparable"
# Options of evaluators that are contexts of their own, and evaluators whose rows do not depend on the training context.
CONTEXTS, FREE = ("context", "lengths"), ("memorization",)
# Evaluators that read the pairs of a split, and neither hard negatives nor how often a mixture shows each part.
OF_PAIRS = ("retrieval", "probe")
# Options of a source of pictures that say how a picture is shown, and not what it is.
PICTURED = ("image_size", "tokens", "crops")
# Other programs that take less than this share of the cores are not worth a remark: reports are read, too.
OTHERS = 0.1


def obstacle(first, second, name, metric, by=None):
    """Why two resolved experiments (plain data) cannot be compared in SPLIT/METRIC, in words; empty if they can.

    by: the name of the evaluator of the split that measures it; None: not known, so all of the split must be the same.
    """
    why = other_tokenizer(first, second, name, metric) or other_objective(first, second, name, by)
    if why:
        return why
    one, other = first.get("data", {}), second.get("data", {})
    split = name.partition("/")[0]
    if split not in ("report", "select"):
        return ""
    mine, theirs = (_evaluators(spec, split, by) for spec in (first, second))
    if mine != theirs:
        place = f"evaluate.{split}.{by}" if by else f"evaluate.{split}"
        return f"is measured otherwise: its `{place}` differs"
    if one.get("context") != other.get("context") and not _own_contexts(mine):
        option = next((key for each in mine.values() if isinstance(each, dict) for key in CONTEXTS if key in each), "context")
        hint = f"`evaluate.{split}.{by or 'NAME'}.{option}`"
        return f"has the context {other.get('context')} and not {one.get('context')}, so its rows differ; set {hint} for all arms"
    return ""


def other_tokenizer(first, second, name, metric):
    """Why two resolved experiments (plain data) with different tokenizers cannot be compared in a metric; empty if they can."""
    one, other = first.get("data", {}), second.get("data", {})
    if one.get("tokenizer") == other.get("tokenizer") or metric.any_tokenizer:
        return ""
    return f"has another tokenizer, so {name} is per other tokens; use a metric per byte such as report/bits_per_byte"


def other_objective(first, second, name, by=None):
    """Why a metric of the objective is not the same thing in two resolved experiments; empty if it is.

    An objective of its own may return anything as `loss`. by: as in `obstacle`.
    """
    split = name.partition("/")[0]
    evaluator = (first.get("evaluate", {}).get(split) or {}).get(by) if by else None
    of_objective = evaluator is None or evaluator.get("type") == "objective"
    if split not in ("report", "select") or not of_objective or _reported_by(first) == _reported_by(second):
        return ""
    return f"has another objective, which says itself what {name} is; measure all arms by one evaluator that is not `objective`"


def _reported_by(spec):
    """The objective whose metrics are reported of a resolved experiment (plain data): a student's is not its own."""
    objective = spec.get("objective") or {}
    if objective.get("type") in (None, DEFAULT_TYPES["objective"]):  # not looked up: that would import torch
        return objective
    try:
        name = getattr(registry.component("objective", objective["type"]), "measured_by", None)
    except SpecError:  # a plug-in that is not here any more
        name = None
    return {"type": name} if name else objective


def _evaluators(spec, split, by):
    """The evaluators of a split that decide a metric, and the number of its rows in the older spelling."""
    evaluate = spec.get("evaluate", {})
    named = evaluate.get(split) or {}
    return {**(named if by is None else {by: named.get(by)}), "rows": evaluate.get(f"{split}_rows")}


def _own_contexts(evaluators):
    """Whether every evaluator that could have a context of its own has one."""
    options = [each for each in evaluators.values() if isinstance(each, dict)]
    chosen = [each[key] for each in options for key in CONTEXTS if key in each]
    free = [each for each in options if each.get("type") in FREE]
    return bool(chosen or free) and None not in chosen


def texts_differ(first, second, split="report", by=None):
    """Whether two runs' records say that their report splits hold other texts.

    split, by: the evaluator that measures, if it is known: one with a template of its own asks the same in the data of another.
    """
    if by is not None and (asked_alike(first, second, split, by) or paired_alike(first, second, split, by)):
        return False
    if pictured_alike(first, second):
        return False
    sizes = [record.data.get("splits", {}).get("report", {}) for record in (first, second)]
    texts = [(each.get("documents"), each.get("bytes")) for each in sizes]
    same_tokenizer = first.spec.get("data", {}).get("tokenizer") == second.spec.get("data", {}).get("tokenizer")
    fingerprints = [record.data.get("fingerprint") for record in (first, second)]
    return texts[0] != texts[1] or (same_tokenizer and fingerprints[0] != fingerprints[1])


def asked_alike(first, second, split, by):
    """Whether an evaluator asks two runs the same prompts in the same template, whatever that of their data is."""
    if not _measured_alike(first, second, split, by).get("template"):
        return False
    asked = [run.data.get("asked") or _data_without(run, ("template",)) for run in (first, second)]
    return asked[0] == asked[1]


def _measured_alike(first, second, split, by):
    """The evaluator of that name, if two runs have the same one; else {}."""
    one, other = (((run.spec.get("evaluate") or {}).get(split) or {}).get(by) or {} for run in (first, second))
    return one if one == other else {}


def paired_alike(first, second, split, by):
    """Whether an evaluator of pairs reads the same pairs in two runs, whatever else their data add to train on."""
    if _measured_alike(first, second, split, by).get("type") not in OF_PAIRS or not first.data.get("pairs"):
        return False
    sizes = [{key: run.data.get("splits", {}).get(split, {}).get(key) for key in ("pairs", "groups")} for run in (first, second)]
    return first.data["pairs"] == second.data.get("pairs") and sizes[0] == sizes[1]


def pictured_alike(first, second):
    """Whether two runs are asked the same of the same pictures, in whatever size and with whatever crops these are shown."""
    if not all("image_size" in (run.spec.get("data", {}).get("source") or {}) for run in (first, second)):
        return False
    pictured = [run.data.get("pictured") or _data_without(run, PICTURED, ("context",)) for run in (first, second)]
    return pictured[0] == pictured[1]


def _data_without(run, options, further=()):
    """What decides the rows of a run whose record is older than `asked` or `pictured`: its options and the version of Python."""
    data = {key: value for key, value in (run.spec.get("data") or {}).items() if key not in further}
    source = {key: value for key, value in (data.get("source") or {}).items() if key not in options}
    return {**data, "source": source}, run.versions.get("python")


def _disturbed(record, runs, mixed):
    """Sentences on claimed times that were not measured alone. mixed: the seeds whose runs come from different CPU types."""
    done = [run for run in runs.values() if run.status == "finished"]
    claimed = {claim.get("metric") for claim in record.claims.values()}
    claimed |= {name for arm in record.arms.values() for name in arm.measured_by}
    timed = sorted(name for name in claimed if any(_is_time(name, run) for run in done))
    if not timed:
        return
    names = f"{listed(timed)} {'are times' if len(timed) > 1 else 'is a time'}"
    at_once = max(run.timing.get("runs_at_once", 1) for run in done)
    if at_once > 1:
        yield f"{names}, measured while up to {at_once:.0f} runs went at once, which slow each other (`--workers 1` does not)."
    if (others := max(run.timing.get("others", 0.0) for run in done)) > OTHERS:
        yield f"{names}, and other programs took up to {units.share(others)} of the cores meanwhile."
    if mixed:
        yield f"{names}, of different CPU types: they say nothing of the arms."


def _is_time(name, run):
    metric = run.metric_info.get(name) or (OF_RUNS.get(name) if name in run.timing else None)
    return metric is not None and metric.varies == "machine"


def remarks(record, runs):
    """Sentences on what differs between compared runs beside their specs: CPU types, tuning. runs: {(arm, seed): RunRecord}."""
    said = []
    machines: dict[int, set] = {}
    for (_, seed), run in runs.items():
        if run.status == "finished" and run.hardware.get("cpu"):
            machines.setdefault(seed, set()).add(run.hardware["cpu"])
    mixed = [str(seed) for seed, types in machines.items() if len(types) > 1]
    if mixed:
        seeds = f"seed{'' if len(mixed) == 1 else 's'} {listed(mixed)}"
        said.append(
            f"The runs of {seeds} come from different CPU types ({listed(sorted(set().union(*machines.values())))}), whose "
            "rounding differs: pairing removes less of the noise of a seed there."
        )
    said += _disturbed(record, runs, mixed)
    tuned = [label for label, arm in record.arms.items() if arm.tuned]
    untuned = [label for label in record.arms if label not in tuned]
    if tuned and untuned:
        said.append(
            f"{listed_names(tuned)} {'was' if len(tuned) == 1 else 'were'} tuned and {listed_names(untuned)} "
            f"{'was' if len(untuned) == 1 else 'were'} not: a difference between them may be that of the tuning."
        )
    return said
