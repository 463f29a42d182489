"""Decoder rows refitted by least squares on the pass that audits them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.diffing.blocks import N_BLOCKS, add_per_block
from sae_crossdiff.diffing.latent_scaling import LatentScaling

SKETCH_WIDTH = 8


@dataclass
class RefittedDecoders:
    """What each decoder row would be if refitted by least squares with the others fixed.

    d*_j[m] = d_j[m] + sum_i f_ij eps_i[m] / sum_i f_ij^2. Under the squared loss without a norm
    penalty a converged crosscoder has d* = d. Under L1 (Complete Shrinkage) or early in training
    it has not: the norms of d* say what Delta is on its way to, in any direction.

    `totals` are T_j = sum_i f_ij eps_i. `sketches` are those sums per block of documents and model,
    through a random projection to `SKETCH_WIDTH` coordinates (Johnson and Lindenstrauss 1984): of
    the sums themselves there is no room for a copy per block. Memory: 4 bytes * blocks * models *
    latents * width, less than half of `LatentScaling`'s.
    """

    totals: Float[Tensor, "latents d_in"]
    C: Float[Tensor, " latents"]
    noise: Float[Tensor, "models latents"]
    sketches: Float[Tensor, "models blocks latents width"]
    projections: list[Float[Tensor, "d width"]]

    @classmethod
    def zeros(cls, crosscoder: Crosscoder, n_blocks: int = N_BLOCKS) -> RefittedDecoders:
        F, device, n = crosscoder.cfg.d_sae, crosscoder.W_dec.device, crosscoder.n_models
        random = torch.Generator().manual_seed(0)
        return cls(
            torch.zeros(F, crosscoder.cfg.d_in, device=device),
            torch.zeros(F, dtype=torch.float64, device=device),
            torch.zeros(n, F, dtype=torch.float64, device=device),
            torch.zeros(n, n_blocks, F, SKETCH_WIDTH, device=device),
            [
                (torch.randn(d, SKETCH_WIDTH, generator=random) / SKETCH_WIDTH**0.5).to(device)
                for d in crosscoder.cfg.d_ins
            ],
        )

    @torch.no_grad()
    def update(
        self,
        crosscoder: Crosscoder,
        code: SparseCode,
        error: Float[Tensor, "tokens d_in"],
        blocks: Int[Tensor, " tokens"] | None = None,
    ) -> None:
        """Add a batch: the code, its error x - reconstruction, and each token's block."""
        self.totals += code.transposed_matmul(error)
        f_squared = code.values.double() ** 2
        self.C += code.sum_per_latent(f_squared)
        for m, part in enumerate(crosscoder.split(error)):
            squared = part.double().pow(2).sum(-1)
            self.noise[m] += code.sum_per_latent(f_squared * squared[code.rows])
            sketched = part.float() @ self.projections[m]
            add_per_block(
                self.sketches[m], code, blocks, code.values[:, None] * sketched[code.rows]
            )

    def norms(self, crosscoder: Crosscoder) -> Float[Tensor, "models latents"]:
        """||d*_j[m]||, with the sampling noise's expected square taken off (else rare latents
        would all look present in both models); NaN for latents that never fired."""
        refitted = crosscoder.W_dec.double() + self.totals.double() / self.C[:, None]
        squares = torch.stack([part.pow(2).sum(-1) for part in crosscoder.split(refitted)])
        return (squares - self.noise / self.C**2).clamp(min=0).sqrt()

    def square_terms(
        self, crosscoder: Crosscoder, scaling: LatentScaling
    ) -> Float[Tensor, "models blocks latents"]:
        """Per block a share of C ||d*||^2 that varies as it does: the blocks' sum is exact, and
        the ratio of two models' sums has the interval that belongs to their norms.

        ||d*||^2 = ||d + T / C||^2, so block g moves C ||d*||^2 by 2 <d*, T_g> = 2 <d, T_g> +
        2 <T, T_g> / C. `scaling` knows the first product (its E along the model's own decoder row),
        the sketches estimate the second: without it, a latent without a base decoder (d = 0) would
        have an interval of no width. The sketch is unbiased, but adds noise of its own: that part
        of an interval is too wide, by up to sqrt(d / width) where errors point in all directions.
        """
        names = crosscoder.cfg.model_names
        total = scaling.C.sum(0)
        along_own = torch.stack([scaling.sums[name].E[m] for m, name in enumerate(names)])
        sketches = self.sketches.double()
        along_refit = (sketches * sketches.sum(1, keepdim=True)).sum(-1) / total
        moved = 2 * (along_own + along_refit)
        constant = self.norms(crosscoder).pow(2) - moved.sum(1) / total
        return constant[:, None] * scaling.C + moved
