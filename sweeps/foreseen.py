"""What a study's plan can find, for the preview: its power, in percent where the paired standard deviation is known.

That comes from finished runs of the same study, at this scale or else at another one, or from the user.
"""

import math
from dataclasses import dataclass
from statistics import median

from arch import units
from arch.contracts import Measured, Metric
from arch.stacked import stacked
from arch.words import listed, times
from experiments.metrics import known
from sweeps import folders, paired, stats
from sweeps.compare import bounds, effect, is_relative, margin_text
from sweeps.judge import built, counted, is_exact
from sweeps.judge import questions as questions_of
from sweeps.metrics import metric_of
from sweeps.outcomes import runs_of
from sweeps.power import EFFECTS, power
from sweeps.record import NAME, StudyRecord

# What a standard deviation is called, and of what it is: of arms that share their seeds, and of others.
PAIRED = "paired sd", "how much the difference of two arms varies over the seeds"
UNPAIRED = "sd", "how much the difference of two runs with different seeds varies: these arms are compared without pairing"


@dataclass(frozen=True)
class Spread:
    """A standard deviation of differences on the scale of the metric, and where it comes from, in words."""

    sd: float
    source: str


def spread(runs, name, scale, metric_name, scales=(), within=True):
    """The Spread of a metric in a study's finished runs below `runs`, or None. Of the arms' spreads, the median.

    within: of comparisons within seeds, else of those of arms with different seeds.

    Runs at this scale come first, then those at the other scales, in the order of their names. scales: all
    names of scales of the study.
    """
    here = folders.study_folder(runs, name, scale, scales)
    others = sorted(path.parent for path in here.parent.glob(f"*/{NAME}") if path.parent != here)
    for folder in (here, *others):
        record = StudyRecord.read_whole(folder)
        sds = _sds(record, folder, metric_name, within) if record else []
        if sds:
            seeds = max(n for n, _ in sds)
            place = "" if folder == here else f", at the scale {record.scale or '-'}"
            kind = "comparison" if _names_contrasts(record) else "arm"
            source = f"the median of {times(len(sds), kind)} with up to {times(seeds, 'seed')} in {folder}{place}"
            return Spread(median(sd for _, sd in sds), source)
    return None


def _names_contrasts(record):
    return any(claim.get("contrasts") for claim in record.claims.values())


def _sds(record, folder, name, within):
    """(seeds, sd) of every comparison with enough seeds: those of the record's claims, else every arm with the first."""
    runs = {key: run for key, run in runs_of(record, folder).items() if run.status == "finished" and name in run.metrics}
    infos = (run.metric_info[name] for run in runs.values() if name in run.metric_info)
    values: dict[str, dict[int, float]] = {arm: {} for arm in record.arms}
    for (arm, seed), run in runs.items():
        values[arm][seed] = run.metrics[name]
    measured = Measured(next(infos, None) or known(name) or Metric(), values, first_seeds=record.first_seeds)
    baseline, *arms = record.arms
    named = [getattr(built(claim).config, "contrasts", {}) for claim in record.claims.values() if claim.get("metric") == name]
    weights = [each.weights for each in next(filter(None, named), {}).values()] or [{arm: 1.0, baseline: -1.0} for arm in arms]
    samples = [paired.weighted(measured, each) for each in weights]
    return [(sample.n, sample.sd) for sample in samples if sample.testable and sample.paired == within]


def foreseen(name, scale, spec, arms, runs, paired_sd=None):
    """The power of a checked study's plan as plain data; None if it asks nothing that is measured.

    paired_sd: on the scale of the first measured claim's metric (0.012 is 1.2 % for a loss), instead of that of finished
    runs (of a study that pairs nothing: the sd of the difference of two runs). Numbers that do not exist are None. Where only
    some comparisons are without pairing, `unpaired` has the same numbers for these.
    """
    claims = {key: built(each) for key, each in spec.claims.items()}
    measured = [key for key, claim in claims.items() if not is_exact(claim) and not _is_count(arms[0].spec, claim)]
    if not measured or len(spec.arms) < 2:
        return None
    metric_name = claims[measured[0]].config.metric
    metric = metric_of(arms[0].spec, metric_name) or Metric()
    questions, kinds = counted(spec.claims, list(spec.arms)), _kinds(spec)

    def numbers(within):
        given = paired_sd if within == kinds[0] else None
        found = Spread(given, "as given") if given else spread(runs, name, scale, metric_name, spec.scales, within)
        sd, plan = found and found.sd, power(spec.looks, questions, paired=within)
        said = [key for key in measured if _has_margin(claims[key], metric_name)]
        return {
            "paired_sd": sd,
            "paired_sd_from": found.source if found else None,
            "found": [_found(plan, number, sd, metric) for number in EFFECTS],
            "smallest": {"sd": _finite(plan.smallest), "effect": _effect(plan.smallest, sd, metric)},
            "same": [_same(claims[key], plan, sd, metric, within) for key in said],
        }

    return {
        "looks": list(spec.looks),
        "questions": questions,
        "metric": metric_name,
        "unit": "%" if is_relative(metric) else metric.unit,
        **numbers(kinds[0]),
        **({} if kinds[0] else {"paired": False}),
        **({"unpaired": numbers(False)} if len(kinds) > 1 else {}),
    }


def _is_count(spec, claim):
    """Whether a claim is about a number that is the same for every seed."""
    metric = metric_of(spec, claim.config.metric)
    return metric is not None and metric.varies == "never"


def _kinds(spec):
    """Of which kinds the comparisons of a study are: within seeds (True), of arms with different seeds (False), or both."""
    measured = {name: claim for name, claim in spec.claims.items() if not is_exact(built(claim))}
    compared = [
        question.held or ((question.arms[0], question.subject) if question.subject in spec.arms else question.arms)
        for each in questions_of(measured, list(spec.arms)).values()
        for question in each
    ]
    kinds = {len({spec.first_seed(arm) for arm in arms}) == 1 for arms in compared if len({*arms}) > 1}
    return sorted(kinds, reverse=True) or [True]


def _finite(number):
    return number if math.isfinite(number) else None


def _effect(number, sd, metric):
    """What so many paired standard deviations are shown as; None if that is not known."""
    return effect(number * sd, metric) if sd and math.isfinite(number) and number * sd < stats.MOST_SEEDS else None


def _found(plan, number, sd, metric):
    facts = {"chance": plan.found[number], "seeds": plan.seeds[number]}
    return {"sd": number, "effect": _effect(number, sd, metric), **facts}


def _has_margin(claim, metric_name):
    """Whether a claim may say `no difference` of arms that are asked about, on this metric."""
    return hasattr(claim.config, "known_worse") and claim.config.metric == metric_name


def _same(claim, plan, sd, metric, within):
    """The chance of `no difference` for an identical arm; without a control that word is rarely said."""
    margin = claim.config.margin
    facts = {"margin": margin, "margin_text": margin_text(margin, metric), "control": bool(claim.config.known_worse)}
    if not sd:
        return facts | {"chance": None, "seeds": None}
    # The two bounds of a relative margin differ a little; the nearer one decides.
    near = min(map(abs, bounds(margin, metric)))
    there = power(plan.looks, plan.questions, (), near / sd, within)
    return facts | {"chance": there.same, "seeds": there.same_seeds}


def printed(data, say, console):
    """Print what `foreseen` returned."""
    questions = data["questions"]
    say("")
    shares = "one question, answered wrongly" if questions == 1 else f"{times(questions, 'question')}, any of them answered wrongly"
    shares += " in at most 5\xa0% of such studies"
    say(f"verdicts are read at {listed(list(map(str, data['looks'])))} seeds; {shares}")
    _printed(data, data, *(PAIRED if data.get("paired", True) else UNPAIRED), say, console)
    if "unpaired" in data:
        say("")
        _printed(data, data["unpaired"], *UNPAIRED, say, console)


def _printed(about, data, sd, of, say, console):
    unit = about["unit"]
    headings = ["true difference", *(["effect"] if data["paired_sd"] else []), "found with a chance of", "seeds, on average"]
    rows = []
    for each in data["found"]:
        effect = [_shown(each["effect"], unit)] if data["paired_sd"] else []
        rows.append([f"{each['sd']:g} {sd}", *effect, _chance(each["chance"]), f"{each['seeds']:.1f}"])
    console.print(stacked(console, "what the plan can find", headings, rows))
    say(f"({sd}: {of})")
    smallest = data["smallest"]
    if smallest["sd"] is None:
        seeds, why = max(about["looks"]), "the plan has too few seeds"
        if seeds < stats.FEWEST:
            why = f"{times(seeds, 'seed')} decide nothing, use {stats.FEWEST} or more"
        say(f"a difference of no size is found with a chance of 80\xa0%: {why}")
    else:
        text = f" ({_shown(smallest['effect'], unit)})" if smallest["effect"] is not None else ""
        say(f"found with a chance of 80\xa0%: {smallest['sd']:.1f} {sd}{text} or more")
    for each in data["same"]:
        say(_equality(each, sd))
    if data["paired_sd"]:
        say(f"{sd} of {about['metric']}: {_shown(data['paired_sd'], unit)}, {data['paired_sd_from']}")
    else:
        assumed = "--paired-sd 0.012 assumes 1.2\xa0%" if unit == "%" else f"--paired-sd 0.01 assumes 0.01 of {about['metric']}"
        hint = f"; {assumed}" if data is about else ""
        say(f"the {sd} is not known, as fewer than 3 seeds of this study have finished{hint}")


def _equality(each, sd):
    within = f"“no difference” within {each['margin_text']}"
    if not each["control"]:
        return f"{within} can be said of no arm: the claim names no arm known to be worse (`known_worse`)"
    if each["chance"] is None:
        return f"{within}: its chance depends on the {sd}"
    chance, seeds = _chance(each["chance"]), f"{each['seeds']:.1f}"
    return f"{within} is said of an identical arm with a chance of {chance} ({seeds} seeds), if the control is found"


def _shown(number, unit):
    return units.percent(number).lstrip("+") if unit == "%" else f"{number:.3g}{units.SPACE}{unit}".rstrip(units.SPACE)


def _chance(number):
    # The simulation's error is half a percent.
    return f"{100 * number:.0f}{units.SPACE}%"
