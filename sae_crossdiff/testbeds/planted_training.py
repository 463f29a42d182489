"""Crosscoders trained on a planted pair, all on the same batches, and audited on fresh ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens.registry import get_sae_training_class
from torch import Tensor

from sae_crossdiff.activations import (
    ActivationBatch,
    ActivationStatistics,
    OutlierFilter,
    OutlierPolicy,
    concatenate,
    in_order,
)
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.crosscoders.difference import difference_as_crosscoder, model_difference
from sae_crossdiff.diffing import latent_table
from sae_crossdiff.testbeds.planted import PlantedPair, match_features
from sae_crossdiff.training import CrosscoderTrainer, PerModelScaler, TrainingConfig

BATCH_SIZE = 1024
AUDIT_SEED, STATISTICS_SEED = 77, 99


class PlantedRun(NamedTuple):
    """A trained crosscoder, its table on fresh tokens, and what each latent follows: `feature`
    [latents], the `correlation` of their activations, and `base_share`: how much of that feature
    the base model has where the latent fires (0: nothing; NaN: a feature of the base only);
    `drift`: how far the mean activation difference of the models points along each latent's chat
    direction, the baseline that needs no dictionary's numbers."""

    crosscoder: Crosscoder
    table: pd.DataFrame
    feature: NDArray[np.int64]
    correlation: NDArray[np.float64]
    base_share: NDArray[np.float64]
    drift: NDArray[np.float64]


def train_planted(
    planted: PlantedPair, configs: Mapping[str, Any], steps: int = 1500, seed: int = 0
) -> dict[str, Crosscoder]:
    """Train the crosscoders of `configs` on `steps` batches of 1,024 tokens without outliers.

    A config of one model (`d_ins=[d_model]`) is trained on the difference of the models'
    normalised activations and comes back as a crosscoder of both (`difference_as_crosscoder`).
    """
    width = planted.config.d_model
    outliers = _outliers(planted)
    statistics = ActivationStatistics([width, width])
    statistics.update(_kept(outliers, planted.sample(20_000, STATISTICS_SEED)[0]))
    scaler = PerModelScaler.from_statistics(statistics)
    training = TrainingConfig(
        total_tokens=steps * BATCH_SIZE,
        batch_size=BATCH_SIZE,
        lr=3e-3,
        lr_warm_up_steps=steps // 30,
        lr_decay_steps=steps // 3,
        dead_after_tokens=50_000,
        seed=seed,
    )
    trainers = {}
    for name, config in configs.items():
        torch.manual_seed(seed)
        crosscoder = get_sae_training_class(config.architecture())[0](config)
        own = PerModelScaler.identity([width]) if crosscoder.n_models == 1 else scaler
        trainers[name] = CrosscoderTrainer(training, crosscoder, own)
    batches = planted.batches(BATCH_SIZE, seed=1 + seed)
    for _ in range(steps):
        batch = _kept(outliers, next(batches))
        difference = model_difference(scaler(batch))
        for trainer in trainers.values():
            trainer.train_step(difference if trainer.sae.n_models == 1 else batch)
    return {name: _exported(trainer, scaler) for name, trainer in trainers.items()}


def _exported(trainer: CrosscoderTrainer, scaler: PerModelScaler) -> Crosscoder:
    crosscoder = trainer.export()
    if crosscoder.n_models == 1:
        crosscoder = difference_as_crosscoder(crosscoder)
        crosscoder.fold_normalization(scaler.mean, scaler.scale_per_model)
    return crosscoder


def audit_planted(
    planted: PlantedPair, crosscoder: Crosscoder, n_tokens: int = 50_000
) -> PlantedRun:
    """The latent table on fresh tokens, and the planted feature that each latent follows."""
    x, codes = planted.sample_codes(n_tokens, AUDIT_SEED)
    row = torch.arange(n_tokens)
    unknown = torch.full_like(row, -1)
    tokens = ActivationBatch(x, row, unknown, unknown)
    kept = concatenate(_outliers(planted)(in_order(tokens, 5000)))
    table = latent_table(crosscoder, in_order(kept, 5000))
    # Without the attention sinks: one of them would outweigh a thousand tokens in a correlation.
    codes = [code[kept.token_ids] for code in codes]
    acts = crosscoder.encode(kept.acts).detach()
    feature, correlation = match_features(codes[1], acts)
    share = base_share(planted, codes, acts, feature)
    chat_rows = torch.nn.functional.normalize(crosscoder.W_dec_per_model[1].detach(), dim=-1)
    drift = chat_rows @ model_difference(kept.acts).mean(0)
    return PlantedRun(crosscoder, table, feature, correlation, share, drift.double().numpy())


def base_share(
    planted: PlantedPair, codes: list[Tensor], acts: Tensor, feature: NDArray[np.int64]
) -> NDArray[np.float64]:
    """sum_i f_ij ||what the base has of the feature|| / sum_i f_ij ||what the chat model has||.

    Norms, so a rotated feature counts as present. What the base writes with parts counts too. A
    truth per latent, not per feature: a latent may fire only where a rarer feature is missing.
    """
    strengths = [codes[0] * planted.base.norm(dim=-1), codes[1] * planted.chat.norm(dim=-1)]
    for whole, parts in planted.relations.parts.items():
        together = planted.base[parts].sum(0).norm()
        strengths[0][:, whole] = codes[0][:, parts].min(dim=1).values * together
    base, chat = ((acts * strength[:, feature]).sum(0).double() for strength in strengths)
    return torch.where(chat > 0, base / chat, torch.nan).numpy()


def _outliers(planted: PlantedPair) -> OutlierFilter:
    width = planted.config.d_model
    return OutlierFilter(OutlierPolicy(calibration_tokens=1000), [width, width])


def _kept(outliers: OutlierFilter, acts: Tensor) -> Tensor:
    return concatenate(outliers([ActivationBatch.of(acts)])).acts
