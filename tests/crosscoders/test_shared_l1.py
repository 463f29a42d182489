"""Designated shared latents: one decoder row for both models, a smaller sparsity weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput

from sae_crossdiff import (
    CrosscoderTrainer,
    CrossdiffError,
    SharedL1Crosscoder,
    SharedL1CrosscoderConfig,
    load_crosscoder,
)
from sae_crossdiff.training import PerModelScaler, TrainingConfig

D, F, SHARED = 5, 24, 9


def crosscoder(**settings: Any) -> SharedL1Crosscoder:
    config = SharedL1CrosscoderConfig(d_in=2 * D, d_sae=F, n_shared=SHARED, **settings)
    return SharedL1Crosscoder(config)


@pytest.mark.parametrize("firing_rate", [0.0, 1.0])  # the sparse path and the dense one
def test_gradients_are_those_of_a_single_row(firing_rate: float) -> None:
    ours = crosscoder(dtype="float64", shared_weight=0.2)
    ours.W_dec.data *= 3
    ours.firing_rate = firing_rate
    x, mu = torch.randn(40, 2 * D, dtype=torch.float64), 0.7
    step = TrainStepInput(x, {"l1": mu}, None, 0, False)
    ours.training_forward_pass(step).loss.backward()

    shared = ours.W_dec.detach()[:SHARED, :D].clone().requires_grad_()
    free = ours.W_dec.detach()[SHARED:].clone().requires_grad_()
    W_dec = torch.cat([torch.cat([shared, shared], dim=1), free])
    f = torch.relu(x @ ours.W_enc.detach() + ours.b_enc.detach())
    error = x - f @ W_dec - ours.b_dec.detach()
    norms = W_dec[:, :D].norm(dim=1) + W_dec[:, D:].norm(dim=1)
    weights = torch.tensor([0.2] * SHARED + [1.0] * (F - SHARED), dtype=torch.float64)
    loss = error.pow(2).sum() / 2 / len(x) + mu * (f * norms * weights).sum() / len(x)
    loss.backward()
    assert ours.W_dec.grad is not None
    assert shared.grad is not None
    for half in ours.W_dec.grad[:SHARED].split(D, dim=1):  # half each of the single row's
        torch.testing.assert_close(2 * half, shared.grad)
    torch.testing.assert_close(ours.W_dec.grad[SHARED:], free.grad)


def test_rows_stay_shared_through_training_and_export(tmp_path: Path) -> None:
    config = TrainingConfig(total_tokens=64 * 40, batch_size=64, lr=1e-2, lr_warm_up_steps=1)
    trainer = CrosscoderTrainer(config, crosscoder(), PerModelScaler.identity([D, D]))
    for _ in range(40):
        trainer.train_step(torch.randn(64, 2 * D) * torch.tensor([1.0] * D + [2.0] * D))
    base, chat = trainer.sae.W_dec_per_model
    torch.testing.assert_close(base[:SHARED], chat[:SHARED])
    assert float((base[SHARED:] - chat[SHARED:]).norm()) > 0.1
    trainer.export().save_model(tmp_path)
    torch.testing.assert_close(load_crosscoder(tmp_path).W_dec, trainer.sae.W_dec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_shared": 0}, "crosscoder_l1"),
        ({"n_shared": F}, "between 0 and"),
        ({"shared_weight": 0.0}, r"\(0, 1\]"),
        ({"d_ins": [4, 6]}, "widths"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossdiffError, match=message):
        SharedL1CrosscoderConfig(**{"d_in": 2 * D, "d_sae": F, "n_shared": SHARED, **settings})
