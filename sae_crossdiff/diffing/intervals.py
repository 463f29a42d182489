"""Intervals and tests for ratios of sums over blocks of documents.

Every beta and nu of Latent Scaling (arXiv:2504.02922) is a ratio A / B of two sums over tokens,
hence over blocks: A = sum_g a_g, B = sum_g b_g. Tokens of one document depend on each other, blocks
of whole documents (nearly) do not. For a value r of the true ratio the block sums

    z_g(r) = a_g - r b_g

have mean zero, so t(r) = sum_g z_g / sqrt(G / (G - 1) sum_g (z_g - mean z)^2) follows Student's t
with G - 1 degrees of freedom as far as z is normal. All r that this test does not reject form the
interval (Fieller 1954); it solves a quadratic equation and needs no second pass.

Nominal 95 % intervals for nu_error on planted documents, 200 data sets, share that held the truth:

    active tokens               15-29   60-119   120-299   300-799
    bootstrap over blocks        .791     .885      .887      .919
    delete-a-block jackknife     .834     .874      .896      .927
    this interval                .953     .976      .964      .954

Rare latents have a denominator that is itself uncertain. Fieller's interval says so: where the data
do not even show that B differs from zero it is unbounded, (-inf, inf).
`sae_crossdiff.testbeds.coverage` measures all three again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError


class Interval(NamedTuple):
    """Ends of a confidence interval per latent; NaN where fewer than two blocks have data."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def ratio_interval(numerator: Tensor, denominator: Tensor, confidence: float = 0.95) -> Interval:
    """Fieller's interval for sum(numerator) / sum(denominator); both [blocks, latents].

    Where the denominator's sum is not distinguishable from zero the interval is (-inf, inf).

    Raises:
        CrossdiffError: `confidence` outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise CrossdiffError(f"confidence={confidence} must lie in (0, 1): 0.95 is usual")
    moments = _Moments.of(numerator, denominator)
    n_blocks = len(numerator)
    squared = stats.t.ppf(0.5 + confidence / 2, max(n_blocks - 1, 1)) ** 2
    # t(r)^2 <= t_crit^2  <=>  quadratic r^2 - 2 linear r + constant <= 0
    quadratic = moments.B**2 - squared * moments.var_b
    linear = moments.A * moments.B - squared * moments.cov
    constant = moments.A**2 - squared * moments.var_a
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(linear**2 - quadratic * constant, 0))
        low, high = (linear - root) / quadratic, (linear + root) / quadratic
    bounded = quadratic > 0
    low, high = np.where(bounded, low, -np.inf), np.where(bounded, high, np.inf)
    return Interval(*(np.where(moments.known, end, np.nan) for end in (low, high)))


def p_below(numerator: Tensor, denominator: Tensor, threshold: float) -> NDArray[np.float64]:
    """p-value of "sum(numerator) / sum(denominator) >= threshold", per latent.

    The t-test that `ratio_interval` inverts: p < (1 - confidence) / 2 exactly where the interval
    lies below the threshold. NaN where fewer than two blocks have data.
    """
    moments = _Moments.of(numerator - threshold * denominator, denominator)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.sign(moments.B) * moments.A / np.sqrt(moments.var_a)
    p = stats.t.cdf(np.nan_to_num(t), max(len(numerator) - 1, 1))
    return np.where(moments.known, p, np.nan)


def p_within(numerator: Tensor, denominator: Tensor, threshold: float) -> NDArray[np.float64]:
    """p-value of "|sum(numerator) / sum(denominator)| >= threshold": two one-sided tests."""
    return np.maximum(
        p_below(numerator, denominator, threshold), p_below(-numerator, denominator, threshold)
    )


class _Moments(NamedTuple):
    """Sums over blocks and the (co)variances of those sums, [latents]."""

    A: NDArray[np.float64]
    B: NDArray[np.float64]
    var_a: NDArray[np.float64]
    var_b: NDArray[np.float64]
    cov: NDArray[np.float64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, numerator: Tensor, denominator: Tensor) -> _Moments:
        a = numerator.detach().cpu().double().numpy()
        b = denominator.detach().cpu().double().numpy()
        n_blocks = len(a)
        factor = n_blocks / max(n_blocks - 1, 1)
        known = ((a != 0) | (b != 0)).sum(0) >= 2
        A, B = a.sum(0), b.sum(0)
        a, b = a - A / n_blocks, b - B / n_blocks
        var_a, var_b, cov = ((u * v).sum(0) * factor for u, v in ((a, a), (b, b), (a, b)))
        return cls(A, B, var_a, var_b, cov, known)
