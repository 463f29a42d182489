"""The causal test: how much of the chat model comes back when latents are patched into the base.

h_S = h_base + sum_{j in S} f_j (d_j^chat - d_j^base), continued through the chat model's upper
layers and scored by KL(p_chat || p_{h_S}) (arXiv:2504.02922). f comes from both models' true
activations, so this is an oracle intervention: it tells what a set of latents carries, not what
could be had without the chat model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, t

from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.edits import AddDifference, Edit, Swap, patch
from sae_crossdiff.interventions.positions import TEMPLATE, TokenRoles
from sae_crossdiff.interventions.scoring import Groups, score
from sae_crossdiff.interventions.site import Exclusions
from sae_crossdiff.pair import HookedModelPair

FIRST = 10


def _opening(roles: TokenRoles) -> Any:
    return roles.turn_index == 0


def _first(roles: TokenRoles) -> Any:
    return roles.predicts & (roles.turn_index < FIRST) & ~roles.template


def _rest(roles: TokenRoles) -> Any:
    return roles.turn_index >= FIRST


KL_GROUPS: Groups = {
    "all": lambda roles: roles.predicts,
    "opening": _opening,
    "first": _first,
    "rest": _rest,
}
"""Positions that predict an assistant token. "opening": the one that predicts a turn's first token;
"first": those of a turn's first ten that are no template tokens (nine for Gemma, as in the paper);
"rest": from the eleventh on."""


def standard_conditions(
    sets: Mapping[str, Sequence[int]] | None = None, source: str = "base"
) -> dict[str, tuple[Edit, ...]]:
    """The conditions of the paper's test, and one patch per named set of latents.

    none            h_base
    all             h_base and every latent's difference
    all and bias    the same and the difference of the decoder biases
    bias            h_base and the difference of the decoder biases (the mean shift)
    error           h_chat without all latents' difference: what the crosscoder does not explain
    template only   h_chat at template tokens, h_base elsewhere
    """
    everything = AddDifference(None, source, bias=True, error=True)
    conditions: dict[str, tuple[Edit, ...]] = {
        "none": (Swap(source),),
        "all": patch(None, source),
        "all and bias": (Swap(source), AddDifference(None, source, bias=True)),
        "bias": (Swap(source), AddDifference((), source, bias=True)),
        "error": (Swap(source), AddDifference((), source, bias=True, error=True)),
        "template only": (Swap(source, at=~TEMPLATE),),
        "identity": (Swap(source), everything),
    }
    for name, latents in (sets or {}).items():
        if name in conditions:
            raise CrossdiffError(f"a set of latents cannot be called {name!r}: rename it")
        conditions[name] = patch(latents, source)
    return conditions


def kl_experiment(
    pair: HookedModelPair,
    crosscoder: Crosscoder,
    sequences: Iterable[TokenSequence],
    sets: Mapping[str, Sequence[int]] | None = None,
    *,
    conditions: Mapping[str, Sequence[Edit]] | None = None,
    exclusions: Exclusions | None = None,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Per document, condition and group of positions: KL(p_chat || p_condition) in nats.

    Args:
        sequences: rendered dialogues, as `token_sequences` gives them.
        sets: name -> latents to patch; see `latent_sets`.
        conditions: instead of `standard_conditions(sets)`.
        exclusions: tokens that keep the chat model's activations in every condition.

    Returns:
        See `score`; summarise with `kl_table` and `recovered`.

    Raises:
        CrossdiffError: no assistant tokens, NaN activations, a site that is no residual stream.
    """
    if conditions is None:
        conditions = standard_conditions(sets)
    return score(pair, crosscoder, sequences, conditions, KL_GROUPS, "chat", exclusions, batch_size)


def kl_table(scores: pd.DataFrame, group: str = "all", confidence: float = 0.95) -> pd.DataFrame:
    """Mean KL over documents with its t interval, and the share of the gap that is recovered.

    The documents are the unit: tokens of one document are not independent. Columns `kl`, `low`,
    `high`, `recovered`, `recovered_low`, `recovered_high`, `documents`; one row per condition.
    """
    kl = _wide(scores, group)
    rows = {}
    for condition in kl.columns:
        values = kl[condition].to_numpy()
        low, high = mean_interval(values, confidence)
        share = recovered(kl, condition, confidence) if "none" in kl else (float("nan"),) * 3
        rows[condition] = (values.mean(), low, high, *share, len(values))
    columns = ["kl", "low", "high", "recovered", "recovered_low", "recovered_high", "documents"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("condition")


def pool_draws(scores: pd.DataFrame) -> pd.DataFrame:
    """`scores` with the draws of each control ("random 7 #0", ...) averaged to one condition."""
    names = scores["condition"].str.replace(r" #\d+$", "", regex=True)
    keys = ["document", "condition", "group"]
    return scores.assign(condition=names).groupby(keys, sort=False).mean().reset_index()


def difference(
    scores: pd.DataFrame, a: str, b: str, group: str = "all", confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean over documents of KL(a) - KL(b), paired, with its t interval."""
    kl = _wide(scores, group)
    values = (kl[a] - kl[b]).to_numpy()
    return (float(values.mean()), *mean_interval(values, confidence))


def recovered(
    kl: pd.DataFrame, condition: str, confidence: float = 0.95
) -> tuple[float, float, float]:
    """1 - mean KL(condition) / mean KL(none), with a bootstrap interval over documents."""
    none, ours = kl["none"].to_numpy(), kl[condition].to_numpy()
    share = float(1 - ours.mean() / none.mean())
    if condition == "none" or len(none) < 2:
        return share, float("nan"), float("nan")
    interval = bootstrap(
        (ours, none),
        lambda a, b, axis=-1: 1 - a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return share, float(interval.low), float(interval.high)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / len(values) ** 0.5
    if error == 0:
        return float(values.mean()), float(values.mean())
    low, high = t.interval(confidence, len(values) - 1, loc=values.mean(), scale=error)
    return float(low), float(high)


def _wide(scores: pd.DataFrame, group: str) -> pd.DataFrame:
    chosen = scores[scores["group"] == group]
    if chosen.empty:
        groups = sorted(scores["group"].unique())
        raise CrossdiffError(f"no positions in the group {group!r}: there are {groups}")
    order = list(dict.fromkeys(chosen["condition"]))
    return chosen.pivot(index="document", columns="condition", values="kl")[order]
