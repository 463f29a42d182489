"""Config, trainer and runner: one trainer for every architecture."""

from sae_crossdiff.training.config import (
    ActivationsConfig,
    CrosscoderRunnerConfig,
    PairConfig,
    TextConfig,
    TrainingConfig,
)
from sae_crossdiff.training.data import TrainingData, from_memory, prepare
from sae_crossdiff.training.runner import CrosscoderTrainingRunner, RunResult
from sae_crossdiff.training.scaler import PerModelScaler
from sae_crossdiff.training.trainer import CrosscoderTrainer

__all__ = [
    "ActivationsConfig",
    "CrosscoderRunnerConfig",
    "CrosscoderTrainer",
    "CrosscoderTrainingRunner",
    "PairConfig",
    "PerModelScaler",
    "RunResult",
    "TextConfig",
    "TrainingConfig",
    "TrainingData",
    "from_memory",
    "prepare",
]
