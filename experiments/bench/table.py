"""Print a benchmark: first the measurements with their ratios, last the targets beside the measured values."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arch import units
from experiments.bench.record import ratio
from experiments.bench.spec import TARGETS


def tables(record):
    """All measurements of a BenchRecord, as a `rich` renderable."""
    parts = [_ceilings(record), _training(record), _decoding(record), _profiles(record), _others(record), _targets(record)]
    lines = [f"{failure.error}: {failure.message.splitlines()[-1]}" for failure in record.failures] + record.notes
    lines += [record.disturbed()] if record.disturbed() else []
    return Group(*(part for part in parts if part.row_count), *map(Text, lines))


def _ceilings(record):
    table = Table("ceiling", "best", "median", title="This machine", title_justify="left")
    for each in record.measurements:
        if each.what == "ceiling":
            table.add_row(each.side, *(f"{units.scaled(rate, each.of)}/s" for rate in (each.best_rate, each.rate)))
    return table


def _training(record):
    peers = record.peers("train")
    columns = ["model", "context", "tokens/s", *(word for peer, _, _ in peers for word in (f"{peer} tokens/s", f"over {peer}"))]
    columns += ["share of products"] + (["compiled tokens/s", "its share"] if record.asked["compile"] else [])
    kinds = record.asked.get("precisions", ())
    columns += [word for kind in kinds for word in (f"{kind} tokens/s", "over ours")]
    weighed = [*(f"ours {kind}" for kind in kinds), *record.weighed()]
    columns += ["memory"] + [f"{peer} memory" for peer in weighed]
    table = Table(*columns, title="Training", title_justify="left")
    cases = record.cases("train") + [case for case in record.cases("memory") if case not in record.cases("train")]
    for case in cases:
        sides = {side: record.find("train", side, **case) for side in ("ours", "compiled", "products")}
        row = [case["spec"], f"{case['context']:,}", _rate(sides["ours"])]
        for _, end, side in peers:
            row += list(_compared(record, f"train{end}", case, side))
        row += [_ratio(ratio(sides["ours"], sides["products"]))]
        if record.asked["compile"]:
            row += [_rate(sides["compiled"]), _ratio(ratio(sides["compiled"], sides["products"]))]
        for kind in kinds:
            other = record.find("train", f"ours {kind}", **case)
            row += [_rate(other), _ratio(ratio(other, sides["ours"]), "x")]
        table.add_row(*row, *(_bytes(record.find("memory", side, **case)) for side in ["ours", *weighed]))
    return table


def _decoding(record):
    peers = record.peers("decode")
    over = [f"over {peer}" for peer, _, _ in peers]
    columns = ["model", "context", "batch", "prompt tokens/s", *over, "decoded tokens/s", *over, "cache", "arch.cost says"]
    table = Table("weights", *columns, title="Decoding", title_justify="left")
    for case in record.cases("decode"):
        for kind, ending in record.types():
            row = [kind, case["spec"], f"{case['context']:,}", str(case["batch"])]
            for what in ("prefill", "decode"):
                ours = record.find(what, f"ours{ending}", **case)
                row += [_rate(ours), *(_compared(record, f"{what}{end}", case, side, ending)[1] for _, end, side in peers)]
            cache = None if ending else record.find("cache", "ours", **case)
            table.add_row(*row, _bytes(cache), f"{cache.facts['arch.cost']:,}" if cache else "")
    return table


def _compared(record, what, case, peer, ending=""):
    """(the peer's rate, the ratio of our rate to it)"""
    ours, theirs = (record.find(what, f"{side}{ending}", **case) for side in ("ours", peer))
    return _rate(theirs), _ratio(ratio(ours, theirs), "x")


def _profiles(record):
    kinds = list(dict.fromkeys(kind for profile in record.profiles for kind in profile.kinds))
    table = Table("model", "context", "step", *kinds, title="Where a training step's time goes", title_justify="left")
    for each in record.profiles:
        shares = (f"{each.kinds.get(kind, 0) / each.seconds:.0%}" for kind in kinds)
        table.add_row(each.case["spec"], f"{each.case['context']:,}", units.duration(each.seconds), *shares)
    return table


def _others(record):
    table = Table("what", "case", "side", "median", "rate", title="Beside models", title_justify="left")
    for each in record.measurements:
        if each.what.removesuffix(" stock") in ("ceiling", "train", "prefill", "decode", "memory", "cache"):
            continue
        case = " ".join(str(value) for value in each.case.values())
        median = _bytes(each) if each.unit == "B" else units.duration(each.median)
        table.add_row(each.what, case, each.side, median, f"{units.scaled(each.rate, each.of)}/s" if each.of else "")
    return table


def _targets(record):
    table = Table("target", "", "measured", "", title="Targets", title_justify="left")
    for target in TARGETS:
        measured = target.measured(record) if target.hardware == record.asked["device"] else None
        if measured:
            missing = target.missing(measured)
            table.add_row(target.what, target.held_to, _ratio(measured, target.unit), missing or "met")
    return table


def _rate(measurement):
    return f"{measurement.rate:,.0f}" if measurement else ""


def _bytes(measurement):
    return units.size(measurement.median) if measurement else ""


def _ratio(each, unit=""):
    """A Ratio as `1.52 x [1.49, 1.58]`: median and quartiles over rounds; empty for None."""
    if not each:
        return ""
    low_high = f" [{each.low:.2f}, {each.high:.2f}]" if each.rounds > 1 else ""
    return f"{each.median:.2f} {unit}".rstrip() + low_high
