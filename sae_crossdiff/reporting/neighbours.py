"""Latents whose decoders point the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from sae_crossdiff.crosscoders import Crosscoder


class Neighbours(NamedTuple):
    """`latents`, `cosines` [asked, n], nearest first."""

    latents: NDArray[np.int64]
    cosines: NDArray[np.float32]


@torch.no_grad()
def nearest_latents(crosscoder: Crosscoder, latents: Sequence[int], n: int = 8) -> Neighbours:
    """The `n` latents with the largest cosine of [d_base, d_chat], in training units.

    Training units, or the model with the larger residual stream would decide alone.
    """
    rows = normalize(crosscoder.in_training_units().W_dec.detach().float(), dim=-1)
    chosen = torch.tensor(list(latents), dtype=torch.long, device=rows.device)
    found = []
    for part in chosen.split(256):
        cosines = rows[part] @ rows.T
        cosines[torch.arange(len(part)), part] = -torch.inf
        found.append(cosines.topk(min(n, len(rows) - 1)))
    return Neighbours(
        torch.cat([top.indices for top in found]).cpu().numpy(),
        torch.cat([top.values for top in found]).cpu().numpy(),
    )
