"""Complete Shrinkage: which base decoders the L1 penalty holds at zero."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing import auroc
from sae_crossdiff.diffing.evaluation import encode_all
from sae_crossdiff.testbeds.planted import PlantedPair
from sae_crossdiff.testbeds.planted_training import PlantedRun


@torch.no_grad()
def shrinkage_ratios(
    crosscoder: Crosscoder, batches: Iterable[ActivationBatch | Tensor]
) -> NDArray[np.float64]:
    """||sum_i f_ij y_i|| / sum_i f_ij per latent, y = the base error without latent j's own part.

    Under 1/2 ||eps||^2 + mu f n the base decoder of latent j is zero at an optimum exactly if this
    is at most mu (subgradient of the norm at zero; arXiv:2504.02922). The ratio does not change if
    f is rescaled, so it may be taken from another crosscoder's latent. NaN: never fired.
    """
    units = crosscoder.in_training_units()
    base = units.W_dec_per_model[0].double()
    total, C, S = torch.zeros_like(base), base.new_zeros(len(base)), base.new_zeros(len(base))
    for encoded in encode_all(crosscoder, units, batches):
        error = units.split(encoded.x - encoded.reconstruction)[0]
        f = encoded.code.values.double()
        total += encoded.code.transposed_matmul(error).double()
        C += encoded.code.sum_per_latent(f * f)
        S += encoded.code.sum_per_latent(f)
    return ((total + C[:, None] * base).norm(dim=-1) / S).numpy()


def shrinkage_claim(
    planted: PlantedPair, l1: PlantedRun, batchtopk: PlantedRun, mu: float, tokens: Tensor
) -> dict[str, float]:
    """Does the condition tell which base decoders L1 shrank (Delta > 0.9)?

    "condition_agreement": share of L1's latents for which "ratio <= mu" and "Delta > 0.9" agree,
    among those with a chat side (Delta >= 0.4) that follow a feature. "auroc_from_batchtopk": of
    the ratio measured on BatchTopK's latent of a feature, for whether L1's latent of the same
    feature is shrunk; over features of which the base has at least a fifth, so chat-only features
    do not make it easy.
    """
    delta = l1.table["delta"].to_numpy()
    firing = (l1.table["active_tokens"] >= 30).to_numpy()
    follows = firing & (l1.correlation > 0.5) & (delta >= 0.4)
    agree = (shrinkage_ratios(l1.crosscoder, tokens.split(5000)) <= mu) == (delta > 0.9)
    ratios = shrinkage_ratios(batchtopk.crosscoder, tokens.split(5000))
    ours, theirs = _latent_of_feature(l1), _latent_of_feature(batchtopk)
    both = [j for j in ours if j in theirs and l1.base_share[ours[j]] >= 0.2]
    shrunk = np.array([delta[ours[j]] > 0.9 for j in both])
    scores = np.array([-ratios[theirs[j]] for j in both], dtype=np.float32)
    return {
        "condition_agreement": float(agree[follows].mean()),
        "latents": int(follows.sum()),
        "features_compared": len(both),
        "features_shrunk_by_l1": int(shrunk.sum()),
        "auroc_from_batchtopk": auroc(scores, shrunk),
    }


def _latent_of_feature(run: PlantedRun) -> dict[int, int]:
    """Feature -> the latent that follows it best, if its correlation exceeds 0.5."""
    firing = (run.table["active_tokens"] >= 30).to_numpy()
    best: dict[int, int] = {}
    for latent in np.argsort(run.correlation):
        if run.correlation[latent] > 0.5 and firing[latent]:
            best[int(run.feature[latent])] = int(latent)
    return best
