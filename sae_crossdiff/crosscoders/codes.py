"""Sparse codes: which latent fired on which token, and how strongly."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

# torch says so once per process; the one CSR operator used here is checked by our tests.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class LatentOrder(NamedTuple):
    """The entries sorted by latent: `order` [active], and each latent's first place [latents]."""

    order: Int[Tensor, " active"]
    offsets: Int[Tensor, " latents"]


@dataclass(frozen=True)
class SparseCode:
    """The active entries of a code [n_tokens, n_latents], in row (token) order.

    `rows`, `latents` int64 [active], `values` [active] > 0. Everything downstream (decoding,
    gradients, Latent Scaling, statistics) works on these triples; a dense array exists only on
    request.
    """

    rows: Int[Tensor, " active"]
    latents: Int[Tensor, " active"]
    values: Float[Tensor, " active"]
    n_tokens: int
    n_latents: int

    @classmethod
    def from_dense(cls, acts: Float[Tensor, "tokens latents"]) -> SparseCode:
        """Every non-zero entry of a dense code."""
        rows, latents = acts.nonzero(as_tuple=True)
        return cls(rows, latents, acts[rows, latents], *acts.shape)

    def with_values(self, values: Float[Tensor, " active"]) -> SparseCode:
        """The same entries with other values, e.g. ones that carry a gradient.

        Both share `row_offsets` and `latent_order`, so a training step sorts its entries once.
        """
        code = SparseCode(self.rows, self.latents, values, self.n_tokens, self.n_latents)
        code.__dict__.update(row_offsets=self.row_offsets, latent_order=self.latent_order)
        return code

    def to_dense(self) -> Float[Tensor, "tokens latents"]:
        dense = self.values.new_zeros(self.n_tokens, self.n_latents)
        dense[self.rows, self.latents] = self.values
        return dense

    def to_coo(self) -> Tensor:
        """A `torch.sparse_coo_tensor`, as SAELens' sparse hooks expect."""
        indices = torch.stack([self.rows, self.latents])
        shape = (self.n_tokens, self.n_latents)
        return torch.sparse_coo_tensor(
            indices, self.values, shape, is_coalesced=True, check_invariants=False
        )

    @cached_property
    def row_offsets(self) -> Int[Tensor, " tokens"]:
        """Where each token's entries begin."""
        counts = torch.bincount(self.rows, minlength=self.n_tokens)
        return counts.cumsum(0) - counts

    @cached_property
    def latent_order(self) -> LatentOrder:
        counts = torch.bincount(self.latents, minlength=self.n_latents)
        return LatentOrder(torch.argsort(self.latents, stable=True), counts.cumsum(0) - counts)

    def matmul(self, weight: Float[Tensor, "latents d"]) -> Float[Tensor, "tokens d"]:
        """`to_dense() @ weight`: per token the weighted sum of its latents' rows."""
        return embedding_bag(
            self.latents,
            weight,
            offsets=self.row_offsets,
            mode="sum",
            per_sample_weights=self.values.to(weight.dtype),
        )

    def transposed_matmul(self, dense: Float[Tensor, "tokens d"]) -> Float[Tensor, "latents d"]:
        """`to_dense().T @ dense`: per latent the weighted sum of its tokens' rows."""
        order, offsets = self.latent_order
        return embedding_bag(
            self.rows[order],
            dense,
            offsets=offsets,
            mode="sum",
            per_sample_weights=self.values[order].to(dense.dtype),
        )

    def dots(
        self, dense: Float[Tensor, "tokens d"], directions: Float[Tensor, "latents d"]
    ) -> Float[Tensor, " active"]:
        """<dense[row], directions[latent]> for the active entries only."""
        end = self.row_offsets.new_tensor([len(self.rows)])
        pattern = torch.sparse_csr_tensor(
            torch.cat([self.row_offsets, end]),
            self.latents,
            torch.zeros_like(self.values, dtype=dense.dtype),
            (self.n_tokens, self.n_latents),
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(pattern, dense, directions.T, beta=0.0).values()

    def sum_per_latent(self, per_entry: Tensor) -> Tensor:
        """Sum `per_entry` [active] over the tokens: float64 [latents]."""
        total = torch.zeros(self.n_latents, dtype=torch.float64, device=per_entry.device)
        return total.index_add_(0, self.latents, per_entry.to(torch.float64))
