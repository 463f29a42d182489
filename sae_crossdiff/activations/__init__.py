"""From a pair and text to batches of joined activations."""

from sae_crossdiff.activations.batches import ActivationBatch, check_finite, concatenate, iterate
from sae_crossdiff.activations.dataset import ActivationDataset, in_order, shuffled
from sae_crossdiff.activations.harvest import harvest
from sae_crossdiff.activations.outliers import OutlierFilter, OutlierPolicy, OutlierReport
from sae_crossdiff.activations.statistics import ActivationStatistics
from sae_crossdiff.activations.stream import shuffled_stream
from sae_crossdiff.activations.text import TextSource, TokenSequence, token_sequences

__all__ = [
    "ActivationBatch",
    "ActivationDataset",
    "ActivationStatistics",
    "OutlierFilter",
    "OutlierPolicy",
    "OutlierReport",
    "TextSource",
    "TokenSequence",
    "check_finite",
    "concatenate",
    "harvest",
    "in_order",
    "iterate",
    "shuffled",
    "shuffled_stream",
    "token_sequences",
]
