"""Which arms of a large study a page names one by one. The others stand behind them, all together; the CSV files have every arm.

A figure with 300 lines shows nothing, and a page with 300 rows for everything cannot be opened. Up to MANY arms nothing changes.
"""

from sweeps.compare import harm
from sweeps.stats import mean_interval

MANY = 24
BEST, WORST = 8, 4
FEW_BEST, FEW_WORST = 3, 1


def named(study, judgement):
    """The arms that figures and tables show, in the study's order: all, or the baseline, controls, and the best and worst ones.

    Best and worst by the mean of the claim's metric over the finished seeds; an arm without a number is neither.
    """
    arms = list(study.record.arms)
    if len(arms) <= MANY:
        return arms
    order = ranked(judgement)
    controls = [arm for arm in getattr(judgement.claim.config, "known_worse", ()) if arm in study.record.arms][:WORST]
    kept = {study.baseline, judgement.baseline, *controls, *order[:BEST], *order[-WORST:]}
    return [arm for arm in arms if arm in kept]


def few(study, judgement):
    """Like `named`, but fewer: the arms of which a page draws everything else that was measured, a figure each."""
    arms = named(study, judgement)
    if len(arms) == len(study.record.arms):
        return arms
    order = ranked(judgement)
    return [arm for arm in arms if arm in {study.baseline, *order[:FEW_BEST], *order[-FEW_WORST:]}]


def looks(study, judgement):
    """{arm: how it is drawn} of every arm, in every figure of a study: the named arms have the first colours."""
    from analysis import drawing  # with matplotlib, which tables do not need

    return drawing.looks(dict.fromkeys([*named(study, judgement), *study.record.arms]))


def ranked(judgement):
    """The arms with a number in the claim's metric, the best first; by the smallest one where neither side is better."""
    means = {arm: mean_interval(list(values.values())).mean for arm, values in judgement.scaled.items() if values}
    metric = judgement.shown.metric
    return sorted(means, key=lambda arm: means[arm] if metric.better == "neither" else harm(means[arm], metric))
