"""The unit that flows from models to everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError


@dataclass(frozen=True)
class ActivationBatch:
    """Joined activations of some tokens, and what those tokens are.

    `acts` [tokens, sum(d_ins)], float32 or bfloat16, rows aligned across models; `token_ids`,
    `positions` (in the sequence), `documents` [tokens]; `masks` name -> [tokens].
    """

    acts: Float[Tensor, "tokens d_in"]
    token_ids: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    documents: Int[Tensor, " tokens"]
    masks: dict[str, Bool[Tensor, " tokens"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.acts)

    @classmethod
    def of(cls, batch: ActivationBatch | Tensor) -> ActivationBatch:
        """A bare tensor [tokens, d_in] as a batch without token information."""
        if isinstance(batch, ActivationBatch):
            return batch
        unknown = torch.full((len(batch),), -1, dtype=torch.long)
        return cls(batch, unknown, unknown, unknown)

    def select(self, keep: Tensor | slice) -> ActivationBatch:
        """The tokens of a boolean mask, index tensor or slice."""
        return ActivationBatch(
            self.acts[keep],
            self.token_ids[keep],
            self.positions[keep],
            self.documents[keep],
            {name: mask[keep] for name, mask in self.masks.items()},
        )


def concatenate(batches: Iterable[ActivationBatch]) -> ActivationBatch:
    """All tokens of `batches`; a mask that a batch lacks is False there."""
    parts = list(batches)
    if not parts:
        raise CrossdiffError("no activations: the data set is empty or every token was left out")
    names = list(dict.fromkeys(name for part in parts for name in part.masks))

    def mask(part: ActivationBatch, name: str) -> Tensor:
        return part.masks.get(name, torch.zeros(len(part), dtype=torch.bool))

    return ActivationBatch(
        torch.cat([part.acts for part in parts]),
        torch.cat([part.token_ids for part in parts]),
        torch.cat([part.positions for part in parts]),
        torch.cat([part.documents for part in parts]),
        {name: torch.cat([mask(part, name) for part in parts]) for name in names},
    )


def check_finite(acts: Tensor, what: str) -> None:
    """Raise `CrossdiffError` if a value is NaN or infinite; says which rows."""
    # One reduction: a sum is finite unless an entry is not (or float32 overflows, also wrong).
    if torch.isfinite(acts.sum(dtype=torch.float32)):
        return
    bad = ~torch.isfinite(acts).all(dim=-1)
    first = int(bad.nonzero()[0]) if bad.any() else 0
    raise CrossdiffError(
        f"{what}: {int(bad.sum())} of {acts.shape[0]} tokens have NaN or infinite activations "
        f"(first at row {first}). Harvest in bfloat16 or float32 (float16 overflows), and check "
        "the model's weights"
    )


def iterate(batches: Iterable[ActivationBatch | Tensor]) -> Iterator[ActivationBatch]:
    """`batches` as checked ActivationBatch objects."""
    for batch in batches:
        converted = ActivationBatch.of(batch)
        check_finite(converted.acts, "activations")
        yield converted
