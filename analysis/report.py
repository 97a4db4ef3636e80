"""The report of a study: one self-contained page, `report.html`, and the same numbers as CSV and LaTeX beside it."""

import html
import json
import os
import shlex

import pandas as pd

from analysis import (
    bill,
    crowd,
    forms,
    glyphs,
    interaction,
    live,
    measurements,
    plots,
    ran,
    scaling,
    search,
    shown_pictures,
    style,
    tables,
    tables_html,
)
from analysis.claims import judgements, lines, tabled, tuning_warnings
from analysis.conditions import rest
from analysis.runs import load, reason
from arch import units
from arch.words import listed, times
from experiments.files import write_atomically
from experiments.record import RunRecord
from sweeps.claims.equivalent import Equivalent
from sweeps.folders import safe_names

NAME = "report.html"
# A list of what went wrong is shown up to this length.
LONGEST = 200

CAPTIONS = {
    "claims": "What each claim is about",
    "differences": "Difference from the baseline",
    "curves": "Learning curves",
    "tuning": "Tuning",
    "interaction": "Factors",
    "scaling": "Loss against training compute",
}


def write_report(folder):
    """Write report.html, results.csv, claims.csv, runs.csv and results.tex into a study's folder; returns the report's path.

    Also evaluation-SPLIT.NAME.csv of every table that was measured, and evaluations.csv with every metric.
    Raises DataError if the folder has no readable study.
    """
    study = load(folder)
    return write(study, judgements(study))


def write(study, judged, out=None, again=None, rows=True):
    """Like `write_report`, from a StudyData and its Judgements. The files of further claims have the claim's name.

    out: the folder to write into, by default the study's. again: seconds after which the page loads itself anew, of a study
    that is watched. rows: whether to write the evaluation-SPLIT.NAME.csv too, the largest files beside the page.
    """
    out = study.folder if out is None else out
    path = out / NAME
    shown = tabled(judged)
    raw = [tables.results(study, judgement) for judgement in shown]
    names = safe_names(judgement.name for judgement in shown)
    for i, (judgement, table) in enumerate(zip(shown, raw, strict=True)):
        stem = f"results-{names[judgement.name]}" if i else "results"
        write_atomically(out / f"{stem}.csv", tables.csv(table).encode())
        write_atomically(out / f"{stem}.tex", tables.latex(table).encode())
    write_atomically(out / "claims.csv", forms.csv(tables.claims(judged)).encode())
    write_atomically(out / "runs.csv", forms.csv(study.runs).encode())
    measurements.write_csv(study.evaluated, out, rows)
    if (trials := search.table(study)) is not None:
        write_atomically(out / search.CSV, forms.csv(trials).encode())
    write_atomically(path, page(study, judged, raw, again, rows).encode())
    return path


def _told(judged):
    """The metrics that have a table of their own."""
    return {judgement.shown.name for judgement in tabled(judged)}


def page(study, judged, raw, again=None, rows=True):
    """The whole page as HTML text. The figures show the first claim. again, rows: see `write`."""
    figures, named = plots.figures(study, judged[0], judged), crowd.named(study, judged[0])
    few = crowd.few(study, judged[0])
    evaluated = [each.only(few) for each in study.evaluated]
    parts = [
        _answer(study, judged, [text for table in raw for text in table.for_texts.sentences]),
        _claims(judged),
        *(
            _results(judgement, table, len(tabled(judged)) > 1, _named(study, named))
            for judgement, table in zip(tabled(judged), raw, strict=True)
        ),
        *(_figure(name, figure, study, judged[0]) for name, figure in figures.items()),
        search.section(study),
        measurements.section(evaluated, few, _told(judged), "What else was measured", crowd.looks(study, judged[0])),
        _differences(study, named),
        _bill(study, named),
        _provenance(study),
        _unfinished(study),
        _samples(study, named),
        shown_pictures.section(evaluated, few),
        _notes(study),
        _again(study, rows),
    ]
    return style.page(study.record.question, parts, again)


def _answer(study, judged, of_texts):
    """The answer and what qualifies it. of_texts: the sentences on other texts."""
    record = study.record
    scale = f", scale {record.scale}" if record.scale else ""
    seeds = times(len(record.seeds), "seed")
    where = f"{record.name}{scale} · {times(len(record.arms), 'arm')} × {seeds}"
    answer, *others = lines(judged)
    remarks = "".join(f"<li>{_code(text)}</li>" for text in dict.fromkeys([*others, *of_texts]))
    remarks += "".join(f"<li class=warning>{_code(text)}</li>" for text in tuning_warnings(study))
    return (
        f"<header><p class=where>{html.escape(where)}</p><h1>{html.escape(record.question)}</h1></header>"
        f"<section class=answer><p>{_code(answer)}</p><ul>{remarks}</ul></section>"
    )


def _code(text):
    """Escaped text; parts in `backticks` become code elements."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _claims(judged):
    """The claims that are true or false, one per row; empty without such claims."""
    stated = [judgement for judgement in judged if not judgement.per_arm]
    if not stated:
        return ""
    return f"<section><h2>Claims</h2><div class=scroll>{tables_html.claims(stated)}</div></section>"


def _seeds(record):
    """The seeds of a study's arms in words."""
    each = [", ".join(map(str, record.seeds))] if len(record.first_seeds) < len(record.arms) else []
    return "; ".join([*each, *(f"{label}: {', '.join(map(str, record.seeds_of(label)))}" for label in record.first_seeds)])


def _named(study, arms):
    """The arms of a crowd that tables name, or None where they name all."""
    return None if len(arms) == len(study.record.arms) else arms


def _folded(what, content):
    return f"<details><summary>{html.escape(what)}</summary>{content}</details>"


def _results(judgement, raw, named, arms):
    """A claim's table and what its columns mean. named: whether the heading names the claim. arms: those to name first."""
    shown, metric = judgement.shown, f"<code>{html.escape(judgement.shown.name)}</code>"
    quantity = html.escape(shown.quantity)
    mean = {"log": f"exp of the mean of {metric}" if shown.metric.exponential else f"the mean of {metric}"}
    mean |= {"ratio": f"the geometric mean of {metric}", "difference": f"the mean of {metric}"}
    change = f"change in {quantity} relative to" if shown.relative else f"{quantity} minus that of"
    what = f"The paired difference is the {change} {html.escape(judgement.baseline)}, compared seed by seed"
    same, test = " (same initial values, same batches)", "a paired t test"
    if judgement.contrasts:
        within = " within every seed" if judgement.paired else ""
        what = (
            f"Each comparison is formed{within}: the effect of a level is its difference from the first level, averaged "
            "over the other factors, and an interaction is how much one level changes the effect of another"
            if any(each.effect for each in judgement.contrasts.values())
            else f"Each comparison is a difference{within}"
        )
    if not judgement.paired:
        apart = html.escape(listed([subject for subject, sample in judgement.differences.items() if not sample.paired]))
        what = what if judgement.contrasts else f"The difference is the {change} {html.escape(judgement.baseline)}"
        what += f"; of {apart} it is not paired, since the seeds are others"
        same, test = "", "a t test (paired, or Welch's where the seeds are others)"
    note = (
        f"{quantity[0].upper()}{quantity[1:]} is {mean[shown.metric.compare]} over the n finished seeds, with a 95 % t "
        f"interval. {what}{same}. "
    )
    if isinstance(judgement.claim, Equivalent):
        note += (
            "The interval in brackets and the verdict follow from the same level: all verdicts of this report together are "
            "wrong with a probability of at most 5 %. “Worse” and “better” need an interval that excludes zero; “no "
            f"difference” needs an interval within ±{html.escape(shown.margin(judgement.margin))} by two one-sided tests. p is "
            f"that of the test behind the verdict, beside the level that it must not exceed: of {test}, or, marked "
            "“equivalence”, of the two one-sided tests. A control is no question; its interval is its own. "
        )
    if raw.frame[["tokens_per_second_mean", "peak_bytes_mean"]].notna().any(axis=None):
        note += (
            "Training speed is the tokens of a step over the median time of a step, from drawing its batch to the update; the "
            "first steps of a process, evaluation and checkpoints are left out. Peak memory is the most that the process of a "
            "run held while it trained. Both depend on the machine and on what else runs on it; brackets are the least and "
            "the most of the finished runs. "
        )
    if raw.for_texts.effects:
        note += "“For texts like these” takes the documents as a sample too, as the seeds: an interval for other texts. "
    note += "1 kB is 1,000 bytes."
    heading = f"Results: {html.escape(judgement.name)}" if named else "Results"
    compared = ""
    if raw.comparisons is not None:
        compared = f"<div class=scroll>{tables_html.comparisons(raw, judgement)}</div><h3>The arms</h3>"
    table = f"<div class=scroll>{tables_html.results(raw, arms)}</div>"
    if arms is not None:
        every = f"<div class=scroll>{tables_html.results(raw)}</div>"
        shown = f"The baseline, the best {crowd.BEST} and the worst {crowd.WORST} of {len(raw.frame)} arms, and the controls."
        table = f"<p class=note>{shown}</p>{table}{_folded(f'All {len(raw.frame)} arms', every)}"
    table = f"{compared}{table}"
    return f"<section><h2>{heading}</h2>{table}<p class=note>{note}</p></section>"


def _figure(name, figure, study, judgement):
    edges, below = "", ""
    if name == "tuning":
        edges = "".join(f"<p class=warning>{html.escape(text)}</p>" for text in tuning_warnings(study))
    axis = plots.quality_axes(study).get(name)
    caption = f"Quality against {plots.axis_title(study, axis)}" if axis else CAPTIONS[name]
    if name == "differences" and judgement.contrasts:
        caption = "Comparisons"
    if name == "interaction":
        below = interaction.tables_html(study, judgement)
    if name == "scaling":
        below = scaling.table_html(study, judgement)
    return f"<section><h2>{html.escape(caption)}</h2>{edges}{live.pictured(figure, name, caption)}{below}</section>"


def _differences(study, named):
    """How the resolved specs differ, and what else is or is not the same. An arm alone differs from nothing."""
    if len(study.record.arms) == 1:
        return ""
    frame = tables.changes(study, named)
    table = "<p>In nothing.</p>"
    if not frame.empty:
        table = f"<div class=scroll>{forms.plain_html(frame).replace('<table>', '<table class=specs>')}</div>"
    said, is_warning = rest(study)
    note = "".join(f"<p class={'warning' if is_warning else 'note'}>{html.escape(sentence)}</p>" for sentence in said)
    dashes = f"<p class=note>{units.DASH}: the arm has no such option.</p>" if units.DASH in frame.to_numpy() else ""
    others = len(study.record.arms) - len(named)
    left = (
        f"<p class=note>{times(others, 'other arm')}: the column <code>changes</code> of <code>results.csv</code>.</p>"
        if others
        else ""
    )
    return f"<section><h2>How the specs differ</h2>{table}{left}{dashes}{note}</section>"


def _bill(study, named):
    frame = bill.bill(study)
    others = _named(study, named) and [arm for arm in study.record.arms if arm not in named]
    if not frame.iloc[-1][["runs", "tuning_runs"]].sum():
        return ""
    search = ""
    if (study.unreported.role == "tuning").any():
        search = "The search tried the same values with the same seeds in every arm; its runs are never reported. "
    added = "".join(f"<li>{html.escape(said)}</li>" for said in [*bill.objectives(study), *bill.helpers(study)])
    added = f"<ul>{added}</ul>" if added else ""
    return (
        f"<section><h2>What it cost</h2><div class=scroll>{forms.plain_html(bill.readable(frame, others or ()))}</div>{added}"
        f"<p class=note>{search}Runs as recorded, also those that failed and those that another study made. FLOPs “executed” "
        "are those that the machine computed, “ideal” ones (in the results) those that the mathematics needs. A run that "
        "arms share counts for each of them, and once in the total.</p></section>"
    )


def _provenance(study):
    """What was run, where and with which code. If runs differ in a value, all its values are shown."""
    runs = list(study.records.values())
    told = ran.sentences(study.records, len(study.runs))
    rows = {
        "wall time": bill.sentence(bill.bill(study)),
        "seeds": _seeds(study.record),
        "fingerprint of the data": _distinct(str(run.data["fingerprint"]) for run in runs if "fingerprint" in run.data),
        "hardware": _distinct(forms.pairs(run.hardware) for run in runs),
        "speed and memory": _performance(runs),
        "versions": _distinct(forms.pairs(run.versions) for run in runs),
        "code": _distinct(forms.pairs(run.git) for run in runs),
        "started": min((run.started for run in runs if run.started), default=None),
        "ended": max((run.ended for run in runs if run.ended), default=None),
    }
    sentences = "".join(f"<p>{html.escape(text)}</p>" for text in told)
    shown = "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in rows.items() if text)
    warning = ""
    if any(run.git.get("dirty") for run in runs):
        warning = "<p class=warning>Some runs used code with uncommitted changes.</p>"
    spec = html.escape(json.dumps(study.record.spec, indent=1, ensure_ascii=False))
    return (
        f"<section><h2>What was run</h2>{warning}{sentences}<dl>{shown}</dl>"
        f"<details><summary>The study's spec</summary><pre>{spec}</pre></details></section>"
    )


def _performance(runs):
    """Where the speed and the memory of training were measured, and with how many runs at once; None if they were not."""
    runs = [run for run in runs if run.measured]
    lines = [_distinct(_beside(run) for run in runs) if runs else None]
    if before := [run.timing["memory_before_bytes"] for run in runs if "memory_before_bytes" in run.timing]:
        low, high = units.size(min(before)), units.size(max(before))
        held = low if low == high else f"{low} to {high}"
        lines.append(f"peak memory is of a run's whole process, which held {held} before the first step")
    return "\n".join(filter(None, lines)) or None


def _beside(run):
    """`on AMD EPYC, up to 2 runs at once`."""
    at_once, where = run.timing.get("runs_at_once"), run.hardware.get("gpu") or run.hardware.get("cpu")
    beside = "" if not at_once else f"up to {at_once:.0f} runs at once" if at_once > 1 else "one run at a time"
    return ", ".join(filter(None, [f"on {where}" if where else "", beside])) or "on an unknown machine"


def _distinct(texts):
    """The value if all agree; else each distinct value on its own line with its count; None if there is none."""
    counts = pd.Series([text for text in texts if text], dtype=object).value_counts()
    if len(counts) < 2:
        return next(iter(counts.index), None)
    return "\n".join(f"{text}  ({times(count, 'run')})" for text, count in counts.items())


def _unfinished(study):
    """What failed, arm by arm; every run and trial that did not finish, and every file with a problem, with the reason."""
    rows = [
        _ended(study, f"{row.arm}, seed {row.seed}", row.status, row.failure, row.folder, study.records.get((row.arm, row.seed)))
        for row in study.runs[study.runs.status != "finished"].itertuples()
    ]
    for label, seed, folder in ((label, *each) for label, runs in study.record.helpers.items() for each in runs.items()):
        run = RunRecord.read_whole(study.folder / folder)
        if run is not None and run.status != "finished":
            rows.append(_ended(study, f"{label}, seed {seed} (helper run)", run.status, reason(run), study.folder / folder, run))
    for trial in study.record.trials:
        if trial.state != "finished" and trial.arm:  # those of the study's own search are in its section
            name, run = f"{trial.arm}, trial {forms.pairs(trial.values)}, seed {trial.seed}", _trial(study, trial)
            rows.append(_ended(study, name, trial.state, reason(run) if run else "", study.folder / trial.run, run))
    problems = "".join(f"<li>{html.escape(problem)}</li>" for problem in study.problems[:LONGEST])
    problems += f"<li>and {len(study.problems) - LONGEST} more</li>" if len(study.problems) > LONGEST else ""
    if not rows and not problems:
        return ""
    table = f"<div class=scroll>{forms.plain_html(pd.DataFrame(rows[:LONGEST]), index=False)}</div>" if rows else ""
    table += f"<p class=note>The first {LONGEST} of {len(rows)}; runs.csv has all.</p>" if len(rows) > LONGEST else ""
    listed = f"<h3>Files that are missing, unreadable or inconsistent</h3><ul>{problems}</ul>" if problems else ""
    return f"<section><h2>Runs that did not finish</h2>{_failed(study)}{table or '<p>None.</p>'}{listed}</section>"


def _ended(study, name, status, why, folder, run):
    """A row of the runs that did not finish. cause: whether the model or the machine made a run fail."""
    cause = "" if run is None or run.failure is None else "machine" if run.failure.by_machine else "model"
    return {"run": name, "status": status, "cause": cause, "why": why, "folder": _below(study, folder)}


def _trial(study, trial):
    """The RunRecord of a tuning trial's run, or None."""
    return RunRecord.read_whole(study.folder / trial.run) if trial.run else None


def _failed(study):
    """A red line per arm that lost runs by itself, and a line per arm that lost runs by the machine."""
    lines = []
    for arm in study.record.arms:
        failures = study.failures(arm)
        if failures.failed:
            lines.append(f"<p class=failed>{html.escape(f'{arm}: {failures.sentence}')}</p>")
        if failures.lost:
            again = "the machine's fault, not the model's: a new start does them again"
            lines.append(f"<p class=warning>{html.escape(f'{arm}: {failures.why_lost}; {again}')}</p>")
    return "".join(lines)


def _below(study, folder):
    return units.DASH if folder is None else os.path.relpath(folder, study.folder)


def _samples(study, named):
    """The text sample of one trained model per arm that is named, if its record has one."""
    found: dict[str, tuple[int, str]] = {}
    for (arm, seed), run in study.records.items():
        if run.sample and arm in named:
            found.setdefault(arm, (seed, run.sample))
    texts = "".join(
        f"<h3>{html.escape(arm)}, seed {seed}</h3><pre>{html.escape(text)}</pre>" for arm, (seed, text) in found.items()
    )
    return f"<section><h2>Text samples from the models</h2>{texts}</section>" if texts else ""


def _notes(study):
    """The study's remarks, and the notes in the runs' records, e.g. of a path that was not used; each once, with its runs."""
    said = [remark.partition(": ")[2] for remark in study.record.remarks]  # without the arms that it is about
    notes = [note for run in study.records.values() for note in dict.fromkeys(run.notes) if note not in said]
    counts = pd.Series(notes, dtype=object).value_counts()
    items = "".join(f"<li>{html.escape(remark)}</li>" for remark in study.record.remarks)
    for label, shown in glyphs.rewritten(study.record.arms).items():
        items += f"<li>{html.escape(f'No installed font has the letters of {label}; in pictures it is {shown}.')}</li>"
    items += "".join(f"<li>{html.escape(note)} ({times(count, 'run')})</li>" for note, count in counts.items())
    return f"<section><h2>Notes from the runs</h2><ul>{items}</ul></section>" if items else ""


def _again(study, rows):
    folder = shlex.quote(str(study.folder))
    commands = [
        ("Open in TensorBoard", f"archbench tensorboard {folder}"),
        ("Run again (finished runs are reused)", study.record.command),
        ("Write this report again", f"archbench report {folder}"),
    ]
    items = "".join(f"<dt>{name}</dt><dd><code>{html.escape(text)}</code></dd>" for name, text in commands if text)
    files = {"results.csv": "row per arm", "claims.csv": "row per verdict", "runs.csv": "row per run", "results.tex": ""}
    if study.record.search:
        files[search.CSV] = "row per trial of the search"
    if study.evaluated:
        files[measurements.NUMBERS] = "row per metric of a run"
    files |= {f"evaluation-{each.key}.csv": "table of each run" for each in study.evaluated if rows and each.has_rows}
    beside = ", ".join(f"<code>{name}</code>{f' ({text})' if text else ''}" for name, text in files.items())
    beside = f"In the same folder: {beside}."
    return f"<section><h2>Commands and files</h2><dl>{items}</dl><p class=note>{beside}</p></section>"
