"""Latent Scaling (arXiv:2504.02922, METHOD section 3): all betas of all latents in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.errors import CrossdiffError

TARGETS = ("error", "reconstruction", "activation", "activation_no_bias")


@dataclass
class DirectionSums:
    """float64 sums [models, latents] along one direction d (a decoder row).

    A[m] = sum f <x_m, d>, E[m] = sum f <eps_m, d>, with f the code, x_m and eps_m a model's
    activation and error.
    """

    A: Float[Tensor, "models latents"]
    E: Float[Tensor, "models latents"]


class LatentScaling:
    """Accumulates one pass over the data; then gives betas and nus for every latent.

    beta[m] is the least-squares scale of f_j * d_j in the target of model m, where d_j is the
    decoder row of `direction` ("chat": is it chat-specific? "base": is it base-specific?).
    Targets: "error" (residual with the latent's own contribution put back), "reconstruction",
    "activation", "activation_no_bias". Only active (token, latent) pairs are touched.

    The crosscoder and the activations must be in training units (`Crosscoder.in_training_units`
    and `Crosscoder.normalize`), or the models' different norms and means enter the ratios.

    Args:
        crosscoder: two models, in training units.
        directions: which models' decoder rows serve as directions.
        dtype: of the products; sums are always float64.
    """

    def __init__(
        self,
        crosscoder: Crosscoder,
        directions: tuple[str, ...] = ("chat", "base"),
        dtype: torch.dtype = torch.float32,
    ):
        if crosscoder.n_models != 2 or len(set(crosscoder.cfg.d_ins)) != 1:
            raise CrossdiffError(
                "Latent Scaling fits one model's decoder to the other's activations, so there must "
                f"be two models and all widths must be equal; this crosscoder has "
                f"{crosscoder.cfg.d_ins}"
            )
        self.crosscoder = crosscoder
        self.dtype = dtype
        with torch.no_grad():
            self._decoders = [part.to(dtype) for part in crosscoder.W_dec_per_model]
            self._biases = [part.to(dtype) for part in crosscoder.b_dec_per_model]
        # C = sum f^2 and S = sum f, whatever the direction.
        zeros = partial(torch.zeros, dtype=torch.float64, device=crosscoder.W_dec.device)
        n_models, n_latents = crosscoder.n_models, crosscoder.cfg.d_sae
        self.C, self.S = zeros(n_latents), zeros(n_latents)
        self.sums = {
            name: DirectionSums(zeros(n_models, n_latents), zeros(n_models, n_latents))
            for name in directions
        }

    @torch.no_grad()
    def update(
        self,
        x: Float[Tensor, "tokens d_in"],
        code: SparseCode,
        reconstruction: Float[Tensor, "tokens d_in"],
    ) -> None:
        """Add a batch: activations, their code and its reconstruction."""
        f = code.values.to(torch.float64)
        x_parts = self.crosscoder.split(x.to(self.dtype))
        error_parts = self.crosscoder.split((x - reconstruction).to(self.dtype))
        self.S += code.sum_per_latent(f)
        self.C += code.sum_per_latent(f * f)
        for name, sums in self.sums.items():
            direction = self._decoders[self.crosscoder.index_of(name)]
            for m, (x_m, error_m) in enumerate(zip(x_parts, error_parts, strict=True)):
                sums.A[m] += code.sum_per_latent(f * code.dots(x_m, direction).double())
                sums.E[m] += code.sum_per_latent(f * code.dots(error_m, direction).double())

    def betas(self, target: str, direction: str = "chat") -> Float[Tensor, "models latents"]:
        """Least-squares scales, unclipped; NaN where the latent never fired or d_j is zero."""
        sums = self.sums[direction]
        rows = self._decoders[self.crosscoder.index_of(direction)].double()
        Q = rows.pow(2).sum(-1)
        CQ = self.C * Q
        if target == "activation":
            return sums.A / CQ
        if target == "reconstruction":
            return (sums.A - sums.E) / CQ
        if target == "activation_no_bias":
            bias = torch.stack([rows @ b.double() for b in self._biases])
            return (sums.A - bias * self.S) / CQ
        if target == "error":
            own = torch.stack([(part.double() * rows).sum(-1) for part in self._decoders])
            # A latent that never fired has no beta, although own / Q would be a number.
            return sums.E / CQ + torch.where(self.C > 0, own / Q, torch.nan)
        raise CrossdiffError(f"no target {target!r}: use one of {', '.join(TARGETS)}")

    def nu(self, target: str, direction: str = "chat") -> Float[Tensor, " latents"]:
        """beta of the other model over beta of the direction's own: 0 = specific, 1 = shared."""
        betas = self.betas(target, direction)
        own = self.crosscoder.index_of(direction)
        return betas[1 - own] / betas[own]


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
