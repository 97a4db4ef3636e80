"""Write `docs/performance.md` from benchmark records: each target with its measured value, then the measurements.

The same records give the same text. A target is compared with a ratio from a single record; if several records of one
kind of device have it, the record that was started last counts.
"""

import os
from pathlib import Path

from analysis.performance_figure import cost_against_context
from arch import units
from arch.errors import DataError
from arch.words import listed, times
from experiments.bench.record import BenchRecord, ratio
from experiments.bench.spec import TARGETS

DEVICES = {"cpu": "CPU", "cuda": "CUDA"}


def load(paths):
    """{path as given: BenchRecord}, in the order in which they were started. Raises DataError for an invalid record."""
    records = {}
    for path in paths:
        try:
            record = BenchRecord.read(path)
        except ValueError as error:
            raise DataError(f"{path}: no benchmark record: {error}", key=None) from None
        if record is None:
            raise DataError(f"{path}: no benchmark record there; `archbench bench` writes one", key=None)
        records[str(path)] = record
    return dict(sorted(records.items(), key=lambda item: item[1].started))


def write(paths, out):
    """Write the document to the file `out` and its figure beside it; returns their paths. Raises DataError."""
    out, records = Path(out), load(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure, picture = cost_against_context(list(records.values())), out.with_suffix(".png")
    if figure is not None:
        figure.savefig(picture, dpi=120, facecolor="white", metadata={"Software": None})
    out.write_text(document(records, picture.name if figure is not None else None, out.parent))
    return [out] + ([picture] if figure is not None else [])


def document(records, picture=None, beside=Path()):
    """The Markdown for {path: BenchRecord}. picture: the figure's file name. beside: the folder that links start from."""
    parts = ["# Performance", INTRODUCTION]
    for device, title in DEVICES.items():
        mine = {path: record for path, record in records.items() if record.asked["device"] == device}
        names = list(dict.fromkeys(_hardware(record) for record in mine.values()))
        parts.append(f"## {title}: {listed(names)}" if names else f"## {title}: no record")
        if not mine:
            parts.append(f"No record of a {title} device was given, so the cells below are empty and nothing is claimed.")
        parts.append(_targets(device, mine))
        if device == "cpu" and picture:
            parts.append(f"![Training time and memory against context]({picture})")
        for path, record in mine.items():
            parts += _record(path, record, beside)
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
`archbench performance RECORD...` writes this file from records of `archbench bench`. Do not edit it.

* **Ratios.** The two sides of a ratio take turns, in one process unless noted. A cell shows the median over rounds of
  each round's ratio, with the quartiles in brackets.
* **Products** are a step's own matrix products, forward and backward, run alone: a lower bound for the step's time.
* **`a * b` and the copy** show this machine's best memory bandwidth, with the same allocator settings.
* **`hf`** is `transformers` in our process, so it uses our allocator settings too.
* **`hf stock`** is `transformers` in its own untouched process, as its user would run it; only the number of threads is
  set. Ours is timed again for this ratio, and the two processes take turns.
* **`bf16-mixed`** and **`products`** are `train.precision: bf16-mixed` and `train.products: bf16` of a run on a CPU.
* **`hf-compiled`** is its training step compiled as a whole by `torch.compile`; **`hf-compiled-autocast`** runs it under
  autocast to bfloat16. **`x-transformers`** (MIT), compiled, is a model of the same sizes, without windows.
* **`llama.cpp`** (MIT) decodes the same weights in a process of its own, built from its source for this CPU
  (`llama-cpp-python`), without flash attention; its cache is float32 beside float32 weights and float16 beside bfloat16 ones.

Every target against `transformers` has one row for each of the first two."""


def _targets(device, records):
    lines = ["| target | | measured | |", "|---|---|---|---|"]
    for target in TARGETS:
        if target.hardware != device:
            continue
        found = [ratio for ratio in (target.measured(record) for record in records.values()) if ratio]
        latest = found[-1] if found else None
        verdict = "" if latest is None else "met" if target.met(latest) else f"**not met**, {target.missing(latest)}"
        lines.append(f"| {target.what} | {target.held_to} | {_ratio(latest, target.unit)} | {verdict} |")
    return "\n".join(lines)


def _record(path, record, beside):
    asked = record.asked
    link = os.path.relpath(path, beside)
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    commit = record.git.get("commit", "unknown")[:12] + (" with uncommitted changes" if record.git.get("dirty") else "")
    settings = ", ".join(f"{name}={value}" for name, value in record.allocator.get("mallopt", {}).items()) or "default"
    preloaded = ", ".join(record.allocator.get("preloaded", []))
    lines = [
        f"### [{record.started or path}]({link})",
        f"{_hardware(record)}; {times(record.threads, 'thread')}; {asked['dtype']}; {versions}; commit {commit}; "
        f"{'finished' if record.status == 'finished' else f'**{record.status}**'}. Allocator: glibc {settings}"
        + (f", {preloaded} preloaded" if preloaded else "")
        + f". Steps of {asked['tokens']:,} tokens.",
    ]
    sheets = [_ceilings(record), _training(record), _decoding(record), _profiles(record), _others(record)]
    lines += [sheet for sheet in sheets if sheet]
    lines += [f"* {note}" for note in [*record.notes, record.disturbed()] if note]
    lines += [f"* failed: {failure.error}: {failure.message.splitlines()[-1]}" for failure in record.failures]
    return lines


def _ceilings(record):
    rows = [
        [each.side, f"{units.scaled(each.best_rate, each.of)}/s", f"{units.scaled(each.rate, each.of)}/s"]
        for each in record.measurements
        if each.what == "ceiling"
    ]
    return _table(["ceiling", "best", "median"], rows)


def _training(record):
    peers, rows = record.peers("train"), []
    kinds = record.asked.get("precisions", ())
    weighed = [*(f"ours {kind}" for kind in kinds), *record.weighed()]
    sides = {"tokens/s": "ours", "compiled": "compiled", "products alone": "products"}
    for case in record.cases("train"):
        found = {side: record.find("train", side, **case) for side in sides.values()}
        row = [case["spec"], f"{case['context']:,}", *(_rate(each) for each in found.values())]
        row += [_ratio(ratio(found[side], found["products"])) for side in ("ours", "compiled")]
        for kind in kinds:
            other = record.find("train", f"ours {kind}", **case)
            row += [_rate(other), _ratio(ratio(other, found["ours"]), "x") or units.DASH]
        for _, end, side in peers:
            row += _compared(record, f"train{end}", case, side)
        memory = [record.find("memory", side, **case) for side in ("ours", *weighed)]
        rows.append([*row, *(units.size(each.median) if each else units.DASH for each in memory)])
    compared = [word for peer, _, _ in peers for word in (f"`{peer}`", f"over `{peer}`")]
    others = [word for kind in kinds for word in (f"`{kind}`", "over ours in float32")]
    head = ["training", "context", *sides, "share of products", "compiled: share of products", *others, *compared]
    return _table([*head, "memory", *(f"`{peer}` memory" for peer in weighed)], rows)


def _decoding(record):
    peers, rows = record.peers("decode"), []
    for case in record.cases("decode"):
        for kind, ending in record.types():
            row = [case["spec"], kind, f"{case['context']:,}", str(case["batch"])]
            for what in ("prefill", "decode"):
                row.append(_rate(record.find(what, f"ours{ending}", **case)))
                for _, end, side in peers:
                    row += _compared(record, f"{what}{end}", case, side, ending)
            cache = None if ending else record.find("cache", "ours", **case)
            rows.append([*row, f"{cache.values[0]:,.0f} B of {cache.facts['arch.cost']:,}" if cache else units.DASH])
    compared = [word for peer, _, _ in peers for word in (f"`{peer}`", "ratio")]
    head = ["decoding", "weights", "cached tokens", "batch", "prompt tokens/s", *compared, "decoded tokens/s", *compared, "cache"]
    return _table(head, rows)


def _compared(record, what, case, peer, ending=""):
    """[the peer's rate, our rate over it], as text."""
    ours, theirs = (record.find(what, f"{side}{ending}", **case) for side in ("ours", peer))
    return [_rate(theirs), _ratio(ratio(ours, theirs), "x") or units.DASH]


def _profiles(record):
    kinds = list(dict.fromkeys(kind for profile in record.profiles for kind in profile.kinds))
    rows = [
        [each.case["spec"], f"{each.case['context']:,}", units.duration(each.seconds)]
        + [units.share(round(each.kinds.get(kind, 0) / each.seconds, 2)) for kind in kinds]
        for each in record.profiles
    ]
    return _table(["profile of one step", "context", "time under the profiler", *kinds], rows)


def _others(record):
    shown = ("ceiling", "train", "prefill", "decode", "memory", "cache")
    rows = [
        [
            each.what,
            ", ".join(str(value) for value in each.case.values()),
            each.side,
            units.size(each.median) if each.unit == "B" else units.duration(each.median),
            f"{units.scaled(each.rate, each.of)}/s" if each.of else "",
        ]
        for each in record.measurements
        if each.what.removesuffix(" stock") not in shown
    ]
    return _table(["measured alone", "case", "side", "median", "rate"], rows)


def _table(head, rows):
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _rate(measurement):
    return f"{measurement.rate:,.0f}" if measurement else units.DASH


def _ratio(found, unit=""):
    if not found:
        return ""
    text = f"{units.number(found.median, 3)}{units.SPACE}{unit}".rstrip(f"{units.SPACE} ")
    return text + (f" {units.interval(found.low, found.high, 3)}" if found.rounds > 1 else "")


def _hardware(record):
    facts = record.hardware
    if record.asked["device"] == "cuda":
        return facts.get("gpu", "an unnamed GPU")
    return f"{facts.get('cpu') or 'an unnamed CPU'}, {times(facts.get('cores', 1), 'core')}"
