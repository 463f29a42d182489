"""Two truncated forwards per batch of sequences, and nothing else of weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from sae_crossdiff.activations.batches import ActivationBatch, check_finite
from sae_crossdiff.activations.text import TokenSequence
from sae_crossdiff.pair import HookedModelPair

_BUCKET_BATCHES = 16


def harvest(
    pair: HookedModelPair,
    sequences: Iterable[TokenSequence],
    batch_size: int = 16,
    dtype: torch.dtype | None = None,
) -> Iterator[ActivationBatch]:
    """Activations of every token of `sequences`, one batch per forward, on the CPU.

    Sequences of similar length run together (sorted within windows of 16 batches), so little is
    padded; padding is on the right, which causal attention never sees, and is cut off.

    Args:
        batch_size: sequences per forward.
        dtype: of the result; the models' own if None.

    Raises:
        CrossdiffError: NaN or infinite activations.
    """
    waiting = iter(sequences)
    while window := list(islice(waiting, batch_size * _BUCKET_BATCHES)):
        window.sort(key=len, reverse=True)
        for start in range(0, len(window), batch_size):
            group = window[start : start + batch_size]
            batch = _forward(pair, group, dtype)
            check_finite(batch.acts, f"{pair.hook_name} of {' and '.join(pair.names)}")
            yield batch


def _forward(
    pair: HookedModelPair, group: list[TokenSequence], dtype: torch.dtype | None
) -> ActivationBatch:
    lengths = torch.tensor([len(sequence) for sequence in group])
    tokens = torch.zeros(len(group), int(lengths.max()), dtype=torch.long)
    for row, sequence in enumerate(group):
        tokens[row, : len(sequence)] = torch.from_numpy(sequence.ids)
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    acts = pair.activations(tokens.to(pair.device))
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    documents = torch.tensor([sequence.document for sequence in group])[:, None].expand_as(tokens)
    names = list(dict.fromkeys(name for sequence in group for name in sequence.masks))
    return ActivationBatch(
        acts[real.to(acts.device)].to("cpu", dtype),
        tokens[real],
        positions[real],
        documents[real],
        {name: _joined_mask(group, name) for name in names},
    )


def _joined_mask(group: list[TokenSequence], name: str) -> Tensor:
    masks = [s.masks.get(name, np.zeros(len(s), dtype=bool)) for s in group]
    return torch.from_numpy(np.concatenate(masks))
