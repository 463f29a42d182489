"""Quality of a crosscoder (METHOD section 6): FVE per model over the whole set, L0, dead share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch, iterate
from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.diffing.statistics import FiringStatistics
from sae_crossdiff.errors import CrossdiffError


class Encoded(NamedTuple):
    """A batch with its activations `x`, code and reconstruction in training units."""

    batch: ActivationBatch
    x: Tensor
    code: SparseCode
    reconstruction: Tensor


def encode_all(
    crosscoder: Crosscoder, units: Crosscoder, batches: Iterable[ActivationBatch | Tensor]
) -> Iterator[Encoded]:
    """Raw batches through a crosscoder; `units` is `crosscoder.in_training_units()`.

    Raises:
        CrossdiffError: no tokens, wrong width or NaN.
    """
    n_tokens = 0
    for batch in iterate(batches):
        x = crosscoder.normalize(batch.acts.to(crosscoder.W_dec.device))
        code = units.encode_sparse(x)
        n_tokens += len(batch)
        yield Encoded(batch, x, code, units.decode_sparse(code))
    if not n_tokens:
        raise CrossdiffError("no activations to evaluate on: the data set is empty")


class _ExplainedVariance:
    """1 - sum ||eps||^2 / sum ||x - mean x||^2 per model, from float64 sums."""

    def __init__(self, d_ins: list[int], device: torch.device):
        self.d_ins, self.count = d_ins, 0
        self.error = torch.zeros(sum(d_ins), dtype=torch.float64, device=device)
        self.sum, self.squares = torch.zeros_like(self.error), torch.zeros_like(self.error)

    def update(self, x: Tensor, error: Tensor) -> None:
        x64 = x.double()
        self.count += len(x)
        self.error += error.double().pow(2).sum(0)
        self.sum += x64.sum(0)
        self.squares += x64.pow(2).sum(0)

    def per_model(self) -> list[float]:
        if not self.count:
            return [float("nan")] * len(self.d_ins)
        variance = self.squares - self.sum**2 / self.count
        parts = zip(self.error.split(self.d_ins), variance.split(self.d_ins), strict=True)
        return [1 - float(error.sum() / total.sum()) for error, total in parts]


class Quality:
    """Accumulates FVE (over all tokens, and without special ones), L0 and dead latents.

    FVE is the same in raw and in training units up to the models' own scale, which cancels.
    """

    def __init__(self, crosscoder: Crosscoder):
        self.names = list(crosscoder.cfg.model_names)
        d_ins, device = list(crosscoder.cfg.d_ins), crosscoder.W_dec.device
        self.everything = _ExplainedVariance(d_ins, device)
        self.without_special = _ExplainedVariance(d_ins, device)
        self.active = 0

    def update(
        self, batch: ActivationBatch, x: Tensor, reconstruction: Tensor, code: SparseCode
    ) -> None:
        error = x - reconstruction
        self.everything.update(x, error)
        special = batch.masks.get("special")
        if special is None or not bool(special.any()):
            self.without_special.update(x, error)
        else:
            ordinary = ~special.to(x.device)
            self.without_special.update(x[ordinary], error[ordinary])
        self.active += len(code.values)

    def result(self, firing: FiringStatistics) -> dict[str, Any]:
        return {
            "fve": dict(zip(self.names, self.everything.per_model(), strict=True)),
            "fve_without_special": dict(
                zip(self.names, self.without_special.per_model(), strict=True)
            ),
            "l0": self.active / firing.n_tokens,
            "dead_share": float((firing.active == 0).double().mean()),
            "tokens": firing.n_tokens,
        }


@torch.no_grad()
def evaluate(crosscoder: Crosscoder, batches: Iterable[ActivationBatch | Tensor]) -> dict[str, Any]:
    """FVE per model, L0, dead share and token count on raw activations.

    Returns {"fve": {model: ...}, "fve_without_special": {...}, "l0", "dead_share", "tokens"}.

    Raises:
        CrossdiffError: no tokens, wrong width or NaN.
    """
    firing = FiringStatistics(crosscoder.cfg.d_sae, crosscoder.W_dec.device)
    quality = Quality(crosscoder)
    units = crosscoder.in_training_units()
    for batch, x, code, reconstruction in encode_all(crosscoder, units, batches):
        firing.update(batch, code)
        quality.update(batch, x, reconstruction, code)
    return quality.result(firing)
