"""One trainer for every crosscoder, over SAELens' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor
from typing_extensions import override

from sae_crossdiff.activations import check_finite
from sae_crossdiff.crosscoders import Crosscoder, geometric_median
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.training.config import TrainingConfig
from sae_crossdiff.training.scaler import PerModelScaler

MAX_GRADIENT_NORM = 1.0


class CrosscoderTrainer(SAETrainer[Any, Any]):
    """A SAETrainer with one scale per model, a decoder bias that starts at the data, and export.

    It is driven from outside, batch by batch (`train_step`), so that several trainers can share
    the same batches.
    """

    def __init__(self, config: TrainingConfig, crosscoder: Any, scaler: PerModelScaler):
        super().__init__(
            trainer_config(config, str(crosscoder.device)), crosscoder, data_provider=iter(())
        )
        self.training_config = config
        self.activation_scaler = scaler
        self.sae.to(self.cfg.device)
        self._optimised = _make_fused(self.optimizer)
        self.sae.gradient_buffers = {}

    def train_step(self, batch: Tensor) -> TrainStepOutput:
        """One optimiser step on raw activations [batch_size, d_in].

        Raises:
            CrossdiffError: NaN in the batch, or a loss that is no longer finite.
        """
        check_finite(batch, f"training batch {self.n_training_steps}")
        if self.n_training_steps == 0 and self.training_config.b_dec_init == "geometric_median":
            start = geometric_median(self.activation_scaler(batch.to(self.sae.device)))
            self.sae.b_dec.data.copy_(start)
        output = self.step(batch)
        self.n_training_steps += 1
        if self.n_training_steps % self.training_config.log_every == 0:
            self._check(output.loss)
        return output

    @override
    def _train_step(self, sae: Any, sae_in: Tensor) -> TrainStepOutput:
        """As SAELens', but firing is counted on the sparse code, not on a dense array."""
        sae.train()
        step_input = TrainStepInput(
            sae_in=sae_in,
            dead_neuron_mask=self.dead_neurons,
            coefficients=self.get_coefficients(),
            n_training_steps=self.n_training_steps,
            is_logging_step=False,
        )
        output = sae.training_forward_pass(step_input)
        self._count_firing(output.feature_acts)
        output.loss.backward()
        gradients = [p.grad for p in sae.parameters() if p.grad is not None]
        total_norm = torch.nn.utils.get_total_norm(gradients)
        # Clipping without a pass over the gradients: fused Adam divides them by `grad_scale`.
        self.optimizer.grad_scale = (total_norm / MAX_GRADIENT_NORM).clamp(min=1.0)  # type: ignore[attr-defined]
        for parameter, view in self._optimised:
            view.grad = None if parameter.grad is None else parameter.grad.T
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        sae.zero_grad(set_to_none=True)
        self.lr_scheduler.step()
        for scheduler in self.coefficient_schedulers.values():
            scheduler.step()
        return output

    @torch.no_grad()
    def _count_firing(self, acts: Tensor) -> None:
        if acts.is_sparse:
            counts = torch.bincount(acts.indices()[1], minlength=acts.shape[1])
        else:
            counts = (acts > 0).sum(dim=0)
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired[counts > 0] = 0
        self.act_freq_scores += counts
        self.n_frac_active_samples += acts.shape[0]

    @override
    def maybe_reset_sparsity(self) -> dict[str, Any]:
        """Keep windows of `feature_sampling_window` steps; the log itself needs wandb's classes."""
        if self.n_training_steps and self.n_training_steps % self.cfg.feature_sampling_window == 0:
            self._reset_running_sparsity_stats()
        return {}

    def _check(self, values: Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise CrossdiffError(
                f"training diverged by step {self.n_training_steps} (loss or weights are no longer "
                f"finite): lower lr ({self.training_config.lr:g}) or normalise the activations"
            )

    def export(self) -> Crosscoder:
        """The inference crosscoder that takes raw activations (normalisation folded in).

        Raises:
            CrossdiffError: weights that are not finite, or a threshold that was never set.
        """
        for parameter in self.sae.parameters():
            self._check(parameter)
        crosscoder = self.sae.to_inference()
        scaler = self.activation_scaler
        assert isinstance(scaler, PerModelScaler)
        if any(s != 1.0 for s in scaler.scale_per_model) or bool((scaler.mean != 0).any()):
            crosscoder.fold_normalization(scaler.mean, scaler.scale_per_model)
        return crosscoder

    def resume(self, checkpoint: Path) -> None:
        """Weights, optimiser, schedules, counters and scaler of a checkpoint folder."""
        self.sae.load_weights_from_checkpoint(checkpoint)
        self.load_trainer_state(checkpoint)


def _make_fused(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Turn on fused Adam: the same update in one pass over the weights.

    On the CPU it copies weights that are not contiguous, back and forth, so those (W_enc lies
    latent by latent) are given to it as their transposes. Returns the (weight, transpose) pairs.
    """
    pairs = []
    for group in optimizer.param_groups:
        group["fused"] = True
        for i, parameter in enumerate(group["params"]):
            if not parameter.is_contiguous():
                group["params"][i] = parameter.detach().T
                pairs.append((parameter, group["params"][i]))
    return pairs


def trainer_config(config: TrainingConfig, device: str) -> SAETrainerConfig:
    """SAELens' view of a `TrainingConfig`; its dead-latent window counts steps, not tokens."""
    return SAETrainerConfig(
        total_training_samples=config.total_steps * config.batch_size,
        train_batch_size_samples=config.batch_size,
        lr=config.lr,
        lr_end=config.lr / 10,
        lr_warm_up_steps=config.lr_warm_up_steps,
        lr_decay_steps=config.lr_decay_steps,
        device=device,
        dead_feature_window=max(1, config.dead_after_tokens // config.batch_size),
        logger=LoggingConfig(log_to_wandb=False),
    )
