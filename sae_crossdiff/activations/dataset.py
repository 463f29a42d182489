"""A harvest kept in memory, for several epochs over little data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sae_crossdiff.activations.batches import ActivationBatch, concatenate
from sae_crossdiff.errors import CrossdiffError


class ActivationDataset:
    """Every harvested token in memory: tokens * sum(d_ins) * 2 bytes in bfloat16."""

    def __init__(self, batches: Iterable[ActivationBatch]):
        self.all = concatenate(batches)
        if not len(self.all):
            raise CrossdiffError("no activations are left: every token was an outlier or BOS")

    def __len__(self) -> int:
        return len(self.all)

    def split(self, held_out: float, seed: int = 0) -> tuple[ActivationBatch, ActivationBatch]:
        """(training, held-out) tokens; whole documents go to one side.

        Raises:
            CrossdiffError: fewer than two documents, or a share outside (0, 1).
        """
        documents = self.all.documents.unique()
        if not 0 < held_out < 1 or len(documents) < 2:
            raise CrossdiffError(
                f"cannot hold out {held_out:g} of {len(documents)} documents: pass more text, or "
                "a share between 0 and 1"
            )
        order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed))
        n_held_out = max(1, min(len(documents) - 1, round(held_out * len(documents))))
        held = torch.isin(self.all.documents, documents[order[:n_held_out]])
        return self.all.select(~held), self.all.select(held)


def in_order(tokens: ActivationBatch, batch_size: int = 2048) -> Iterator[ActivationBatch]:
    """Consecutive pieces of at most `batch_size` tokens."""
    for start in range(0, len(tokens), batch_size):
        yield tokens.select(slice(start, start + batch_size))


def shuffled(acts: Tensor, batch_size: int, seed: int = 0) -> Iterator[Tensor]:
    """Endless epochs over `acts` [tokens, d_in], a new permutation each, full batches only.

    Raises:
        CrossdiffError: fewer tokens than one batch.
    """
    if len(acts) < batch_size:
        raise CrossdiffError(
            f"{len(acts)} tokens do not fill one batch of {batch_size}: harvest more text or lower "
            "the batch size"
        )
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(acts), generator=generator)
        for start in range(0, len(acts) - batch_size + 1, batch_size):
            yield acts[order[start : start + batch_size]]
