"""The trainer's optimiser step against plain Adam with plain clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput

from sae_crossdiff import BatchTopKCrosscoder, BatchTopKCrosscoderConfig, CrosscoderTrainer
from sae_crossdiff.training import PerModelScaler, TrainingConfig


@pytest.mark.parametrize("size", [0.05, 5.0])  # gradient norms below and above the limit of 1
def test_steps_equal_adam_after_clip_grad_norm(size: float) -> None:
    config = TrainingConfig(total_tokens=64 * 10_000, batch_size=64, lr=1e-3, lr_warm_up_steps=1)
    crosscoder = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=16, d_sae=48, k=4))
    trainer = CrosscoderTrainer(config, crosscoder, PerModelScaler.identity([8, 8]))
    reference = copy.deepcopy(crosscoder)
    reference.gradient_buffers = None
    adam = torch.optim.Adam(reference.parameters(), lr=config.lr)
    batches = [torch.randn(64, 16) * size for _ in range(6)]
    norms = []
    for step, batch in enumerate(batches):
        trainer.train_step(batch)
        if step == 0:  # the trainer begins by moving b_dec to the data, and warms up one step
            reference.load_state_dict(trainer.sae.state_dict())
            adam.load_state_dict(_state(trainer, reference, adam))
            continue
        output = reference.training_forward_pass(TrainStepInput(batch, {}, None, step, False))
        adam.zero_grad()
        output.loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)))
        adam.step()
        for ours, theirs in zip(trainer.sae.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert (max(norms) < 1) if size < 1 else (min(norms) > 1)


def _state(trainer: CrosscoderTrainer, reference: BatchTopKCrosscoder, adam: object) -> dict:
    """The trainer's Adam moments, in the layout of the reference's parameters."""
    state = copy.deepcopy(trainer.optimizer.state_dict())
    for index, parameter in enumerate(reference.parameters()):
        for name in ("exp_avg", "exp_avg_sq"):
            moment = state["state"][index][name]
            if moment.shape != parameter.shape:
                state["state"][index][name] = moment.T
    state["param_groups"][0]["fused"] = False
    state["param_groups"][0]["lr"] = trainer.training_config.lr
    return state
