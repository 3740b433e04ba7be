#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes decision/tests/data/oracle.json: what SciPy and statsmodels say.

python3 -m venv VENV && VENV/bin/pip install scipy==1.17.1 statsmodels==0.15.0
VENV/bin/python decision/tests/oracle.py > decision/tests/data/oracle.json
"""

import json
import sys

import numpy as np
import scipy
import statsmodels
from scipy import special, stats
from statsmodels.stats.multitest import multipletests

random = np.random.default_rng(20260101)


def gamma():
    points = [0.1, 0.5, 1.0, 1.5, 2.0, 3.7, 10.0, 15.9, 16.0, 100.5, 1e4, 1e7]
    return [{"x": x, "ln_gamma": float(special.gammaln(x))} for x in points]


def beta():
    rows = []
    shapes = [(1, 1), (0.5, 0.5), (1, 10), (3, 8), (11, 1), (40, 61), (5000, 5001), (3, 9998)]
    for a, b in shapes:
        for p in [1e-6, 0.005, 0.025, 0.3, 0.5, 0.95, 0.999]:
            x = float(special.betaincinv(a, b, p))
            rows.append({"a": a, "b": b, "x": x, "p": float(special.betainc(a, b, x))})
    return rows


def normal():
    points = [-6.0, -1.96, -0.3, 0.0, 0.5, 1.0, 1.96, 2.9, 3.0, 3.1, 5.0, 8.0, 20.0, 37.0]
    return [{"z": z, "above": float(stats.norm.sf(z))} for z in points]


def shares():
    rows = []
    for hits, trials in [(0, 1), (0, 10), (1, 10), (3, 10), (10, 10), (7, 40), (250, 10_000)]:
        test = stats.binomtest(hits, trials)
        two = test.proportion_ci(0.95, method="exact")
        most = stats.binomtest(hits, trials, alternative="less").proportion_ci(0.95, "exact")
        least = stats.binomtest(hits, trials, alternative="greater").proportion_ci(0.95, "exact")
        rows.append({
            "hits": hits, "trials": trials, "low": two.low, "high": two.high,
            "at_most": most.high, "at_least": least.low,
        })
    return rows


def medians():
    """The largest rank k with P(k <= Binomial(n, 1/2) <= n - k) >= confidence."""
    rows = []
    for count in [5, 6, 7, 8, 9, 10, 15, 20, 33, 50, 101, 1000, 10_000]:
        for confidence in [0.9, 0.95, 0.99]:
            ranks = np.arange(1, count // 2 + 1)
            coverages = 1 - 2 * stats.binom.cdf(ranks - 1, count, 0.5)
            good = np.flatnonzero(coverages >= confidence)
            rank = int(ranks[good[-1]]) if good.size else 0
            coverage = float(coverages[good[-1]]) if good.size else 0.0
            rows.append({
                "count": count, "confidence": confidence, "rank": rank, "coverage": coverage,
            })
    return rows


def signed_rank_p():
    """In whole numbers: the logarithms of ratios on a grid, so that both sides see the same ties."""
    rows = []
    exact = stats.PermutationMethod(n_resamples=np.inf)
    for count in [2, 3, 6, 7, 10, 12]:
        for span in [2, 5, 20]:
            values = random.integers(-span, span + 2, count)
            if not values.any():
                values[0] = 1
            found = stats.wilcoxon(values, zero_method="pratt", method=exact)
            rows.append({"values": values.tolist(), "p": float(found.pvalue)})
    for count in [7, 10, 14, 20, 33, 50]:
        values = (np.argsort(random.random(count)) + 1) * random.choice([-1, 1, 1], count)
        found = stats.wilcoxon(values, method="exact")
        rows.append({"values": values.tolist(), "p": float(found.pvalue)})
    for count in [63, 100, 1000]:
        values = (np.argsort(random.random(count)) + 1) * random.choice([-1, 1, 1, -1, 1], count)
        found = stats.wilcoxon(values, method="asymptotic", correction=True)
        rows.append({"values": values.tolist(), "p": float(found.pvalue)})
    return rows


def intervals():
    """Ends by asking SciPy between any two neighbouring means of two values."""
    rows = []
    for count, level in [(6, 0.05), (7, 0.0157), (10, 0.0137), (14, 0.0107), (20, 0.0099)]:
        values = random.choice(200_001, count, replace=False) - 90_000
        first, second = np.triu_indices(count)
        means = np.sort((values[first] + values[second]) / 2)
        between = (means[1:] + means[:-1]) / 2
        rejected = np.array([
            stats.wilcoxon(values - shift, method="exact").pvalue <= level for shift in between
        ])
        kept = np.flatnonzero(~rejected)
        rows.append({
            "values": values.tolist(), "level": level, "estimate": float(np.median(means)),
            "low": float(means[kept[0]]), "high": float(means[kept[-1] + 1]),
        })
    return rows


def adjusted():
    rows = []
    for p in [[0.01], [0.04, 0.01, 0.03, 0.5], [0.2, 0.2, 0.001, 0.9, 0.02, 0.02], [1.0, 0.0]]:
        rows.append({
            "p": p, "holm": multipletests(p, method="holm")[1].tolist(),
            "benjamini_hochberg": stats.false_discovery_control(p).tolist(),
        })
    return rows


def rank_sum():
    rows = []
    exact = stats.PermutationMethod(n_resamples=np.inf)
    for first, second, span in [(2, 5, 9), (3, 3, 2), (4, 6, 3), (6, 6, 30), (5, 9, 4)]:
        before = random.integers(0, span, first)
        after = random.integers(0, span, second) + span // 3
        found = stats.mannwhitneyu(before, after, method=exact)
        rows.append({"before": before.tolist(), "after": after.tolist(), "p": float(found.pvalue)})
    for first, second in [(3, 28), (7, 7), (15, 15), (30, 30)]:
        values = np.argsort(random.random(first + second))
        values[first:] += 1000 * (random.random(second) < 0.5)
        before, after = values[:first], values[first:]
        found = stats.mannwhitneyu(before, after, method="exact")
        rows.append({"before": before.tolist(), "after": after.tolist(), "p": float(found.pvalue)})
    return rows


json.dump({
    "made_by": "decision/tests/oracle.py", "scipy": scipy.__version__, "numpy": np.__version__,
    "statsmodels": statsmodels.__version__, "gamma": gamma(), "beta": beta(), "normal": normal(),
    "shares": shares(), "medians": medians(), "signed_rank_p": signed_rank_p(),
    "intervals": intervals(), "adjusted": adjusted(),
    "rank_sum": rank_sum(),
}, sys.stdout, separators=(",", ":"))
sys.stdout.write("\n")
