"""Speed must not cost quality: FVE beside SAELens' BatchTopK after the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from sae_crossdiff import BatchTopKCrosscoder, BatchTopKCrosscoderConfig, CrosscoderTrainer
from sae_crossdiff.testbeds.demo import SETTINGS, demo_config, pair_folders
from sae_crossdiff.training import TrainingConfig, prepare
from sae_crossdiff.training.trainer import trainer_config


def fve(sae: Any, x: Tensor) -> float:
    """Share of variance explained with the k * B strongest entries of the whole of `x`."""
    with torch.no_grad():
        error = sum(
            float((piece - sae.decode(sae.encode(piece))).double().pow(2).sum())
            for piece in x.split(2048)
        )
    return 1 - error / float((x - x.mean(0)).double().pow(2).sum())


def both_trained(data: Any, d_sae: int, k: int, steps: int, lr: float) -> tuple[Any, Any]:
    """Ours and SAELens' class from the same weights, on the same normalised batches."""
    config = TrainingConfig(
        total_tokens=steps * 2048,
        lr=lr,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 4,
        dead_after_tokens=200_000,
    )
    d_in = data.training.acts.shape[1]
    torch.manual_seed(0)
    ours = CrosscoderTrainer(
        config,
        BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=d_in, d_sae=d_sae, k=k)),
        data.scaler,
    )
    theirs: Any = SAETrainer(
        trainer_config(config, "cpu"),
        BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, apply_b_dec_to_input=False)
        ),
        data_provider=iter(()),
    )
    batches = data.start()
    for step in range(steps):
        batch = next(batches)
        if step == 0:
            ours.train_step(batch.clone())  # starts b_dec at the data; undone by the next line
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                getattr(theirs.sae, name).data.copy_(getattr(ours.sae, name).data)
            continue
        ours.train_step(batch)
        theirs.step(data.scaler(batch.float()))
        theirs.n_training_steps += 1
    return ours.sae, theirs.sae


def compared(name: str, steps: int) -> tuple[float, float]:
    settings = SETTINGS[name]
    folders = pair_folders(name, Console(quiet=True))
    config = demo_config(folders, settings, Path())
    data = prepare(config, config.load_pair())
    ours, theirs = both_trained(data, settings.d_sae, int(settings.k), steps, settings.lr)
    assert data.held_out is not None
    held_out = data.scaler(data.held_out.acts.float())
    return fve(ours, held_out), fve(theirs, held_out)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "steps"), [("tiny", 80), pytest.param("gemma3", 120, marks=pytest.mark.gemma)]
)
def test_fve_is_not_below_that_of_saelens(name: str, steps: int) -> None:
    """With pytest -m gemma also on the Gemma pair (about eight minutes on two cores)."""
    ours, theirs = compared(name, steps)
    print(f"{name}: FVE {ours:.4f}, SAELens {theirs:.4f} after {steps} steps")
    assert ours > 0.5
    assert ours >= theirs - 0.002
