"""What a crosscoder adds to an SAE: it knows where one model ends and the next begins."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_crossdiff.errors import CrossdiffError


class CrosscoderMixin(nn.Module):
    """Per-model views of flat SAELens weights. Goes first among the base classes.

    Shapes: M models of widths d_ins, d_in = sum(d_ins), F = d_sae latents, B tokens.

    Buffers `activation_mean` [d_in] and `activation_scale` [M] remember the per-model
    normalisation `(x_m - mean_m) * scale_m` that the weights were trained under and that has
    been folded into them (zeros and ones: none). Latent Scaling and decoder norms are read in
    those units, or a model with a larger residual stream would win every comparison.
    """

    cfg: Any
    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter
    activation_mean: Tensor
    activation_scale: Tensor
    dtype: torch.dtype
    device: torch.device

    def initialize_weights(self) -> None:
        super().initialize_weights()  # type: ignore[misc]
        kind: Any = {"dtype": self.dtype, "device": self.device}
        self.register_buffer("activation_mean", torch.zeros(self.cfg.d_in, **kind))
        self.register_buffer("activation_scale", torch.ones(len(self.cfg.d_ins), **kind))

    def process_state_dict_for_loading(self, state_dict: dict[str, Tensor]) -> None:
        super().process_state_dict_for_loading(state_dict)  # type: ignore[misc]
        weight = state_dict["W_enc"]
        state_dict.setdefault("activation_mean", weight.new_zeros(self.cfg.d_in))
        state_dict.setdefault("activation_scale", weight.new_ones(len(self.cfg.d_ins)))

    @property
    def n_models(self) -> int:
        return len(self.cfg.d_ins)

    def index_of(self, model: str) -> int:
        """Position of a model's name."""
        if model not in self.cfg.model_names:
            raise CrossdiffError(f"no model {model!r} here, only {self.cfg.model_names}")
        return self.cfg.model_names.index(model)

    def split(self, x: Float[Tensor, "*batch d_in"]) -> list[Float[Tensor, "*batch d_m"]]:
        """[..., d_in] -> one [..., d_m] per model (views).

        Raises:
            CrossdiffError: the last dimension is not `sum(d_ins)`.
        """
        if x.shape[-1] != self.cfg.d_in:
            raise CrossdiffError(
                f"activations are {x.shape[-1]} wide, this crosscoder takes "
                f"{' + '.join(map(str, self.cfg.d_ins))} = {self.cfg.d_in}: harvest them at "
                f"its own hook ({self.cfg.metadata.hook_name}) from its own models"
            )
        return list(x.split(self.cfg.d_ins, dim=-1))

    @property
    def W_dec_per_model(self) -> list[Float[Tensor, "latents d_m"]]:
        return self.split(self.W_dec)

    @property
    def b_dec_per_model(self) -> list[Float[Tensor, " d_m"]]:
        return self.split(self.b_dec)

    def decoder_norms(self) -> Float[Tensor, "models latents"]:
        """||W_dec[m, j]||_2, differentiable."""
        return torch.stack([part.norm(dim=-1) for part in self.W_dec_per_model])

    def total_decoder_norms(self) -> Float[Tensor, " latents"]:
        """n_j: the sum of the models' decoder norms (or the norm of the concatenation)."""
        if self.cfg.decoder_norm == "l2":
            return self.W_dec.norm(dim=-1)
        return self.decoder_norms().sum(dim=0)

    @torch.no_grad()
    def get_W_dec_norm(self) -> Tensor:
        """SAELens' seam for folding and export."""
        return self.total_decoder_norms().clamp(min=1e-8)

    def process_sae_in(self, sae_in: Tensor) -> Tensor:
        self.split(sae_in)  # the check of the width, with a message that says what to do
        return super().process_sae_in(sae_in)  # type: ignore[misc]

    def per_dimension_scale(self) -> Float[Tensor, " d_in"]:
        """`activation_scale`, one factor per coordinate."""
        widths = torch.tensor(self.cfg.d_ins, device=self.activation_scale.device)
        return self.activation_scale.repeat_interleave(widths)

    def normalize(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Raw activations -> the units the crosscoder was trained in."""
        self.split(x)
        return (x.to(self.dtype) - self.activation_mean) * self.per_dimension_scale()

    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """SAELens' single factor for all models, remembered like the per-model ones."""
        super().fold_activation_norm_scaling_factor(scaling_factor)  # type: ignore[misc]
        self.activation_scale.mul_(scaling_factor)
