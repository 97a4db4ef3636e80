"""A search as a part of a report: how it went, what its front is, which dimensions matter, and what was not trained, and why."""

import html
from collections import Counter

from analysis import live
from analysis.importance import FEW, FEWEST
from analysis.search_figures import MOST_CURVES, figures
from analysis.shown import Shown
from analysis.trials import Searched, frame, searched, value_text
from arch.words import listed, times

# So many rows of a table are shown at once; `trials.csv` has all.
LONGEST = 40
CSV = "trials.csv"
CAPTIONS = {
    "search_front": "What was found",
    "search_slices": "Quality along each dimension",
    "search_mixtures": "The best mixtures",
    "search_importance": "Which dimensions matter",
    "search_curves": "The trials' curves",
}


def section(study):
    """The section `Search` of a page; empty of a study without one."""
    found = searched(study.record)
    if found is None:
        return ""
    drawn = figures(study)
    parts = [f"<p>{html.escape(' '.join(sentences(study, found)))}</p>", f"<p class=note>{html.escape(NOT_ITS_OWN)}</p>"]
    parts += [f"<p class=note>{html.escape(text)}.</p>" for text in found.widened]
    for name, caption in CAPTIONS.items():
        if name in drawn:
            parts.append(f"<h3>{caption}</h3>{live.pictured(drawn[name], name, caption)}{_note(found, name)}")
        elif name == "search_importance" and found.trials:
            done = len(found.of("finished"))
            parts.append(f"<p class=note>Importances need at least {FEWEST} finished trials; there are {done}.</p>")
        if name == "search_front" and (best := best_trials(found)):
            of = "The front" if len(found.objectives) > 1 else "The best trials"
            parts.append(f"<h3>{of}</h3><div class=scroll>{_table(study, found, best)}</div>")
    parts.append(_not_trained(found))
    if found.trials:
        rest = f"<p class=note>The first {LONGEST} of {len(found.trials)}; <code>{CSV}</code> has all.</p>"
        table = (
            f"<div class=scroll>{_table(study, found, found.trials[:LONGEST])}</div>{rest if len(found.trials) > LONGEST else ''}"
        )
        parts.append(f"<details><summary>All trials</summary>{table}</details>")
    return f"<section><h2>Search</h2>{''.join(parts)}</section>"


NOT_ITS_OWN = (
    "The numbers of a trial chose it, so they flatter the chosen ones. A winner is an arm of this study, trained again on other "
    "seeds: its number in the results is never one of its own trial."
)


def sentences(study, found: Searched):
    """What was searched for and how it went, a sentence each."""
    goals = [f"{way} {Shown(name, study.metric(name)).short}" for name, way in found.objectives.items()]
    how = f"{found.sampler}{f', pruned by {found.pruner}' if found.pruner else ''}"
    # The last weight of a mixture follows from the others.
    free = len(found.dimensions) - len({each.mixture for each in found.dimensions if each.mixture})
    yield f"The search was to {listed(goals)} over {times(free, 'dimension')} ({how})."
    limits = [
        f"{Shown(name, study.metric(name)).short} {' and '.join(_limit(study, name, word, value) for word, value in each.items())}"
        for name, each in found.constraints.items()
    ]
    if limits:
        yield f"Allowed was {listed(limits)}."
    counts = listed(f"{count} {state}" for state, count in found.counts.items())
    planned = f" of {found.planned}" if found.planned and found.planned != len(found.trials) else ""
    yield f"{len(found.trials)}{planned} trials: {counts}." if found.trials else f"0{planned} trials so far."
    if len(found.objectives) > 1 and found.front:
        yield f"{times(len(found.front), 'trial')} {'is' if len(found.front) == 1 else 'are'} on the front."
    if found.winners:
        chosen = listed(f"{label} is trial {number}" for label, number in found.winners.items())
        yield f"Chosen: {chosen}."


def _limit(study, name, word, value):
    return f"at {word} {Shown(name, study.metric(name)).number(value)}"


def best_trials(found: Searched):
    """The trials of the front, from the best in the first objective on; with one objective the ten best."""
    first = next(iter(found.objectives))
    done = [trial for trial in found.of("finished") if first in trial.objectives]
    ordered = sorted(done, key=lambda trial: found.harm(first) * trial.objectives[first])
    return [trial for trial in ordered if trial.number in found.front][:LONGEST] if len(found.objectives) > 1 else ordered[:10]


def _table(study, found, trials):
    """Trials as an HTML table: what they tried and what came of it."""
    winners = {number: label for label, number in found.winners.items()}
    shown = {name: Shown(name, study.metric(name)) for name in found.objectives}
    dimensions = [each for each in found.dimensions if any(each.name in trial.values for trial in trials)]
    names = list(dict.fromkeys(each.name for each in dimensions))
    short = {each.name: each.short for each in dimensions}
    states = any(trial.state != "finished" for trial in trials)
    head = "<th>trial</th>" + ("<th>state</th>" if states else "")
    head += "".join(f"<th class=number>{html.escape(each.short)}</th>" for each in shown.values())
    head += "".join(f"<th title='{html.escape(name, quote=True)}'>{html.escape(short[name])}</th>" for name in names)
    rows = []
    for trial in trials:
        won = f"<small>{html.escape(winners[trial.number])}</small>" if trial.number in winners else ""
        state = f"<td>{trial.state}</td>" if states else ""
        numbers = "".join(f"<td class=number>{each.number(trial.objectives.get(name))}</td>" for name, each in shown.items())
        values = "".join(f"<td>{html.escape(value_text(trial.values.get(name)))}</td>" for name in names)
        rows.append(f"<tr><th scope=row>{trial.number}{won}</th>{state}{numbers}{values}</tr>")
    return f"<table class=compact><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _note(found, name):
    """What a figure leaves to be said."""
    texts = {
        "search_importance": (
            "Importance for being among the best trials (PED-ANOVA). Trials are no random sample, and dimensions that were "
            f"tried in few values have little room to matter.{_few(found)}"
        ),
        "search_curves": f"At most {MOST_CURVES} trials, one seed each; points are thinned, the smallest value stays.",
        "search_slices": "Bars are medians.",
    }
    return f"<p class=note>{html.escape(texts[name])}</p>" if name in texts else ""


def _few(found):
    done = len(found.of("finished"))
    return f" {done} finished trials are few for this: mind the spread." if done < FEW else ""


def _not_trained(found: Searched):
    """Why trials ended without a result: infeasible, pruned and failed ones, counted by reason."""
    rows = []
    for state in ("infeasible", "pruned", "failed"):
        trials = found.of(state)
        if not trials:
            continue
        above = Counter(name for trial in trials for name, excess in trial.constraints.items() if excess > 0)
        reasons = [f"{name}: {times(count, 'trial')}" for name, count in above.most_common()] if state == "infeasible" else []
        said = Counter(trial.why for trial in trials if trial.why)
        reasons = reasons or [f"{why}{f' ({count}×)' if count > 1 else ''}" for why, count in said.most_common(5)]
        more = f"; and {len(said) - 5} other reasons" if len(said) > 5 and state != "infeasible" else ""
        example = f"; e.g. {trials[0].why}" if state == "infeasible" and trials[0].why else ""
        text = html.escape("; ".join(reasons) + more + example)
        rows.append(f"<tr><th scope=row>{state}</th><td class=number>{len(trials)}</td><td>{text}</td></tr>")
    if not rows:
        return ""
    trained = "an infeasible trial trained nothing; a pruned one was ended early"
    return (
        f"<h3>What has no result</h3><table class=compact><tbody>{''.join(rows)}</tbody></table>"
        f"<p class=note>{trained[0].upper()}{trained[1:]}.</p>"
    )


def text(study):
    """The same for a terminal: a few lines, and the front; empty of a study without a search."""
    found = searched(study.record)
    if found is None:
        return ""
    lines = list(sentences(study, found))
    for trial in best_trials(found)[:12]:
        goals = ", ".join(
            f"{Shown(name, study.metric(name)).short} {Shown(name, study.metric(name)).number(trial.objectives.get(name))}"
            for name in found.objectives
        )
        values = ", ".join(f"{name} = {value_text(value)}" for name, value in trial.values.items())
        lines.append(f"  trial {trial.number}: {goals} ({values})")
    return "\n".join(lines) + "\n"


def table(study):
    """A row per trial for `trials.csv` (`analysis.trials.frame`); None of a study without a search."""
    found = searched(study.record)
    return None if found is None else frame(found)
