"""Curves over seeds: an arm's mean with its 95 % band, and its paired difference to the baseline during training.

Only finished runs are used, so every point of a curve is a mean over the same seeds.
"""

import numpy as np
import pandas as pd

from analysis.stats import half_width


def bands(study, metric, over="tokens"):
    """{arm: DataFrame of mean, low, high, n, indexed by `over`}. low and high are NaN with one seed."""
    return {arm: _band(values) for arm, values in _by_seed(study, metric, over).items()}


def difference_bands(study, metric, over="tokens"):
    """Like `bands`, for the relative difference in perplexity to the baseline (0.01 is 1 %), paired by seed."""
    by_seed = _by_seed(study, metric, over)
    baseline = by_seed.pop(study.baseline, None)
    found = {}
    for arm, values in by_seed.items():
        if baseline is None:
            continue
        seeds = values.columns.intersection(baseline.columns)
        difference = (values[seeds] - baseline[seeds]).dropna()
        if len(seeds) and len(difference):
            band = _band(difference)
            found[arm] = band.assign(**np.expm1(band[["mean", "low", "high"]]))
    return found


def _by_seed(study, metric, over):
    """{arm: DataFrame}, one row per value of `over` that all finished seeds of the arm have, one column per seed."""
    finished = study.runs.loc[study.runs.status == "finished", ["arm", "seed"]]
    curves = study.curves.dropna(subset=[metric]).merge(finished, on=["arm", "seed"])
    found = {}
    for arm in study.record.arms:
        own = curves[curves.arm == arm]
        if len(own):
            # A resumed run may have logged a point twice; it continued from the later one.
            found[arm] = own.pivot_table(index=over, columns="seed", values=metric, aggfunc="last").dropna()
    return found


def _band(values):
    n = values.shape[1]
    mean = values.mean(axis=1)
    half = half_width(values.std(axis=1, ddof=1), n) if n > 1 else np.nan
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": n})
