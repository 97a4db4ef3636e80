"""A preview of a study: every arm and run, what each would cost, and the total. It needs no data and no weights."""

from itertools import groupby

from arch import document, units
from arch.errors import SpecError
from arch.spec import spelt
from arch.stacked import stacked
from arch.words import listed, times
from experiments import plan as experiments
from experiments import references, remarks
from experiments.metrics import EXECUTED, IDEAL, objective_costs
from sweeps import budget, computed, first_seeds, foreseen, ladder, shown_search, space, unmatched
from sweeps.arms import unused_runs
from sweeps.contrasts import what
from sweeps.judge import built
from sweeps.metrics import times_claimed
from sweeps.record import BudgetRecord, MatchRecord, packed, unpacked
from sweeps.scale import at_scale
from sweeps.search import space as spaces
from sweeps.study import arm_cost, overridden

NO_SEARCH = {"runs": 0, "tokens": 0, "training_flops": 0}
# Keys that decide what a run costs begin with these; the others change numbers only.
COSTLY = ("model.", "data.", "train.")


def preview(name, scale, spec, arms, runs_folder="runs", paired_sd=None):
    """The preview as plain data: `arms` by label, each with its runs' cost, totals, and what the plan can find (`power`).

    runs_folder, paired_sd: see `sweeps.foreseen`.
    """
    shown = {arm.label: _arm(spec, arm) for arm in arms}
    unknown = spec.search.winners if spec.search else ()  # until then they are like the arm that is searched
    specs = {arm.label: arm.spec for arm in arms if arm.label not in unknown}
    counts = {label: arm["parameters_non_embedding"] for label, arm in shown.items()}
    helpers = _helpers(spec, arms)
    runs = [arm for arm in shown.values() for _ in range(spec.most_seeds)]
    runs += [helper for helper in helpers.values() for _ in helper["seeds"]]
    search = {key: sum(arm["tuning"][key] for arm in shown.values()) for key in ("runs", "tokens", "training_flops")}
    unmeasured = budget.unmeasured(spec, arms)
    costs = {
        label: {"cost/parameters": arm["parameters"], "cost/flops_per_token": arm["flops_per_token"]["ideal"]}
        for label, arm in shown.items()
    }
    hints = unmatched.hints(spec, arms, costs)
    found = _study_search(spec, arms, shown)
    for key in search if found else ():
        search[key] += found[key]
    return {
        "name": name,
        "scale": scale,
        "question": spec.question,
        "seeds": list(range(spec.most_seeds)),
        **({"first_seeds": firsts} if (firsts := first_seeds.of(spec.arms)) else {}),
        **({"unmeasured": unmeasured} if unmeasured else {}),
        **({"unmatched": hints} if hints else {}),
        "arms": shown,
        "helpers": helpers,
        "search": found,
        "winners": list(unknown),
        "times": times_claimed(spec, arms),
        "computed": computed.verdicts(spec, specs, {label: each["objective"] for label, each in shown.items()}),
        "remarks": [
            *remarks.of_arms(specs, controls=spec.controls, first_seeds=first_seeds.of(spec.arms)),
            *ladder.remarks(spec, specs),
            *unused_runs(spec, arms),
        ],
        "notes": list(dict.fromkeys(note for arm in arms for note in arm.resolved.notes)),
        "ladder": [ladder.said(spec.ladder, each) for each in ladder.rungs(spec.ladder, specs, counts)],
        "total": {
            "runs": len(runs),
            "tokens": sum(run["tokens"] for run in runs) + search["tokens"],
            "training_flops": sum(run["training_flops"] for run in runs) + search["training_flops"],
            "tuning": search,
            **({"tuning_beyond": beyond} if (beyond := _beyond(spec, arms)) else {}),
        },
        "compared": _compared(spec),
        "power": foreseen.foreseen(name, scale, spec, arms, runs_folder, paired_sd),
    }


def _beyond(spec, arms):
    """At most how many runs more tuning takes, where the best values of arms lie at the ends of their ranges."""
    if spec.tune is None:
        return 0
    return sum(space.most_further_points(spec.tune, arm.spec) for arm in arms) * spec.tune.seeds


def _study_search(spec, arms, shown):
    """The preview of the study's own search; None without one."""
    if spec.search is None:
        return None
    base = next(arm for arm in arms if spec.search.base in (None, arm.label))
    trials = spaces.limit(spec.search, spaces.axes(spec.search.space, base.document, document.node({})))
    return shown_search.preview(spec.search, base.label, shown[base.label], trials)


def _compared(spec):
    """What a study compares in place of every arm with the first, in words: {claim: [comparison]}."""
    claims = {name: getattr(built(claim).config, "contrasts", {}) for name, claim in spec.claims.items()}
    return {name: [what(*each) for each in asked.items()] for name, asked in claims.items() if asked}


def _helpers(spec, arms):
    """{label: its cost, and the seeds} of the runs that are made only because an arm needs them."""
    helpers: dict[str, dict] = {}
    labels = [arm.label for arm in arms]
    search = spec.tune or spec.search
    trials = search.tuning_seeds if search else ()
    needed = dict.fromkeys(
        (need.label, at) for arm in arms for seed in [*spec.seeds_of(arm.label), *trials] for need, at in arm.runs(seed)
    )
    by_label = {need.label: need for arm in arms for need, _ in arm.runs(0)}
    for label, seed in needed:
        # An arm with another seed than the reported ones is a helper run too.
        if label not in labels or seed not in spec.seeds_of(label):
            helpers.setdefault(label, {**_arm(spec, by_label[label]), "tuning": NO_SEARCH, "seeds": []})["seeds"].append(seed)
    return helpers


def _arm(spec, arm):
    experiment = arm.spec
    cost = arm_cost(experiment, spec.long_context)
    with experiments.at_its_line(arm.document):
        used = references.referred(experiment, {position: need.spec for position, need in arm.needs.items()})
        objective = references.costs(experiment, None, used)
    flops = {kind: cost["flops_per_token"][kind]["train"] for kind in ("ideal", "executed")}
    blocks = experiment.model.layer_blocks()
    return {
        "changes": packed(arm.changes),
        "unwritten": list(arm.unwritten),
        **({"matched": [each.dump() for each in arm.matched]} if arm.matched else {}),
        **({"budget": arm.budget.dump()} if arm.budget else {}),
        "layers": {name: blocks.count(name) for name in dict.fromkeys(blocks)},
        "pattern": [f"{n}*{name}" if (n := len(list(run))) > 1 else name for name, run in groupby(blocks)],
        "parameters": cost["parameters"]["total"],
        "parameters_non_embedding": cost["parameters"].get("non_embedding"),
        "tokens": experiment.tokens,
        "context": experiment.data.context,
        "flops_per_token": flops,
        "training_flops": flops["executed"] * experiment.tokens + objective.get("flops", 0),
        "objective": objective,
        "uses": {option: each.name for option, each in used.items()},
        "cache_bytes": cost["cache_bytes"]["total"],
        "long": cost["long"],
        "tuning": _search(spec, arm, experiment.tokens, flops["executed"]),
    }


def _search(spec, arm, tokens, flops):
    """What an arm's search costs: its runs, their tokens and training FLOPs. tokens, flops: of the arm, and per token.

    Points of a grid that change the model, the data or the training are costed one by one. TPE's trials are costed like
    the arm, since their values are not known before.
    """
    if spec.tune is None:
        return NO_SEARCH
    seeds, points = spec.tune.seeds, space.points(spec.tune, arm.spec)
    if spec.tune.trials or not any(key.startswith(COSTLY) for key in spec.tune.space):
        runs = (spec.tune.trials or len(points)) * seeds
        return {"runs": runs, "tokens": runs * tokens, "training_flops": runs * tokens * flops}
    total = dict(NO_SEARCH)
    for values in points:
        try:
            tried = experiments.resolve(overridden(arm.document, values))
        except SpecError:
            continue  # a point that cannot be built fails without a run
        each = arm_cost(tried, spec.long_context)["flops_per_token"]["executed"]["train"] * tried.tokens
        for key, value in {"runs": 1, "tokens": tried.tokens, "training_flops": each}.items():
            total[key] += seeds * value
    return total


def printed(data, console, duration=None):
    """Print a preview: the arms, what a run of each costs, the totals. duration: a `sweeps.duration.Estimate`."""
    say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    say(f"{data['name']}{at_scale(data['scale'])}: {data['question']}")
    for remark in data["remarks"]:
        say(f"warning: {remark}")
    for note in data["notes"]:
        say(note)
    say("")
    for i, (label, arm) in enumerate(data["arms"].items()):
        if label in data["winners"]:
            say(f"{label}: a winner of the search; costed like {data['search']['base']}")
            continue
        counts = ", ".join(f"{n} {name}" for name, n in arm["layers"].items())
        say(f"{label}{' (baseline)' if i == 0 else ''}: {counts}")
        say(f"    layers: {' '.join(arm['pattern'])}")
        for key, (before, after) in unpacked(arm["changes"]).items():
            if key not in arm["unwritten"]:
                say(f"    {key}: {spelt(before)} -> {spelt(after)}")
        for each in arm.get("matched", ()):
            say(f"    matched: {MatchRecord.parse(each).words}")
        if "budget" in arm:
            say(f"    budget: {BudgetRecord.parse(arm['budget']).words}")
        if arm["objective"]:
            named = ", ".join(f"{option} {name!r}" for option, name in arm["uses"].items())
            say(f"    its objective{f' ({named})' if named else ''} adds per run: {objective_costs(arm['objective'])}")
    if data["ladder"]:
        say("")
        say("ladder (every run of a size):")
        for line in data["ladder"]:
            say(f"    {line}")
    for hint in data.get("unmatched", ()):
        say(hint)
    if waiting := data.get("unmeasured"):
        say(f"budget: `study run` first measures a training step of {listed(map(repr, waiting))}; here their steps are as written")
    say("")
    context = next(iter(data["arms"].values()))["long"]["context"]
    if data["search"]:
        shown_search.printed(data["search"], say, console)
    headings = [
        "arm",
        "runs",
        "parameters",
        "tokens",
        IDEAL,
        EXECUTED,
        *(["time"] if duration and duration.seconds else []),
    ]
    headings += ["cache", f"cache at {units.context(context)}"]
    rows = []
    for label, arm in data["arms"].items():
        rows.append([label, str(len(data["seeds"])), *_costs(label, arm, duration)])
        if search := arm["tuning"]["runs"]:
            spent = units.count(arm["tuning"]["tokens"]), "", units.flops(arm["tuning"]["training_flops"])
            rows.append([f"{label}, tuning (together)", str(search), "", *spent, *[""] * (len(headings) - 6)])
    for label, helper in data["helpers"].items():
        rows.append([f"{label}, helper run", str(len(helper["seeds"])), *_costs(label, helper, duration)])
    console.print(stacked(console, "a run of each arm", headings, rows))
    if firsts := data.get("first_seeds"):
        each = listed(f"{label!r} from {first}" for label, first in firsts.items())
        others = "; those of the other arms from 0" if len(firsts) < len(data["arms"]) else ""
        say(f"seeds count from an arm's first: those of {each}{others}")
        if len({firsts.get(label, 0) for label in data["arms"]}) > 1:
            say("arms with different first seeds are compared without pairing")
    for claim, compared in data["compared"].items():
        within = "" if firsts else ", within each seed"
        say(f"{claim} compares{within}:")
        for text in compared:
            say(f"    {text}")
    if data["computed"]:
        say("claims of costs alone, which need no run:")
        for each in data["computed"]:
            say(f"    {each['claim']}: {each['statement']}: {each['verdict']}{each['value']}")
        say("")
    if data["power"]:
        foreseen.printed(data["power"], say, console)
        say("")
    total = data["total"]
    search = total["tuning"]
    tuning = f" and {search['runs']} for tuning" if search["runs"] else ""
    share = f", of which {units.flops(search['training_flops'])} for tuning" if search["runs"] else ""
    say(
        f"total: {total['runs']} runs{tuning}, {units.count(total['tokens'])} tokens, "
        f"{units.flops(total['training_flops'])} of training (executed){share}"
    )
    if beyond := total.get("tuning_beyond"):
        say(f"and at most {times(beyond, 'run')} more for tuning, where the best of an arm lies at an end of a range")
    if data["times"]:
        one = "are times" if len(data["times"]) > 1 else "is a time"
        say(f"{listed(data['times'])} {one}: the runs go one at a time, on a machine that should do nothing else")
    if duration:
        say(duration.words)


def _costs(label, arm, duration):
    seconds = [units.duration(duration.seconds[label])] if duration and duration.seconds else []
    return (
        units.count(arm["parameters"]),
        units.count(arm["tokens"]),
        units.flops(arm["flops_per_token"]["ideal"] + arm["objective"].get("flops", 0) / max(1, arm["tokens"])),
        units.flops(arm["training_flops"]),
        *seconds,
        units.size(arm["cache_bytes"]),
        units.size(arm["long"]["cache_bytes"]),
    )
