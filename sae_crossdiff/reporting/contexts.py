"""Where latents fire: their strongest tokens, in context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing import latent_activations


class Context(NamedTuple):
    """Text around a peak: `before`, the `peak` token, `after`; `activation` = f at the peak."""

    before: str
    peak: str
    after: str
    activation: float


def top_contexts(
    crosscoder: Crosscoder,
    tokens: ActivationBatch,
    latents: Sequence[int],
    tokenizer: Any,
    n: int = 3,
    width: int = 8,
) -> dict[int, list[Context]]:
    """The `n` strongest tokens of each latent, one per document, `width` tokens either side.

    `tokens` must hold whole sequences in order, as `harvest` gives them.
    """
    acts = latent_activations(crosscoder, tokens, latents)
    documents = tokens.documents.numpy()
    return {
        latent: [
            _context(tokens, row, float(acts[row, column]), tokenizer, width)
            for row in _peaks(acts[:, column], documents, n)
        ]
        for column, latent in enumerate(latents)
    }


def _peaks(acts: NDArray[np.float32], documents: NDArray[np.int64], n: int) -> list[int]:
    peaks, seen = [], set()
    for row in np.argsort(-acts, kind="stable")[: 50 * n]:
        if acts[row] <= 0 or len(peaks) == n:
            break
        if documents[row] not in seen:
            seen.add(documents[row])
            peaks.append(int(row))
    return peaks


def _context(
    tokens: ActivationBatch, row: int, activation: float, tokenizer: Any, width: int
) -> Context:
    def text(rows: range) -> str:
        inside = [r for r in rows if 0 <= r < len(tokens)]
        ids = [int(tokens.token_ids[r]) for r in inside if _same_sequence(tokens, row, r)]
        return str(tokenizer.decode(ids))

    return Context(
        text(range(row - width, row)),
        text(range(row, row + 1)),
        text(range(row + 1, row + 1 + width)),
        activation,
    )


def _same_sequence(tokens: ActivationBatch, row: int, other: int) -> bool:
    """Same document, and no jump in position larger than tokens left out could explain."""
    same = bool(tokens.documents[row] == tokens.documents[other])
    step = int(tokens.positions[other] - tokens.positions[row])
    return same and (step == 0 or (step > 0) == (other > row))
