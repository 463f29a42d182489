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
    SparseCode,
    load_crosscoder,
    register_architectures,
)
from sae_crossdiff.diffing import (
    VerdictThresholds,
    evaluate,
    latent_table,
    load_table,
    most_chat_specific,
    save_table,
)
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.reporting import (
    ExampleCollector,
    ExampleConfig,
    ReportConfig,
    load_examples,
    report_run,
    report_sources,
    save_examples,
    to_neuronpedia,
    write_report,
)
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
    "BatchTopKCrosscoder",
    "BatchTopKCrosscoderConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "CrosscoderRunnerConfig",
    "CrosscoderTrainer",
    "CrosscoderTrainingRunner",
    "CrossdiffError",
    "ExampleCollector",
    "ExampleConfig",
    "HookedModelPair",
    "L1Crosscoder",
    "L1CrosscoderConfig",
    "OutlierPolicy",
    "PairConfig",
    "ReportConfig",
    "SparseCode",
    "TextConfig",
    "TextSource",
    "TrainingConfig",
    "VerdictThresholds",
    "evaluate",
    "harvest",
    "latent_table",
    "load_crosscoder",
    "load_examples",
    "load_table",
    "most_chat_specific",
    "register_architectures",
    "report_run",
    "report_sources",
    "save_examples",
    "save_table",
    "to_neuronpedia",
    "token_sequences",
    "write_report",
]
