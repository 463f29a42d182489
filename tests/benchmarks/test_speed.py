"""Speed, side by side. Run with: pytest tests/benchmarks --benchmark-only

Timings are noisy on shared machines: read ratios within one run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer

from sae_crossdiff import (
    BatchTopKCrosscoder,
    BatchTopKCrosscoderConfig,
    CrosscoderTrainer,
    HookedModelPair,
    TextSource,
    TrainingConfig,
    harvest,
    token_sequences,
)
from sae_crossdiff.activations import OutlierFilter, OutlierPolicy
from sae_crossdiff.diffing import LatentScaling
from sae_crossdiff.testbeds.dialogues import plain_text
from sae_crossdiff.training import PerModelScaler
from sae_crossdiff.training.trainer import trainer_config

BATCH, D_INS, D_SAE, K = 2048, [640, 640], 8192, 64


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Sparse combinations of planted directions: more like activations than white noise."""
    torch.manual_seed(0)
    directions = torch.randn(600, sum(D_INS)) / 30
    code = torch.rand(BATCH, 600) * (torch.rand(BATCH, 600) < 0.05)
    return code @ directions * 20 + torch.randn(BATCH, sum(D_INS)) * 0.3


CONFIG = TrainingConfig(total_tokens=BATCH * 10_000, batch_size=BATCH, lr_warm_up_steps=1)


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize("rank_in_bf16", [False, True])
def test_step(benchmark: Any, x: torch.Tensor, rank_in_bf16: bool) -> None:
    config = BatchTopKCrosscoderConfig(d_in=sum(D_INS), d_sae=D_SAE, k=K, rank_in_bf16=rank_in_bf16)
    trainer = CrosscoderTrainer(CONFIG, BatchTopKCrosscoder(config), PerModelScaler.identity(D_INS))
    benchmark.pedantic(trainer.train_step, args=(x,), rounds=7, warmup_rounds=3)


@pytest.mark.benchmark(group="training step")
def test_step_of_saelens_batchtopk(benchmark: Any, x: torch.Tensor) -> None:
    config = BatchTopKTrainingSAEConfig(
        d_in=sum(D_INS), d_sae=D_SAE, k=K, apply_b_dec_to_input=False
    )
    trainer: Any = SAETrainer(
        trainer_config(CONFIG, "cpu"), BatchTopKTrainingSAE(config), data_provider=iter(())
    )
    benchmark.pedantic(trainer.step, args=(x,), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encoder_product_alone(benchmark: Any, x: torch.Tensor, dtype: torch.dtype) -> None:
    weight = torch.randn(sum(D_INS), D_SAE, dtype=dtype)
    benchmark.pedantic(torch.matmul, args=(x.to(dtype), weight), rounds=7, warmup_rounds=2)


@pytest.mark.benchmark(group="latent scaling")
def test_latent_scaling_of_all_latents(benchmark: Any, x: torch.Tensor) -> None:
    config = BatchTopKCrosscoderConfig(d_in=sum(D_INS), d_sae=D_SAE, k=K)
    trainer = CrosscoderTrainer(CONFIG, BatchTopKCrosscoder(config), PerModelScaler.identity(D_INS))
    for _ in range(3):
        trainer.train_step(x)
    crosscoder = trainer.export()
    scaling = LatentScaling(crosscoder)

    def one_batch() -> None:
        code = crosscoder.encode_sparse(x)
        scaling.update(x, code, crosscoder.decode_sparse(code))

    with torch.no_grad():
        benchmark.pedantic(one_batch, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="harvest")
@pytest.mark.parametrize("what", ["raw truncated forwards", "harvest with masks and filter"])
def test_harvest(benchmark: Any, pair: HookedModelPair, what: str) -> None:
    sequences = list(
        token_sequences([TextSource(plain_text(150))], pair.tokenizer, context_size=128)
    )
    full = [s for s in sequences if len(s) == 128][:192]
    tokens = torch.stack([torch.from_numpy(s.ids) for s in full])

    def raw() -> None:
        for piece in tokens.split(16):
            pair.activations(piece)

    def filtered() -> None:
        outliers = OutlierFilter(OutlierPolicy(), pair.d_ins)
        for _ in outliers(harvest(pair, full, batch_size=16)):
            pass

    run = raw if what.startswith("raw") else filtered
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens"] = tokens.numel()
