"""How often and how strongly each latent fires, and on what kind of token."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import SparseCode


class FiringStatistics:
    """Per latent: active tokens, sum and maximum of f, and active tokens per token mask."""

    def __init__(self, n_latents: int, device: torch.device):
        self.n_tokens = 0
        self.active = torch.zeros(n_latents, dtype=torch.float64, device=device)
        self.total = torch.zeros_like(self.active)
        self.maximum = torch.zeros_like(self.active)
        self.active_in_mask: dict[str, Tensor] = {}

    def update(self, batch: ActivationBatch, code: SparseCode) -> None:
        self.n_tokens += len(batch)
        values = code.values.double()
        self.active += code.sum_per_latent(torch.ones_like(values))
        self.total += code.sum_per_latent(values)
        self.maximum.scatter_reduce_(0, code.latents, values, reduce="amax")
        for name, mask in batch.masks.items():
            inside = mask.to(code.rows.device)[code.rows].double()
            known = self.active_in_mask.setdefault(name, torch.zeros_like(self.active))
            known += code.sum_per_latent(inside)

    def share(self, mask: str) -> Tensor:
        """Share of each latent's active tokens that the mask holds; NaN if it never fired."""
        return self.active_in_mask.get(mask, torch.full_like(self.active, torch.nan)) / self.active
