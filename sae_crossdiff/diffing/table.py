"""The latent table: one row per latent, from one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.diffing.blocks import N_BLOCKS, DocumentBlocks
from sae_crossdiff.diffing.columns import refit_columns, scaling_columns
from sae_crossdiff.diffing.evaluation import Quality, encode_all
from sae_crossdiff.diffing.latent_scaling import LatentScaling
from sae_crossdiff.diffing.norms import (
    Twins,
    decoder_cosines,
    find_twins,
    norm_buckets,
    relative_decoder_norm,
)
from sae_crossdiff.diffing.nulls import null_counts, null_directions
from sae_crossdiff.diffing.refit import RefittedDecoders
from sae_crossdiff.diffing.statistics import FiringStatistics
from sae_crossdiff.diffing.verdicts import VerdictThresholds, specificity, verdicts
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.provenance import Provenance

Observer = Callable[[ActivationBatch, SparseCode], None]


@torch.no_grad()
def latent_table(
    crosscoder: Crosscoder,
    batches: Iterable[ActivationBatch | Tensor],
    thresholds: VerdictThresholds | None = None,
    provenance: Provenance | None = None,
    n_blocks: int = N_BLOCKS,
    beta_intervals: bool = False,
    observers: Sequence[Observer] = (),
) -> pd.DataFrame:
    """Audit every latent of a two-model crosscoder in one pass over raw activations.

    Args:
        crosscoder: takes raw activations; the analysis runs in its training units.
        batches: raw activations [tokens, d_in], with or without token information. Without
            documents, tokens are taken to come in their order (see `DocumentBlocks`).
        thresholds: of the verdict.
        provenance: of the batches; must agree with the crosscoder's own.
        n_blocks: blocks of documents for intervals and tests. Memory: 144 bytes per block and
            latent (F = 73,728 and 32 blocks: 0.34 GB).
        beta_intervals: also give every beta's interval (16 more columns).
        observers: called with each batch and its code, for what else the same pass can gather.

    Returns:
        A DataFrame indexed by `latent`; its columns are documented in `COLUMNS`. `attrs` holds
        the provenance, the thresholds, the quality of the crosscoder on these tokens, and under
        `nulls` how many made-up latents would have been called chat-specific.

    Raises:
        CrossdiffError: wrong width, NaN activations, no tokens, widths that differ, or a
            provenance that contradicts the crosscoder's.
    """
    thresholds = thresholds or VerdictThresholds()
    if list(crosscoder.cfg.model_names) != ["base", "chat"]:
        raise CrossdiffError(
            f"the table compares two models named base and chat, in that order; this crosscoder "
            f"has {crosscoder.cfg.model_names}: set cfg.model_names if they are the same two"
        )
    known = Provenance.from_dict(crosscoder.cfg.metadata.provenance)
    known.check_joins(provenance or Provenance(), "the crosscoder", "the activations")
    units = crosscoder.in_training_units()
    scaling = LatentScaling(units, n_blocks=n_blocks, nulls=null_directions(units))
    blocks = DocumentBlocks(n_blocks)
    refitted = RefittedDecoders.zeros(units, n_blocks)
    firing = FiringStatistics(crosscoder.cfg.d_sae, crosscoder.W_dec.device)
    quality = Quality(units)
    for batch, x, code, reconstruction in encode_all(crosscoder, units, batches):
        block = blocks.assign(batch)
        scaling.update(x, code, reconstruction, block)
        refitted.update(units, code, x - reconstruction, block)
        firing.update(batch, code)
        quality.update(batch, x, reconstruction, code)
        for observe in observers:
            observe(batch, code)
    columns = {
        **_norm_columns(units),
        **scaling_columns(scaling, thresholds, beta_intervals),
        **refit_columns(refitted, scaling, units, thresholds),
        **_firing_columns(firing),
    }
    table = pd.DataFrame({name: _numpy(values) for name, values in columns.items()})
    table.index.name = "latent"
    table.insert(3, "bucket", pd.Series(norm_buckets(table["delta"].to_numpy()), dtype="string"))
    twins = _twins(units, table)
    table["twin"] = pd.Series(twins.twin, index=table.index)
    table["twin_cosine"] = twins.cosine
    table["verdict"] = verdicts(table, thresholds)
    table["specificity"] = specificity(table, thresholds)
    table.attrs = {
        "provenance": (provenance or known).to_dict(),
        "thresholds": dict(vars(thresholds)),
        "quality": quality.result(firing),
        "nulls": _null_counts(scaling, table, thresholds),
    }
    return table


def most_chat_specific(table: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The `n` latents with the highest verdict score (`specificity`), best first.

    They need not all be judged chat-specific: their verdict stands in the table.
    """
    order = table["specificity"].dropna().sort_values(ascending=False, kind="stable")
    return table.loc[order.index[:n]]


def _twins(units: Crosscoder, table: pd.DataFrame) -> Twins:
    base, chat = units.W_dec_per_model[:2]
    return find_twins(base, chat, table["bucket"].to_numpy())


def _norm_columns(units: Crosscoder) -> dict[str, Any]:
    norms = units.decoder_norms().double()
    base, chat = units.W_dec_per_model[:2]
    return {
        "norm_base": norms[0],
        "norm_chat": norms[1],
        "delta": relative_decoder_norm(norms[0], norms[1]),
        "cosine": decoder_cosines(base.double(), chat.double()),
    }


def _null_counts(
    scaling: LatentScaling, table: pd.DataFrame, thresholds: VerdictThresholds
) -> dict[str, Any]:
    tested = (table["active_tokens"] >= thresholds.min_active).to_numpy()
    limits = thresholds.nu_error, thresholds.nu_reconstruction
    return null_counts(scaling, *limits, tested, thresholds.confidence)


def _firing_columns(firing: FiringStatistics) -> dict[str, Any]:
    return {
        "active_tokens": firing.active.long(),
        "firing_rate": firing.active / firing.n_tokens,
        "mean_activation": firing.total / firing.active,
        "max_activation": firing.maximum,
        "template_share": firing.share("template"),
        "assistant_share": firing.share("assistant"),
        "chat_share": firing.share("chat"),
    }


def _numpy(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


COLUMNS = {
    "norm_base": "||d_base||, in training units",
    "norm_chat": "||d_chat||, in training units",
    "delta": "relative decoder norm: 0 base-only, 1/2 equal, 1 chat-only",
    "bucket": "base-only (< .1), shared (.4 to .6), chat-only (> .9), other",
    "cosine": "cosine of the two decoder rows",
    "beta_{target}_{model}": "least-squares scale of f * d_chat in that model's target",
    "beta_{target}_{model}_{end}": "its interval, if asked for (`beta_intervals`)",
    "nu_{target}": "beta_base / beta_chat along d_chat: 0 = the base lacks it",
    "base_nu_{target}": "beta_chat / beta_base along d_base: 0 = the chat model lacks it",
    "{side}nu_{tested}_{end}": "interval of the nus of error and reconstruction, over documents",
    "refitted_delta": "Delta after refitting each decoder row by least squares",
    "refitted_delta_{end}": "its interval, over documents",
    "null_nu_{tested}": "nu of a made-up latent that fires as this one, with another's direction",
    "p_specific": "p of: the base has it, nu or refitted norm at a threshold or beyond",
    "q_specific": "Benjamini-Hochberg q of p_specific",
    "p_null": "p of: the latent means no more than one with another direction",
    "q_null": "Benjamini-Hochberg q of p_null",
    "active_tokens": "tokens the latent fired on",
    "firing_rate": "active_tokens / tokens",
    "mean_activation": "mean of f over active tokens",
    "max_activation": "largest f",
    "template_share": "share of active tokens that are chat markup",
    "assistant_share": "share of active tokens inside assistant messages",
    "chat_share": "share of active tokens in dialogues",
    "twin": "base-only twin of a chat-only latent (or the reverse), -1 if none",
    "twin_cosine": "cosine of the twins' decoders",
    "verdict": "see `sae_crossdiff.diffing.verdicts`",
    "specificity": "1 = nothing in the base, 0 = at a threshold, negative = fails",
}
