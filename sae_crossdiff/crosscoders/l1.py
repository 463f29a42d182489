"""The L1 crosscoder: every latent pays mu * f_j * n_j."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from sae_lens.saes.sae import SAEConfig, TrainStepInput, TrainStepOutput
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from torch import Tensor
from typing_extensions import override

from sae_crossdiff.crosscoders.codes import SparseCode
from sae_crossdiff.crosscoders.config import CrosscoderFields
from sae_crossdiff.crosscoders.crosscoder import CrosscoderConfig
from sae_crossdiff.crosscoders.sparse_encoder import SparseEncoder
from sae_crossdiff.crosscoders.training_base import TrainingCrosscoderMixin
from sae_crossdiff.errors import CrossdiffError

LOSSES = ("squared", "unsquared")
SPARSE_BELOW = 0.05  # firing rate; above it dense products are faster (2 AVX-512 cores)


@dataclass
class L1CrosscoderConfig(CrosscoderFields, StandardTrainingSAEConfig):
    """Config of `L1Crosscoder`.

    Args:
        l1_coefficient: mu. With "squared" it is half of SAELens' `l1_coefficient`, because of
            the 1/2 in the paper's loss.
        l1_warm_up_steps: steps over which mu rises linearly from 0.
        reconstruction_loss: "squared": 1/2 sum_m ||eps_m||^2 (the paper's formula);
            "unsquared": the mean over models of ||eps_m|| (the released code; mu = 0.041 with
            decoder_init_norm = 0.005 reproduces the release).
    """

    l1_coefficient: float = 0.041
    reconstruction_loss: Literal["squared", "unsquared"] = "squared"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reconstruction_loss not in LOSSES:
            raise CrossdiffError(
                f"reconstruction_loss={self.reconstruction_loss!r} is not one of {LOSSES}"
            )
        if self.lp_norm != 1.0:
            raise CrossdiffError(f"lp_norm={self.lp_norm}: an L1 crosscoder has lp_norm=1.0")

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder_l1"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return CrosscoderConfig


class L1Crosscoder(TrainingCrosscoderMixin, StandardTrainingSAE):
    """Reconstruction loss plus mu * mean_B sum_j f_j n_j, with n_j = sum_m ||W_dec[m, j]||.

    The code starts out dense (half of all latents fire) and thins out; once less than
    `SPARSE_BELOW` of it is active, the same loss and gradients are computed from the active
    entries only.
    """

    cfg: L1CrosscoderConfig  # type: ignore[assignment]

    def __init__(self, cfg: L1CrosscoderConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        # SAELens sums this over the last dimension and averages over tokens.
        self.mse_loss_fn = self._reconstruction_loss
        self.firing_rate = 1.0  # share of active entries in the last training batch
        self.sparse_encoder = SparseEncoder()

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Loss of a batch [B, d_in]; `feature_acts` [B, F] is a COO tensor on the sparse path."""
        if self.firing_rate >= SPARSE_BELOW:
            output = super().training_forward_pass(step_input)
            active = int((output.feature_acts > 0).sum())
        else:
            output = self.with_model_metrics(self._sparse_forward_pass(step_input))
            active = len(output.hidden_pre)
        self.firing_rate = active / output.feature_acts.numel()
        return output

    def _sparse_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x = self.process_sae_in(step_input.sae_in)
        W_enc, b_enc = self.W_enc.detach(), self.b_enc.detach()
        entries = self.sparse_encoder.entries_above(x, W_enc, b_enc, torch.zeros_like(b_enc))
        active = SparseCode.from_latent_order(*entries, len(x), self.cfg.d_sae)
        code, sae_out = self.reconstruct_sparse(x, active)
        mse_loss = self._reconstruction_loss(sae_out, x).sum(dim=-1).mean()
        firing = torch.zeros_like(b_enc).index_add(0, code.latents, code.values)
        penalty = (firing * self.penalised_norms()).sum() / len(x)
        l1_loss = step_input.coefficients["l1"] * penalty
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=sae_out,
            feature_acts=active.to_coo(),
            hidden_pre=code.values,
            loss=mse_loss + l1_loss,
            losses={"mse_loss": mse_loss, "l1_loss": l1_loss},
        )

    def penalised_norms(self) -> Float[Tensor, " latents"]:
        """What a latent pays per unit of f."""
        return self.total_decoder_norms()

    def _reconstruction_loss(self, sae_out: Tensor, sae_in: Tensor) -> Tensor:
        error = sae_out - sae_in
        if self.cfg.reconstruction_loss == "squared":
            return error.pow(2) / 2
        parts = [part.norm(dim=-1, keepdim=True) for part in self.split(error)]
        return sum(parts[1:], parts[0]) / self.n_models

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: Tensor,
        hidden_pre: Tensor,
        sae_out: Tensor,
    ) -> dict[str, Tensor]:
        penalty = (feature_acts * self.penalised_norms()).sum(dim=-1).mean()
        return {"l1_loss": step_input.coefficients["l1"] * penalty}
