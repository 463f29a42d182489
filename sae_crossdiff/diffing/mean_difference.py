"""Mean activation difference on the first tokens: the baseline that needs no dictionary.

Narrow fine-tuning shifts the residual stream even on unrelated text, most visibly on its first few
tokens (Minder et al., "Narrow finetuning leaves clearly readable traces in activation
differences", arXiv:2510.13900). One direction per position, so it names a domain, not its parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders.difference import model_difference
from sae_crossdiff.diffing.blocks import DocumentBlocks
from sae_crossdiff.errors import CrossdiffError


@dataclass(frozen=True)
class MeanDifference:
    """Mean of x_chat - x_base over pieces of text, per position.

    `mean` [positions, d], raw activations; `pieces` [positions] that reach the position; `norm` of
    the mean less its sampling noise, which is `noise` (root of the expected squared norm where
    there is no difference; too small if pieces of one document are alike); `agreement`: cosine of
    the means over two halves of the documents, 0 for noise; `residual_norm`: mean norm of x_chat.
    """

    positions: tuple[int, ...]
    mean: Float[Tensor, "positions d"]
    pieces: Float[Tensor, " positions"]
    norm: Float[Tensor, " positions"]
    noise: Float[Tensor, " positions"]
    agreement: Float[Tensor, " positions"]
    residual_norm: Float[Tensor, " positions"]


@torch.no_grad()
def mean_difference(
    batches: Iterable[ActivationBatch], positions: Iterable[int] = (1, 2, 3, 4, 5)
) -> MeanDifference:
    """Average over pieces at each position (0 is BOS where the tokenizer has one).

    `batches` are of two models of equal width; the result is on the CPU.

    Raises:
        CrossdiffError: a position that fewer than two pieces reach.
    """
    positions = tuple(positions)
    halves = DocumentBlocks(2)
    count = torch.zeros(2, len(positions), dtype=torch.float64)
    total: Tensor | None = None
    squares, norms = torch.zeros(len(positions)).double(), torch.zeros(len(positions)).double()
    for batch in batches:
        wanted = torch.isin(batch.positions, torch.tensor(positions).to(batch.positions))
        acts, at = batch.acts[wanted].double().cpu(), batch.positions[wanted].cpu()
        half_of = halves.assign(batch)[wanted].cpu()
        difference = model_difference(acts)
        if total is None:
            total = torch.zeros(2, len(positions), difference.shape[-1], dtype=torch.float64)
        for i, position in enumerate(positions):
            here = at == position
            for half in (0, 1):
                rows = difference[here & (half_of == half)]
                count[half, i] += len(rows)
                total[half, i] += rows.sum(0)
            squares[i] += difference[here].pow(2).sum()
            norms[i] += acts[here].chunk(2, dim=-1)[1].norm(dim=-1).sum()
    pieces = count.sum(0)
    if total is None or not positions or bool((pieces < 2).any()):
        raise CrossdiffError(
            f"pieces of text at positions {positions}: {pieces.long().tolist()}; two are needed "
            "at each: give longer texts, more of them, or fewer positions"
        )
    mean = total.sum(0) / pieces[:, None]
    noise = (squares / pieces - mean.pow(2).sum(-1)) / (pieces - 1)
    means = total / count[:, :, None]
    return MeanDifference(
        positions,
        mean.float(),
        pieces,
        (mean.pow(2).sum(-1) - noise).clamp(min=0).sqrt(),
        noise.clamp(min=0).sqrt(),
        torch.cosine_similarity(means[0], means[1], dim=-1),
        norms / pieces,
    )
