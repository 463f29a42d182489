"""From a config to training batches, a scaler, and held-out tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from rich.console import Console
from torch import Tensor

from sae_crossdiff.activations import (
    ActivationBatch,
    ActivationDataset,
    ActivationStatistics,
    OutlierFilter,
    TokenSequence,
    harvest,
    in_order,
    shuffled,
    shuffled_stream,
    token_sequences,
)
from sae_crossdiff.activations.outliers import OutlierReport
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.training.config import CrosscoderRunnerConfig
from sae_crossdiff.training.progress import track_tokens
from sae_crossdiff.training.scaler import PerModelScaler


class TrainingData(NamedTuple):
    """`start()`: endless raw batches [batch_size, d_in] from the beginning, in the same order each
    time when in memory; `scaler`: from training tokens only; `outliers`: the filter that both
    sides went through; `training` and `held_out`: the tokens themselves, disjoint by document
    (None when streaming)."""

    start: Callable[[], Iterator[Tensor]]
    scaler: PerModelScaler
    outliers: OutlierFilter
    training: ActivationBatch | None = None
    held_out: ActivationBatch | None = None


def prepare(
    config: CrosscoderRunnerConfig, pair: HookedModelPair, console: Console | None = None
) -> TrainingData:
    """Harvest (or start to), estimate the per-model statistics, and make batches."""
    outliers = OutlierFilter(config.activations.outliers, pair.d_ins)
    text = config.text

    def sequences() -> Iterator[TokenSequence]:
        return token_sequences(text.sources, pair.tokenizer, text.context_size, text.n_tokens)

    if config.activations.keep_in_memory:
        everything = list(sequences())
        batches = harvest(pair, everything, text.batch_size)
        total = sum(map(len, everything))
        tracked = track_tokens(batches, total, "Reading both residual streams", console)
        return from_memory(config, ActivationDataset(outliers(tracked)), outliers)

    def epoch() -> Iterable[ActivationBatch]:
        return outliers(harvest(pair, sequences(), text.batch_size))

    statistics = ActivationStatistics(pair.d_ins)
    for batch in epoch():
        statistics.update(batch.acts)
        if statistics.count >= config.activations.statistics_tokens:
            break
    outliers.report = OutlierReport(median_norms=outliers.report.median_norms)
    size = config.training.batch_size
    start = partial(shuffled_stream, epoch, size, config.activations.buffer_size)
    return TrainingData(start, _scaler(config, statistics), outliers)


def from_memory(
    config: CrosscoderRunnerConfig, dataset: ActivationDataset, outliers: OutlierFilter
) -> TrainingData:
    """Training data from an existing harvest (several runs can share one)."""
    training, held_out = dataset.split(config.activations.held_out, config.training.seed)
    statistics = ActivationStatistics(outliers.d_ins)
    for piece in in_order(training, batch_size=8192):
        statistics.update(piece.acts)
    batches = partial(shuffled, training.acts, config.training.batch_size, config.training.seed)
    return TrainingData(batches, _scaler(config, statistics), outliers, training, held_out)


def _scaler(config: CrosscoderRunnerConfig, statistics: ActivationStatistics) -> PerModelScaler:
    if config.activations.normalize:
        return PerModelScaler.from_statistics(statistics)
    return PerModelScaler.identity(statistics.d_ins)
