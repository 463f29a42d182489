"""What `crossdiff bench` times: our work beside SAELens' and beside the encoder product alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from sae_crossdiff.activations import TextSource, harvest, token_sequences
from sae_crossdiff.activations.outliers import OutlierFilter, OutlierPolicy
from sae_crossdiff.crosscoders import (
    BatchTopKCrosscoder,
    BatchTopKCrosscoderConfig,
    Crosscoder,
    L1Crosscoder,
    L1CrosscoderConfig,
)
from sae_crossdiff.diffing import LatentScaling
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.testbeds.dialogues import plain_text
from sae_crossdiff.training import CrosscoderTrainer, PerModelScaler, TrainingConfig
from sae_crossdiff.training.trainer import trainer_config

# Float32, but for the encoder product in bfloat16, and the step that uses one to find candidates.
Work = Callable[[], Any]

ENCODER_FLOAT32 = "encoder product"
ENCODER_BF16 = "encoder product, bf16"
SAELENS_BATCHTOPK = "SAELens BatchTopK step"
OURS_FLOAT32 = "BatchTopK step"
OURS_SCREENED = "BatchTopK step, screened"
SAELENS_L1 = "SAELens L1 step"
OURS_L1 = "L1 step, k active"
SCALING = "Latent Scaling, 8 betas"
SCALING_BOTH = "the same, both directions"
LEAVE_ONE_OUT = "leave-one-out, 1 latent"
RAW_FORWARDS = "two bare truncated forwards"
HARVEST = "harvest, masks and shuffling"


@dataclass(frozen=True)
class Shape:
    """d_in = 2 * d_model, F = d_sae, k active latents per token, B = batch_size tokens."""

    d_model: int = 640
    d_sae: int = 8192
    k: int = 64
    batch_size: int = 2048
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.d_model, self.d_sae, self.k, self.batch_size) < 1 or self.k > self.d_sae:
            raise CrossdiffError(f"{self}: all sizes must be positive, and k at most d_sae")

    @property
    def d_in(self) -> int:
        return 2 * self.d_model

    def __str__(self) -> str:
        return f"d = 2 x {self.d_model}, F = {self.d_sae:,}, k = {self.k}, B = {self.batch_size:,}"


def planted_batches(shape: Shape, n: int = 4, seed: int = 0) -> list[Float[Tensor, "B d_in"]]:
    """Sparse combinations of 600 directions plus noise: more like activations than white noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(600, shape.d_in, generator=generator) / 30
    batches = []
    for _ in range(n):
        strength = torch.rand(shape.batch_size, 600, generator=generator)
        fires = torch.rand(shape.batch_size, 600, generator=generator) < 0.05
        noise = torch.randn(shape.batch_size, shape.d_in, generator=generator)
        batch = (strength * fires) @ directions * 20 + noise * 0.3
        batches.append(batch.to(shape.device))
    return batches


def workloads(shape: Shape) -> dict[str, Work]:
    """Name -> one unit of work, everything on the same batches; made lazily, so pop and drop."""
    batches = planted_batches(shape)
    trained = trainer(shape, "batchtopk", screen=None)
    for batch in batches:
        trained.train_step(batch)
    crosscoder = trained.export()
    return {
        ENCODER_FLOAT32: encoder_product(batches, shape, torch.float32),
        ENCODER_BF16: encoder_product(batches, shape, torch.bfloat16),
        SAELENS_BATCHTOPK: _each(saelens_trainer(shape, "batchtopk").step, batches),
        OURS_FLOAT32: _each(trainer(shape, "batchtopk", screen=False).train_step, batches),
        OURS_SCREENED: _each(trainer(shape, "batchtopk", screen=True).train_step, batches),
        SAELENS_L1: _each(saelens_trainer(shape, "l1").step, batches),
        OURS_L1: _each(sparse_l1_trainer(shape, batches).train_step, batches),
        SCALING: latent_scaling(crosscoder, batches, ("chat",)),
        SCALING_BOTH: latent_scaling(crosscoder, batches, ("chat", "base")),
        LEAVE_ONE_OUT: leave_one_out(crosscoder, batches[0]),
    }


def encoder_product(batches: list[Tensor], shape: Shape, dtype: torch.dtype) -> Work:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape.d_in, shape.d_sae, generator=generator).to(shape.device, dtype)
    return _each(lambda x: x @ weight, [batch.to(dtype) for batch in batches])


def trainer(shape: Shape, kind: str, screen: bool | None = None) -> CrosscoderTrainer:
    if kind == "batchtopk":
        config = BatchTopKCrosscoderConfig(
            d_in=shape.d_in,
            d_sae=shape.d_sae,
            k=shape.k,
            device=shape.device,
            screen_in_bf16=screen,
        )
        crosscoder: Any = BatchTopKCrosscoder(config)
    else:
        crosscoder = L1Crosscoder(
            L1CrosscoderConfig(d_in=shape.d_in, d_sae=shape.d_sae, device=shape.device)
        )
    scaler = PerModelScaler.identity([shape.d_model] * 2)
    return CrosscoderTrainer(_training(shape), crosscoder, scaler)


def sparse_l1_trainer(shape: Shape, batches: list[Tensor]) -> CrosscoderTrainer:
    """An L1 crosscoder whose bias lets about k latents per token fire, as after some training."""
    ours = trainer(shape, "l1")
    with torch.no_grad():
        pre = (batches[0][:64] @ ours.sae.W_enc).flatten()
        kept = max(1, 64 * shape.k)
        ours.sae.b_enc.fill_(-float(pre.topk(kept).values.min()))
    ours.sae.firing_rate = shape.k / shape.d_sae
    return ours


def saelens_trainer(shape: Shape, kind: str) -> Any:
    """SAELens' own class and trainer on the concatenated input."""
    shared: dict[str, Any] = {
        "d_in": shape.d_in,
        "d_sae": shape.d_sae,
        "apply_b_dec_to_input": False,
        "device": shape.device,
    }
    sae: Any
    if kind == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=shape.k, **shared))
    else:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**shared))
    config = trainer_config(_training(shape), shape.device)
    return SAETrainer(config, sae, data_provider=iter(()))


def latent_scaling(
    crosscoder: Crosscoder, batches: list[Tensor], directions: tuple[str, ...]
) -> Work:
    """One batch through encode, decode and all sums of Latent Scaling, for every latent."""
    units = crosscoder.in_training_units()
    scaling = LatentScaling(units, directions)

    @torch.no_grad()
    def one_batch(x: Tensor) -> None:
        code = units.encode_sparse(x)
        scaling.update(x, code, units.decode_sparse(code))

    return _each(one_batch, batches)


def leave_one_out(crosscoder: Crosscoder, x: Tensor) -> Work:
    """The definition, for one latent after the other: four targets, two models, chat direction.

    Code and reconstruction are computed once beforehand, as a reasonable reference would.
    """
    with torch.no_grad():
        f = crosscoder.encode(x)
        reconstruction = crosscoder.split(crosscoder.decode(f))
    latents = cycle(f.sum(0).nonzero().squeeze(-1).tolist())
    parts = list(zip(crosscoder.split(x), reconstruction, crosscoder.b_dec_per_model, strict=True))

    @torch.no_grad()
    def one_latent() -> None:
        j = next(latents)
        chat = crosscoder.W_dec_per_model[1][j]
        denominator = f[:, j].square().sum() * chat.square().sum()
        for m, (x_m, made, bias) in enumerate(parts):
            own = f[:, j, None] * crosscoder.W_dec_per_model[m][j]
            for y in (x_m - (made - own), made, x_m, x_m - bias):
                float((f[:, j] * (y @ chat)).sum() / denominator)

    return one_latent


def harvest_workloads(pair: HookedModelPair, n_sequences: int = 192) -> tuple[dict[str, Work], int]:
    """Bare forwards and the whole harvest of the same equally long sequences; and their tokens."""
    texts = TextSource(plain_text())
    sequences = token_sequences([texts], pair.tokenizer, context_size=128)
    full = [sequence for sequence in sequences if len(sequence) == 128][:n_sequences]
    tokens = torch.stack([torch.from_numpy(sequence.ids) for sequence in full])

    def raw() -> None:
        for piece in tokens.split(16):
            pair.activations(piece.to(pair.device))

    def whole() -> None:
        outliers = OutlierFilter(OutlierPolicy(), pair.d_ins)
        acts = torch.cat([batch.acts for batch in outliers(harvest(pair, full, batch_size=16))])
        acts[torch.randperm(len(acts))]

    return {RAW_FORWARDS: raw, HARVEST: whole}, tokens.numel()


def _training(shape: Shape) -> TrainingConfig:
    size = shape.batch_size
    return TrainingConfig(total_tokens=size * 10_000, batch_size=size, lr=1e-4, lr_warm_up_steps=1)


def _each(work: Callable[[Tensor], Any], batches: list[Tensor]) -> Work:
    """`work` on the next batch at each call."""
    turn: Iterator[Tensor] = cycle(batches)
    return lambda: work(next(turn))
