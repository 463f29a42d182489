"""Model diffing with crosscoders: a SAELens plugin.

Importing the package registers the architectures `crosscoder`, `crosscoder_batchtopk` and
`crosscoder_l1` with SAELens.
"""

from sae_crossdiff.activations import (
    ActivationBatch,
    ActivationDataset,
    OutlierPolicy,
    TextSource,
    harvest,
    token_sequences,
)
from sae_crossdiff.crosscoders import (
    BatchTopKCrosscoder,
    BatchTopKCrosscoderConfig,
    Crosscoder,
    CrosscoderConfig,
    L1Crosscoder,
    L1CrosscoderConfig,
    SharedL1Crosscoder,
    SharedL1CrosscoderConfig,
    SparseCode,
    load_crosscoder,
    register_architectures,
)
from sae_crossdiff.diffing import (
    AuditedRun,
    VerdictThresholds,
    compare_runs,
    evaluate,
    latent_table,
    load_table,
    most_chat_specific,
    save_table,
)
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.training import (
    ActivationsConfig,
    CrosscoderRunnerConfig,
    CrosscoderTrainer,
    CrosscoderTrainingRunner,
    PairConfig,
    TextConfig,
    TrainingConfig,
)

register_architectures()

__version__ = "0.1.0"

__all__ = [
    "ActivationBatch",
    "ActivationDataset",
    "ActivationsConfig",
    "AuditedRun",
    "BatchTopKCrosscoder",
    "BatchTopKCrosscoderConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "CrosscoderRunnerConfig",
    "CrosscoderTrainer",
    "CrosscoderTrainingRunner",
    "CrossdiffError",
    "HookedModelPair",
    "L1Crosscoder",
    "L1CrosscoderConfig",
    "OutlierPolicy",
    "PairConfig",
    "SharedL1Crosscoder",
    "SharedL1CrosscoderConfig",
    "SparseCode",
    "TextConfig",
    "TextSource",
    "TrainingConfig",
    "VerdictThresholds",
    "compare_runs",
    "evaluate",
    "harvest",
    "latent_table",
    "load_crosscoder",
    "load_table",
    "most_chat_specific",
    "register_architectures",
    "save_table",
    "token_sequences",
]
