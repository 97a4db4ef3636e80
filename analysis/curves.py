"""Curves over seeds: an arm's mean with its 95 % band, and its paired difference to the baseline during training.

Only finished runs are used, so every point of a curve is a mean over the same seeds.
"""

import numpy as np
import pandas as pd

from sweeps.compare import effect, off_scale, on_scale
from sweeps.stats import half_width

# Into so many stretches the loss of single batches is put together, which is noise step by step.
STRETCHES = 30


def bands(study, metric, over="tokens", arms=None):
    """{arm: DataFrame of mean, low, high, n, indexed by `over`}, of some arms or all. low and high are NaN with one seed.

    A metric of the train split, which is one of single batches, is a mean over up to STRETCHES stretches.
    """
    return _means(_by_seed(study, metric, over, arms), study.metric(metric))


def difference_bands(study, metric, over="tokens", arms=None):
    """Like `bands`, for the effect of the difference to the baseline (`sweeps.compare.effect`), paired by seed."""
    return _differences(_by_seed(study, metric, over, arms), study.baseline, study.metric(metric))


def bands_and_differences(study, metric, over="tokens", arms=None):
    """(`bands`, `difference_bands`), for which the curves are read once."""
    by_seed, kind = _by_seed(study, metric, over, arms), study.metric(metric)
    return _means(by_seed, kind), _differences(by_seed, study.baseline, kind)


def _means(by_seed, kind):
    return {arm: _shown(_band(values), lambda x: off_scale(x, kind)) for arm, values in by_seed.items()}


def _differences(by_seed, base, kind):
    found, baseline = {}, by_seed.get(base)
    for arm, values in by_seed.items() if baseline is not None else ():
        seeds = values.columns.intersection(baseline.columns)
        difference = (values[seeds] - baseline[seeds]).dropna()
        if arm != base and len(seeds) and len(difference):
            found[arm] = _shown(_band(difference), lambda x: effect(x, kind))
    return found


def _shown(band, show):
    """A band with its mean and ends as they are shown."""
    return band.assign(**{end: [show(float(value)) for value in band[end]] for end in ("mean", "low", "high")})


def _by_seed(study, metric, over, arms):
    """{arm: DataFrame} of the metric on its scale; empty if no run has such a curve.

    One row per value of `over` that all finished seeds of the arm have, one column per seed.
    """
    if not any(metric in columns for columns in study.histories.values()):
        return {}
    arms = list(study.record.arms if arms is None else {study.baseline, *arms})
    every = study.curves_of(arms)
    if metric not in every:
        return {}
    kind = study.metric(metric)
    finished = study.runs.loc[study.runs.status == "finished", ["arm", "seed"]]
    columns = list(dict.fromkeys(["arm", "seed", over, metric]))
    curves = every.loc[np.isfinite(every[metric].astype(float)), columns].merge(finished, on=["arm", "seed"])
    by_arm = dict(iter(curves.groupby("arm", sort=False)))
    found = {}
    for arm in study.record.arms:
        if arm in by_arm:
            # A resumed run may have logged a point twice; it continued from the later one.
            once = by_arm[arm].drop_duplicates([over, "seed"], keep="last")
            values = once.pivot(index=over, columns="seed", values=metric).dropna()
            found[arm] = values.map(lambda x: on_scale(x, kind)) if kind.compare == "ratio" else values
            if metric.startswith("train/") and len(values) > STRETCHES:
                found[arm] = _stretched(found[arm])
    return found


def _stretched(values):
    """The means over equal stretches of rows; each stands where its stretch ends."""
    stretch = np.arange(len(values)) * STRETCHES // len(values)
    last = np.flatnonzero(np.r_[np.diff(stretch) > 0, True])
    return values.groupby(stretch).mean().set_index(values.index[last])


def _band(values):
    n = values.shape[1]
    mean = values.mean(axis=1)
    half = half_width(values.std(axis=1, ddof=1), n) if n > 1 else np.nan
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": n})
