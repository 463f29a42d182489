"""The report's first page: what was compared, how well, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing import VERDICTS
from sae_crossdiff.diffing.norms import BUCKETS
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions import kl_table, pool_draws

VERDICT_MEANINGS = {
    "chat-specific": "introduced by the tuning: not in the base's error, nor written by others",
    "shrunk": "chat-only by norm, but the concept is in the base's error (Complete Shrinkage)",
    "decoupled": "chat-only by norm, but other base decoders write it (Latent Decoupling)",
    "shared": "present in both models",
    "base-only": "base-only by norm, without the evidence for base-specific",
    "base-specific": "removed by the tuning: the reverse test passes",
    "undecided": "too few active tokens, or an interval straddles a threshold",
    "dead": "never fired",
}


def overview(table: pd.DataFrame, crosscoder: Crosscoder) -> dict[str, Any]:
    """Provenance, quality, counts and nulls of a latent table, JSON-able."""
    provenance, quality = table.attrs["provenance"], table.attrs["quality"]
    verdicts: dict[Any, int] = table["verdict"].value_counts().to_dict()
    buckets: dict[Any, int] = table["bucket"].value_counts().to_dict()
    models = provenance.get("models") or {}
    names = {side: Path(str(models.get(side, side))).name for side in ("base", "chat")}
    return {
        "names": names,
        "hook": provenance.get("hook_name") or str(crosscoder.cfg.metadata.hook_name),
        "provenance": _facts(provenance, crosscoder),
        "quality": {
            "fve": {k: float(v) for k, v in quality["fve"].items()},
            "l0": float(quality["l0"]),
            "dead": float(quality["dead_share"]),
            "tokens": int(quality["tokens"]),
        },
        "verdicts": [[v, int(verdicts.get(v, 0)), VERDICT_MEANINGS[v]] for v in VERDICTS],
        "buckets": [[b, int(buckets.get(b, 0))] for b in BUCKETS],
        "nulls": table.attrs["nulls"],
        "thresholds": table.attrs["thresholds"],
        "largest_delta": float(table["delta"].max()),
    }


def _facts(provenance: dict[str, Any], crosscoder: Crosscoder) -> list[list[str]]:
    config = crosscoder.cfg
    models = provenance.get("models") or {}
    policy = provenance.get("outlier_policy") or {}
    versions = provenance.get("versions") or {}
    facts = {
        "base": models.get("base"),
        "chat": models.get("chat"),
        "hook": provenance.get("hook_name"),
        "latents": f"{config.d_sae:,}, d = {' + '.join(map(str, config.d_ins))}",
        "text": provenance.get("text"),
        "tokens left out": ", ".join(f"{k} = {v}" for k, v in policy.items()),
        "tokenizer": provenance.get("tokenizer_hash"),
        "seed": provenance.get("seed"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
    }
    return [[name, str(value)] for name, value in facts.items() if value not in (None, "")]


def causal_results(path: Path) -> pd.DataFrame | None:
    """Scores of `crossdiff kl` if it ran; raises `CrossdiffError` for another file."""
    if not path.exists():
        return None
    scores = pd.read_parquet(path)
    if not {"document", "condition", "group", "kl"} <= set(scores):
        raise CrossdiffError(
            f"{path} holds no KL scores, only {sorted(scores)}: run `crossdiff kl` again"
        )
    return scores


def causal_rows(scores: pd.DataFrame, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Per condition, over all predicted tokens: KL, recovered share, and their intervals."""
    rows = kl_table(pool_draws(scores), "all", confidence).reset_index().to_dict("records")
    return [
        {str(k): None if isinstance(v, float) and not np.isfinite(v) else v for k, v in r.items()}
        for r in rows
    ]


def split_singles(scores: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, pd.DataFrame]]:
    """(scores of sets, latent -> scores of that latent patched alone, with "none" beside it)."""
    single = scores["condition"].str.extract(r"^latent (\d+)$", expand=False)
    sets: Any = scores[single.isna()]
    none: Any = scores[scores["condition"] == "none"]
    alone = {int(str(j)): pd.concat([none, rows]) for j, rows in scores.groupby(single)}
    return sets, alone
