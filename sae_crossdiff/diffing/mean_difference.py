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
from sae_crossdiff.errors import CrossdiffError


@dataclass(frozen=True)
class MeanDifference:
    """Mean of x_chat - x_base over documents, per position.

    `mean` [positions, d], raw activations; `documents` [positions] that reach the position;
    `norm` of the mean less its sampling noise, which is `noise` (root of the expected squared
    norm where there is no difference); `agreement`: cosine of the means over the documents of even
    and odd number, 0 for noise; `residual_norm`: mean norm of x_chat there.
    """

    positions: tuple[int, ...]
    mean: Float[Tensor, "positions d"]
    documents: Float[Tensor, " positions"]
    norm: Float[Tensor, " positions"]
    noise: Float[Tensor, " positions"]
    agreement: Float[Tensor, " positions"]
    residual_norm: Float[Tensor, " positions"]


@torch.no_grad()
def mean_difference(
    batches: Iterable[ActivationBatch], positions: Iterable[int] = (1, 2, 3, 4, 5)
) -> MeanDifference:
    """Average over documents at each position (0 is BOS where the tokenizer has one).

    Raises:
        CrossdiffError: models of different widths, or a position that fewer than two documents
            reach.
    """
    positions = tuple(positions)
    # Documents of even and of odd number apart: their agreement says what is noise.
    count = torch.zeros(2, len(positions), dtype=torch.float64)
    total: Tensor | None = None
    squares, norms = torch.zeros(len(positions)).double(), torch.zeros(len(positions)).double()
    for batch in batches:
        if batch.acts.shape[-1] % 2:
            raise CrossdiffError("a difference needs two models of equal width")
        difference = model_difference(batch.acts.double())
        if total is None:
            total = torch.zeros(2, len(positions), difference.shape[-1], dtype=torch.float64)
        for i, position in enumerate(positions):
            here = batch.positions == position
            for half in (0, 1):
                rows = difference[here & (batch.documents % 2 == half)]
                count[half, i] += len(rows)
                total[half, i] += rows.sum(0)
            squares[i] += difference[here].pow(2).sum()
            norms[i] += batch.acts[here].double().chunk(2, dim=-1)[1].norm(dim=-1).sum()
    documents = count.sum(0)
    if total is None or bool((documents < 2).any()):
        raise CrossdiffError(
            f"documents at positions {positions}: {documents.long().tolist()}; two are needed at "
            "each: give longer texts, more of them, or fewer positions"
        )
    mean = total.sum(0) / documents[:, None]
    noise = (squares / documents - mean.pow(2).sum(-1)) / (documents - 1)
    halves = total / count[:, :, None]
    return MeanDifference(
        positions,
        mean.float(),
        documents,
        (mean.pow(2).sum(-1) - noise).clamp(min=0).sqrt(),
        noise.clamp(min=0).sqrt(),
        torch.cosine_similarity(halves[0], halves[1], dim=-1),
        norms / documents,
    )
