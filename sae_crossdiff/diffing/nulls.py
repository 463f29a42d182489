"""What chance alone would show: made-up latents, and p-values.

Two questions, two null hypotheses:

*Does the latent mean anything?* H0: f_j has no more to do with its own direction than with one
that is not its own. Made-up latents fire as latent j does but point elsewhere: in a random
direction of the chat decoder's norm, or along the chat decoder of another latent (a permutation).
Compared is the lower end of the interval of beta_error^chat: how much of the direction the chat
model has at least, once all other latents are taken off. Made-up latents show how large that gets
through features that overlap and errors that remain, and through noise. So

    p_null = (1 + #{made-up lower ends >= that of j}) / (1 + #made-up)

against each of the two kinds, and the larger of the two. (A t-value would not do: with enough
tokens the smallest overlap is "significant". A latent too rare for a lower end has p_null = 1.)

*Is it specific?* A direction of noise has two betas of noise and any nu at all, so the first null
says nothing about a small nu. Here H0 is that the base model has the latent: |nu_error| or
|nu_reconstruction| is at its threshold or beyond, or the refitted base decoder is as large as the
threshold allows. Each part is a t-test over blocks (`intervals.p_within`, `p_below`); the union of
the parts is rejected only if each of them is (intersection-union test, Berger 1982), so p_specific
is the largest p of the three, without a correction. At confidence 0.95 a latent's intervals all lie
inside the thresholds exactly if p_specific < 0.025.

q-values are Benjamini and Hochberg's, over the latents that have a p-value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import false_discovery_control
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing.intervals import p_within, ratio_interval
from sae_crossdiff.diffing.latent_scaling import LatentScaling

NULLS = ("random", "permuted")


def null_directions(crosscoder: Crosscoder, seed: int = 0) -> dict[str, Tensor]:
    """Directions [latents, d] of made-up latents; chat decoder norms kept."""
    chat = crosscoder.W_dec_per_model[crosscoder.index_of("chat")].detach()
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(chat.shape, generator=generator).to(chat)
    random = random / random.norm(dim=-1, keepdim=True) * chat.norm(dim=-1, keepdim=True)
    # A cyclic shift of a random order: no latent keeps its own direction (if there are two).
    order = torch.randperm(len(chat), generator=generator)
    permuted = torch.empty_like(chat)
    permuted[order] = chat[order.roll(1)]
    return {"random": random, "permuted": permuted}


def p_against_nulls(scaling: LatentScaling) -> NDArray[np.float64]:
    """p_null per latent, see above; NaN where the latent fired in fewer than two blocks."""
    nulls = [least_beta(scaling, name) for name in NULLS]
    own = least_beta(scaling, "chat")
    return np.maximum.reduce([empirical_p(own, null) for null in nulls])


def least_beta(scaling: LatentScaling, direction: str) -> NDArray[np.float64]:
    """Lower end of the 95 % interval of beta_error^chat along a direction, per latent."""
    products = scaling.products("error", direction)[scaling.crosscoder.index_of("chat")]
    return ratio_interval(products, scaling.norms(direction)).low


def empirical_p(statistic: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + how many of `null` are as large) / (1 + size of `null`); NaN is no value."""
    null = np.sort(null[~np.isnan(null)])
    at_least = len(null) - np.searchsorted(null, statistic, side="left")
    return np.where(np.isnan(statistic), np.nan, (1 + at_least) / (1 + len(null)))


def q_values(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini-Hochberg; latents without a p-value are no tests and get no q."""
    q = np.full(len(p), np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested], method="bh")
    return q


def null_counts(
    scaling: LatentScaling,
    nu_error: float,
    nu_reconstruction: float,
    tested: NDArray[np.bool_],
    confidence: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """How many made-up latents would pass as chat-specific, among those of `tested` latents.

    `by_point`: both nus themselves are below the thresholds; `by_interval`: their intervals are.
    """
    counts = {}
    for name in NULLS:
        points, intervals = tested.copy(), tested.copy()
        for target, threshold in (("error", nu_error), ("reconstruction", nu_reconstruction)):
            other, own = scaling.nu_terms(target, name)
            points &= scaling.nu(target, name).abs().cpu().numpy() < threshold
            intervals &= p_within(other, own, threshold) < (1 - confidence) / 2
        counts[name] = {
            "tested": int(tested.sum()),
            "by_point": int(points.sum()),
            "by_interval": int(intervals.sum()),
        }
    return counts
