"""Do latents mark tokens that somebody labelled?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from sae_crossdiff.activations import ActivationBatch, in_order
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError


@torch.no_grad()
def latent_activations(
    crosscoder: Crosscoder, tokens: ActivationBatch, latents: Sequence[int], batch_size: int = 2048
) -> NDArray[np.float32]:
    """f of the chosen latents on every token: dense [tokens, len(latents)]."""
    chosen = torch.tensor(list(latents), dtype=torch.long, device=crosscoder.W_dec.device)
    parts = [
        crosscoder.encode_latents(batch.acts.to(chosen.device), chosen).cpu()
        for batch in in_order(tokens, batch_size)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros((0, len(chosen)), dtype=np.float32)


def auroc(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> Any:
    """Probability that a labelled token scores higher than another one; ties count one half.

    `scores` [tokens] or [tokens, n]: a number or n of them. NaN if all tokens, or none, are
    labelled.
    """
    # In float32 scipy's sums of ranks would be rounded.
    positive, negative = scores[labels].astype(np.float64), scores[~labels].astype(np.float64)
    if not len(positive) or not len(negative):
        return np.full(scores.shape[1:], np.nan)[()]
    statistic = mannwhitneyu(positive, negative, method="asymptotic").statistic
    return statistic / (len(positive) * len(negative))


def span_aurocs(
    crosscoder: Crosscoder,
    tokens: ActivationBatch,
    latents: Sequence[int],
    labels: Iterable[str],
    latents_at_once: int = 256,
    n_unlabelled: int | None = None,
) -> pd.DataFrame:
    """AUROC of each latent (rows) for the spans of each label (columns).

    A latent scores a span by its largest f in it: few latents fire on every token of a phrase.
    The negatives are windows of unlabelled text of the same lengths, so that a longer span has
    no better chance by its length. `tokens` must be in order, as `harvest` gives them.

    Args:
        latents_at_once: bounds memory, about 12 bytes times this times tokens.
        n_unlabelled: windows of unlabelled text to compare with, evenly spaced; all if None.

    Raises:
        CrossdiffError: a label that no token carries, or no window to compare with.
    """
    labels = list(labels)
    if n_unlabelled is not None and n_unlabelled < 1:
        raise CrossdiffError(f"n_unlabelled={n_unlabelled} windows: give one or more")
    index = pd.Index(list(latents), name="latent")
    parts = [np.zeros((0, len(labels)))]
    for start in range(0, len(index), latents_at_once):
        some = index[start : start + latents_at_once].tolist()
        acts = latent_activations(crosscoder, tokens, some)
        parts.append(window_aurocs(acts, tokens, labels, n_unlabelled))
    return pd.DataFrame(np.concatenate(parts), index, labels)


def window_aurocs(
    scores: NDArray[np.float32],
    tokens: ActivationBatch,
    labels: Iterable[str],
    n_unlabelled: int | None = None,
) -> NDArray[np.float64]:
    """`span_aurocs` of any scores [tokens, n], as [n, labels]."""
    padded = np.concatenate([scores, np.full_like(scores[:1], -np.inf)])  # for spans at the end
    columns = []
    for label in labels:
        if label not in tokens.masks or not bool(tokens.masks[label].any()):
            raise CrossdiffError(
                f"no token is labelled {label!r}: the labels here are {sorted(tokens.masks)}"
            )
        positive, negative = labelled_windows(tokens, label)
        if n_unlabelled is not None and len(negative) > n_unlabelled:
            spaced = np.linspace(0, len(negative) - 1, n_unlabelled).round().astype(int)
            negative = [negative[i] for i in spaced]
        edges = [edge for w in (*positive, *negative) for edge in (w.start, w.stop)]
        peaks = np.maximum.reduceat(padded, edges)[::2]
        columns.append(auroc(peaks, np.arange(len(peaks)) < len(positive)))
    return np.stack(columns, axis=-1)


def labelled_windows(tokens: ActivationBatch, label: str) -> tuple[list[slice], list[slice]]:
    """(spans of the label, windows of unlabelled text whose lengths cycle through the spans')."""
    mask, documents = tokens.masks[label].numpy(), tokens.documents.numpy()
    changes = np.flatnonzero((np.diff(mask.astype(int)) != 0) | (np.diff(documents) != 0)) + 1
    edges = [0, *changes.tolist(), len(mask)]
    runs = [slice(a, b) for a, b in pairwise(edges)]
    positive = [run for run in runs if mask[run.start]]
    lengths = cycle([run.stop - run.start for run in positive])
    negative = []
    for run in runs:
        start = run.start
        while not mask[run.start]:
            stop = start + next(lengths)
            if stop > run.stop:
                break
            negative.append(slice(start, stop))
            start = stop
    return positive, negative
