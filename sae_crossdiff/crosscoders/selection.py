"""BatchTopK selection without sorting, or even keeping, the dense array."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders.codes import SparseCode
from sae_crossdiff.crosscoders.sparse_encoder import SparseEncoder

_ROUNDING = 1e-4
_NARROWEST, _WIDEST = 0.01, 0.1


class BatchTopKSelector:
    """Finds the n largest f * norm of a batch, exactly, from candidates above a running guess.

    Only entries above the guess leave the encoder; the exact n largest are taken among those. If
    there turn out to be too few (the guess was too high), the guess is lowered and the batch is
    done again, at last with every positive entry.

    Args:
        encoder: finds the candidates.
    """

    def __init__(self, encoder: SparseEncoder | None = None):
        self.encoder = encoder or SparseEncoder()
        self.guess: float | None = None
        self.margin = _WIDEST
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
        if self.guess is None:
            self.guess = _estimate(x, W_enc, b_enc, norms, n_kept)
        for guess in (self.guess * (1 - self.margin), self.guess * 0.65, 0.0):
            entries = self.encoder.entries_above(x, W_enc, b_enc, guess / norms)
            scores = entries.values * norms[entries.latents]
            if guess == 0.0 or _enough(scores, guess, n_kept):
                break
            self.n_redone += 1
        if len(scores) > n_kept:
            chosen = _largest(scores, n_kept)
            scores = scores[chosen]
            entries = type(entries)(*(part[chosen] for part in entries))
        if len(scores):
            self._learn(float(scores.min()))
        return SparseCode.from_latent_order(*entries, len(x), W_enc.shape[1])

    def _learn(self, smallest: float) -> None:
        """The next guess, and how far below it to look: three times what it moves per batch."""
        if self.guess:
            moved = 3 * abs(1 - smallest / self.guess)
            self.margin = min(_WIDEST, max(_NARROWEST, moved, 0.9 * self.margin))
        self.guess = smallest


def _largest(scores: Float[Tensor, " candidates"], n: int) -> Tensor:
    """Mask of the n largest; among equals the first ones."""
    smallest = scores.topk(n, sorted=False).values.min()
    chosen = scores > smallest
    ties = (scores == smallest).nonzero().squeeze(-1)
    chosen[ties[: n - int(chosen.sum())]] = True
    return chosen


def _enough(scores: Tensor, guess: float, n_kept: int) -> bool:
    """Whether the n largest of all entries are certainly among the candidates.

    Candidates were compared as value > guess / norm; close to the guess, rounding may differ from
    value * norm > guess, so the n-th must stand clearly above it.
    """
    return len(scores) >= n_kept and int((scores > guess * (1 + _ROUNDING)).sum()) >= n_kept


def _estimate(x: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, n_kept: int) -> float:
    """A first guess from every sixteenth token."""
    sample = x[::16]
    scores = (torch.addmm(b_enc, sample, W_enc) * norms).flatten()
    n = max(1, min(len(scores), n_kept * len(sample) // len(x)))
    return max(0.0, float(scores.topk(n, sorted=False).values.min()))
