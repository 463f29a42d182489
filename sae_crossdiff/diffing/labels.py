"""Do latents mark tokens that somebody labelled?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise

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


def auroc(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Probability that a labelled token scores higher than another one; ties count one half.

    NaN if all tokens, or none, are labelled.
    """
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        return float("nan")
    statistic = mannwhitneyu(positive, negative, method="asymptotic").statistic
    return float(statistic / (len(positive) * len(negative)))


def span_aurocs(
    crosscoder: Crosscoder,
    tokens: ActivationBatch,
    latents: Sequence[int],
    labels: Iterable[str],
) -> pd.DataFrame:
    """AUROC of each latent (rows) for the spans of each label (columns).

    A latent scores a span by its largest f in it: few latents fire on every token of a phrase.
    The negatives are windows of unlabelled text of the same lengths, so that a longer span has
    no better chance by its length. `tokens` must be in order, as `harvest` gives them.

    Raises:
        CrossdiffError: a label that no token carries.
    """
    acts = latent_activations(crosscoder, tokens, latents)
    columns = {}
    for label in labels:
        if label not in tokens.masks or not bool(tokens.masks[label].any()):
            raise CrossdiffError(
                f"no token is labelled {label!r}: the labels here are {sorted(tokens.masks)}"
            )
        positive, negative = labelled_windows(tokens, label)
        scores = np.stack([acts[w].max(axis=0) for w in (*positive, *negative)])
        truth = np.arange(len(scores)) < len(positive)
        columns[label] = [auroc(scores[:, i], truth) for i in range(scores.shape[1])]
    return pd.DataFrame(columns, index=pd.Index(list(latents), name="latent"))


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
