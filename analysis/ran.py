"""What was run, in sentences: runs, model, batch, context, rate, schedule, evaluation, data, machine.

From the specs that the runs recorded. Where runs differ, each value stands with the arms that have it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from arch import units
from arch.spec import spelt
from arch.words import listed, times
from experiments.record import RunRecord

# Where these schedules turn, as fractions of the steps; of another one, its options stand as they are.
KNOWN = ("cosine", "wsd")


def sentences(records: Mapping[tuple[str, int], RunRecord], planned: int | None = None) -> list[str]:
    """The sentences on runs, {(arm, seed): RunRecord}. planned: how many runs there were to be; None: of a single run."""
    if not records:
        return []
    facts = [_runs(records, planned), _each(records, _model), _each(records, _training), _each(records, _rate)]
    facts += [_each(records, _evaluation), _each(records, data), _each(records, _machine)]
    return [fact for fact in facts if fact]


def _each(records: Mapping[tuple[str, int], RunRecord], say: Any) -> str:
    """What all runs have, as a sentence; else each value with its arms: `300 steps (a and b); 400 steps (c)`."""
    arms: dict[str, dict[str, None]] = {}
    for (arm, _), run in records.items():
        if text := say(run):
            arms.setdefault(text, {})[arm] = None
    if not arms:
        return ""
    if len(arms) == 1:
        return f"{next(iter(arms))}."
    shown = list(arms.items())
    said = [f"{text} ({listed(who)})" for text, who in shown[:6]]
    return f"{'; '.join([*said, *([f'and {len(shown) - 6} more'] if len(shown) > 6 else [])])}."


def _runs(records: Mapping[tuple[str, int], RunRecord], planned: int | None) -> str:
    if planned is None:
        return ""
    ended = sum(run.status == "finished" for run in records.values())
    arms, seeds = {arm for arm, _ in records}, {seed for _, seed in records}
    return f"{times(planned, 'run')} of {times(len(arms), 'arm')} with {times(len(seeds), 'seed')}, {ended} finished."


def _model(run: RunRecord) -> str:
    model, total = run.spec.get("model", {}), run.cost.get("parameters", {}).get("total")
    if not isinstance(model, dict) or not {"dim", "layers"} <= {*model}:
        return ""
    size = f"; {units.count(total)} parameters" if total else ""
    return f"The model has {times(model['layers'], 'layer')} of width {model['dim']:,}{size}"


def _training(run: RunRecord) -> str:
    """Steps, batch and context."""
    spec = run.spec
    steps, rows, context = (
        spec.get(part, {}).get(key) for part, key in (("train", "steps"), ("data", "rows"), ("data", "context"))
    )
    if None in (steps, rows, context):
        return f"A run has {run.steps:,} steps, {units.count(run.tokens)} tokens" if run.status == "finished" else ""
    if not steps:
        return "Nothing is trained: the runs only measure"
    parts = spec["train"].get("accumulate", 1) * spec["train"].get("devices", 1) * spec["train"].get("nodes", 1)
    in_parts = f" in {parts} parts" if parts > 1 else ""
    batch = f"{units.context(rows * context)} ({times(rows, 'row')} with a context of {units.context(context)}{in_parts})"
    return f"A run trains {times(steps, 'step')} with a batch of {batch}: {units.count(steps * rows * context)} tokens in all"


def _rate(run: RunRecord) -> str:
    """The optimizer, its peak rate, and the schedule."""
    optimizer, schedule, steps = run.spec.get("optimizer"), run.spec.get("schedule"), run.spec.get("train", {}).get("steps")
    if not isinstance(optimizer, dict) or not isinstance(schedule, dict) or not steps:
        return ""
    others = _options(optimizer, {"type", "lr"})
    text = f"The optimizer is {optimizer.get('type')} with a peak rate of {optimizer.get('lr', 0):g}{others}"
    if schedule.get("type") not in KNOWN or "warmup" not in schedule:
        return f"{text}; the schedule of the rate is {schedule.get('type')}{_options(schedule, {'type'})}"
    rise, fall = round(schedule["warmup"] * steps), round(schedule.get("decay", 1 - schedule["warmup"]) * steps)
    parts = [f"a warm-up of {times(rise, 'step')}"] if rise else []
    if schedule["type"] == "wsd":
        parts += [f"{times(max(0, steps - rise - fall), 'step')} at the peak"]
    how = "like half a cosine" if schedule["type"] == "cosine" else "linearly"
    parts += [f"a fall {how} over {times(fall, 'step')} to {units.share(schedule['final'])} of it"] if fall else []
    return f"{text}; the schedule ({schedule['type']}) is {listed(parts)}"


def _options(component: dict[str, Any], without: Iterable[str]) -> str:
    shown = ", ".join(f"{key}: {spelt(value)}" for key, value in component.items() if key not in without)
    return f" ({shown})" if shown else ""


def _evaluation(run: RunRecord) -> str:
    evaluate = run.spec.get("evaluate", {})
    if not evaluate.get("every") or not run.spec.get("train", {}).get("steps"):
        return ""
    said = []
    for split, when in (("select", f"every {evaluate['every']:,} steps"), ("report", "at the end")):
        evaluators = [each for each in (evaluate.get(split) or {}).values() if each.get("type") == "objective"]
        if rows := max((each.get("rows") or 0 for each in evaluators), default=0):
            said.append(f"{times(rows, 'row')} of the {split} split {when}")
    return f"Its objective is measured on {listed(said)}" if said else ""


def data(run: RunRecord) -> str:
    """Where the texts are from, and how many tokens each split has."""
    source, tokenizer = run.data.get("source"), (run.spec.get("data") or {}).get("tokenizer")
    if not source:
        return ""
    words = f", cut into tokens by {tokenizer['type']}" if isinstance(tokenizer, dict) else ""
    if run.data.get("vocabulary"):
        words += f" with a vocabulary of {run.data['vocabulary']:,}"
    splits = {name: each for name, each in (run.data.get("splits") or {}).items() if isinstance(each, dict) and "tokens" in each}
    sizes = [f"{units.count(each['tokens'])} tokens{_documents(each)} in {name}" for name, each in splits.items()]
    return f"The data are {source}{words}{f': {listed(sizes)}' if sizes else ''}"


def _documents(split: dict[str, Any]) -> str:
    return f" of {split['documents']:,} documents" if split.get("documents") else ""


def _machine(run: RunRecord) -> str:
    """Where it ran, at which precision and beside what."""
    hardware, at_once = run.hardware, run.timing.get("runs_at_once")
    where, cores = hardware.get("gpu") or hardware.get("cpu"), hardware.get("cores")
    if not where:
        return ""
    beside = f", {'one run' if at_once <= 1 else f'up to {at_once:.0f} runs'} at a time" if at_once else ""
    precision = run.spec.get("train", {}).get("precision")
    parts = [times(run.threads, "thread") if run.threads else "", f"precision {precision}" if precision else ""]
    how = ", ".join(filter(None, parts))
    machine = f"{where} ({times(cores, 'core')})" if cores else where
    return f"It ran on {machine}{f' with {how}' if how else ''}{beside}"
