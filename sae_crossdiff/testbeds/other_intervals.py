"""Two common intervals for a ratio of sums over blocks, for comparison with Fieller's."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from sae_crossdiff.diffing import Interval

_DRAWS = 1000


def jackknife_interval(
    numerator: Tensor, denominator: Tensor, confidence: float = 0.95
) -> Interval:
    """Delete-a-block jackknife with Student's t; arguments as in `ratio_interval`."""
    n_blocks = len(numerator)
    ratio = numerator.sum(0) / denominator.sum(0)
    without = (numerator.sum(0) - numerator) / (denominator.sum(0) - denominator)
    spread = (without - without.mean(0)).pow(2).sum(0) * (n_blocks - 1) / n_blocks
    half = float(stats.t.ppf(0.5 + confidence / 2, n_blocks - 1)) * spread.sqrt()
    return Interval((ratio - half).numpy(), (ratio + half).numpy())


def bootstrap_interval(
    numerator: Tensor, denominator: Tensor, confidence: float = 0.95
) -> Interval:
    """Percentiles of the ratio over blocks drawn with replacement."""
    n_blocks = len(numerator)
    draws = np.random.default_rng(0).multinomial(n_blocks, [1 / n_blocks] * n_blocks, _DRAWS)
    weights = torch.from_numpy(draws).to(numerator)
    ratios = (weights @ numerator) / (weights @ denominator)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(ratios.numpy(), [tail, 1 - tail], axis=0)
    return Interval(low, high)
