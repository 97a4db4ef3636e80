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
    kind = study.metric(metric)
    return {arm: _shown(_band(values), lambda x: off_scale(x, kind)) for arm, values in _by_seed(study, metric, over, arms).items()}


def difference_bands(study, metric, over="tokens", arms=None):
    """Like `bands`, for the effect of the difference to the baseline (`sweeps.compare.effect`), paired by seed."""
    kind, by_seed = study.metric(metric), _by_seed(study, metric, over, arms)
    baseline = by_seed.pop(study.baseline, None)
    found = {}
    for arm, values in by_seed.items():
        if baseline is None:
            continue
        seeds = values.columns.intersection(baseline.columns)
        difference = (values[seeds] - baseline[seeds]).dropna()
        if len(seeds) and len(difference):
            found[arm] = _shown(_band(difference), lambda x: effect(x, kind))
    return found


def _shown(band, show):
    """A band with its mean and ends as they are shown."""
    ends = ["mean", "low", "high"]
    return band.assign(**band[ends].map(show))


def _by_seed(study, metric, over, arms):
    """{arm: DataFrame} of the metric on its scale; empty if no run has such a curve.

    One row per value of `over` that all finished seeds of the arm have, one column per seed.
    """
    if metric not in study.curves:
        return {}
    kind = study.metric(metric)
    finished = study.runs.loc[study.runs.status == "finished", ["arm", "seed"]]
    columns = list(dict.fromkeys(["arm", "seed", over, metric]))
    curves = study.curves.loc[study.curves[metric].notna(), columns].merge(finished, on=["arm", "seed"])
    arms = study.record.arms if arms is None else {study.baseline, *arms}
    by_arm = dict(iter(curves[curves.arm.isin(arms)].groupby("arm", sort=False)))
    found = {}
    for arm in study.record.arms:
        if arm in by_arm:
            # A resumed run may have logged a point twice; it continued from the later one.
            values = by_arm[arm].pivot_table(index=over, columns="seed", values=metric, aggfunc="last").dropna()
            found[arm] = values.map(lambda x: on_scale(x, kind))
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
