"""The BatchTopK crosscoder: the k * B strongest entries of the batch, whatever their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEConfig, TrainStepInput, TrainStepOutput
from torch import Tensor
from torch.nn.functional import mse_loss as mse_loss_fn
from typing_extensions import override

from sae_crossdiff.crosscoders.codes import SparseCode
from sae_crossdiff.crosscoders.config import CrosscoderFields
from sae_crossdiff.crosscoders.crosscoder import CrosscoderConfig
from sae_crossdiff.crosscoders.selection import BatchTopKSelector
from sae_crossdiff.crosscoders.sparse_encoder import SparseEncoder
from sae_crossdiff.crosscoders.sparse_ops import decode_entries, encode_entries
from sae_crossdiff.crosscoders.training_base import TrainingCrosscoderMixin
from sae_crossdiff.errors import CrossdiffError

NEVER_SET = -1.0


@dataclass
class BatchTopKCrosscoderConfig(CrosscoderFields, BatchTopKTrainingSAEConfig):
    """Config of `BatchTopKCrosscoder`; defaults are those of arXiv:2504.02922.

    Args:
        k: mean number of active latents per token.
        k_initial: k at the first step; it falls linearly to `k` over `k_anneal_steps` steps.
        topk_threshold_lr: weight of the newest value in the threshold's moving average.
        topk_threshold_start_step: until then the threshold is just the newest value (so that it
            is never unset); from then on it is a moving average.
        aux_loss_coefficient: weight of AuxK; its error is divided by the residual's variance.
        decoder_init_norm: norm of each model's decoder rows at the start.
        screen_in_bf16: find candidates with a bfloat16 product that bounds the float32 one; the
            selection, the values and all gradients are those of float32 (see `SparseEncoder`).
            None: where the hardware multiplies bfloat16.
        block_size: latents per block of the encoder product (bounds the memory of a step).
    """

    k: float = 100
    k_initial: float | None = None
    k_anneal_steps: int = 0
    topk_threshold_lr: float = 0.001
    topk_threshold_start_step: int = 1000
    aux_loss_coefficient: float = 1 / 32
    decoder_init_norm: float | None = 1.0
    screen_in_bf16: bool | None = None
    block_size: int = 2048

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        largest = max(self.k, self.k_initial or 0)
        if self.k <= 0 or largest > self.d_sae:
            raise CrossdiffError(
                f"k={self.k:g} (k_initial={self.k_initial}) must lie between 0 and "
                f"d_sae={self.d_sae}: lower k or raise d_sae"
            )
        if not self.rescale_acts_by_decoder_norm or self.use_sparse_activations:
            raise CrossdiffError(
                "a BatchTopK crosscoder always ranks by f * n and has its own sparse path: leave "
                "rescale_acts_by_decoder_norm=True and use_sparse_activations=False"
            )
        if self.k_initial is not None and self.k_anneal_steps < 1:
            raise CrossdiffError(
                f"k_initial={self.k_initial} without k_anneal_steps: say over how many steps k "
                f"falls to {self.k:g}, or leave k_initial out"
            )

    def k_at(self, step: int) -> float:
        """k at a training step: linear from `k_initial` to `k`, then `k`."""
        if self.k_initial is None or step >= self.k_anneal_steps:
            return self.k
        return self.k_initial + (self.k - self.k_initial) * step / self.k_anneal_steps

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder_batchtopk"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return CrosscoderConfig


class BatchTopKCrosscoder(TrainingCrosscoderMixin, BatchTopKTrainingSAE):
    """Ranks f_ij * n_j over the whole batch, keeps the k * B largest, decodes the unscaled f.

    Loss: sum over models and coordinates of the squared error, mean over tokens (SAELens'
    convention), plus AuxK. No gradient passes through the selection. Zeros never count as active.
    Training touches the kept entries only; the one dense product is the encoder's.
    """

    cfg: BatchTopKCrosscoderConfig  # type: ignore[assignment]

    def __init__(self, cfg: BatchTopKCrosscoderConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.topk_threshold.fill_(NEVER_SET)
        self.current_k = cfg.k  # training sets it step by step
        self.selector = BatchTopKSelector(SparseEncoder(cfg.block_size, cfg.screen_in_bf16))

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Loss and sparse code of a batch [B, d_in]; `feature_acts` is a COO tensor [B, F]."""
        self.current_k = self.cfg.k_at(step_input.n_training_steps)
        x = self.process_sae_in(step_input.sae_in)
        norms = self.get_W_dec_norm()
        chosen = self.select(x, norms)
        self.update_threshold(chosen, norms, step_input.n_training_steps)
        code, sae_out = self.reconstruct_sparse(x, chosen)
        mse_loss = mse_loss_fn(sae_out, x, reduction="sum") / len(x)
        aux_loss = self.auxk_loss(x, sae_out.detach(), norms, step_input.dead_neuron_mask)
        output = TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=sae_out,
            feature_acts=chosen.to_coo(),
            hidden_pre=code.values,
            loss=mse_loss + aux_loss,
            losses={"mse_loss": mse_loss, "auxiliary_reconstruction_loss": aux_loss},
            metrics={"topk_threshold": self.topk_threshold, "k": self.current_k},
        )
        return self.with_model_metrics(output)

    def select(self, x: Tensor, norms: Tensor) -> SparseCode:
        """The batch's k * B largest f * n, as triples without a gradient."""
        n_kept = int(self.current_k * len(x))
        return self.selector.select(x, self.W_enc, self.b_enc, norms, n_kept)

    def auxk_loss(self, x: Tensor, sae_out: Tensor, norms: Tensor, dead: Tensor | None) -> Tensor:
        """AuxK: per token the strongest dead latents reconstruct the residual.

        ||residual - recons||^2 / ||residual - mean||^2, both summed over the batch; at most half
        a model's width of dead latents per token (METHOD section 1).
        """
        n_dead = 0 if dead is None else int(dead.sum())
        if dead is None or n_dead == 0:
            return x.new_zeros(())
        residual = x - sae_out
        aux = self._strongest_dead(x, norms, dead.nonzero().squeeze(-1))
        aux = encode_entries(x, self.W_enc, self.b_enc, aux)
        error = (residual - decode_entries(aux, self.W_dec)).pow(2).sum()
        variance = (residual - residual.mean(dim=0)).pow(2).sum()
        return self.cfg.aux_loss_coefficient * error / variance.clamp(min=1e-12)

    @torch.no_grad()
    def _strongest_dead(self, x: Tensor, norms: Tensor, dead: Tensor) -> SparseCode:
        acts = torch.addmm(self.b_enc[dead], x, self.W_enc[:, dead]).relu()
        k_aux = min(max(self.cfg.d_ins) // 2, len(dead))
        top = (acts * norms[dead]).topk(k_aux, sorted=False).indices
        chosen = SparseCode.from_dense(torch.zeros_like(acts).scatter(1, top, acts.gather(1, top)))
        return SparseCode(chosen.rows, dead[chosen.latents], chosen.values, len(x), self.cfg.d_sae)

    @torch.no_grad()
    def update_threshold(self, code: SparseCode, norms: Tensor, step: int) -> None:
        """Follow the smallest kept f * n (METHOD: a moving average from step 1000 on)."""
        if not len(code.values):
            return
        smallest = (code.values * norms[code.latents]).min().double()
        averaging = step >= self.cfg.topk_threshold_start_step and self.threshold_is_set
        rate = self.cfg.topk_threshold_lr if averaging else 1.0
        self.topk_threshold.mul_(1 - rate).add_(rate * smallest)

    @property
    def threshold_is_set(self) -> bool:
        return bool(self.topk_threshold >= 0)

    @override
    def encode_with_hidden_pre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled dense code [..., F] with the batch's k * B largest f * n, and pre-activations.

        What SAELens calls outside training (evals, hooks).
        """
        sae_in = self.process_sae_in(x)
        hidden_pre = self.hook_sae_acts_pre(sae_in @ self.W_enc + self.b_enc)
        acts = hidden_pre.relu()
        flat = (acts.detach() * self.get_W_dec_norm()).flatten()
        n_kept = min(int(self.current_k * (flat.numel() // self.cfg.d_sae)), flat.numel())
        top = flat.topk(n_kept, sorted=False)
        kept = torch.zeros_like(flat, dtype=torch.bool)
        kept[top.indices[top.values > 0]] = True
        return self.hook_sae_acts_post(torch.where(kept.view_as(acts), acts, 0)), hidden_pre

    @override
    def decode(self, feature_acts: Tensor) -> Tensor:
        reconstruction = self.hook_sae_recons(feature_acts @ self.W_dec + self.b_dec)
        return self.reshape_fn_out(
            self.run_time_activation_norm_fn_out(reconstruction), self.d_head
        )

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """theta on f * n -> theta / n_j on f, one per latent."""
        super().process_state_dict_for_saving_inference(state_dict)
        theta = float(state_dict.pop("topk_threshold"))
        if theta < 0:
            raise CrossdiffError(
                "this BatchTopK crosscoder's threshold was never set (no training step was run), "
                "so it would run dense: train it, or set `topk_threshold` to a value >= 0"
            )
        state_dict["threshold"] = (theta / self.get_W_dec_norm()).to(self.b_enc.dtype)
