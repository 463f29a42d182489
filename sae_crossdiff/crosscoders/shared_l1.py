"""L1 crosscoder with designated shared latents (Anthropic, "Insights on crosscoder model diffing",
Transformer Circuits, February 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from sae_crossdiff.crosscoders.l1 import L1Crosscoder, L1CrosscoderConfig
from sae_crossdiff.errors import CrossdiffError


@dataclass
class SharedL1CrosscoderConfig(L1CrosscoderConfig):
    """Config of `SharedL1Crosscoder`.

    Args:
        n_shared: the first `n_shared` latents have one decoder row for all models.
        shared_weight: their sparsity weight relative to that of the others (0.1 to 0.2), so that
            what the models share does not pile up in the latents that may differ.
    """

    n_shared: int = 0
    shared_weight: float = 0.15

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.n_shared < self.d_sae:
            raise CrossdiffError(
                f"n_shared={self.n_shared} must lie between 0 and d_sae={self.d_sae}: without "
                "shared latents use crosscoder_l1"
            )
        if not 0 < self.shared_weight <= 1:
            raise CrossdiffError(f"shared_weight={self.shared_weight} must lie in (0, 1]")
        if len(set(self.d_ins)) > 1:
            raise CrossdiffError(f"one decoder row cannot serve models of widths {self.d_ins}")

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder_l1_shared"


class SharedL1Crosscoder(L1Crosscoder):
    """The first `n_shared` latents write the same row into every model and pay less for firing.

    Rows start equal (one random matrix for all models) and get the mean of the models' gradients,
    so they stay equal.
    """

    cfg: SharedL1CrosscoderConfig  # type: ignore[assignment]

    def __init__(self, cfg: SharedL1CrosscoderConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.W_dec.register_hook(self._tied)

    @override
    def penalised_norms(self) -> Float[Tensor, " latents"]:
        norms = self.total_decoder_norms()
        weights = torch.ones_like(norms)
        weights[: self.cfg.n_shared] = self.cfg.shared_weight
        return norms * weights

    def _tied(self, gradient: Float[Tensor, "latents d_in"]) -> Tensor:
        tied = gradient.clone()
        per_model = tied[: self.cfg.n_shared].view(self.cfg.n_shared, self.n_models, -1)
        per_model[:] = per_model.mean(dim=1, keepdim=True)
        return tied
