"""Per-model mean and scale of activations, in float64 (bfloat16 running moments are 7 % off)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError


class ActivationStatistics:
    """Running moments of joined activations [tokens, sum(d_ins)].

    `mean` [sum(d_ins)]; `centred_rms` [models]: sqrt(E ||x_m - mean_m||^2); `scale` [models]:
    sqrt(d_m) / centred_rms, which gives every model the same weight in the loss.
    """

    def __init__(self, d_ins: Sequence[int]):
        self.d_ins = list(d_ins)
        self.count = 0
        self._sum = torch.zeros(sum(self.d_ins), dtype=torch.float64)
        self._sum_of_squares = torch.zeros(sum(self.d_ins), dtype=torch.float64)

    def update(self, acts: Tensor) -> None:
        rows = acts.detach().to("cpu", torch.float64)
        self.count += len(rows)
        self._sum += rows.sum(dim=0)
        self._sum_of_squares += rows.pow(2).sum(dim=0)

    @property
    def mean(self) -> Float[Tensor, " d_in"]:
        self._require_tokens()
        return self._sum / self.count

    @property
    def centred_rms(self) -> list[float]:
        variance = (self._sum_of_squares / self.count - self.mean**2).clamp(min=0)
        return [float(part.sum().sqrt()) for part in variance.split(self.d_ins)]

    @property
    def scale(self) -> list[float]:
        spread = self.centred_rms
        if min(spread) <= 0:
            raise CrossdiffError(
                "a model's activations are constant, so they cannot be scaled: wrong hook, or one "
                "token only?"
            )
        return [d**0.5 / rms for d, rms in zip(self.d_ins, spread, strict=True)]

    def _require_tokens(self) -> None:
        if self.count == 0:
            raise CrossdiffError("no activations were seen: the data set is empty")
