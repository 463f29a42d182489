"""What a crosscoder costs each model when its reconstruction replaces the residual stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from sae_crossdiff.activations import ActivationStatistics, TokenSequence, harvest
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.interventions.edits import Edit, Reconstruct, Replace
from sae_crossdiff.interventions.positions import TokenRoles
from sae_crossdiff.interventions.scoring import Groups, score
from sae_crossdiff.interventions.site import Exclusions
from sae_crossdiff.pair import HookedModelPair


def _next_is_content(roles: TokenRoles) -> Any:
    """Neither this token nor the next is BOS or chat markup."""
    content = roles.real & ~roles.special & ~roles.template
    following = content.clone()
    following[:, :-1] = content[:, 1:]
    return content & following


SPLICE_GROUPS: Groups = {"all": lambda roles: roles.real, "content": _next_is_content}
"""Scored predictions. "all": of every token after the first; "content": of tokens that are no chat
markup, from tokens that are neither markup nor BOS."""


def splice_quality(
    pair: HookedModelPair,
    crosscoder: Crosscoder,
    sequences: Iterable[TokenSequence],
    exclusions: Exclusions | None = None,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Cross-entropy and KL per model, in nats per token, when its residual stream is replaced.

    Conditions: `reconstruction`; `with error` (reconstruction and error term: must change nothing);
    `zero` and `mean` ablation. BOS and the tokens of `exclusions` are never replaced: the
    crosscoder was not trained on them.

    Returns:
        Rows (model, group, condition); columns `ce`, `clean_ce`, `kl` (to the unedited model),
        `recovered_zero` and `recovered_mean`: (CE_ablated - CE) / (CE_ablated - CE_clean), 1 where
        nothing is lost; `tokens`. Means over tokens, not over documents.

    Raises:
        CrossdiffError: no text, NaN activations, a site that is no residual stream.
    """
    sequences = list(sequences)
    means = _mean_activations(pair, sequences, exclusions or Exclusions(), batch_size)
    tables = []
    for name in pair.names:
        conditions: dict[str, tuple[Edit, ...]] = {
            "reconstruction": (Reconstruct(),),
            "with error": (Reconstruct(error=True),),
            "zero": (Replace("zero"),),
            "mean": (Replace(means[name]),),
        }
        scores = score(
            pair, crosscoder, sequences, conditions, SPLICE_GROUPS, name, exclusions, batch_size
        )
        tables.append(_summary(scores).assign(model=name))
    return pd.concat(tables).set_index(["model", "group", "condition"])


def _mean_activations(
    pair: HookedModelPair, sequences: list[TokenSequence], exclusions: Exclusions, batch_size: int
) -> dict[str, Any]:
    """Per model, over the tokens that may be replaced."""
    statistics = ActivationStatistics(pair.d_ins)
    for batch in harvest(pair, sequences, batch_size):
        kept = ~batch.masks["special"]
        for name, acts in pair.split(batch.acts).items():
            limit = (exclusions.max_norms or {}).get(name, float("inf"))
            kept &= acts.float().norm(dim=-1) <= limit
        statistics.update(batch.acts[kept])
    return pair.split(statistics.mean)


def _summary(scores: pd.DataFrame) -> pd.DataFrame:
    columns = ["kl", "ce", "clean_ce"]
    weighted = scores.assign(**{c: scores[c] * scores["positions"] for c in columns})
    sums = weighted.groupby(["group", "condition"], sort=False)[[*columns, "positions"]].sum()
    table = sums[columns].div(sums["positions"], axis=0)
    table["tokens"] = sums["positions"]
    table = table.reset_index()
    for kind in ("zero", "mean"):
        ablated = table[table["condition"] == kind].set_index("group")["ce"]
        worst = table["group"].map(ablated)
        table[f"recovered_{kind}"] = (worst - table["ce"]) / (worst - table["clean_ce"])
    return table
