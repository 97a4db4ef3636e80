"""A study for TensorBoard: `FOLDER/tensorboard/`, written anew each time from the records and histories.

    study/              the HParams experiment, the layout of the margin charts, the report's figures
    ARM/seed-N/         a run's curves, its HParams row, its final metrics and the curves of its evaluations' tables; for the
                        projector, the vectors of texts that its evaluations kept
    ARM/tuning/N/       the HParams row and the final metrics of a tuning run, and likewise HELPER/helper/seed-N/
    search/trial-N/     a trial of the search: its HParams row, its curves, also where it was pruned; N is Optuna's number
    ARM/over-seeds/     mean and 95 % band over seeds, which the margin charts show

The HParams tab needs one list of columns for all rows. torch's `add_hparams` writes one list per run, of which only the
first found counts, and puts each row into a separate run. So this module writes the plugin's three messages itself. An
arm that lacks a key, or a run without metrics, still gets its row.

The curves of a large study are thinned (`analysis.thinning`), so that TensorBoard can load them.
"""

import datetime
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from analysis import charts, crowd, forms, plots, projector, search_figures, tables, thinning
from analysis import watch as following
from analysis.claims import judgements, lines, tabled
from analysis.curves import bands_and_differences
from analysis.events import NAME, Events
from analysis.runs import curve_of_run, load
from analysis.shown import Shown
from analysis.tables import TUNED
from arch.spec import ABSENT, spelt
from arch.words import visible
from sweeps.folders import safe_names

FOLDER = "tensorboard"
BAND = ("mean", "low", "high")


def write_logs(folder, out=None):
    """Write the log directory of a study anew and return its path. Raises DataError if the folder has no study.

    out: the folder to write it into, by default the study's.
    """
    study = load(folder)
    place = study.folder if out is None else out
    final = place / FOLDER
    scratch = place / f".{FOLDER}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _write(study, scratch)
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def refresh(study, logs, written):
    """Bring the logs of a running TensorBoard up to date, run by run; a run in which nothing changed keeps its file.

    A run that changed gets a further file, which first tells TensorBoard to forget what the earlier ones said; so no curve
    is missing in between. written: {run: digest of what was written}, changed in place.
    """
    scratch = logs.with_name(f".{logs.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _write(study, scratch, purge=0)
        for run, path in _files(scratch).items():
            if (digest := _digest(path)) == written.get(run):
                continue
            written[run] = digest
            (logs / run).mkdir(parents=True, exist_ok=True)
            path.rename(logs / run / _next_name(logs / run))
            for old, later in pairwise(sorted((logs / run).glob(EVENTS))):
                if time.time() - later.stat().st_mtime > READ:
                    old.unlink()
        projector.move(scratch, logs)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


EVENTS = f"{NAME}*"
# Seconds after which TensorBoard has read a further file of a run. It never goes on from a file that was removed before.
READ = 600


def _next_name(run):
    """The name of a file that TensorBoard reads after all others of a run: it goes by the time in a name, in seconds."""
    last = max((int(path.name.split(".")[3]) for path in run.glob(EVENTS)), default=0)
    return f"{NAME}{max(int(time.time()), last + 1):010d}.again"


def _files(logs):
    """{run: its newest file of events}."""
    return {path.parent.relative_to(logs): path for path in sorted(logs.rglob(EVENTS))}


def _digest(path):
    """A digest of the events of a file, without the times at which they were written."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    found = hashlib.sha256()
    for raw in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(raw)
        if event.HasField("summary"):
            found.update(f"{event.step}:".encode() + event.summary.SerializeToString(deterministic=True))
    return found.hexdigest()


# What the board shows first: the results, and the losses of the batches; runs of an arm have one colour.
FIRST = {"tagFilter": "^(report|train)/", "runColorGroup": "regex:^([^/]+)"}


# What the older tabs show, and of which runs: of more than 40 runs they select none, and stay empty until somebody does.
TABS = {
    "margins over seeds": ("custom_scalars", "over-seeds$"),
    "the report's figures": ("images", "^study$"),
    "the question and its verdicts": ("text", "^study$"),
}


def address(port):
    """The link to the board: filtered to `report/` and `train/`."""
    return f"http://localhost:{port}/?{urllib.parse.urlencode(FIRST, safe='/:')}#timeseries"


def tabs(port):
    """{what a tab shows: the link to it}, with the runs that it is of selected."""
    return {what: f"http://localhost:{port}/#{tab}&regexInput={urllib.parse.quote(runs)}" for what, (tab, runs) in TABS.items()}


def serve(folder, port=6006, out=None, watch=False):
    """Write the logs, start TensorBoard on them and wait until it ends or is interrupted. Returns its exit code.

    out: another folder for the logs. watch: bring the logs up to date whenever the study's records change.
    """
    logs = write_logs(folder, out)
    print(f"TensorBoard: {address(port)}  (Ctrl-C ends it)")
    for what, link in tabs(port).items():
        print(f"  {what}: {link}", flush=True)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    process = subprocess.Popen([*command, "--reload_interval", "5"] if watch else command)
    try:
        if watch:
            _follow(folder, logs, process)
        else:
            return process.wait()
    except KeyboardInterrupt:
        pass
    if process.poll() is not None:
        return process.returncode
    process.terminate()
    process.wait()
    return 0


def _follow(folder, logs, process):
    written = {run: _digest(path) for run, path in _files(logs).items()}

    def act():
        study = load(folder)
        refresh(study, logs, written)
        return following.progress(study)

    following.follow(folder, act, lambda: process.poll() is None)


def run_names(arms):
    """{arm: folder name}; unique, and without characters that a file system or TensorBoard's run filter cannot take."""
    return safe_names(arms, taken=("study", "search"))


def _write(study, logs, purge=None):
    """purge: the step from which on TensorBoard is to forget what earlier files of a run said; None: there are none."""
    writing = functools.partial(Events, purge=purge)
    names, judged = run_names(dict.fromkeys([*study.record.arms, *study.record.helpers])), judgements(study)
    judgement = judged[0]
    table, others, trials = _hparams(study)
    column = plots.curve_of(study, judgement.shown)
    shown = Shown(column, study.metric(column))
    with writing(logs / "study") as writer:
        writer.add_summary(_experiment([*table.values(), *others, *trials], _metrics(study)))
        writer.add_margins(_layout(study, shown))
        for name, figure in (plots.figures(study, judgement, judged) | search_figures.figures(study)).items():
            writer.add_figure(f"report/{name}", figure)
        writer.add_text("report/verdicts", _verdicts(study, judged))
        few = crowd.few(study, judgement)
        measured, style = [each.only(few) for each in study.evaluated], crowd.looks(study, judgement)
        for name, figure in charts.figures(measured, few, style).items():
            writer.add_figure(name.replace("-", "/", 1), figure)
    curves, of_trials = _curves(study), _trial_curves(study)
    most = _most_points([study.curves, *of_trials.values()])
    for row in study.runs.to_dict("records"):
        key = row["arm"], row["seed"]
        with writing(logs / names[row["arm"]] / f"seed-{row['seed']}") as writer:
            _run(writer, row, table[key], study.records.get(key), study.metrics.get(key, {}), curves.get(key), most)
            # In a crowd, tables are curves of the arms alone whose charts are drawn.
            for tag, points in (charts.scalars(study.evaluated, *key) if row["arm"] in few else {}).items():
                steps, values = np.array(list(points)), np.array(list(points.values()))
                for at in thinning.thinned(steps, values, most) if np.isfinite(values).all() else range(len(steps)):
                    writer.add_scalar(tag, values[at], int(steps[at]))
        if isinstance(row["folder"], str) and row["arm"] in few:
            projector.write(Path(row["folder"]), logs / names[row["arm"]] / f"seed-{row['seed']}")
    for trial, hparams in zip(_trials(study), trials, strict=True):
        record = study.other_records.get(str(study.folder / trial.run))
        seed = "" if study.record.search.get("seeds", 1) == 1 or trial.seed is None else f"/seed-{trial.seed}"
        row = {"arm": f"trial {trial.number}", "seed": trial.seed, "status": trial.state}
        with writing(logs / "search" / f"trial-{trial.number}{seed}") as writer:
            _run(writer, row, hparams, record, _of_trial(trial, record), of_trials.get(trial.run), most)
    for i, (row, hparams) in enumerate(zip(_others(study), others, strict=True)):
        place = f"tuning/{i}" if row["role"] == "tuning" else f"helper/seed-{row['seed']}"
        record = study.other_records.get(row["folder"])
        with writing(logs / names[row["arm"]] / place) as writer:
            _run(writer, row, hparams, record, _measured(row["role"], record))
    values, differences = bands_and_differences(study, column, "step")
    scale = 100 if shown.relative else 1
    for arm, band in values.items():
        with writing(logs / names[arm] / "over-seeds") as writer:
            _band(writer, _values_tag(shown), band)
            if arm in differences:
                _band(writer, _difference_tag(shown), differences[arm].assign(**scale * differences[arm][list(BAND)]))


def _verdicts(study, judged):
    """The answer and the table of verdicts as Markdown, as the report has them."""
    raw = [tables.results(study, each) for each in tabled(judged)]
    table = tables.words_first(judged, raw, crowd.named(study, judged[0]), forms.markdown)
    return visible("\n\n".join([f"**{study.record.question}**", *lines(judged), table]))


def _values_tag(shown):
    return f"over_seeds/{shown.name.replace('/', '_')}"


def _difference_tag(shown):
    return "over_seeds/difference_percent" if shown.relative else "over_seeds/difference"


NO_VALUES = ("arm", "seed", "step", "seconds")


def _curves(study):
    """{(arm, seed): its rows of the curves}."""
    return dict(iter(study.curves.groupby(["arm", "seed"], sort=False))) if len(study.curves) else {}


def _most_points(frames):
    """How many points a curve may have, so that all curves together stay readable (`analysis.thinning`); None for all.

    frames: curves below each other, of several runs or of one.
    """
    counts = np.zeros(0, dtype=int)
    for frame in frames:
        names = [name for name in frame if name not in NO_VALUES]
        runs = frame.groupby(["arm", "seed"], sort=False)[names] if "arm" in frame else frame[names]
        counts = np.append(counts, runs.count().to_numpy())
    return thinning.most_points(int((counts > 0).sum()), int(counts.sum()))


def _others(study):
    """The rows of `study.unreported` that are no trials of the search."""
    return study.unreported[study.unreported.role != "trial"].to_dict("records")


def _trials(study):
    """The TrialRecords of the study's own search, also of trials that trained nothing."""
    return [trial for trial in study.record.trials if not trial.arm]


def _trial_curves(study):
    """{the folder of a trial's run: its curves}, of the runs that have some."""
    found = {trial.run: curve_of_run(study.folder / trial.run) for trial in _trials(study) if trial.run}
    return {run: curve for run, curve in found.items() if curve is not None}


def _of_trial(trial, record):
    """The final numbers of a trial: its objectives, and what its run measured on the select split."""
    return _measured("trial", record) | dict(trial.objectives)


def _run(writer, row, hparams, record, metrics, curve=None, most=None):
    """One run's events: its row in HParams, its curves with at most `most` points each, its final metrics."""
    # The public `hparams.api` would import TensorFlow for its Keras callback.
    from tensorboard.plugins.hparams import summary_v2

    start = _timestamp(record)
    trial = f"{row['arm']}, seed {row['seed']}"
    if row.get("role"):
        trial = ", ".join([f"{row['role']}: {trial}", *(f"{key} = {value:g}" for key, value in row["values"].items())])
    writer.add_summary(summary_v2.hparams_pb(hparams, trial_id=trial, start_time_secs=start))
    if curve is not None:
        _curve(writer, curve, start, most)
    if record is not None:
        for name, value in metrics.items():
            # The prefix `final/` keeps a metric from being appended to a curve of the same name.
            writer.add_scalar(_final(name), value, record.steps, start + record.wall_seconds)
    else:
        for name, value in metrics.items():  # of a trial that trained nothing: its costs
            writer.add_scalar(_final(name), value, 0)
    if record is not None and record.sample:
        writer.add_text("sample", "    " + visible(record.sample).replace("\n", "\n    "), record.steps)
    if record is None or record.status in ENDED:  # TensorBoard keeps the first end that it reads
        writer.add_summary(_session_end(row["status"], start + (record.wall_seconds if record else 0)))


ENDED = ("finished", "failed", "pruned")


def _curve(writer, curve, start, most):
    """The curves of one run. What several have at the same step is one event, which takes a third of the room."""
    from tensorboard.compat.proto.event_pb2 import Event

    steps = curve.step.to_numpy()
    seconds = curve.seconds.fillna(0).to_numpy() if "seconds" in curve else np.zeros(len(steps))
    names = [name for name in curve if name not in NO_VALUES]
    values_NC = curve[names].to_numpy(dtype=float)
    finite_NC = np.isfinite(values_NC)
    at: dict[int, list[tuple[str, float]]] = {}
    for finite_N, together in _alike(finite_NC):  # curves with points at the same steps
        rows = np.flatnonzero(finite_N)
        kept = thinning.thinned_each(steps[rows], values_NC[rows][:, together].T, most) if len(rows) else []
        for i, points in zip(together, kept, strict=False):
            for row, value in zip(rows[points].tolist(), values_NC[rows[points], i].tolist(), strict=True):
                at.setdefault(row, []).append((names[i], value))
    for row, found in sorted(at.items()):
        event = Event(step=int(steps[row]), wall_time=start + seconds[row])
        for tag, value in found:
            event.summary.value.add(tag=tag, simple_value=value)
        writer.add_event(event)


def _alike(finite_NC):
    """Pairs of a column and the indices of all columns that are equal to it."""
    groups: dict[bytes, list[int]] = {}
    for i, column in enumerate(finite_NC.T):
        groups.setdefault(column.tobytes(), []).append(i)
    return [(finite_NC[:, together[0]], together) for together in groups.values()]


def _measured(role, record):
    """The metrics of a run that is not reported. What chose values is no result, so a search shows no report split."""
    metrics = record.metrics if record else {}
    return {name: value for name, value in metrics.items() if role not in ("tuning", "trial") or not name.startswith("report/")}


def _final(name):
    return name if name.startswith("report/") else f"final/{name}"


def _band(writer, tag, band):
    for point in band.reset_index().to_dict("records"):
        for name in BAND:
            # One seed has no interval: the band is the line itself.
            value = point[name] if np.isfinite(point[name]) else point["mean"]
            writer.add_scalar(f"{tag}/{name}", value, int(point["step"]))


def _layout(study, shown):
    """Two margin charts. In each, every arm's `over-seeds` run is a line with a band."""
    tags = lambda tag: [f"{tag}/{name}" for name in BAND]  # noqa: E731
    charts = {f"{shown.name}, mean and 95 % interval over seeds": tags(_values_tag(shown))}
    if len(study.record.arms) > 1:
        unit = f", {shown.unit}" if shown.unit else ""
        paired = "" if len({arm.first_seed for arm in study.record.arms.values()}) > 1 else "paired "
        charts[f"{paired}{shown.quantity} difference to {study.baseline}{unit}"] = tags(_difference_tag(shown))
    return {"Over seeds": charts}


def _hparams(study):
    """({(arm, seed): row} of the reported runs, the rows of `_others`, those of `_trials`); a row is {column: value}.

    Of a trial: its number, its state, whether it is feasible, and every dimension. The other columns are role, arm,
    seed, every tuned key with the value of this run, and every other key in which arms differ. The values of a column have
    one type; in a column of text, `null` is null and a dash says that the arm's component has no such option. Seeds and
    numbers of trials are text: TensorBoard shows every number with four decimals.
    """
    arms = study.record.arms
    tuned = dict.fromkeys(key for arm in arms.values() for key in arm.tuned)
    tuned |= dict.fromkeys(key for trial in study.record.trials for key in trial.values if trial.arm)
    keys = [key for key in dict.fromkeys(key for arm in arms.values() for key in arm.listed) if key not in tuned]
    base = {key: next(arm.differences[key][0] for arm in arms.values() if key in arm.differences) for key in keys}

    def row(role, label, seed, values):
        # Of a helper run that is no arm, the record does not say what it overrides.
        changes = arms[label].differences if label in arms else None
        written = {} if changes is None else {key: changes.get(key, (ABSENT, base[key]))[1] for key in keys}
        chosen = {f"{key}{TUNED}": values[key] for key in tuned if key in values}
        return {"role": role, "arm": label, "seed": str(seed)} | chosen | written

    reported = {
        (each.arm, each.seed): row("reported", each.arm, each.seed, arms[each.arm].tuned_of(each.seed))
        for each in study.runs.itertuples()
    }
    others = [row(each["role"], each["arm"], each["seed"], each["values"]) for each in _others(study)]
    trials = [_trial_row(trial) for trial in _trials(study)]
    every = [*reported.values(), *others, *trials]
    for key in dict.fromkeys(key for values in every for key in values):
        if key not in ("seed", "trial") and not all(_is_number(values.get(key, 0)) for values in every):
            for values in every:
                values[key] = spelt(values.get(key, ABSENT))
    return reported, others, trials


def _trial_row(trial):
    feasible = "no" if any(excess > 0 for excess in trial.constraints.values()) else "yes"
    seed = {} if trial.seed is None else {"seed": str(trial.seed)}
    about = {"role": "trial", "arm": "search", **seed, "trial": str(trial.number), "state": trial.state, "feasible": feasible}
    return about | dict(trial.values)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _metrics(study):
    """The tags of all final metrics, those of the report split first."""
    others = [_measured(row["role"], study.other_records.get(row["folder"])) for row in _others(study)]
    others += [_of_trial(trial, study.other_records.get(str(study.folder / trial.run))) for trial in _trials(study)]
    tags = dict.fromkeys(_final(name) for metrics in [*study.metrics.values(), *others] for name in metrics)
    return sorted(tags, key=lambda tag: not tag.startswith("report/"))


def _experiment(table, metrics):
    """The message that lists the columns of the HParams tab, each with the values that occur. table: the rows."""
    from tensorboard.plugins.hparams import summary_v2

    values: dict[str, set[Any]] = {}
    for hparams in table:
        for key, value in hparams.items():
            values.setdefault(key, set()).add(float(value) if _is_number(value) else value)
    columns = [summary_v2.HParam(key, summary_v2.Discrete(found)) for key, found in values.items()]
    return summary_v2.hparams_config_pb(columns, [summary_v2.Metric(tag) for tag in metrics])


def _session_end(status, when):
    """The message that says how a run ended, for the HParams tab."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    ends = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE, "running": api_pb2.STATUS_RUNNING}
    info = plugin_data_pb2.SessionEndInfo(status=ends.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=when)
    summary = Summary()
    content = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
    summary.value.add(tag=metadata.SESSION_END_INFO_TAG, metadata=content, tensor=metadata.NULL_TENSOR)
    return summary


def _timestamp(record):
    """When a run started, in seconds since 1970; 0 if unknown."""
    try:
        return datetime.datetime.fromisoformat(record.started).timestamp() if record else 0.0
    except ValueError:
        return 0.0
