"""Latent Scaling (arXiv:2504.02922, METHOD section 3): all betas of all latents in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.diffing.blocks import add_per_block
from sae_crossdiff.errors import CrossdiffError

TARGETS = ("error", "reconstruction", "activation", "activation_no_bias")


@dataclass
class DirectionSums:
    """float64 sums [models, blocks, latents] along one direction d (a decoder row).

    A[m] = sum f <x_m, d>, E[m] = sum f <eps_m, d>, with f the code, x_m and eps_m a model's
    activation and error.
    """

    A: Float[Tensor, "models blocks latents"]
    E: Float[Tensor, "models blocks latents"]


class LatentScaling:
    """Accumulates one pass over the data; then gives betas and nus for every latent.

    beta[m] is the least-squares scale of f_j * d_j in the target of model m, where d_j is the
    decoder row of `direction` ("chat": is it chat-specific? "base": is it base-specific?).
    Targets: "error" (residual with the latent's own contribution put back), "reconstruction",
    "activation", "activation_no_bias". Only active (token, latent) pairs are touched.

    Sums are kept per block of documents, so that every beta and nu has an interval without
    another pass. Memory: 8 bytes * n_blocks * F * (2 + 4 per direction).

    The crosscoder and the activations must be in training units (`Crosscoder.in_training_units`
    and `Crosscoder.normalize`), or the models' different norms and means enter the ratios.

    Args:
        crosscoder: two models, in training units.
        directions: which models' decoder rows serve as directions.
        dtype: of the products; sums are always float64.
        n_blocks: blocks of documents that `update` is told about.
        nulls: name -> [latents, d], directions of made-up latents: they fire as latent j does,
            but the crosscoder writes nothing along them (no contribution is put back).
    """

    def __init__(
        self,
        crosscoder: Crosscoder,
        directions: tuple[str, ...] = ("chat", "base"),
        dtype: torch.dtype = torch.float32,
        n_blocks: int = 1,
        nulls: Mapping[str, Tensor] | None = None,
    ):
        if crosscoder.n_models != 2 or len(set(crosscoder.cfg.d_ins)) != 1:
            raise CrossdiffError(
                "Latent Scaling fits one model's decoder to the other's activations, so there must "
                f"be two models and all widths must be equal; this crosscoder has "
                f"{crosscoder.cfg.d_ins}"
            )
        self.crosscoder = crosscoder
        self.dtype = dtype
        self._decoders = [part.detach().to(dtype) for part in crosscoder.W_dec_per_model]
        self._biases = [part.detach().to(dtype) for part in crosscoder.b_dec_per_model]
        self._rows = {name: self._decoders[crosscoder.index_of(name)] for name in directions}
        self._nulls = {name: rows.to(self._decoders[0]) for name, rows in (nulls or {}).items()}
        # C = sum f^2 and S = sum f, whatever the direction.
        shape = (n_blocks, crosscoder.cfg.d_sae)
        zeros = partial(torch.zeros, dtype=torch.float64, device=crosscoder.W_dec.device)
        self.C, self.S = zeros(shape), zeros(shape)
        self.sums = {
            name: DirectionSums(zeros(2, *shape), zeros(2, *shape))
            for name in (*self._rows, *self._nulls)
        }

    @torch.no_grad()
    def update(
        self,
        x: Float[Tensor, "tokens d_in"],
        code: SparseCode,
        reconstruction: Float[Tensor, "tokens d_in"],
        blocks: Int[Tensor, " tokens"] | None = None,
    ) -> None:
        """Add a batch: activations, their code and its reconstruction, and each token's block."""
        f = code.values.to(torch.float64)
        x_parts = self.crosscoder.split(x.to(self.dtype))
        error_parts = self.crosscoder.split((x - reconstruction).to(self.dtype))
        add_per_block(self.S, code, blocks, f)
        add_per_block(self.C, code, blocks, f * f)
        for name, sums in self.sums.items():
            rows = self.rows(name)
            for m, (x_m, error_m) in enumerate(zip(x_parts, error_parts, strict=True)):
                add_per_block(sums.A[m], code, blocks, f * code.dots(x_m, rows).double())
                add_per_block(sums.E[m], code, blocks, f * code.dots(error_m, rows).double())

    def rows(self, direction: str) -> Float[Tensor, "latents d"]:
        """The direction d_j of each latent: a model's decoder rows, or made-up ones."""
        rows = self._rows.get(direction, self._nulls.get(direction))
        if rows is None:
            raise CrossdiffError(f"no direction {direction!r} here, only {sorted(self.sums)}")
        return rows

    def products(
        self, target: str, direction: str = "chat"
    ) -> Float[Tensor, "models blocks latents"]:
        """sum_i f_ij <y_i[m], d_j> per block: a beta is their sum over `norms`' sum.

        Everything below is a ratio of sums over blocks, which is what `intervals` is about.
        """
        sums, rows = self.sums[direction], self.rows(direction).double()
        if target == "activation":
            return sums.A
        if target == "reconstruction":
            return sums.A - sums.E
        if target == "activation_no_bias":
            bias = torch.stack([rows @ b.double() for b in self._biases])
            return sums.A - bias[:, None] * self.S
        if target == "error":
            if direction in self._nulls:
                return sums.E
            own = torch.stack([(part.double() * rows).sum(-1) for part in self._decoders])
            return sums.E + own[:, None] * self.C
        raise CrossdiffError(f"no target {target!r}: use one of {', '.join(TARGETS)}")

    def norms(self, direction: str = "chat") -> Float[Tensor, "blocks latents"]:
        """sum_i ||f_ij d_j||^2 per block."""
        return self.C * self.rows(direction).double().pow(2).sum(-1)

    def betas(self, target: str, direction: str = "chat") -> Float[Tensor, "models latents"]:
        """Least-squares scales, unclipped; NaN where the latent never fired or d_j is zero."""
        return self.products(target, direction).sum(1) / self.norms(direction).sum(0)

    def nu(self, target: str, direction: str = "chat") -> Float[Tensor, " latents"]:
        """beta of the other model over beta of the direction's own: 0 = specific, 1 = shared."""
        other, own = self.nu_terms(target, direction)
        # Over the norms' sum first: a latent without betas has no nu either.
        total = self.norms(direction).sum(0)
        return (other.sum(0) / total) / (own.sum(0) / total)

    def nu_terms(
        self, target: str, direction: str = "chat"
    ) -> tuple[Float[Tensor, "blocks latents"], Float[Tensor, "blocks latents"]]:
        """(other model, the direction's own): nu is the ratio of their sums over the blocks.

        A made-up direction is read as a chat direction.
        """
        products = self.products(target, direction)
        own = self.crosscoder.index_of("chat" if direction in self._nulls else direction)
        return products[1 - own], products[own]
