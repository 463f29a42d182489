"""Decoder rows refitted by least squares on the pass that audits them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.diffing.latent_scaling import LatentScaling


@dataclass
class RefittedDecoders:
    """What each decoder row would be if refitted by least squares with the others fixed.

    d*_j[m] = d_j[m] + sum_i f_ij eps_i[m] / sum_i f_ij^2. Under the squared loss without a norm
    penalty a converged crosscoder has d* = d. Under L1 (Complete Shrinkage) or early in training
    it has not: the norms of d* say what Delta is on its way to, in any direction.
    """

    totals: Float[Tensor, "latents d_in"]
    C: Float[Tensor, " latents"]
    noise: Float[Tensor, "models latents"]

    @classmethod
    def zeros(cls, crosscoder: Crosscoder) -> RefittedDecoders:
        F, device = crosscoder.cfg.d_sae, crosscoder.W_dec.device
        return cls(
            torch.zeros(F, crosscoder.cfg.d_in, device=device),
            torch.zeros(F, dtype=torch.float64, device=device),
            torch.zeros(crosscoder.n_models, F, dtype=torch.float64, device=device),
        )

    @torch.no_grad()
    def update(self, crosscoder: Crosscoder, code: SparseCode, error: Tensor) -> None:
        """Add a batch; `error` = x - reconstruction, [tokens, d_in]."""
        self.totals += code.transposed_matmul(error)
        f_squared = code.values.double() ** 2
        self.C += code.sum_per_latent(f_squared)
        for m, part in enumerate(crosscoder.split(error)):
            squared = part.double().pow(2).sum(-1)
            self.noise[m] += code.sum_per_latent(f_squared * squared[code.rows])

    def norms(self, crosscoder: Crosscoder) -> Float[Tensor, "models latents"]:
        """||d*_j[m]||, with the sampling noise's expected square taken off (else rare latents
        would all look present in both models); NaN for latents that never fired."""
        refitted = crosscoder.W_dec.double() + self.totals.double() / self.C[:, None]
        squares = torch.stack([part.pow(2).sum(-1) for part in crosscoder.split(refitted)])
        return (squares - self.noise / self.C**2).clamp(min=0).sqrt()

    def square_terms(
        self, crosscoder: Crosscoder, scaling: LatentScaling
    ) -> Float[Tensor, "models blocks latents"]:
        """Per block C_g ||d*||^2, to first order: their ratio's interval is the norms' interval.

        ||d*||^2 = ||d||^2 + 2 <d, T> / C + ||T||^2 / C^2 with T = sum_i f_i eps_i. The term that is
        linear in T is known per block (`scaling` has it: E along the model's own decoder row).
        The square of T, small once the crosscoder has converged, is not kept per block and is
        taken as known. The sum over the blocks, over C, is ||d*||^2 exactly.
        """
        names = crosscoder.cfg.model_names
        linear = torch.stack([2 * scaling.sums[name].E[m] for m, name in enumerate(names)])
        total = scaling.C.sum(0)
        constant = self.norms(crosscoder).pow(2) - linear.sum(1) / total
        return constant[:, None] * scaling.C + linear
