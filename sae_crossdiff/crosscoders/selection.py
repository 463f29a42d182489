"""BatchTopK selection without sorting, or even keeping, the dense array."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders.codes import SparseCode

_MARGIN = 0.9
_ROUNDING = 1e-4


class BatchTopKSelector:
    """Finds the n largest f * norm of a batch, exactly, from candidates above a running guess.

    The encoder product is computed in blocks of latents; of each block only the entries above the
    guess are kept, and the exact n largest are taken among those. If there turn out to be too few
    (the guess was too high), the guess is lowered and the batch is done again, at last with every
    positive entry. Peak memory: tokens * block_size values instead of tokens * latents.

    Args:
        block_size: latents per block.
        rank_in_bf16: rank by a bfloat16 product (twice to five times as fast where the hardware
            has one); the values of the chosen entries are computed in float32 all the same.
    """

    def __init__(self, block_size: int = 2048, rank_in_bf16: bool = False):
        self.block_size = block_size
        self.rank_in_bf16 = rank_in_bf16
        self.guess: float | None = None
        self.n_redone = 0

    @torch.no_grad()
    def select(
        self,
        x: Float[Tensor, "tokens d_in"],
        W_enc: Float[Tensor, "d_in latents"],
        b_enc: Float[Tensor, " latents"],
        norms: Float[Tensor, " latents"],
        n_kept: int,
    ) -> SparseCode:
        """The `n_kept` largest relu(x @ W_enc + b_enc) * norms; fewer if fewer are positive."""
        kind = torch.bfloat16 if self.rank_in_bf16 else x.dtype
        operands = (x.to(kind), W_enc.to(kind), b_enc.to(kind))
        if self.guess is None:
            self.guess = self._estimate(*operands, norms, n_kept)
        for guess in (self.guess * _MARGIN, self.guess * _MARGIN**4, 0.0):
            rows, latents, values = self._candidates(*operands, norms, guess)
            scores = values.to(x.dtype) * norms[latents]
            if guess == 0.0 or _enough(scores, guess, n_kept):
                break
            self.n_redone += 1
        if len(scores) > n_kept:
            chosen = scores.topk(n_kept, sorted=False).indices
            rows, latents, scores = rows[chosen], latents[chosen], scores[chosen]
            values = values[chosen]
        if len(scores):
            self.guess = float(scores.min())
        by_row = torch.argsort(rows * W_enc.shape[1] + latents)
        rows, latents, values = rows[by_row], latents[by_row], values[by_row].to(x.dtype)
        code = SparseCode(rows, latents, values, len(x), W_enc.shape[1])
        return _recomputed(code, x, W_enc, b_enc) if self.rank_in_bf16 else code

    def _candidates(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, guess: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, latents, values) of all positive entries with value * norm > guess, roughly."""
        limits = (guess / norms).to(x.dtype)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, W_enc.shape[1], self.block_size):
            block = slice(start, start + self.block_size)
            pre = torch.addmm(b_enc[block], x, W_enc[:, block])
            above = (pre > limits[block]).flatten().nonzero().squeeze(-1)
            width = pre.shape[1]
            rows = above.div(width, rounding_mode="floor")
            found.append((rows, above - rows * width + start, pre.flatten()[above]))
        rows, latents, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rows, latents, values

    def _estimate(
        self, x: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, n_kept: int
    ) -> float:
        """A first guess from every sixteenth token."""
        sample = x[::16]
        scores = (torch.addmm(b_enc, sample, W_enc) * norms.to(x.dtype)).flatten()
        n = max(1, min(len(scores), n_kept * len(sample) // len(x)))
        return max(0.0, float(scores.topk(n, sorted=False).values.min()))


def _enough(scores: Tensor, guess: float, n_kept: int) -> bool:
    """Whether the n largest of all entries are certainly among the candidates.

    Candidates were compared as value > guess / norm; close to the guess, rounding may differ from
    value * norm > guess, so the n-th must stand clearly above it.
    """
    return len(scores) >= n_kept and int((scores > guess * (1 + _ROUNDING)).sum()) >= n_kept


def _recomputed(code: SparseCode, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> SparseCode:
    """The code with float32 values, relu(<x_i, W_enc_j> + b_j), positive entries only."""
    values = code.dots(x, W_enc.T) + b_enc[code.latents]
    keep = values > 0
    return SparseCode(
        code.rows[keep], code.latents[keep], values[keep], code.n_tokens, code.n_latents
    )
