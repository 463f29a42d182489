"""The crosscoder architectures: SAELens SAEs over concatenated residual streams."""

from sae_crossdiff.crosscoders.batchtopk import BatchTopKCrosscoder, BatchTopKCrosscoderConfig
from sae_crossdiff.crosscoders.codes import SparseCode
from sae_crossdiff.crosscoders.crosscoder import Crosscoder, CrosscoderConfig, load_crosscoder
from sae_crossdiff.crosscoders.l1 import L1Crosscoder, L1CrosscoderConfig
from sae_crossdiff.crosscoders.registration import register_architectures
from sae_crossdiff.crosscoders.shared_l1 import SharedL1Crosscoder, SharedL1CrosscoderConfig
from sae_crossdiff.crosscoders.training_base import geometric_median

__all__ = [
    "BatchTopKCrosscoder",
    "BatchTopKCrosscoderConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "L1Crosscoder",
    "L1CrosscoderConfig",
    "SharedL1Crosscoder",
    "SharedL1CrosscoderConfig",
    "SparseCode",
    "geometric_median",
    "load_crosscoder",
    "register_architectures",
]
