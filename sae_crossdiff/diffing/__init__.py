"""What fine-tuning changed: norms, Latent Scaling, verdicts, the latent table."""

from sae_crossdiff.diffing.blocks import DocumentBlocks
from sae_crossdiff.diffing.evaluation import evaluate
from sae_crossdiff.diffing.files import load_table, save_table
from sae_crossdiff.diffing.intervals import Interval, ratio_interval
from sae_crossdiff.diffing.labels import auroc, latent_activations, span_aurocs, window_aurocs
from sae_crossdiff.diffing.latent_scaling import TARGETS, LatentScaling
from sae_crossdiff.diffing.mean_difference import MeanDifference, mean_difference
from sae_crossdiff.diffing.norms import find_twins, norm_buckets, relative_decoder_norm
from sae_crossdiff.diffing.stability import AuditedRun, compare_runs
from sae_crossdiff.diffing.table import COLUMNS, latent_table, most_chat_specific
from sae_crossdiff.diffing.verdicts import VERDICTS, VerdictThresholds, specificity, verdicts

__all__ = [
    "COLUMNS",
    "TARGETS",
    "VERDICTS",
    "AuditedRun",
    "DocumentBlocks",
    "Interval",
    "LatentScaling",
    "MeanDifference",
    "VerdictThresholds",
    "auroc",
    "compare_runs",
    "evaluate",
    "find_twins",
    "latent_activations",
    "latent_table",
    "load_table",
    "mean_difference",
    "most_chat_specific",
    "norm_buckets",
    "ratio_interval",
    "relative_decoder_norm",
    "save_table",
    "span_aurocs",
    "specificity",
    "verdicts",
    "window_aurocs",
]
