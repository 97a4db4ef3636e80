"""The scenarios of `make simulate`: what the rule of verdicts promises, and what it can find.

Expected numbers are those of an independent simulation of the rule, which did not use these functions, or of the
noncentral t distribution.
"""

import math

import numpy as np

from sweeps import contrasts
from sweeps.claims.equivalent import BETTER, SAME, WORSE
from sweeps.looks import looks
from sweeps.paired import CONTRADICTED, SUPPORTED
from sweeps.simulation.study import METRIC, PAIRED_SD, SEED_SD, SIZE, Failing, Scenario

FIXED = (3, 5, 8, 12)
SEQUENTIAL = (looks(3, 12), looks(5, 12))
# A control that every study of five seeds sees.
CONTROL = math.log1p(0.07)
ALPHA = 0.05


def percent(effect):
    """A relative effect in percent as a difference in nats."""
    return math.log1p(effect / 100)


def sds(number):
    """A number of paired standard deviations in nats."""
    return number * PAIRED_SD


def detected(effect, n, error):
    """The power of a one-sided paired t test at level `error`. effect: in nats, from what is tested."""
    from scipy.stats import nct, t

    return float(nct.sf(t.isf(error, n - 1), n - 1, effect / PAIRED_SD * math.sqrt(n)))


def called(plan):
    """A plan for reading: `n = 5`, or `5 to 12`."""
    return f"n = {plan[0]}" if len(plan) == 1 else f"{plan[0]} to {plan[-1]}"


def _arms(*effects, control=None):
    arms = {"baseline": 0.0} | {f"arm {i}": effect for i, effect in enumerate(effects, 1)}
    return arms if control is None else arms | {"control": control}


def _equivalent(margin=0.01, control=False):
    return {"quality": {"type": "equivalent", "margin": margin, "known_worse": ["control"] if control else []}}


def _differs(verdict, word=None):
    """Whether a verdict says that there is a difference; also one that is within the margin, but not zero."""
    if verdict is None or verdict.interval is None or verdict.difference is None:
        return False
    if verdict.word == SAME:
        excluded = not verdict.interval[0] <= 0 <= verdict.interval[1]
        side = WORSE if verdict.difference > 0 else BETTER
        return excluded and word in (None, side)
    return verdict.word in (WORSE, BETTER) if word is None else verdict.word == word


def _asked(outcome):
    return {arm: verdict for arm, verdict in outcome.rulings["quality"].verdicts.items() if arm.startswith("arm")}


def any_difference(*outcomes):
    """Whether any arm that is asked about was called different."""
    return float(any(_differs(verdict) for outcome in outcomes for verdict in _asked(outcome).values()))


def any_same(*outcomes):
    """Whether any arm that is asked about was called no different."""
    return float(any(verdict.word == SAME for outcome in outcomes for verdict in _asked(outcome).values()))


def _false_word(identical):
    """Whether one of the first `identical` arms was called different, or one of the others no different."""

    def count(outcome):
        found = list(_asked(outcome).values())
        return float(any(map(_differs, found[:identical])) or any(verdict.word == SAME for verdict in found[identical:]))

    return count


def found(arm, word=WORSE):
    """Whether an arm was found to differ on the right side."""
    return lambda outcome: float(_differs(outcome.verdict(arm), word))


def is_word(subject, word, claim=None):
    """Whether the verdict on a subject is a word."""
    return lambda *outcomes: float(outcomes[-1].word(subject, claim) == word)


def seeds_of(arm):
    """How many seeds an arm had."""
    return lambda outcome: float(outcome.seeds[arm])


def identical():
    """Identical arms, read once."""
    for arms in (2, 4, 5, 8):
        for n in FIXED:
            yield Scenario(
                "Identical arms: any false “worse” or “better”",
                f"n = {n}",
                _arms(*[0.0] * (arms - 1)),
                _equivalent(),
                ((n,),),
                {f"{arms} arms": any_difference},
                at_most=ALPHA,
            )


def at_the_margin():
    """Arms whose true difference is just the margin."""
    for margin in (1, 2):
        for asked in (1, 4):
            for plan in (*((n,) for n in FIXED), *SEQUENTIAL):
                yield Scenario(
                    "Arms at the margin, beside a control of +7 %: any false “no difference”",
                    called(plan),
                    _arms(*[percent(margin)] * asked, control=CONTROL),
                    _equivalent(margin / 100, control=True),
                    (plan,),
                    {f"margin {margin} %, {asked} asked": any_same},
                    at_most=ALPHA,
                )


def mixture():
    """All words of a report together."""
    for margin in (1, 2):
        for plan in ((5,), (12,), *SEQUENTIAL):
            yield Scenario(
                "Two identical arms, two at the margin and a control: any false word",
                called(plan),
                _arms(0.0, 0.0, percent(margin), percent(margin), control=CONTROL),
                _equivalent(margin / 100, control=True),
                (plan,),
                {f"margin {margin} %": _false_word(2)},
                at_most=ALPHA,
            )


def peeking():
    """Looks that are paid for, and looks that are not. Identical arms; the first decided word stays."""
    table = "Identical arms, read again and again: any false “worse” or “better”"
    for asked, planned in ((1, 0.044), (4, 0.041)):
        arms, row = _arms(*[0.0] * asked), f"{asked} asked"
        three, five = SEQUENTIAL
        facts = {"at_most": ALPHA}
        yield Scenario(
            table, "plan 3 to 12", arms, _equivalent(), (three,), {row: any_difference}, expected={row: planned}, **facts
        )
        yield Scenario(table, "plan 5 to 12", arms, _equivalent(), (five,), {row: any_difference}, **facts)
        unpaid = tuple((n,) for n in FIXED)
        yield Scenario(
            table,
            "without a plan, at 3, 5, 8, 12",
            arms,
            _equivalent(),
            unpaid,
            {row: any_difference},
            expected={row: 0.141},
        )


def failures():
    """Runs that fail. What fails would have been worse by 5 %; over all its runs the arm is no different."""
    table = "One of four arms loses runs with a chance of 0.3, and these are its worse ones (by 5 %)"
    arms = _arms(-0.3 * percent(5), 0.0, 0.0)
    for n in (5, 8, 12):
        yield Scenario(
            table,
            f"n = {n}",
            arms,
            _equivalent(),
            ((n,),),
            {
                "called unstable": is_word("arm 1", "unstable"),
                "called better or no different, though it lost runs": _praised_in_spite_of_failures,
                "called better, as none of its runs failed": is_word("arm 1", BETTER),
            },
            expected={"called unstable": 1 - 0.7**n, "called better or no different, though it lost runs": 0.0},
            failing=Failing(("arm 1",), 0.3, percent(5)),
        )
        lost = Failing(tuple(_arms(0, 0, 0)), 0.05, by_machine=True)
        row = "the machine loses one run in 20: words on all arms before those are run again"
        none = 0.95 ** (4 * n)
        yield Scenario(
            table,
            f"n = {n}",
            _arms(sds(6), sds(6), sds(6)),
            _equivalent(),
            ((n,),),
            {row: lambda outcome: float(len(_asked(outcome)) == 3)},
            expected={row: none},
            failing=lost,
        )
        again = "the same after they are run again, identical arms: any false word"
        yield Scenario(
            table,
            f"n = {n}",
            _arms(0.0, 0.0, 0.0),
            _equivalent(),
            ((n,),),
            {again: any_difference},
            at_most=ALPHA,
            failing=lost,
            repeated=True,
        )


def _praised_in_spite_of_failures(outcome):
    return float(outcome.lost["arm 1"] > 0 and outcome.word("arm 1") in (BETTER, SAME))


def shown_same(margin, n, error):
    """The power of two one-sided paired t tests for an identical arm: the mean over the distribution of its spread."""
    from scipy.stats import chi2, norm, t

    parts = (np.arange(4000) + 0.5) / 4000
    spreads = np.sqrt(chi2.ppf(parts, n - 1) / (n - 1))
    room = margin / PAIRED_SD * math.sqrt(n) - t.isf(error, n - 1) * spreads
    return float(np.maximum(0.0, 2 * norm.cdf(room) - 1).mean())


def power():
    """How often a true difference, and a true equality, is found. Three asked beside a control."""
    table = "Power with three asked beside a control of +7 %"
    for plan in (*((n,) for n in FIXED), *SEQUENTIAL):
        rows = {f"found, {k} sd": found(f"arm {k}") for k in (1, 2, 3)}
        if len(plan) > 1:
            rows |= {f"mean seeds, {k} sd": seeds_of(f"arm {k}") for k in (1, 2, 3)}
        known = {row: detected(sds(k), plan[0], ALPHA / 3 / 2) for k, row in enumerate(rows, 1)} if len(plan) == 1 else {}
        arms = _arms(*map(sds, (1, 2, 3)), control=CONTROL)
        # The margin is small, so that the first word on a small difference is that it is one.
        yield Scenario(table, called(plan), arms, _equivalent(0.001, control=True), (plan,), rows, expected=known)
        for margin in (1, 2):
            rows = {f"“no difference”, identical, margin {margin} %": is_word("arm 1", SAME)}
            if len(plan) > 1:
                rows |= {f"mean seeds, identical, margin {margin} %": seeds_of("arm 1")}
            # With three seeds, the control is often missed.
            formula = len(plan) == 1 and plan[0] >= 5
            known = {next(iter(rows)): shown_same(-percent(-margin), plan[0], ALPHA / 3)} if formula else {}
            arms = _arms(0.0, 0.0, 0.0, control=CONTROL)
            yield Scenario(table, called(plan), arms, _equivalent(margin / 100, control=True), (plan,), rows, expected=known)


def sequential():
    """Four asked, seeds added until decided: the values of the rule."""
    table, plan = "Seeds until decided, four asked", looks(3, 12)
    effects = {"1 sd": sds(1), "2 sd": sds(2), "5.83 sd": sds(5.83)}
    arms = _arms(0.0, *effects.values(), control=CONTROL)
    rows = {f"found, {name}": found(f"arm {i}") for i, name in enumerate(effects, 2)}
    rows |= {f"mean seeds, {name}": seeds_of(f"arm {i}") for i, name in enumerate(effects, 2)}
    known = dict(zip(rows, (0.63, 0.993, 1.0, 11.3, 8.5, 5.3), strict=True))
    yield Scenario(table, called(plan), arms, _equivalent(0.001, control=True), (plan,), rows, expected=known)
    arms = _arms(*[0.0] * 4, control=CONTROL)
    same, seeds = "“no difference”, identical, margin 2 %", "mean seeds, identical, margin 2 %"
    wrong = "any false “worse” or “better”, identical"
    yield Scenario(
        table,
        called(plan),
        arms,
        _equivalent(0.02, control=True),
        (plan,),
        {same: is_word("arm 1", SAME), seeds: seeds_of("arm 1")},
        expected={same: 0.98, seeds: 9.6},
    )
    yield Scenario(table, called(plan), arms, _equivalent(0.02, control=True), (plan,), {wrong: any_difference}, at_most=ALPHA)


def _claim(kind, **options):
    return {"claim": {"type": kind, "metric": METRIC, **options}}


def claims():
    """The other claims: one question each, read once."""
    table = "Other claims, one question"
    for n in (3, 5, 8, 12):
        for effect in (1, 2, 3):
            row = f"`better` by 1 %, truly better by {effect} %: supported"
            claim, known = _claim("better", arm="arm 1", by=0.01), {n: detected(percent(-1) - percent(-effect), n, ALPHA)}
            yield _one(table, n, row, _arms(percent(-effect)), claim, "arm 1", known, effect == 1)
        for effect in (1, 0):
            row = f"`not_worse` by 1 %, truly worse by {effect} %: supported"
            claim, known = _claim("not_worse", arm="arm 1", margin=0.01), {n: detected(percent(1) - percent(effect), n, ALPHA)}
            yield _one(table, n, row, _arms(percent(effect)), claim, "arm 1", known, effect == 1)
    yield from _ordered(table)
    yield from _crosses(table)
    yield from _value(table)
    yield from _power_law(table)


def _one(table, n, row, arms, claim, subject, known=None, false=False, word=SUPPORTED, **more):
    """A Scenario of one claim. known: {n: the expected number}. false: the word is wrong, so it is said at most at ALPHA."""
    expected = {row: known[n]} if known and n in known else {}
    rows = {row: is_word(subject, word)}
    facts = {"at_most": ALPHA if false else None, "expected": expected}
    return Scenario(table, f"n = {n}", arms, claim, ((n,),), rows, **facts, **more)


def _ordered(table):
    names = ["baseline", "arm 1", "arm 2", "arm 3", "arm 4"]
    claim, subject = _claim("ordered", arms=names, margin=0.01), " → ".join(names)
    cases = {
        "steps of 0.5 %: supported": ((0.005, 0.01, 0.015, 0.02), {5: 0.26, 8: 0.76, 12: 0.96}, False),
        "only the last is worse, by 7 %: supported": ((0, 0, 0, CONTROL), {5: 0.06, 8: 0.24, 12: 0.59}, False),
        "all equal: supported": ((0, 0, 0, 0), {}, True),
        "a trend with one step back by the margin: supported": ((0.05, 0.05 + percent(-1), 0.1, 0.15), {}, True),
        "a trend with one step back by 2 %: supported": (
            (0.05, 0.05 + percent(-2), 0.1, 0.15),
            {5: 0.0, 8: 0.0, 12: 0.0},
            True,
        ),
    }
    for n in (3, 5, 8, 12):
        for row, (effects, known, false) in cases.items():
            yield _one(table, n, f"`ordered`, five arms, {row}", _arms(*effects), claim, subject, known, false)
        row = "`ordered`, five arms, all equal: contradicted"
        yield _one(table, n, row, _arms(0, 0, 0, 0), claim, subject, {}, True, CONTRADICTED)


def _crosses(table):
    claim = _claim("crosses", early=["baseline", "arm 1"], late=["arm 2", "arm 3"])
    subject = "arm 3 crosses arm 2"
    for n in (3, 5, 8, 12):
        known = {3: 0.36, 5: 0.84, 8: 0.99}
        row = "`crosses`, +2 % early and −2 % late: supported"
        yield _one(table, n, row, _arms(percent(2), percent(2), 0.0), claim, subject, known)
        row = "`crosses`, no difference early and −7 % late: supported"
        yield _one(table, n, row, _arms(0.0, percent(7), 0.0), claim, subject, {}, True)
        row = "`crosses`, better by 1 sd early, no difference late: contradicted"
        known = {n: 1 - (1 - detected(sds(1), n, ALPHA / 2)) * (1 - ALPHA / 2)}
        yield _one(table, n, row, _arms(sds(-1), 0.0, 0.0), claim, subject, known, word=CONTRADICTED)
        row = "`crosses`, +7 % early and no difference late: contradicted"
        yield _one(table, n, row, _arms(percent(7), 0.0, 0.0), claim, subject, {}, True, CONTRADICTED)


def _value(table):
    for n in (3, 5, 8, 12):
        claim = _claim("value", arm="baseline", value=LOSS_VALUE, within=0.05)
        row = "`value` of a loss, true, within 5 %: supported"
        yield _one(table, n, row, _arms(0.0), claim, "baseline", {3: 0.22, 5: 0.53, 8: 0.87, 12: 0.99})
        row = "`value` of a loss, just outside of 5 %: supported"
        edge = {"baseline": percent(5), "arm 1": 0.0}
        yield _one(table, n, row, edge, claim, "baseline", {}, True)
        row = "`value` of a loss, just inside of 5 %: contradicted"
        yield _one(table, n, row, edge, claim, "baseline", {}, True, CONTRADICTED)


LOSS_VALUE = 4.0
# Five sizes, each twice as expensive as the one before, and two groups.
SIZES = [1e15 * 2**i for i in range(5)]


def _power_law(table):
    """Two groups whose losses fall as C^-0.1 and C^-(0.1 + more)."""

    def arms(more):
        slopes = {"a": -0.1, "b": -0.1 - more}
        return {f"{name}{i}": slope * math.log(size) for name, slope in slopes.items() for i, size in enumerate(SIZES)}

    sizes = {label: SIZES[int(label[1:])] for label in arms(0)}
    groups = {name: [f"{name}{i}" for i in range(len(SIZES))] for name in "ab"}
    covered = lambda outcome: float(_covers(outcome.verdict("exponent of a")))  # noqa: E731
    for n in (3, 5, 8, 12):
        facts = {"exponential": True, "sizes": sizes}
        # Two questions, so that the interval shown is that of 95 %.
        claim = _claim("power_law", groups=groups, over=SIZE, exponent=-0.1, within=0.01)
        row = "`power_law`, its 95 % interval covers the exponent"
        yield Scenario(table, f"n = {n}", arms(0), claim, ((n,),), {row: covered}, expected={row: 0.95}, **facts)
        claim = _claim("power_law", groups=groups, over=SIZE, than_first="steeper")
        row = "`power_law`, same exponents: called steeper"
        yield _one(table, n, row, arms(0), claim, "b against a", {}, True, **facts)
        row = "`power_law`, steeper by 0.01: supported"
        # The slope of a paired difference over sizes that double.
        known = {n: detected(0.01 * math.log(2) * math.sqrt(10), n, ALPHA)}
        yield _one(table, n, row, arms(0.01), claim, "b against a", known, **facts)


def _covers(verdict):
    return verdict is not None and verdict.interval is not None and verdict.interval[0] <= 0 <= verdict.interval[1]


def t3(random, shape):
    """Heavy tails: Student's t with three degrees of freedom."""
    return random.standard_t(3, shape) / math.sqrt(3)


def exponential(random, shape):
    """A skew of 2."""
    return random.exponential(size=shape) - 1


def lognormal(random, shape):
    """A skew of 6: a lognormal distribution with sigma = 1."""
    return (random.lognormal(0, 1, shape) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def not_normal():
    """Noise that no t test assumes. Five identical arms."""
    known = {t3: (0.040, 0.035, 0.032, 0.033), exponential: (0.029, 0.024, 0.026, 0.032), lognormal: ()}
    names = {t3: "t with 3 degrees of freedom", exponential: "exponential", lognormal: "lognormal"}
    for noise, row in names.items():
        for plan in (*((n,) for n in FIXED), SEQUENTIAL[0]):
            numbers = dict(zip(((n,) for n in FIXED), known[noise], strict=False))
            yield Scenario(
                "Noise that is not normal, five identical arms: any false “worse” or “better”",
                called(plan),
                _arms(*[0.0] * 4),
                _equivalent(),
                (plan,),
                {row: any_difference},
                at_most=ALPHA,
                expected={row: numbers[plan]} if plan in numbers else {},
                noise=noise,
            )


def exploratory():
    """A second plan after a look at the first: nothing pays for it, so the bound is the sum of both."""
    for first, second in (((5,), (12,)), ((5,), (5, 8, 12)), ((3,), (5,))):
        yield Scenario(
            "A second plan after a look at the first, five identical arms: any false “worse” or “better”",
            f"{called(first)}, then {called(second)}",
            _arms(*[0.0] * 4),
            _equivalent(),
            (first, second),
            {"exploratory": any_difference},
            at_most=2 * ALPHA,
        )


def factors():
    """The main effects and interactions of a grid, as `compare: factors` asks about them. cap=on is worse everywhere, or only
    at the last window; what is true of an effect is computed from its weights."""
    title = "Effects of a grid (`compare: factors`), "
    grids = {"2 x 2": {"W": ["4", "16"], "cap": ["off", "on"]}, "3 x 2": {"W": ["4", "16", "64"], "cap": ["off", "on"]}}
    for name, grid in grids.items():
        cells = contrasts.cells(grid)
        effects = contrasts.factorial(grid, cells)
        claim = {
            "quality": {"type": "equivalent", "margin": 0.001, "contrasts": {key: each.dump() for key, each in effects.items()}}
        }
        everywhere = {label: sds(2) * (levels["cap"] == "on") for label, levels in cells.items()}
        at_last = {label: sds(2) * (label == [*cells][-1]) for label in cells}
        for plan in (*((n,) for n in FIXED), SEQUENTIAL[0]):
            column, facts = called(plan), ((plan,), {f"{name}, {len(effects)} asked": _any_false(effects)})
            yield Scenario(
                f"{title}identical cells: any false word", column, dict.fromkeys(cells, 0.0), claim, *facts, at_most=ALPHA
            )
            facts = ((plan,), {f"{name}, on the effects that are none": _any_false(effects, everywhere)})
            yield Scenario(
                f"{title}cap=on worse by 2 sd at every window: any false word", column, everywhere, claim, *facts, at_most=ALPHA
            )
        for n in FIXED:
            for truth, subject, where in (
                (everywhere, "cap=on", "at every window"),
                (at_last, [*effects][-1], "at the last window only"),
            ):
                known = _effect_found(effects[subject], truth, n, ALPHA / len(effects) / 2)
                row = f"{name}, `{subject}`, where cap=on is worse by 2 sd {where}"
                rows, expected = {row: found(subject)}, {row: known}
                yield Scenario(f"{title}found", f"n = {n}", truth, claim, ((n,),), rows, expected=expected)


def _true_effect(contrast, truth):
    return sum(weight * truth[arm] for arm, weight in contrast.weights.items())


def _any_false(effects, truth=None):
    """Whether an effect that is none was called different. truth: {arm: how much worse it is}; by default no effect is one."""
    none = [name for name, each in effects.items() if truth is None or abs(_true_effect(each, truth)) < 1e-9]

    def count(*outcomes):
        return float(any(_differs(outcome.verdict(name)) for outcome in outcomes for name in none))

    return count


def _effect_found(contrast, truth, n, error):
    """The power for one effect. Of two arms' difference the weights' squares add up to 2, and its sd is PAIRED_SD."""
    spread = math.sqrt(sum(weight**2 for weight in contrast.weights.values()) / 2)
    return detected(_true_effect(contrast, truth) / spread, n, error)


# The standard deviation of the difference of two runs with different seeds.
UNPAIRED_SD = math.sqrt(2) * math.hypot(SEED_SD, PAIRED_SD / math.sqrt(2))


def unpaired():
    """Arms with seeds of their own, which nothing pairs. The control shares the baseline's."""
    table = "Arms with seeds of their own (`first_seed`), compared without pairing"
    for asked in (1, 4):
        arms = _arms(*[0.0] * asked)
        firsts = {f"arm {i}": 100 * i for i in range(1, asked + 1)}
        for plan in (*((n,) for n in FIXED), *SEQUENTIAL):
            row = f"identical, {asked} asked: any false “worse” or “better”"
            facts = {"at_most": ALPHA, "first_seeds": firsts}
            yield Scenario(table, called(plan), arms, _equivalent(), (plan,), {row: any_difference}, **facts)
    for plan in (*((n,) for n in FIXED), *SEQUENTIAL):
        arms, firsts = _arms(percent(10), control=2 * CONTROL), {"arm 1": 100}
        row, claim = "at the margin of 10 %, beside a control of +14 %: false “no difference”", _equivalent(0.1, control=True)
        yield Scenario(table, called(plan), arms, claim, (plan,), {row: any_same}, at_most=ALPHA, first_seeds=firsts)
        for k in (1, 2, 3):
            row = f"found, {k} sd of the difference of two such runs"
            arms = _arms(k * UNPAIRED_SD)
            yield Scenario(table, called(plan), arms, _equivalent(0.001), (plan,), {row: found("arm 1")}, first_seeds=firsts)


TABLES = (
    identical,
    at_the_margin,
    mixture,
    peeking,
    failures,
    power,
    sequential,
    claims,
    not_normal,
    exploratory,
    factors,
    unpaired,
)


def scenarios():
    """Every Scenario, in the order of the tables."""
    return [scenario for table in TABLES for scenario in table()]
