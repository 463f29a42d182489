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

    @classmethod
    def from_latent_order(
        cls,
        rows: Int[Tensor, " active"],
        latents: Int[Tensor, " active"],
        values: Float[Tensor, " active"],
        n_tokens: int,
        n_latents: int,
    ) -> SparseCode:
        """From entries that are sorted by latent, then by token."""
        by_row = torch.argsort(rows.int(), stable=True)  # 32-bit integers sort twice as fast
        code = cls(rows[by_row], latents[by_row], values[by_row], n_tokens, n_latents)
        order = torch.empty_like(by_row)
        order[by_row] = torch.arange(len(by_row), device=by_row.device)
        code.__dict__["latent_order"] = LatentOrder(order, segment_starts(latents, n_latents))
        return code

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
        return segment_starts(self.rows, self.n_tokens)

    @cached_property
    def latent_order(self) -> LatentOrder:
        order = torch.argsort(self.latents.int(), stable=True)
        return LatentOrder(order, segment_starts(self.latents, self.n_latents))

    def matmul(self, weight: Float[Tensor, "latents d"]) -> Float[Tensor, "tokens d"]:
        """`to_dense() @ weight`: per token the weighted sum of its latents' rows."""
        return embedding_bag(
            self.latents,
            weight,
            offsets=self.row_offsets,
            mode="sum",
            per_sample_weights=self.values.to(weight.dtype),
        )

    def transposed_matmul(
        self, dense: Float[Tensor, "tokens d"], out: Float[Tensor, "latents d"] | None = None
    ) -> Float[Tensor, "latents d"]:
        """`to_dense().T @ dense`: per latent the weighted sum of its tokens' rows.

        `out` (overwritten and returned) spares the allocation, which for a tensor as large as
        the weights costs a CPU more time than the product.
        """
        order, offsets = self.latent_order
        rows, values = self.rows[order], self.values[order].to(dense.dtype)
        if out is None:
            out = dense.new_zeros(self.n_latents, dense.shape[1])
        if has_csr_products(dense):
            code = _csr(offsets, rows, values, (self.n_latents, self.n_tokens))
            return torch.addmm(out, code, dense, beta=0, out=out)
        return out.copy_(
            embedding_bag(rows, dense, offsets=offsets, mode="sum", per_sample_weights=values)
        )

    def dots(
        self, dense: Float[Tensor, "tokens d"], directions: Float[Tensor, "latents d"]
    ) -> Float[Tensor, " active"]:
        """<dense[row], directions[latent]> for the active entries only."""
        order, offsets = self.latent_order
        # Latent by latent: tokens are fewer than latents, so the cache holds more of them.
        in_order = dots_in_latent_order(offsets, self.rows[order], directions, dense)
        dots = torch.empty_like(in_order)
        dots[order] = in_order
        return dots

    def sum_per_latent(self, per_entry: Tensor) -> Tensor:
        """Sum `per_entry` [active] over the tokens: float64 [latents]."""
        total = torch.zeros(self.n_latents, dtype=torch.float64, device=per_entry.device)
        return total.index_add_(0, self.latents, per_entry.to(torch.float64))


def segment_starts(segments: Int[Tensor, " active"], n_segments: int) -> Int[Tensor, " segments"]:
    """Where each segment of sorted entries begins."""
    counts = torch.bincount(segments, minlength=n_segments)
    return counts.cumsum(0) - counts


def dots_in_latent_order(
    offsets: Int[Tensor, " latents"],
    rows: Int[Tensor, " active"],
    directions: Float[Tensor, "latents d"],
    dense: Float[Tensor, "tokens d"],
) -> Float[Tensor, " active"]:
    """<directions[latent], dense[row]> for entries sorted by latent, then by token."""
    shape = (len(directions), len(dense))
    pattern = _csr(offsets, rows, torch.zeros_like(rows, dtype=dense.dtype), shape)
    return torch.sparse.sampled_addmm(pattern, directions, dense.T, beta=0.0).values()


def has_csr_products(dense: Tensor) -> bool:
    """Whether torch multiplies CSR tensors here (on a CPU that takes MKL)."""
    kinds = (torch.float32, torch.float64)
    return dense.dtype in kinds and (dense.is_cuda or torch.backends.mkl.is_available())


def _csr(offsets: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    end = offsets.new_tensor([len(columns)])
    crow = torch.cat([offsets, end])
    return torch.sparse_csr_tensor(crow, columns, values, shape, check_invariants=False)
